"""What is known of each trial of a file: its own columns, those of a table beside it, and the one that names its stimulus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed, short
from data_prep.studies.cut_files import CutFile

_NAMING = {
    "image": ("image", "stimulus", "stim_file"),
    "class": ("class", "label", "labels", "y", "trial_type"),
}
"""Stimulus level -> columns that name a stimulus, where the config does not say which and events have no name of their own."""
_ROUNDING = 1e-5


def with_value(cut: CutFile, level: Literal["image", "class"], column: str) -> Mapping[str, Sequence[str]]:
    """The columns of ``cut`` with ``value``: what the file itself calls an event, else the only column that may name a stimulus.

    Raises
    ------
    StudyError
        None or several, where ``column`` (``events.column``) is ``value``; labels that are one number but for its last digits.
    """
    if column != "value" and column in cut.columns:
        _refuse_roundings(cut, column)
    if "value" in cut.columns:
        return cut.columns
    found = [name for name in _NAMING[level] if name in cut.columns]
    if len(found) == 1:
        _refuse_roundings(cut, found[0])
        return {**cut.columns, "value": cut.columns[found[0]]}
    if column == "value":
        which = f"{listed(found)} may each name the stimulus" if found else f"none is called {', '.join(_NAMING[level])}"
        raise StudyError(
            f"{cut.file}: of its columns {which}, expected one, or its name in events.column; it has {listed(cut.columns, 40)}"
        )
    return cut.columns


def _refuse_roundings(cut: CutFile, name: str) -> None:
    """Labels 0.99999994 and 1 are one class that a computation has touched, and would be two."""
    try:
        values = np.unique([float(cell) for cell in set(cut.columns[name])])
    except ValueError:
        return
    close = np.flatnonzero(np.diff(values) <= _ROUNDING * np.maximum(np.abs(values[1:]), 1e-12))
    if len(close) and not np.all(values == np.rint(values)):
        one, other = values[close[0]], values[close[0] + 1]
        raise StudyError(f"{cut.file}: column {name!r} has {one:.9g} and {other:.9g}, which differ by a rounding: expected ids or names")


def with_table(cut: CutFile, table: Mapping[str, Sequence[str]], path: Path) -> CutFile:
    """``cut`` with the columns of a table beside it: a row for each trial, or, where the file says which were dropped, for each before
    that.

    Raises
    ------
    StudyError
        Another number of rows, or a column of both that differs.
    """
    num_rows = len(next(iter(table.values())))
    numbers = list(cut.number_B)
    if num_rows == cut.num_trials:
        row_of_trial = list(range(num_rows))
    elif numbers != list(range(cut.num_trials)) and num_rows == cut.num_before_drops:
        row_of_trial = numbers
    else:
        before = f" of {cut.num_before_drops:,} before some were dropped" if cut.num_before_drops not in (None, cut.num_trials) else ""
        raise StudyError(f"{path}: has {num_rows:,} rows, {cut.file} {cut.num_trials:,} trials{before}: expected as many")
    rows = [row_of_trial[trial] for trial in cut.trial_N]
    columns, both = dict(cut.columns), []
    for name, cells in table.items():
        mine = [cells[row] for row in rows]
        theirs = columns.setdefault(name, mine)
        if list(theirs) != mine:
            at = next(i for i, (a, b) in enumerate(zip(theirs, mine, strict=True)) if a != b)
            if not _same_number(theirs[at], mine[at]):
                raise StudyError(
                    f"{path}: column {name!r} has {short(mine[at])!r} for trial {cut.trial_N[at]}, {cut.file} says "
                    f"{short(theirs[at])!r}: expected the same"
                )
        if theirs is not mine:
            both.append(name)
    notes = {"table_rows": "one a trial" if row_of_trial != numbers or num_rows == cut.num_trials else "one an event before drops"}
    return replace(cut, columns=columns, notes={**cut.notes, **notes, **({"table_agrees_in": both} if both else {})})


def _same_number(one: str, other: str) -> bool:
    """``1`` and ``1.0``, whatever wrote them."""
    try:
        return bool(np.isclose(float(one), float(other), rtol=1e-6, atol=0.0))
    except ValueError:
        return False
