"""What ``evaluate-text`` found: ``text.json``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.contract.records import FLAT
from trainer.evaluate.results import Results, read_results


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """A metric of an arm; None where it is not defined."""

    value: float | None
    """Mean over training seeds."""
    se: float | None
    """Bootstrap standard error."""
    low: float | None
    high: float | None
    """Ends of the 95 % interval."""
    seeds_sd: float | None
    """Standard deviation over training seeds; None with one."""
    by_seed: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Difference(TextScore):
    """One arm minus another, paired by item."""

    excludes_zero: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A comparison in words."""

    metric: str
    arm: str
    other: str
    excludes_zero: bool | None
    """None: the sentence is of a share of the image arm's distance."""
    sentence: str


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """A column of the table."""

    title: str
    how: str
    """Package, version and settings, in words."""
    compared: bool
    """Whether more is better."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A number without an interval."""

    value: float


@dataclass(frozen=True, kw_only=True)
class TextArm:
    """A row of the table."""

    scores: dict[str, TextScore] = field(metadata=FLAT)
    """By metric; on disk they stand beside the two below."""
    distinct: Share
    """Share of captions that are different from each other."""
    num_items: int
    """Items that the arm captioned."""


@dataclass(frozen=True, kw_only=True)
class TextResults(Results):
    """Captions of all arms scored and compared."""

    kind: str = "text"
    study: str
    simulated: bool | None
    """None: not known."""
    split: str | None
    part: str | None
    fingerprint: str | None
    candidates: str | None
    """Where predicted words come from: ``train`` or ``part``."""
    generations: tuple[str, ...]
    """Folders, one a training seed."""
    num_seeds: int
    num_items: int
    num_images: int
    num_subjects: int
    metrics: dict[str, MetricFacts]
    arms: dict[str, TextArm]
    differences: dict[str, dict[str, dict[str, Difference]]]
    """tested arm -> other arm -> metric."""
    controls_minus_prior: dict[str, dict[str, TextScore]]
    share_of_image: dict[str, dict[str, TextScore]]
    """tested arm -> metric: share of the image arm's distance above the caption prior."""
    missing_controls: tuple[str, ...]
    """Controls without which no verdict is given."""
    verdicts: tuple[Verdict, ...]
    config: dict[str, Any]
    """The command's resolved config."""
    unit: str | None = field(default_factory=lambda: None)
    """Of the EEG."""
    trained_trials: int | None = field(default_factory=lambda: None)
    """On how many of the part's trials the models were trained, encoders and ancestors included; None: not known."""
    trained_not_known: tuple[str, ...] = ()
    """Why it is not known."""


def read_text(path: Path) -> TextResults:
    """``text.json``; see :func:`trainer.evaluate.results.read_results` for what is refused."""
    return read_results(path, TextResults)
