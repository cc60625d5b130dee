"""Events of a table held against the marks in the recording itself: a BrainVision marker file, annotations of EDF, a stim channel.

Shape suffixes: N events, M marks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data_prep.studies.continuous import Continuous
from data_prep.studies.event_tables import NEAR_SECONDS, behind_marks
from data_prep.studies.events import annotated_points, is_segment
from data_prep.studies.trigger_channel import rising_edges


def marks_of(opened: Continuous) -> dict[str, np.ndarray]:
    """Time points of the recording's own marks, by where they are."""
    found: dict[str, np.ndarray] = {}
    table = opened.raw.annotations
    events = [i for i, text in enumerate(table.description) if not is_segment(str(text))]
    if events:
        found["annotations"] = annotated_points(opened, table.onset[events])
    if opened.markers is not None and len(opened.markers.point_N):
        found["markers"] = np.asarray(opened.markers.point_N)
    for name, kind in zip(opened.raw.ch_names, opened.raw.get_channel_types(), strict=True):
        if kind == "stim":
            level_T = np.rint(opened.raw.get_data([name], verbose="error")[0]).astype(np.int64)
            point_M = rising_edges(level_T, None).point_N
            if len(point_M):
                found[f"stim channel {name}"] = point_M
    return {name: np.unique(point_M) for name, point_M in found.items()}


def compared(point_N: np.ndarray, point_M: np.ndarray, sfreq: float) -> dict[str, Any]:
    """How many events have no mark within 5 ms (or a point), and how far the marks lie from theirs.

    A common delay is told apart: all events may lie the same distance behind their marks, as a photodiode would show it.
    """
    apart_N = behind_marks(point_N, point_M)
    near = max(1.0, NEAR_SECONDS * sfreq)
    lone = int((np.abs(apart_N) > near).sum())
    return {
        "marks": len(point_M),
        "events": len(point_N),
        "events_without_a_mark": lone,
        "median_ms_behind_mark": round(1e3 * float(np.median(apart_N)) / sfreq, 1),
        "largest_ms_from_mark": round(1e3 * float(np.abs(apart_N).max()) / sfreq, 1),
    }
