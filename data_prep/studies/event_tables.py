"""Tables of events beside a recording: their cells, and at which time points their onsets lie, in whatever unit they are.

Shape suffixes: N events.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed, short
from data_prep.studies.cells import says_nothing
from data_prep.studies.continuous import Continuous, Events
from data_prep.studies.parquet import is_parquet, read_parquet

OnsetUnit = Literal["seconds", "milliseconds", "samples"]
NEAR_SECONDS = 0.005
"""A mark as near as this is the event's own: a frame of a screen is 7 to 17 ms, a point of slow EEG 4 to 8 ms."""


def table_events(
    file: Path,
    opened: Continuous,
    onset_column: str,
    stated: OnsetUnit | None,
    said_by: str = "events.onset_unit says",
    *,
    marks: Sequence[np.ndarray] = (),
    own: bool = True,
) -> Events:
    """Events of a table of the recording ``opened``: all its columns, and ``value``, which is ``trial_type`` or ``stim_file`` where there
    is none.

    ``marks`` are time points of the recording's own marks, which tell units apart that its length does not. A table that is not the
    recording's ``own`` (that of the raw one of a derivative) may count samples at another rate.

    Raises
    ------
    StudyError
        No such file or column, an onset that is no number, or onsets that contradict the recording or ``said_by``.
    """
    columns: Mapping[str, Sequence[str]] = read_table(file)
    if onset_column not in columns:
        raise StudyError(f"{file}: no column {onset_column!r} (events.onset_column), its columns are {listed(columns)}")
    rows = [row for row, cell in enumerate(columns[onset_column]) if not says_nothing(cell)]
    notes: dict[str, Any] = {"rows_without_onset": lost} if (lost := len(columns[onset_column]) - len(rows)) else {}
    columns = {name: [cells[row] for row in rows] for name, cells in columns.items()}
    onset_N = np.array([_number(file, onset_column, row, columns[onset_column][i]) for i, row in enumerate(rows)], np.float64)
    if not len(onset_N):
        raise StudyError(f"{file}: 0 rows with an onset, expected events")
    unit = onset_unit(file, onset_N, opened.sfreq, opened.n_times, stated, said_by, marks)
    points = np.rint(onset_N * points_in(unit, opened.sfreq)).astype(np.int64)
    if own:
        refuse_other_points(file, points, columns, opened.sfreq)
    value = next((columns[name] for name in ("value", "trial_type", "stim_file") if name in columns), [""] * len(points))
    notes |= {"onset_unit": unit, "onset_unit_is": "measured" if stated is None else "stated"}
    return Events(point_N=points, columns={"value": value, **columns}, notes=notes)


def read_table(file: Path) -> dict[str, list[str]]:
    """Columns of a TSV or CSV file as text, told apart by its header, with a byte order mark or not, in UTF-8, UTF-16 or Windows' code
    page; or those of a Parquet file.

    Raises
    ------
    StudyError
        No such file, a column twice, or a row of another length.
    """
    if not file.is_file():
        raise StudyError(f"{file}: no such file, expected a table of events (events.file)")
    if is_parquet(file):
        return read_parquet(file)
    text = re.sub(r"\Asep=.[ \t]*\r?\n", "", _decoded(file.read_bytes()))  # by which Excel is told what stands between columns
    header = text[: re.search(r"[\r\n]|$", text).start()]  # type: ignore[union-attr]
    try:
        rows = [
            [cell.strip() for cell in row]
            for row in csv.reader(io.StringIO(text, newline=""), delimiter=max("\t,;", key=header.count))
            if row
        ]
    except csv.Error as error:
        raise StudyError(f"{file}: not a table ({error})") from error
    names = rows[0] if rows else []
    if not names or len(set(names)) != len(names):
        raise StudyError(f"{file}: its columns are {listed(names)}, expected names that differ")
    for number, row in enumerate(rows[1:], start=2):
        while len(row) > len(names) and not row[-1]:  # a tab too many at the end says nothing
            del row[-1]
        if len(row) != len(names):
            raise StudyError(f"{file}: line {number} has {len(row)} cells, its header {len(names)}: expected as many")
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(names)}


