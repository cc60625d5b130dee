"""Cells of tables: those that say nothing, and texts that are made of several columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed, short

_HOLE = re.compile(r"\{(?P<column>[^{}:]+)(:0(?P<digits>[1-9]\d?)d)?\}")


def says_nothing(cell: str) -> bool:
    """Whether a cell is empty, or ``n/a`` as BIDS has it."""
    return cell.strip().casefold() in ("", "n/a", "nan")


def columns_of(template: str) -> list[str]:
    """Columns that a template names: ``{task},{tot_img_number}``; a text without braces is the name of one."""
    return [match["column"] for match in _HOLE.finditer(template)] if "{" in template else [template]


def texts_of(template: str, columns: Mapping[str, Sequence[str]], file: Path, field: str) -> list[str]:
    """A text for each row: the cell of a column, or a template such as ``{task},{number:05d}`` filled with its cells.

    ``:05d`` writes a whole number with five digits. A row of which a wanted cell says nothing has the empty text.

    Raises
    ------
    StudyError
        A column that is not there, or a cell that is no whole number where digits are asked for.
    """
    wanted = columns_of(template)
    for name in wanted:
        if name not in columns:
            raise StudyError(f"{file}: has no column {name!r} ({field}); it has {listed(columns)}")
    if "{" not in template:
        return ["" if says_nothing(cell) else cell for cell in columns[template]]
    rows = range(len(columns[wanted[0]]) if wanted else 0)
    return ["" if any(says_nothing(columns[name][row]) for name in wanted) else _filled(template, columns, row, file) for row in rows]


def _filled(template: str, columns: Mapping[str, Sequence[str]], row: int, file: Path) -> str:
    def value(match: re.Match[str]) -> str:
        cell = columns[match["column"]][row]
        if match["digits"] is None:
            return cell
        number = whole_number(cell)
        if number is None:
            raise StudyError(f"{file}: column {match['column']!r} has {short(cell)!r} in row {row + 1}, expected a whole number")
        return f"{number:0{match['digits']}d}"

    return _HOLE.sub(value, template)


def whole_number(cell: str) -> int | None:
    """``24812`` of ``24812`` and of ``24812.0``, as other programs write columns that have gaps; None where it is none."""
    match = re.fullmatch(r"\s*([+-]?\d{1,15})(\.0*)?\s*", cell)
    return int(match[1]) if match else None
