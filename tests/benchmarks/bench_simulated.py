"""Simulated study of THINGS-EEG2's size, linear drive, one subject, 17 channels: the encoder beside ridge, through the real commands.

simulate -> shard -> split -> train (a single process, ``configs/contrastive/simulated.yaml``) -> evaluate. The recipe was
chosen on the split's validation concepts of another seed; test trials are scored once, here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.report import main, row

ROOT = Path(__file__).parents[2]
SEED = 7
"""Seed of the simulated study; the recipe was chosen on seed 0."""


def run(folder: Path) -> list[dict[str, Any]]:
    """Rows of the benchmark; everything is written under ``folder``."""
    source, study, run_folder = folder / "source", folder / "study", folder / "run"
    _command("data_prep", "simulate", "--config", "configs/data_prep/simulate.yaml", "--output", source, "--seed", SEED)
    embedding = source / "embeddings" / "efficientnet_lite0.npy"
    shard = folder / "shard.yaml"
    shard.write_text((ROOT / "configs/data_prep/shard_simulated.yaml").read_text().replace("studies/simulated-source", str(source)))
    assert str(embedding) in shard.read_text()
    _command("data_prep", "shard", "--config", shard, "--output", study)
    _command("data_prep", "split", "--config", "configs/data_prep/split_quickstart_simulated.yaml", "--study", study)
    train = ("contrastive", "--config", "configs/contrastive/simulated.yaml", "--data.study", study, "--run", run_folder)
    _command("trainer", *train, "--mlflow.enabled", "false")
    reports = folder / "reports"
    evaluate = ("evaluate-retrieval", "--config", "configs/evaluate/retrieval.yaml")
    _command("trainer", *evaluate, "--export", run_folder / "export", "--output", reports)
    return rows(json.loads((reports / "retrieval.json").read_text()), json.loads((source / "ceiling.json").read_text()))


def rows(results: dict[str, Any], ceiling: dict[str, Any]) -> list[dict[str, Any]]:
    """What the evaluation says, as rows."""
    summary = results["summary"]
    model, ridge, centred = (summary[arm]["top1"] for arm in ("model", "ridge", "centred ridge"))
    top = summary["ceiling"]["top1"]
    one = next(r["top1"] for r in ceiling["mean"]["ceiling"] if r["repetitions"] == 1)
    return [
        row("simulated: top-1 over ridge's", model / ridge, "x", 1.5, model >= 1.5 * ridge, "ridge", 1.0),
        row("simulated: top-1 over centred ridge's", model / centred, "x", None, None, "centred ridge", 1.0),
        row("simulated: top-1 of 200", model, "share", None, None, "ridge", ridge),
        row("simulated: top-5 of 200", summary["model"]["top5"], "share", None, None, "ridge", summary["ridge"]["top5"]),
        row("simulated: encoding model's top-1", summary["encoding model"]["top1"], "share", None, None, "ridge", ridge),
        row("simulated: encoding by direction's top-1", summary["encoding by direction"]["top1"], "share", None, None, "model", model),
        row("simulated: ridge's top-1 is between 0.15 and 0.35", ridge, "share", 0.15, 0.15 <= ridge <= 0.35),
        row("simulated: ceiling of the averaged test", top, "share", 0.9, top > 0.9),
        row("simulated: ceiling of a single trial", one, "share", None, None),
        row("simulated: share of the ceiling", model / top, "share", None, None, "centred ridge", centred / top),
    ]


def _command(module: str, *arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        check=True,
        timeout=3600,
    )


if __name__ == "__main__":
    sys.exit(main(run))
