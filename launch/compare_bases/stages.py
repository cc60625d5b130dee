"""``python -m launch compare-bases``: which language model reads EEG best? Same split, budget and seeds, one table.

::

    text config x bases x training seeds -> runs (deepspeed --module trainer text) -> generate -> evaluate-text, a base each
    -> paired differences between bases -> OUTPUT/compare.json, compare.html

What is completed is not repeated: killed and started again, the comparison goes on; a changed config is refused. Bases differ in
size, tokenizer and what they were trained on; steps, global batch, split, captions and decoding are the same.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table

import trainer.callbacks  # noqa: F401 - its names may stand in the config
from data_prep.contract.cli import parse, to_plain, to_yaml
from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, write_atomically, write_json
from trainer.artifacts.text import trained_parameters
from trainer.distributed.child import environment_of_its_own, run_in_group
from trainer.distributed.world import free_port
from trainer.evaluate.page import TableSection, render
from trainer.evaluate.results import plain
from trainer.evaluate.text import base_differences
from trainer.evaluate.text.command import run as evaluate_text
from trainer.evaluate.text.comparison import CONTROLS
from trainer.evaluate.text.config import EvaluateTextConfig
from trainer.evaluate.text.results import TextScore, read_text
from trainer.generate.config import GenerateConfig
from trainer.models.language.base import BaseConfig
from trainer.models.language.reference import count_parameters
from trainer.tasks.text.config import TextConfig
from trainer.training.identity import flat
from trainer.training.run_folder import read_lines

METRICS = {"bleu_1": "BLEU-1", "rouge_l": "ROUGE-L", "attribute_accuracy": "attributes"}
"""Metrics of the table, with the heading they have there."""
MAY_CHANGE = ("run", "resume", "mlflow", "callbacks", "checkpoint")
"""Fields of a text config that do not change what a completed run is worth."""
_GRACE_SECONDS = 120.0
"""Time for a training to save a checkpoint after a signal."""


@dataclass(frozen=True, kw_only=True)
class CompareBasesConfig:
    """Train, generate and evaluate several base models alike."""

    text: str
    """YAML of a text run: everything but the base, the seed and the run folder is the same for all."""
    bases: dict[str, BaseConfig]
    """Base models, by the name they have in the table."""
    output: str
    """Folder for all runs, captions and the report."""
    overrides: list[str] = field(default_factory=list)
    """Further ``--field value`` pairs for the text config, such as ``[--train.steps, "300"]``."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Training seeds; differences are held against their spread."""
    generate: str = "configs/evaluate/generate.yaml"
    """YAML of ``generate``: arms (eeg and the controls noise, shuffled and caption-prior among them), decoding, part."""
    evaluate: str = "configs/evaluate/text.yaml"
    """YAML of ``evaluate-text``: metrics."""
    attributes: str | None = None
    """JSON of phrases by attribute, for attribute accuracy; null: as ``evaluate`` says."""
    num_processes: int = 1
    """Ranks of each training and generation on this machine."""
    resamples: int = 2000
    """Bootstrap resamples behind each difference."""
    timeout_seconds: float = 7 * 24 * 3600.0
    """Longest time for one training or one generation; a training saves a checkpoint then."""

    def __post_init__(self) -> None:
        if len(self.bases) < 2:
            raise ValueError(f"bases: {len(self.bases)}, expected at least 2 to compare")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds}, expected at least one, each once")
        unclean = [name for name in self.bases if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name[0] == "."]
        if unclean:
            raise ValueError(f"bases: {unclean[0]!r}, expected letters, digits, '_', '.' and '-': it names a folder")
        if self.num_processes < 1 or self.resamples < 10 or not self.timeout_seconds > 0:
            found = f"num_processes {self.num_processes}, resamples {self.resamples}, timeout_seconds {self.timeout_seconds}"
            raise ValueError(f"{found}: expected at least 1, at least 10, and a positive time")


