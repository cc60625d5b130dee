"""Ranks as SLURM and MPI number them, in the words of torch's launchers: ``srun python -m trainer ...`` is one run and not many."""

from __future__ import annotations

import re
from collections.abc import Mapping

from data_prep.contract.errors import UserError

_FIRST_PORT, _PORTS = 12_000, 16_000
"""Below those from which systems serve who asks for any port."""
_MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
)
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def launcher_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` of one of several tasks; empty: a
    launcher has set them already, or there is one task.

    Raises
    ------
    UserError
        There are several tasks, and what is known of them does not say which one this is or where they meet.
    """
    if "RANK" in environ or "WORLD_SIZE" in environ:
        return {}
    if _number(environ, "SLURM_STEP_NUM_TASKS") > 1:
        return _of_slurm(environ)
    if "SLURM_STEP_ID" not in environ and _number(environ, "SLURM_NTASKS") > 1:
        raise UserError(
            f"SLURM gave this job {environ['SLURM_NTASKS']} tasks, and this is one process without srun: "
            "start it as `srun python -m trainer ...`, through a launcher, or alone as `srun --ntasks 1 ...`"
        )
    for names in _MPI:
        if _number(environ, names[1]) > 1:
            return _of_mpi(environ, names)
    return {}


def _of_slurm(environ: Mapping[str, str]) -> dict[str, str]:
    rank, size = _needed(environ, "SLURM_PROCID"), environ["SLURM_STEP_NUM_TASKS"]
    local_rank, node = _needed(environ, "SLURM_LOCALID"), _number(environ, "SLURM_NODEID")
    counts = tasks_per_node(_needed(environ, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"))
    if node >= len(counts):
        raise UserError(f"SLURM_NODEID is {node}, but the tasks are on {len(counts)} nodes: expected a node of this step")
    # The same for all tasks of a step, and another one for each of a job's.
    port = _FIRST_PORT + (_number(environ, "SLURM_JOB_ID") * 7 + _number(environ, "SLURM_STEP_ID")) % _PORTS
    return {
        **dict(zip(_NAMES, (rank, size, local_rank, str(counts[node])), strict=True)),
        "MASTER_ADDR": environ.get("MASTER_ADDR") or first_host(_needed(environ, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")),
        "MASTER_PORT": environ.get("MASTER_PORT") or str(port),
    }


def _of_mpi(environ: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    if names[2] not in environ and names != _MPI[-1]:
        return _of_mpi(environ, _MPI[-1])
    found = {name: _needed(environ, given) for name, given in zip(_NAMES, names, strict=True)}
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not environ.get(name):
            raise UserError(
                f"{names[1]} is {environ[names[1]]}, but {name} is missing: set MASTER_ADDR to rank 0's host, MASTER_PORT to a free "
                "port, for all ranks (mpirun -x MASTER_ADDR=... -x MASTER_PORT=...)"
            )
    return {**found, "MASTER_ADDR": environ["MASTER_ADDR"], "MASTER_PORT": environ["MASTER_PORT"]}


def tasks_per_node(text: str) -> list[int]:
    """``2(x3),1`` -> 2, 2, 2, 1, as SLURM counts the tasks of its nodes."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if found is None:
            raise UserError(f"SLURM's tasks a node are {text!r}, expected such as 2(x3),1")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def first_host(nodelist: str) -> str:
    """``node[03-05,9],login`` -> ``node03``, as SLURM folds names of hosts."""
    found = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\])?([^\[,]*)", nodelist.strip())
    if found is None:
        raise UserError(f"SLURM's list of nodes is {nodelist!r}, expected such as node[03-05,9]")
    return f"{found[1]}{found[2] or ''}{found[3]}"


def _needed(environ: Mapping[str, str], *names: str) -> str:
    for name in names:
        if environ.get(name):
            return environ[name]
    raise UserError(f"{names[0]} is missing beside the other variables of several tasks: start through a launcher, or as one task")


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name) or "0"
    if not text.isdecimal():
        raise UserError(f"{name} is {text!r} in the environment, expected an integer")
    return int(text)
