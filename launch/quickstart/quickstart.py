"""The whole path once, with the commands a user would type: simulate, shard, split, train on two ranks, evaluate, register.

``study: simulated`` needs nothing but the installation; ``study: muse`` uses real recordings. Every step prints its
command. A step whose result is there already is not repeated: killed and started again, the quickstart goes on.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from data_prep.contract.errors import CommandError
from data_prep.contract.files import write_json
from data_prep.contract.terminal import Terminal
from launch.configs import configs
from launch.quickstart.steps import Step, python, run_steps
from trainer.evaluate.retrieval.results import ClassLevelResults, RetrievalResults, read_retrieval
from trainer.serve.registered import read_registered

Metrics = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """Which study to run the path on, and where."""

    study: Literal["simulated", "muse"] = "simulated"
    """``simulated``: rendered images and simulated EEG; ``muse``: the real N170 recordings of ``data_root``."""
    data_root: str = os.environ.get("SHARED_DATA", "../shared/data")
    """Folder that holds ``muse_visual``; used by ``study: muse`` only."""
    runs: str = "runs/quickstart"
    """Folder of the run folders, one a study, and of ``summary.json``, which tells of the last one."""
    num_processes: int = 2
    """Ranks of the training."""

    @property
    def run(self) -> Path:
        """The study's run folder."""
        return Path(self.runs) / self.study


def steps(config: QuickstartConfig) -> list[Step]:
    """The commands, in order (pure but for the ``done`` predicates, which look at the disk)."""
    name = config.study
    source, study, run = Path("studies") / f"{name}-source", Path("studies") / name, config.run
    split = "zero-shot" if name == "simulated" else "recording"

    recipe = configs() / "contrastive" / f"quickstart_{name}.yaml"
    train = ("contrastive", "--config", str(recipe), "--run", str(run), "--data.study", str(study))
    path = []
    if name == "simulated":
        simulate = python("data_prep", "simulate", "data_prep/simulate_quickstart.yaml", "--output", str(source))
        path.append(Step(title="simulate images and EEG", argv=simulate, done=(source / "ceiling.json").is_file))
        shard = python("data_prep", "shard", "data_prep/shard_simulated.yaml", "--reader.root", str(source), "--output", str(study))
    else:
        root = Path(config.data_root) / "muse_visual"
        if not root.is_dir():
            raise CommandError(f"data_root: {root}: no such folder; expected the Muse recordings (eeg/N170, stimuli/face_house) in it")
        folders = ("--reader.root", str(root / "eeg" / "N170"), "--reader.stimuli", str(root / "stimuli" / "face_house"))
        shard = python("data_prep", "shard", "data_prep/shard_muse_n170.yaml", *folders, "--output", str(study))
    path += [
        Step(title="shard", argv=shard, done=(study / "manifest.sha256").is_file),
        Step(
            title="split",
            argv=python("data_prep", "split", f"data_prep/split_quickstart_{name}.yaml", "--study", str(study)),
            done=(study / "splits" / f"{split}.audit.json").is_file,
        ),
        Step(
            title=f"train on {config.num_processes} ranks",
            argv=(
                *python("launch", "run", "launch/local_2_ranks.yaml", "--num_processes", str(config.num_processes)),
                *("--", *train, "--train.world_size", str(config.num_processes), "--resume", "auto"),
            ),
            done=(run / "completed.json").is_file,
        ),
        Step(
            title="evaluate",
            argv=(
                *python("trainer", "evaluate-retrieval", "evaluate/retrieval.yaml", "--export", str(run / "export")),
                *("--study", str(study), "--split", split, "--output", str(run / "reports")),
            ),
            done=(run / "reports" / "retrieval.json").is_file,
        ),
        Step(
            title="register",
            argv=python("trainer", "register", "evaluate/register.yaml", "--run", str(run), "--study", str(study), "--split", split),
            done=(run / "registered.json").is_file,
        ),
    ]
    return path


def run(config: QuickstartConfig) -> int:
    """Run what is missing, then print the table and write ``summary.json``."""
    console = Terminal()
    started = time.monotonic()
    run_steps(steps(config), console)
    summary = summarise(config, seconds=time.monotonic() - started)
    write_json(Path(config.runs) / "summary.json", summary)
    console.print(f"{config.study} study ({'simulated' if summary['simulated'] else 'real'} EEG), {summary['seconds']:.0f} s")
    console.print(summary_table(summary))
    console.print(f"report  {summary['report']}\nrun     {summary['run_id'] or 'not tracked'}\nmodel   {summary['model_uri']}")
    return 0


def summarise(config: QuickstartConfig, *, seconds: float) -> dict[str, Any]:
    """The quickstart's result for a machine to read; null where a value does not apply."""
    run = config.run
    results = read_retrieval(run / "reports" / "retrieval.json")
    registered = read_registered(run)
    return {
        "study": config.study,
        "simulated": results.simulated,
        **_values(results),
        "run_id": registered.run_id,
        "model_uri": registered.model_uri,
        "report": str(run / "reports" / "retrieval.html"),
        "seconds": round(seconds, 1),
    }


def _values(results: RetrievalResults | ClassLevelResults) -> dict[str, Any]:
    """Scores by arm from the evaluation's JSON, under the names that ``summary.json`` promises."""

    def score(arm: str, metric: str) -> float | None:
        return results.summary.get(arm, {}).get(metric)

    ceiling, top1 = score("ceiling", "top1"), score("model", "top1")
    return {
        "metric": results.metric,
        "top1": top1,
        "top5": score("model", "top5"),
        "ceiling_top1": ceiling,
        "ridge_top1": score("ridge", "top1"),
        "centred_ridge_top1": score("centred ridge", "top1"),
        "encoding_top1": score("encoding model", "top1"),
        "encoding_by_direction_top1": score("encoding by direction", "top1"),
        "chance_top1": score("chance", "top1"),
        "share_of_ceiling": top1 / ceiling if top1 is not None and ceiling else None,
        "auc": score("model", "auc"),
        "lda_auc": score("lda", "auc"),
    }


def summary_table(summary: dict[str, Any]) -> Table:
    """What a person sees at the end."""
    table = Table("", "value")
    for name in (
        "top1",
        "top5",
        "ridge_top1",
        "centred_ridge_top1",
        "encoding_top1",
        "encoding_by_direction_top1",
        "chance_top1",
        "ceiling_top1",
        "share_of_ceiling",
        "auc",
        "lda_auc",
    ):
        if summary[name] is not None:
            table.add_row(name.replace("_", " "), f"{summary[name]:.3f}")
    return table
