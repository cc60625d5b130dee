"""The stages of a comparison: train, generate, evaluate. What is completed is not repeated."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.contract.cli import to_plain, to_yaml
from data_prep.contract.config_file import read_fields
from data_prep.contract.errors import CommandError
from data_prep.contract.files import write_atomically
from data_prep.contract.records import to_json
from launch.compare_bases.plan import METRICS, CompareBasesConfig, changed
from trainer.artifacts.generations import FACTS, SOURCE, read_facts
from trainer.artifacts.text import trained_parameters
from trainer.artifacts.text_export import read_text_export
from trainer.distributed.child import environment_of_its_own, run_in_group
from trainer.evaluate.results import plain
from trainer.evaluate.text.command import run as evaluate_text
from trainer.evaluate.text.config import EvaluateTextConfig
from trainer.evaluate.text.results import TextScore, read_text
from trainer.generate.config import GenerateConfig
from trainer.tasks.text.config import TextConfig
from trainer.training.completed import read_completed
from trainer.training.run_folder import read_lines

_GRACE_SECONDS = 120.0
"""Time for a training to save a checkpoint after a signal."""


def train(config: CompareBasesConfig, text: TextConfig) -> None:
    """One training, unless it is completed; believes ``completed.json``, not the launcher's exit status.

    Raises
    ------
    CommandError
        A run that was begun with another config; a training that failed.
    """
    folder = Path(text.run)
    path = folder.with_name(f"{folder.name}.yaml")
    if (folder / "config.yaml").is_file():
        check_same(folder / "config.yaml", text)
    if (folder / "completed.json").is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_yaml(text).encode())
    launch(config, ["text", "--config", str(path)], on_cpu=text.train.device == "cpu")
    if not (folder / "completed.json").is_file():
        raise CommandError(f"{folder}: the training ended without completed.json; its messages are above")


def check_same(saved: Path, text: TextConfig) -> None:
    """Refuse a run, completed or begun, whose config differs in anything that changes its result."""
    difference = changed(_read_yaml(saved), to_plain(text))
    if difference:
        name, before, now = difference
        raise CommandError(f"output: {saved.parent} was trained with {name} {before}, now it is {now}: choose another folder")


def generate(config: CompareBasesConfig, settings: GenerateConfig) -> None:
    """Captions of one trained model, unless they are there; ``generate`` itself refuses a changed config."""
    output = Path(settings.output)
    done = output / FACTS
    if done.is_file() and read_facts(output).config == to_plain(settings):
        return
    path = output.parent / "generate.yaml"
    write_atomically(path, to_yaml(settings).encode())
    status = launch(config, ["generate", "--config", str(path)], on_cpu=settings.device == "cpu")
    if status or not done.is_file():
        raise CommandError(f"{output}: the generation failed with status {status}; its messages are above")


def evaluate(settings: EvaluateTextConfig) -> dict[str, Any]:
    """Scores of one base over all seeds, computed unless they are there, and what its trainings took."""
    report, generations = Path(settings.output), [Path(folder) for folder in settings.generations]
    done = report / "text.json"
    made = max((folder / FACTS).stat().st_mtime for folder in generations)
    if not done.is_file() or done.stat().st_mtime < made or read_text(done).config != to_plain(settings):
        evaluate_text(settings)
    results = read_text(done)
    runs = [folder.parent for folder in generations]
    likelihoods = [_likelihood(folder) for folder in runs]
    speeds = [speed for speed in map(_speed, runs) if speed is not None]
    known = [value for value in likelihoods if value is not None]
    return {
        "base": to_json(read_text_export(runs[0] / "export").base),
        "trained_parameters": trained_parameters(runs[0] / "export"),
        "log_likelihood": {"value": float(np.mean(known)) if len(known) == len(runs) else None, "by_seed": likelihoods},
        "eeg": {metric: _cell(results.arms["eeg"].scores, metric) for metric in METRICS},
        "eeg_minus_noise": {metric: _cell(results.differences["eeg"]["noise"], metric) for metric in METRICS},
        "seconds": float(np.mean([_seconds(folder) for folder in runs])),
        "tokens_per_second": float(np.mean(speeds)) if speeds else None,
        "report": str(report / "text.html"),
        "source": {name: getattr(results, name) for name in (*SOURCE, "trained_trials", "trained_not_known")},
        "notes": list(results.notes),
    }


def _cell(scores: Mapping[str, TextScore], metric: str) -> dict[str, Any] | None:
    return plain(scores[metric]) if metric in scores else None


def launch(config: CompareBasesConfig, command: Sequence[str], *, on_cpu: bool) -> int:
    """A trainer command on ranks of this machine, in an environment without what other launchers set; returns its status.

    Raises
    ------
    KeyboardInterrupt
        A signal ended it; it was forwarded, so a training has saved a checkpoint.
    CommandError
        It took too long.
    """
    accelerator = "cpu" if on_cpu or not torch.cuda.is_available() else "cuda"
    options = ("--num_processes", str(config.num_processes), "--accelerator", accelerator)
    status, asked = run_in_group(
        (sys.executable, "-m", "launch", "run", *options, "--", *command),
        environment_of_its_own(),
        grace_seconds=_GRACE_SECONDS,
        timeout_seconds=config.timeout_seconds,
    )
    if asked == signal.SIGALRM:
        raise CommandError(f"timeout_seconds: {command[0]} of {command[-1]} was not done after {config.timeout_seconds:.0f} seconds")
    if asked:
        raise KeyboardInterrupt
    return status or 0


# ------------------------------------------------------------------------------------------------------- from a run


def _read_yaml(path: Path) -> dict[str, Any]:
    return read_fields(path) if path.is_file() else {}


def _likelihood(folder: Path) -> float | None:
    """Of a validation caption, at the step whose weights were exported."""
    completed, name = read_completed(folder), "validation_caption_log_likelihood"
    lines = [] if completed is None else [line for line in read_lines(folder / "metrics.jsonl") if line["step"] == completed.best_step]
    values = [line[name] for line in lines if name in line]
    return values[-1] if values else None


def _speed(folder: Path) -> float | None:
    lines = [line for line in read_lines(folder / "metrics.jsonl") if "tokens_per_sample" in line]
    return float(np.median([line["samples_per_second"] * line["tokens_per_sample"] for line in lines])) if lines else None


def _seconds(folder: Path) -> float:
    """Time of training, without that between a stop and the start after it."""
    total, previous = 0.0, None
    for line in read_lines(folder / "events.jsonl"):
        at = datetime.fromisoformat(line["time"])
        if line["event"] not in ("start", "resume") and previous is not None:
            total += (at - previous).total_seconds()
        previous = at
    return total