def run(config: CompareBasesConfig) -> None:
    """Do what is missing, then compare."""
    output, console = Path(config.output), Console(stderr=True, highlight=False)
    text: TextConfig = parse(TextConfig, ["--config", config.text, *config.overrides])
    generation: GenerateConfig = parse(GenerateConfig, ["--config", config.generate])
    scoring: EvaluateTextConfig = parse(EvaluateTextConfig, ["--config", config.evaluate])
    scoring = replace(scoring, attributes=config.attributes or scoring.attributes, mlflow=False)
    missing = [arm for arm in ("eeg", *CONTROLS) if arm not in generation.arms]
    if missing:
        raise CommandError(f"generate: {config.generate} has no arm {missing[0]}: without its controls a score says nothing of EEG")
    found: dict[str, dict[str, Any]] = {}
    folders: dict[str, list[Path]] = {}
    for name, base in config.bases.items():
        folders[name] = []
        for seed in config.seeds:
            folder = output / name / f"seed-{seed}"
            console.rule(f"{name}, seed {seed}", align="left")
            train(config, replace(text, base=base, run=str(folder), train=replace(text.train, seed=seed), resume="auto"))
            folders[name].append(generate(config, folder, generation))
        found[name] = evaluate(output / name / "report", folders[name], scoring) | {"parameters": count_parameters(base)}
    settings = replace(scoring, resamples=config.resamples)
    results = {
        "config": to_plain(config),
        "metrics": [metric for metric in METRICS if any(base["eeg"][metric] for base in found.values())],
        "bases": found,
        "differences": base_differences.differences(folders, settings, list(METRICS)),
        "notes": notes(config, found),
    }
    write_json(output / "compare.json", {**results, "differences": [plain(d) for d in results["differences"]]})
    write_atomically(output / "compare.html", page(results).encode())
    show(results)


def notes(config: CompareBasesConfig, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How to read the table."""
    return [
        *next(iter(found.values()))["notes"][:1],
        "Log-likelihood is that of a whole caption (in nats, end included; mean of the seeds), since bases cut text into other tokens.",
        "± is the standard error over images"
        + (f", values are means of {len(config.seeds)} training seeds." if len(config.seeds) > 1 else "; there is one training seed."),
        f"Seconds and tokens/s are those of one training ({config.num_processes} ranks), start and validation included in the seconds.",
        "Intervals are not corrected for the number of comparisons.",
    ]


# ------------------------------------------------------------------------------------------------------------- stages


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
    before, now = (flat({k: v for k, v in plain.items() if k not in MAY_CHANGE}) for plain in (_read_yaml(saved), to_plain(text)))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise CommandError(
                f"output: {saved.parent} was trained with {name} {before.get(name)}, now it is {now.get(name)}: choose another folder"
            )


def generate(config: CompareBasesConfig, folder: Path, settings: GenerateConfig) -> Path:
    """Captions of one trained model, unless they are there; returns their folder. ``generate`` itself refuses a changed config."""
    output = folder / "generations"
    settings = replace(settings, export=str(folder / "export"), output=str(output))
    done = output / "generate.json"
    if done.is_file() and read_json(done).get("config") == to_plain(settings):
        return output
    path = folder / "generate.yaml"
    write_atomically(path, to_yaml(settings).encode())
    status = launch(config, ["generate", "--config", str(path)], on_cpu=settings.device == "cpu")
    if status or not done.is_file():
        raise CommandError(f"{output}: the generation failed with status {status}; its messages are above")
    return output


def evaluate(report: Path, generations: Sequence[Path], settings: EvaluateTextConfig) -> dict[str, Any]:
    """Scores of one base over all seeds, unless they are there, and what its trainings took."""
    settings = replace(settings, generations=[str(folder) for folder in generations], output=str(report))
    done = report / "text.json"
    made = max((folder / "generate.json").stat().st_mtime for folder in generations)
    if not done.is_file() or done.stat().st_mtime < made or read_json(done).get("config") != to_plain(settings):
        evaluate_text(settings)
    results = read_text(done)
    runs = [folder.parent for folder in generations]
    likelihoods = [_likelihood(folder) for folder in runs]
    speeds = [speed for speed in map(_speed, runs) if speed is not None]
    known = [value for value in likelihoods if value is not None]
    return {
        "base": read_json(runs[0] / "export" / "config.json")["base"],
        "trained_parameters": trained_parameters(runs[0] / "export"),
        "log_likelihood": {"value": float(np.mean(known)) if len(known) == len(runs) else None, "by_seed": likelihoods},
        "eeg": {metric: _cell(results.arms["eeg"].scores, metric) for metric in METRICS},
        "eeg_minus_noise": {metric: _cell(results.differences["eeg"]["noise"], metric) for metric in METRICS},
        "seconds": float(np.mean([_seconds(folder) for folder in runs])),
        "tokens_per_second": float(np.mean(speeds)) if speeds else None,
        "report": str(report / "text.html"),
        "notes": list(results.notes),
    }


def _cell(scores: Mapping[str, TextScore], metric: str) -> dict[str, Any] | None:
    return plain(scores[metric]) if metric in scores else None


def launch(config: CompareBasesConfig, command: Sequence[str], *, on_cpu: bool) -> int:
    """``deepspeed --module trainer COMMAND`` on this machine, in an environment without what other launchers set; returns its status.

    Raises
    ------
    KeyboardInterrupt
        A signal ended it; it was forwarded, so a training has saved a checkpoint.
    CommandError
        It took too long.
    """
    environment = environment_of_its_own()
    if on_cpu or not torch.cuda.is_available():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    ranks = ("--num_gpus", str(config.num_processes), "--master_port", str(free_port()))
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", *ranks]
    status, asked = run_in_group(
        [*launcher, "--module", "trainer", *command],
        environment,
        grace_seconds=_GRACE_SECONDS,
        timeout_seconds=config.timeout_seconds,
    )
    if asked == signal.SIGALRM:
        raise CommandError(f"timeout_seconds: {command[0]} of {command[-1]} was not done after {config.timeout_seconds:.0f} seconds")
    if asked:
        raise KeyboardInterrupt
    return status or 0


# ------------------------------------------------------------------------------------------------------------- report


def rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the one table."""
    metrics = results["metrics"]
    header = ["base", "parameters", "trained", "seeds", "log-likelihood"]
    header += [*(METRICS[metric] for metric in metrics), *(f"EEG - noise, {METRICS[metric]}" for metric in metrics), "seconds", "tokens/s"]
    table = []
    for name, found in results["bases"].items():
        likelihood = found["log_likelihood"]
        line = [name, _count(found["parameters"]), _count(found["trained_parameters"]), str(len(likelihood["by_seed"]))]
        line.append("" if likelihood["value"] is None else f"{likelihood['value']:.2f}")
        line += [_value(found["eeg"][metric], "") for metric in metrics] + [
            _value(found["eeg_minus_noise"][metric], "+") for metric in metrics
        ]
        speed = found["tokens_per_second"]
        table.append([*line, f"{found['seconds']:.0f}", "" if speed is None else f"{speed:.0f}"])
    return header, table


def show(results: Mapping[str, Any]) -> None:
    """The table and the sentences."""
    header, lines = rows(results)
    table = Table(title="Base models: same split, steps, batch and seeds")
    for number, column in enumerate(header):
        table.add_column(column, justify="left" if number == 0 else "right")
    for line in lines:
        table.add_row(*line)
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table)
    for sentence in [*base_differences.sentences(results["differences"]), *results["notes"]]:
        console.print(f"- {sentence}", soft_wrap=True, markup=False)