def _decoded(content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:  # of a program that knows the alphabet of one country
        return content.decode("cp1252", errors="replace")


def _number(file: Path, column: str, row: int, cell: str) -> float:
    try:
        found = float(cell)
    except ValueError:
        comma = ", a decimal comma: write a point" if re.fullmatch(r"[+-]?\d*,\d+", cell) else ""
        raise StudyError(f"{file}: column {column!r} has {short(cell)!r} in row {row + 1}{comma}, expected a number") from None
    if not np.isfinite(found):
        raise StudyError(f"{file}: column {column!r} has {short(cell)!r} in row {row + 1}, expected a number")
    return found


def points_in(unit: OnsetUnit, sfreq: float) -> float:
    """Time points in one of a unit."""
    return {"seconds": sfreq, "milliseconds": sfreq / 1000.0, "samples": 1.0}[unit]


def onset_unit(
    file: Path,
    onset_N: np.ndarray,
    sfreq: float,
    n_times: int,
    stated: OnsetUnit | None,
    said_by: str = "events.onset_unit says",
    marks: Sequence[np.ndarray] = (),
) -> OnsetUnit:
    """Unit of onsets, which must lie inside the recording, not all in its first hundredth, and most of them apart.

    Raises
    ------
    StudyError
        A stated unit that does not fit, or (none stated) none or several that do.
    """
    units: tuple[OnsetUnit, ...] = ("seconds", "milliseconds", "samples")
    within = {unit: _within(onset_N, points_in(unit, sfreq), n_times) for unit in units}
    reach = {unit: float(found_N.max()) * points_in(unit, sfreq) / n_times for unit, found_N in within.items()}
    gap = float(np.median(np.diff(np.unique(onset_N)))) if len(np.unique(onset_N)) > 2 else np.inf
    apart = [unit for unit in units if gap * points_in(unit, sfreq) >= 2]  # one onset beyond the end must not make seconds of milliseconds
    inside = [unit for unit in apart if reach[unit] <= 1.0 and within[unit].min() * points_in(unit, sfreq) > -1]
    whole = bool(np.all(onset_N == np.rint(onset_N)))
    fits = [unit for unit in inside if reach[unit] >= 0.01 and (unit != "samples" or whole)] or (
        [stated] if stated in inside else inside[:1]
    )
    told = ", ".join(f"{reach[unit]:.2%} as {unit}" for unit in units)
    described = (
        f"{file}: its last onset, {onset_N.max():g}, lies at this part of the recording ({n_times / sfreq:g} s at {sfreq:g} Hz): {told}"
    )
    marked = [unit for unit in fits if _share_marked(onset_N * points_in(unit, sfreq), marks, sfreq) > 0.5]
    if stated is not None:
        if stated not in fits:
            raise StudyError(f"{described}; {said_by} {stated}")
        if marked and stated not in marked:
            raise StudyError(f"{described}; {said_by} {stated}, the recording's own marks lie there as {listed(marked)}")
        return stated
    if not fits:
        raise StudyError(f"{described}; no unit fits")
    if len({round(reach[unit], 6) for unit in fits}) > 1:
        if len(marked) != 1:
            raise StudyError(f"{described}; say in events.onset_unit which is meant")
        return marked[0]
    return fits[0]


def _within(onset_N: np.ndarray, points: float, n_times: int) -> np.ndarray:
    """Onsets that lie in the recording, where all but one in fifty (one at least, of ten) do: BIDS has events before and after it."""
    inside_N = (onset_N * points > -1) & (onset_N * points <= n_times)
    outside = int((~inside_N).sum())
    return onset_N[inside_N] if len(onset_N) >= 10 and outside <= max(1, len(onset_N) // 50) else onset_N


def refuse_outside(file: Path, point_N: np.ndarray, name_N: Sequence[str], n_times: int, sfreq: float) -> None:
    """Refuse a stimulus that a table puts outside of its recording.

    Raises
    ------
    StudyError
    """
    outside = np.flatnonzero((point_N < 0) | (point_N >= n_times))
    if len(outside):
        i = int(outside[0])
        raise StudyError(
            f"{file}: {len(outside)} of {len(point_N)} stimuli lie outside of the recording, {short(name_N[i])!r} at "
            f"{point_N[i] / sfreq:g} s of "
            f"{n_times / sfreq:g} s: expected them inside"
        )


def _share_marked(point_N: np.ndarray, marks: Sequence[np.ndarray], sfreq: float) -> float:
    """Share of points that have a mark within 5 ms, in the marks that know most of them."""
    near = max(1.0, NEAR_SECONDS * sfreq)
    return max((float((np.abs(behind_marks(point_N, point_M)) <= near).mean()) for point_M in marks), default=0.0)


def behind_marks(point_N: np.ndarray, point_M: np.ndarray) -> np.ndarray:
    """How far each point lies behind the nearest mark (sorted)."""
    place = np.clip(np.searchsorted(point_M, point_N), 1, max(len(point_M) - 1, 1))
    before, after = point_M[place - 1], point_M[np.minimum(place, len(point_M) - 1)]
    return point_N - np.where(np.abs(point_N - before) <= np.abs(point_N - after), before, after)


def refuse_other_points(file: Path, points_N: np.ndarray, columns: Mapping[str, Sequence[str]], sfreq: float) -> None:
    """BIDS tables may say the sample beside the onset: both must say the same moment, counted from 0 or from 1."""
    try:
        said_N = np.array([float(cell) for cell in columns.get("sample", ())])
    except ValueError:
        return
    if len(said_N) and np.abs(said_N - points_N).max() > max(1.5, 0.002 * sfreq):
        row = int(np.abs(said_N - points_N).argmax())
        raise StudyError(
            f"{file}: row {row + 1} has its onset at point {points_N[row]} and its column sample says {said_N[row]:g}: expected the "
            "same moment"
        )
