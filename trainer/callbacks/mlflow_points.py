"""The points of ``metrics.jsonl`` in an MLflow run: sent as they come, and after an outage those that the server lacks."""

from __future__ import annotations

import hashlib
import math
import os
import posixpath
import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_prep.contract.json_text import parse_line

_METRICS_A_CALL = 1000
_NO_NAME = re.compile(r"[^\w\-. :/]", re.ASCII)
_MAX_NAME_CHARACTERS = 250
_HASH_CHARACTERS = 12
_HASHED = re.compile(rf"-[0-9a-f]{{{_HASH_CHARACTERS}}}\Z")
_VALIDATION = "validation_"

Point = tuple[str, int]
"""Name of a metric and the step."""


class Points:
    """What has been sent of a ``metrics.jsonl``; the server is asked what it has before the first point and after every error.

    Parameters
    ----------
    file
        The run's lines; they may have become fewer when a run is wound back.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset, self._inode = 0, 0
        self._there: dict[Point, float] | None = None

    def send(self, client: Any, run_id: str, *, until: int = sys.maxsize) -> None:
        """Send what the server lacks up to a step; what has failed is sent by the next call. Later steps are those of a past that is about
        to be cut from the file."""
        try:
            self._send(client, run_id, until)
        except BaseException:
            self._offset, self._there = 0, None
            raise

    def _send(self, client: Any, run_id: str, until: int) -> None:
        from mlflow.entities import Metric

        if not self._file.is_file():
            return
        with self._file.open("rb") as lines:
            inode = os.fstat(lines.fileno()).st_ino
            if lines.seek(0, 2) < self._offset or inode != self._inode:  # shorter, or another file
                self._offset, self._inode, self._there = 0, inode, None
            lines.seek(self._offset)
            found = lines.read()
        whole = found[: found.rfind(b"\n") + 1]
        lines_of = points_of(whole.decode("utf-8", "replace").split("\n"))
        points = {point: value for point, value in lines_of.items() if point[1] <= until}
        if self._there is None:
            self._there = _held(client, run_id)
        missing = lacking(points, self._there)
        stamp = int(time.time() * 1000)
        metrics = [Metric(name, value, stamp, step) for (name, step), value in missing.items()]
        for first in range(0, len(metrics), _METRICS_A_CALL):
            client.log_batch(run_id, metrics=metrics[first : first + _METRICS_A_CALL])
        self._offset += len(whole)
        # A step comes once, unless the file becomes shorter. What is left is of steps that a kill undid and that come again.
        self._there = {point: value for point, value in self._there.items() if point not in points}


def mlflow_name(name: str) -> str:
    """A name that MLflow takes for a metric or a parameter, which refuses all that come with one that it does not.

    ``+`` becomes ``_and_``. A name of which more must change, or that reads as if it had been changed, ends with a hash of what it was: no
    two names become one.
    """
    words = name.replace("+", "_and_")
    taken = _NO_NAME.sub("_", words)[:_MAX_NAME_CHARACTERS] or "_"
    if posixpath.normpath(taken) != taken or taken.startswith(("/", "..")) or taken == ".":
        taken = re.sub(r"^\.|/|\.\.", "_", taken)
    if taken == words and words.replace("_and_", "+") == name and not _HASHED.search(name):
        return taken
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARACTERS]
    return f"{taken[: _MAX_NAME_CHARACTERS - _HASH_CHARACTERS - 1]}-{digest}"


def points_of(lines: Iterable[str]) -> dict[Point, float]:
    """``{"step": 3, "loss": 0.5, "validation_top1": 0.2}`` as ``train/loss`` and ``validation/top1`` at 3; the last of a step counts."""
    found: dict[Point, float] = {}
    for line in lines:
        values = parse_line(line)
        if values is None or not isinstance(step := values.pop("step", None), int):
            continue
        for name, value in values.items():
            if isinstance(value, (int, float)):
                group, own = ("validation", name.removeprefix(_VALIDATION)) if name.startswith(_VALIDATION) else ("train", name)
                found[mlflow_name(f"{group}/{own}"), step] = float(value)
    return found


def lacking(points: Mapping[Point, float], there: Mapping[Point, float]) -> dict[Point, float]:
    """The points that a server lacks, or has with another value, as after a run was wound back."""
    return {point: value for point, value in points.items() if point not in there or not _same(value, there[point])}


def _same(ours: float, theirs: float) -> bool:
    if math.isinf(ours):  # which a database keeps as the largest number
        return abs(theirs) >= sys.float_info.max and (ours > 0) == (theirs > 0)
    return ours == theirs or (math.isnan(ours) and math.isnan(theirs))


def _held(client: Any, run_id: str) -> dict[Point, float]:
    """The points of a run, the latest of each step."""
    history = [metric for name in client.get_run(run_id).data.metrics for metric in client.get_metric_history(run_id, name)]
    return {(m.key, m.step): m.value for m in sorted(history, key=lambda metric: metric.timestamp)}
