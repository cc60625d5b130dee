"""HTML reports: one template, escaped by Jinja, that runs nothing and fetches nothing.

Tables, figures and notes are values; how they look (narrow screens, print, light and dark) is ``templates/``' alone.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

NO_VALUE = "–"
"""What stands where a score is no finite number."""
SIMULATED = "The EEG is simulated: these numbers say what the method can learn, not what brains tell."
SIMULATED_NOT_KNOWN = "Whether the EEG is real or simulated is not known: nothing tells of it."


class Cell(NamedTuple):
    """What stands in a cell, and smaller below it."""

    text: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class TableSection:
    """A table under a heading; the first column names the rows."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    remark: str = ""
    """A sentence below the heading."""

    def cells(self) -> list[list[Cell]]:
        """The rows as cells."""
        return [[content if isinstance(content, Cell) else Cell(content) for content in row] for row in self.rows]

    def turned(self) -> TableSection:
        """Columns as rows: for tables that have more columns than a page is wide."""
        columns = list(zip(*self.cells(), strict=True))
        header = [self.header[0], *(cell.text for cell in columns[0])]
        rows = [[Cell(name), *column] for name, column in zip(self.header[1:], columns[1:], strict=True)]
        return TableSection(title=self.title, header=header, rows=rows, remark=self.remark)


@dataclass(frozen=True, kw_only=True)
class FigureSection:
    """A figure, inside the page."""

    title: str
    figure: Any
    """A matplotlib figure; its background is the page's, dark pages show it inverted."""


def render(
    title: str,
    sections: Sequence[TableSection | FigureSection],
    *,
    notes: Sequence[str],
    provenance: Mapping[str, Any] | None = None,
    template: tuple[str, str] | None = None,
    **more: Any,
) -> str:
    """A whole page.

    Parameters
    ----------
    title
        Said once, at the top.
    notes
        How to read the numbers, a sentence each.
    provenance
        Where they come from; what is None is left out.
    template, more
        Package (with a folder ``templates``) and name of a template that extends ``base.html``, and the values that it shows besides.
    """
    facts = {name: value for name, value in (provenance or {}).items() if value is not None}
    shown = [_figure(s) if isinstance(s, FigureSection) else _table(s) for s in sections]
    package, name = template or ("data_prep.contract", "base.html")
    return _environment(package).get_template(name).render(title=title, sections=shown, notes=notes, provenance=facts, **more) + "\n"


def number(value: float | None) -> str:
    """Three digits, one for large numbers; empty for none."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return NO_VALUE
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.1f}"


@lru_cache
def _environment(package: str) -> Environment:
    loader = ChoiceLoader([PackageLoader(name, "templates") for name in dict.fromkeys(("data_prep.contract", package))])
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=False, lstrip_blocks=False)


def _table(section: TableSection) -> dict[str, Any]:
    return {"title": section.title, "header": section.header, "rows": section.cells(), "remark": section.remark}


def _figure(section: FigureSection) -> dict[str, Any]:
    buffer = io.BytesIO()
    section.figure.savefig(buffer, format="png", dpi=130, transparent=True, metadata={"Software": None})
    return {"title": section.title, "png": base64.b64encode(buffer.getvalue()).decode()}
