"""The scores of an encoder in the MLflow run that trained it, as MLflow's pages show them: metrics, tags, report and plots."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from data_prep.contract.errors import UserError

_MODEL = "model"
_PLOT = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


class Scored(Protocol):
    """What every evaluation of an encoder says."""

    @property
    def study(self) -> str: ...
    @property
    def simulated(self) -> bool | None: ...
    @property
    def part(self) -> str: ...
    @property
    def split(self) -> str | None: ...
    @property
    def audit(self) -> str | None: ...
    @property
    def step(self) -> int | None: ...
    @property
    def summary(self) -> Mapping[str, Mapping[str, float | None]]: ...


def track(results: Scored, name: str, export: str | None, output: Path, *, tracking_uri: str = "") -> tuple[str, ...]:
    """Log into the run that made ``export``; a sentence where that run was tracked and cannot be reached, and none where it was not."""
    if export is None:
        return ()
    from trainer.callbacks.mlflow_evaluation import Evaluation, log_evaluation, training_run

    try:
        if training_run(export) is None:
            return ()
    except UserError as error:
        return (f"Not logged to MLflow: {error}",)
    prefix = prefix_of(results.part, name)
    with tempfile.TemporaryDirectory() as folder:
        evaluation = Evaluation(
            folder=prefix,
            metrics=metrics_of(results.summary, prefix),
            tags=tags_of(results),
            files=(output / f"{name}.json", output / f"{name}.html", *plots(output / f"{name}.html", Path(folder))),
            step=results.step or 0,
        )
        said = log_evaluation(export, evaluation, tracking_uri=tracking_uri)
    return (said,) if said else ()


def prefix_of(part: str, name: str) -> str:
    """What stands before the names of scores: ``validation/...`` and ``train/...`` are the training's own points."""
    own = part if part == "test" else f"evaluation/{part}"
    return own if name == "retrieval" else f"{own}/{name}"


def plots(page: Path, folder: Path) -> list[Path]:
    """The figures of a report as PNG files in ``folder``."""
    found = []
    for number, match in enumerate(_PLOT.finditer(page.read_text(encoding="utf-8")), start=1):
        found.append(folder / f"figure-{number}.png")
        found[-1].write_bytes(base64.b64decode(match[1]))
    return found


def metrics_of(summary: Mapping[str, Mapping[str, float | None]], prefix: str) -> dict[str, float | None]:
    """``test/top1`` of the model, ``test/ridge/top1`` of whatever stands beside it."""
    return {
        f"{prefix}/{metric}" if arm == _MODEL else f"{prefix}/{arm}/{metric}": value
        for arm, row in summary.items()
        for metric, value in row.items()
    }


def tags_of(results: Scored) -> dict[str, str]:
    """On what the scores are: ``test.simulated``, ``test.study``, ...; what is not known says so."""
    simulated = None if results.simulated is None else str(results.simulated).lower()
    facts = {"simulated": simulated, "study": results.study, "split": results.split, "audit": results.audit}
    return {f"{results.part}.{name}": value or "unknown" for name, value in facts.items()}
