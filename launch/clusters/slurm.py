"""SLURM: a batch script whose tasks are the ranks. Shortly before its time is up the ranks save, and the job queues again by itself."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from data_prep.contract.errors import UserError
from launch.clusters.job import Job
from launch.commands import going_on, run_of, without


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """What a batch script asks of SLURM besides machines and ranks."""

    name: str = "eegvision"
    """Name of the job."""
    time: str = "24:00:00"
    """Limit of one part of the job, as ``sbatch`` takes it; a run that is not done by then goes on in the next part."""
    options: list[str] = field(default_factory=list)
    """Further lines ``#SBATCH ...`` of a site, such as ``--partition=gpu`` and ``--account=lab``."""
    setup: list[str] = field(default_factory=list)
    """Commands before the ranks start, such as ``module load cuda``."""
    array_field: str = ""
    """Field of the trainer's config in which the jobs of an array differ: ``train.seed``, or ``data.split`` for folds; empty: one job."""
    array_values: list[int | float | str] = field(default_factory=list)
    """Its values, a job each; each has a run folder of its own, ``RUN/VALUE``."""
    array_at_once: int = 0
    """Jobs of the array that run at once; 0: as many as fit."""
    warn_seconds: int = 90
    """How long before the limit the ranks are told to save."""

    def __post_init__(self) -> None:
        if bool(self.array_field) != bool(self.array_values):
            raise ValueError("slurm: array_field and array_values are given together or not at all")
        if self.warn_seconds < 1:
            raise ValueError(f"slurm.warn_seconds: {self.warn_seconds}, expected at least 1")


def script(job: Job, config: SlurmConfig) -> str:
    """The batch script, for ``sbatch``."""
    head = [
        f"--job-name={config.name}",
        f"--nodes={job.nodes}",
        f"--ntasks-per-node={job.ranks_per_node}",
        f"--cpus-per-task={job.threads_per_rank}",
        *([f"--gpus-per-node={job.ranks_per_node}"] if job.accelerator == "cuda" else []),
        f"--time={config.time}",
        f"--signal=USR1@{config.warn_seconds}",
        "--requeue",
        "--open-mode=append",
        f"--chdir={job.folder}",
        f"--output=%x-{'%A-%a' if config.array_values else '%j'}.out",
    ]
    if config.array_values:
        most = f"%{config.array_at_once}" if config.array_at_once else ""
        head.append(f"--array=0-{len(config.array_values) - 1}{most}")
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in (*head, *config.options)), "set -u", ""]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in job.environment.items()]
    lines += [*config.setup, ""]
    command, changes = job.command, ""
    if config.array_values:
        run = run_of(job.command)
        if not run:
            raise UserError(
                "slurm.array_field: the command names no run, expected `--run FOLDER`, in which each job of the array has its own"
            )
        command = without(job.command, "--run")
        lines += [f"values=({shlex.join(map(str, config.array_values))})", "value=${values[$SLURM_ARRAY_TASK_ID]}"]
        changes = f' --{config.array_field} "$value" --run {shlex.quote(run)}/"$value"'
    line = shlex.join([job.python, "-m", "trainer", *going_on(command)])
    lines += [
        "# Every task is a rank: it reads which one from SLURM's variables. One that fails ends the others.",
        f"srun --kill-on-bad-exit=1 {line}{changes}",
        "status=$?",
        "# 75: a signal stopped the ranks, and they have saved. The job queues again and goes on from there.",
        'if [ "$status" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        'exit "$status"',
    ]
    return "\n".join(lines) + "\n"
