"""``python -m trainer compare-bases``: which language model reads EEG best? Same split, budget and seeds, one table.

::

    text config x bases x training seeds -> runs (deepspeed --module trainer text) -> generate -> evaluate-text, a base each
    -> paired differences between bases -> OUTPUT/compare.json, compare.html

What is completed is not repeated: killed and started again, the comparison goes on. Bases differ in size, tokenizer and what
they were trained on; steps, global batch, split, captions and decoding are the same.

Q: captions of the eeg arm, S: training seeds.
"""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep import schema
from data_prep.cli import CommandError, parse, to_plain, to_yaml
from trainer.evaluate.intervals import bootstrap_mean
from trainer.evaluate.report import document, html_table
from trainer.evaluate.text import EvaluateTextConfig
from trainer.evaluate.text import run as evaluate_text
from trainer.generate import GenerateConfig
from trainer.models.base_llm import BaseConfig
from trainer.run_folder import read_lines
from trainer.tasks.text_config import TextConfig

METRICS = ("bleu_1", "rouge_l", "attribute_accuracy")
_LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_GRACE_SECONDS = 60.0


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
    """YAML of ``generate``: arms, decoding, part."""
    evaluate: str = "configs/evaluate/text.yaml"
    """YAML of ``evaluate-text``: metrics."""
    attributes: str | None = None
    """JSON of phrases by attribute, for attribute accuracy; null: as ``evaluate`` says."""
    num_processes: int = 1
    """Ranks of each training on this machine."""
    resamples: int = 2000
    """Bootstrap resamples behind each difference."""
    timeout_seconds: float = 7 * 24 * 3600.0
    """Longest time for one training or one generation."""

    def __post_init__(self) -> None:
        if len(self.bases) < 2:
            raise ValueError(f"bases: {len(self.bases)}, expected at least 2 to compare")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds}, expected at least one, each once")
        unclean = [name for name in self.bases if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name[0] == "."]
        if unclean:
            raise ValueError(f"bases: {unclean[0]!r}, expected letters, digits, '_', '.' and '-': it names a folder")
        if self.num_processes < 1 or not self.timeout_seconds > 0:
            raise ValueError(f"num_processes {self.num_processes} and timeout_seconds {self.timeout_seconds}, expected positive numbers")


def run(config: CompareBasesConfig) -> None:
    """Do what is missing, then compare."""
    output, console = Path(config.output), Console(stderr=True, highlight=False)
    text: TextConfig = parse(TextConfig, ["--config", config.text, *config.overrides])
    found: dict[str, dict[str, Any]] = {}
    for name, base in config.bases.items():
        folders = []
        for seed in config.seeds:
            folder = output / name / f"seed-{seed}"
            console.rule(f"{name}, seed {seed}", align="left")
            train(config, replace(text, base=base, run=str(folder), train=replace(text.train, seed=seed), resume="auto"))
            folders.append(generate(config, folder))
        found[name] = evaluate(config, name, folders)
    results = {
        "config": to_plain(config),
        "bases": found,
        "differences": differences({name: output / name / "report" for name in found}, config),
    }
    schema.write_json(output / "compare.json", results)
    schema.write_atomically(output / "compare.html", page(results).encode())
    show(results)


def train(config: CompareBasesConfig, text: TextConfig) -> None:
    """One training, unless it is completed; believes ``completed.json``, not the launcher's exit status."""
    folder = Path(text.run)
    if (folder / "completed.json").is_file():
        return
    path = folder.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    schema.write_atomically(path, to_yaml(text).encode())
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(config.num_processes), "--master_port", str(_port())]
    supervise([*launcher, "--module", "trainer", "text", "--config", str(path)], config.timeout_seconds)
    if not (folder / "completed.json").is_file():
        raise CommandError(f"{folder}: the training ended without completed.json; see events.jsonl there")


def generate(config: CompareBasesConfig, folder: Path) -> Path:
    """Captions of one trained model, unless they are there; returns their folder."""
    output = folder / "generations"
    settings: GenerateConfig = parse(GenerateConfig, ["--config", config.generate])
    settings = replace(settings, export=str(folder / "export"), output=str(output))
    path = folder / "generate.yaml"
    schema.write_atomically(path, to_yaml(settings).encode())
    if not (output / "generate.json").is_file():
        supervise([sys.executable, "-m", "trainer", "generate", "--config", str(path)], config.timeout_seconds)
    if not (output / "generate.json").is_file():
        raise CommandError(f"{output}: the generation ended without generate.json")
    return output


def evaluate(config: CompareBasesConfig, name: str, generations: Sequence[Path]) -> dict[str, Any]:
    """Scores of one base over all seeds, and what its trainings took."""
    report = Path(config.output) / name / "report"
    settings: EvaluateTextConfig = parse(EvaluateTextConfig, ["--config", config.evaluate])
    settings = replace(
        settings,
        generations=[str(folder) for folder in generations],
        output=str(report),
        attributes=config.attributes or settings.attributes,
        mlflow=False,
    )
    evaluate_text(settings)
    results = schema.read_json(report / "text.json")
    runs = [folder.parent for folder in generations]
    exported = [schema.read_json(folder / "export" / "config.json") for folder in runs]
    scores = [schema.read_json(folder / "completed.json")["best_score"] for folder in runs]
    return {
        "base": exported[0]["base"],
        "log_likelihood": {"value": None if None in scores else float(np.mean(scores)), "by_seed": scores},
        "eeg": {metric: results["arms"].get("eeg", {}).get(metric) for metric in METRICS},
        "eeg_minus_noise": {metric: results["differences"].get("eeg", {}).get("noise", {}).get(metric) for metric in METRICS},
        "samples_per_second": float(np.mean([_speed(folder) for folder in runs])),
        "report": str(report / "text.html"),
        "notes": results["notes"],
    }


