"""What is in a study: ``python -m data_prep inspect`` prints tables and writes a page to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import StudyError
from data_prep.contract.files import write_atomically
from data_prep.contract.terminal import Terminal
from data_prep.inspection.page import page
from data_prep.inspection.tables import tables
from data_prep.shards.open import open_study


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Show what is in a study: tables here; counts, evoked responses, spectra, levels and images on one HTML page."""

    study: str
    """Folder of the study."""
    sample: int = 0
    """Number of the sample to show, in shard order."""
    page: str | None = None
    """HTML file to write; None: ``runs/inspect/`` and the study's name. It must not lie in the study. ``none`` writes no page."""
    images: str | None = None
    """Folder of the images, to show some of them on the page; a study keeps their names alone."""
    trials: int = 20_000
    """Trials that the page is computed from, at most, spread evenly over subjects and the study; the page says how many."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"trials is {self.trials}, expected at least 1")


def run(config: InspectConfig) -> None:
    """Print the tables, write the page."""
    study, console = open_study(config.study), Terminal()
    if not 0 <= config.sample < len(study.samples):
        raise StudyError(
            f"sample is {config.sample}, expected 0 to {len(study.samples) - 1}: {study.root} has {len(study.samples)} samples"
        )
    images = None if config.images is None else Path(config.images)
    if images is not None and not images.is_dir():
        raise StudyError(f"images: {images} is no folder, expected that of the study's images")
    name = study.root.resolve().name
    output = Path(f"runs/inspect/{name}.html") if config.page is None else Path(config.page)
    if config.page != "none" and output.resolve().is_relative_to(study.root.resolve()):
        raise StudyError(f"page: {output} lies in the study {study.root}, expected a file elsewhere: what lies there is verified")
    if not console.is_terminal:
        console = Terminal(width=160)
    for table in tables(study, config.sample):
        console.print(table)
    if config.page != "none":
        write_atomically(output, page(study, images=images, most_trials=config.trials).encode())
        console.print(f"page: {output}", soft_wrap=True)