def page(results: Mapping[str, Any]) -> str:
    """The HTML report."""
    header, lines = rows(results)
    told = [[f"{d.a} - {d.b}, {d.title}", *_told(d)] for d in results["differences"]]
    sections = [
        TableSection(title="EEG arm", header=header, rows=lines),
        TableSection(title="Differences", header=["pair", "difference", "95 % interval", "by seed", "clear"], rows=told),
    ]
    said = [*base_differences.sentences(results["differences"]), *results["notes"]]
    return render("Base models compared: same split, steps, batch and seeds", sections, notes=said)


def _told(d: base_differences.BaseDifference) -> list[str]:
    clear = {True: "yes", False: "no", None: "one seed"}[d.clear]
    by_seed = ", ".join("" if value is None else f"{value:+.3f}" for value in d.by_seed)
    return [_value(plain(d), "+"), "" if d.low is None else f"{d.low:+.3f} to {d.high:+.3f}", by_seed, clear]


def _value(cell: Mapping[str, Any] | None, sign: str) -> str:
    return "" if cell is None or cell["value"] is None else f"{cell['value']:{sign}.3f} ± {cell['se'] or 0.0:.3f}"


def _count(number: int) -> str:
    scale, unit = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= s), (1, ""))
    return f"{number / scale:.3g} {unit}".strip()


# ------------------------------------------------------------------------------------------------------- from a run


def _read_yaml(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _likelihood(folder: Path) -> float | None:
    """Of a validation caption, at the step whose weights were exported."""
    best, name = read_json(folder / "completed.json").get("best_step"), "validation_caption_log_likelihood"
    values = [line[name] for line in read_lines(folder / "metrics.jsonl") if name in line and line["step"] == best]
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