def differences(reports: Mapping[str, Path], config: CompareBasesConfig) -> list[dict[str, Any]]:
    """Every pair of bases: mean difference a caption of the eeg arm, paired by item and seed, with its interval over images.

    ``clear`` says that the interval excludes 0 and that the difference exceeds twice its standard error over training seeds, too; null
    where there is one seed only.
    """
    tables = {name: read_sentences(folder / "sentences.csv") for name, folder in reports.items()}
    names, found = list(tables), []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            common = sorted(tables[a].keys() & tables[b].keys())
            if not common:
                raise CommandError(f"{reports[a]} and {reports[b]} share no caption of the arm eeg: expected generations of the same part")
            stimuli = np.unique([tables[a][key]["stimulus"] for key in common], return_inverse=True)[1].reshape(-1)
            seeds = np.array([key[0] for key in common])
            for metric in METRICS:
                if any(not tables[x][common[0]].get(metric) for x in (a, b)):
                    continue
                minus_Q = np.array([float(tables[a][key][metric]) - float(tables[b][key][metric]) for key in common])
                interval = bootstrap_mean(minus_Q, stimulus_Q=stimuli, num_resamples=config.resamples, seed=0)
                by_seed = [float(minus_Q[seeds == s].mean()) for s in np.unique(seeds)]
                clear = None
                if len(by_seed) > 1:
                    over_seeds = float(np.std(by_seed, ddof=1) / np.sqrt(len(by_seed)))
                    clear = bool((interval.low > 0 or interval.high < 0) and abs(interval.value) > 2 * over_seeds)
                found.append(
                    {"a": a, "b": b, "metric": metric, "value": interval.value, "low": interval.low, "high": interval.high}
                    | {"by_seed": by_seed, "clear": clear}
                )
    return found


def read_sentences(path: Path) -> dict[tuple[int, int], dict[str, str]]:
    """Rows of the arm eeg in ``sentences.csv`` of evaluate-text, by (training seed, item)."""
    with path.open(encoding="utf-8", newline="") as file:
        return {(int(row["training_seed"]), int(row["item"])): row for row in csv.DictReader(file) if row["arm"] == "eeg"}


def sentences(results: Mapping[str, Any]) -> list[str]:
    """What the differences say."""
    said = []
    for d in results["differences"]:
        amount = f"{abs(d['value']):.3f} {d['metric']} (95 % interval {d['low']:.3f} to {d['high']:.3f} of {d['a']} minus {d['b']})"
        better, worse = (d["a"], d["b"]) if d["value"] >= 0 else (d["b"], d["a"])
        if d["clear"]:
            said.append(f"{better} beats {worse} by {amount}, more than training seeds differ.")
        elif d["clear"] is None:
            said.append(f"{better} is ahead of {worse} by {amount}; with one training seed nothing is said about another training.")
        else:
            said.append(f"{better} and {worse} are not told apart: {amount}.")
    return said


def rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the one table."""
    header = ["base", "layers x width", "seeds", "log-likelihood", "samples/s"]
    header += [*(f"EEG {metric}" for metric in METRICS), *(f"EEG - noise {metric}" for metric in METRICS)]
    table = []
    for name, found in results["bases"].items():
        base, likelihood = found["base"], found["log_likelihood"]
        line = [name, f"{base['num_layers']} x {base['hidden_size']}", str(len(likelihood["by_seed"]))]
        line += ["" if likelihood["value"] is None else f"{likelihood['value']:.3f}", f"{found['samples_per_second']:.1f}"]
        cells = [found[kind][metric] for kind in ("eeg", "eeg_minus_noise") for metric in METRICS]
        table.append([*line, *("" if cell is None else f"{cell['value']:.3f} ± {cell['se']:.3f}" for cell in cells)])
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
    for sentence in sentences(results):
        console.print(f"- {sentence}", soft_wrap=True, markup=False)


def page(results: Mapping[str, Any]) -> str:
    """The HTML report."""
    header, lines = rows(results)
    title = "Base models compared: same split, steps, batch and seeds"
    return document(title, [html_table("EEG arm", header, lines)], sentences(results), {})


def supervise(argv: Sequence[str], timeout_seconds: float) -> int:
    """Run a command in a process group of its own, which signals are forwarded to and which is gone afterwards."""
    environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHER_VARIABLES}
    process = subprocess.Popen(argv, env=environment, start_new_session=True)

    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        asked.append(number)

    asked: list[int] = []
    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        end = time.monotonic() + timeout_seconds
        while process.poll() is None:
            if asked:
                end = min(end, time.monotonic() + _GRACE_SECONDS)
            if time.monotonic() > end:
                raise CommandError(f"{argv[-1]}: not done after {timeout_seconds:.0f} seconds")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        if asked:
            raise KeyboardInterrupt
        return process.returncode
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _speed(folder: Path) -> float:
    found = [line["samples_per_second"] for line in read_lines(folder / "metrics.jsonl") if "samples_per_second" in line]
    return float(np.median(found)) if found else float("nan")


def _port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
