"""From a comparison's config to its trainings, generations and evaluations, as values. Nothing is run or read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.contract.errors import CommandError
from trainer.evaluate.text.comparison import CONTROLS
from trainer.evaluate.text.config import EvaluateTextConfig
from trainer.generate.config import GenerateConfig
from trainer.models.language.base import BaseConfig
from trainer.tasks.text.config import TextConfig
from trainer.training.identity import flat

METRICS = {"bleu_1": "BLEU-1", "rouge_l": "ROUGE-L", "attribute_accuracy": "attributes"}
"""Metrics of the table, with the heading they have there."""
MAY_CHANGE = ("run", "resume", "mlflow", "callbacks", "checkpoint")
"""Fields of a text config that do not change what a completed run is worth."""


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


@dataclass(frozen=True, kw_only=True)
class Run:
    """One base with one seed."""

    title: str
    text: TextConfig
    """Its training."""
    generation: GenerateConfig
    """Its captions."""

    @property
    def captions(self) -> Path:
        """Folder of the captions."""
        return Path(self.generation.output)


@dataclass(frozen=True, kw_only=True)
class BasePlan:
    """One base with all its seeds."""

    name: str
    base: BaseConfig
    runs: list[Run]
    scoring: EvaluateTextConfig
    """Its evaluation, over all runs."""


def plan(config: CompareBasesConfig, text: TextConfig, generation: GenerateConfig, scoring: EvaluateTextConfig) -> list[BasePlan]:
    """What is to be done for each base, from the configs that ``config`` names.

    Raises
    ------
    CommandError
        The generation lacks EEG or one of its controls.
    """
    missing = [arm for arm in ("eeg", *CONTROLS) if arm not in generation.arms]
    if missing:
        raise CommandError(f"generate: {config.generate} has no arm {missing[0]}: without its controls a score says nothing of EEG")
    planned = []
    for name, base in config.bases.items():
        runs = []
        for seed in config.seeds:
            folder = Path(config.output) / name / f"seed-{seed}"
            training = replace(text, base=base, run=str(folder), train=replace(text.train, seed=seed), resume="auto")
            captions = replace(generation, export=str(folder / "export"), output=str(folder / "generations"))
            runs.append(Run(title=f"{name}, seed {seed}", text=training, generation=captions))
        report = Path(config.output) / name / "report"
        scores = replace(scoring, generations=[run.generation.output for run in runs], output=str(report))
        planned.append(BasePlan(name=name, base=base, runs=runs, scoring=scores))
    return planned


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """First field of two plain text configs that differs and changes a run's result, with both values."""
    left, right = (flat({k: v for k, v in plain.items() if k not in MAY_CHANGE}) for plain in (before, now))
    for name in sorted(left.keys() | right.keys()):
        if left.get(name) != right.get(name):
            return name, left.get(name), right.get(name)
    return None
