"""The faces of ``evaluate-classes``: a table in the terminal and a page with the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from data_prep.contract.page import Cell, FigureSection, TableSection, number, render
from data_prep.contract.terminal import Terminal
from trainer.evaluate.classes.results import ClassesResults, ConfusionCell
from trainer.evaluate.score_cells import score_cell, score_text
from trainer.evaluate.study_facts import context_notes, with_simulated

COLUMNS = ("top1", "top5", "balanced_accuracy")
MAX_LABELS = 60
"""More concepts than this, and the confusion matrix has no room for their names."""
NUM_CONFUSIONS = 20


def print_results(results: ClassesResults) -> None:
    """The table of arms, the best and worst named concepts, and what the numbers mean."""
    console = Terminal(soft_wrap=False)
    arms = _arms(results)
    table = Table(*arms.header, title=headline(results))
    for row in arms.cells():
        table.add_row(*("\n".join(filter(None, cell)) for cell in row))
    console.print(table)
    ranked = sorted(results.per_class, key=lambda row: -row.f1)
    for title, chosen in (("named best", ranked[:3]), ("named worst", ranked[3:][-3:])):
        if chosen:
            text = ", ".join(f"{row.concept} (F1 {row.f1:.2f} of {row.support})" for row in chosen)
            console.print(f"{title}: {text}", soft_wrap=True)
    for note in notes(results):
        console.print(f"- {note}", soft_wrap=True)


def headline(results: ClassesResults) -> str:
    """What was scored on what."""
    return (
        f"{results.study}, split {results.split} ({results.part}, {results.eeg}): {results.num_trials} trials of "
        f"{results.num_shown} concepts, named among {results.num_candidates}"
    )


def notes(results: ClassesResults) -> list[str]:
    """Method, and what to be warned of."""
    found = with_simulated(results.simulated, results.notes)
    for name, minus in results.model_minus.items():
        found.append(f"Model minus {name}, top-1, paired by trial: {score_text(minus['top1'])}.")
    if results.num_candidates <= 5:
        found.append(f"With {results.num_candidates} candidates the top-5 says nothing.")
    return found + context_notes(results, trained_elsewhere="recordings")


def page(results: ClassesResults) -> str:
    """The HTML report; figures are inside, nothing is fetched."""
    confused = sorted((c for c in results.confusion if c.true != c.named), key=lambda c: -c.trials)[:NUM_CONFUSIONS]
    figure = confusion_figure([row.concept for row in results.per_class], results.confusion)
    sections: list[TableSection | FigureSection] = [
        _arms(results),
        FigureSection(title="Confusion matrix: how the trials of each shown concept were named", figure=figure),
    ]
    if len(results.by_subject) > 1:
        rows = [[s, *(number(scores[c]) for c in ("top1", "balanced_accuracy"))] for s, scores in results.by_subject.items()]
        sections.append(TableSection(title="By subject", header=["subject", "top1", "balanced_accuracy"], rows=rows))
    rows = [
        [row.concept, *(number(v) for v in (row.precision, row.recall, row.f1)), str(row.support), str(row.named)]
        for row in results.per_class
    ]
    header = ["concept", "precision", "recall", "F1", "support", "named"]
    sections.append(TableSection(title="By concept", header=header, rows=rows))
    if confused:
        rows = [[c.true, c.named, str(c.trials)] for c in confused]
        sections.append(TableSection(title="Most frequent confusions", header=["shown", "named", "trials"], rows=rows))
    return render(headline(results), sections, notes=notes(results), provenance=results.provenance())


def confusion_figure(shown: Sequence[str], confusion: Sequence[ConfusionCell]) -> Any:
    """Share of each ``shown`` concept's trials by the concept they were named, a matplotlib figure; shown concepts first."""
    from matplotlib.figure import Figure

    named = [*shown, *sorted({cell.named for cell in confusion} - set(shown))]
    row, column = ({name: n for n, name in enumerate(names)} for names in (shown, named))
    counts = np.zeros((len(shown), len(named)))
    for cell in confusion:
        counts[row[cell.true], column[cell.named]] = cell.trials
    side = min(12.0, 3.0 + 0.16 * len(named))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axis = figure.subplots()
    shares = counts / counts.sum(axis=1, keepdims=True)
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    figure.colorbar(picture, label="share of the concept's trials", shrink=0.7)
    axis.set_xlabel("named")
    axis.set_ylabel("shown")
    if len(named) <= MAX_LABELS:
        axis.set_xticks(range(len(named)), [_label(name) for name in named], rotation=90, fontsize=6)
        axis.set_yticks(range(len(shown)), [_label(name) for name in shown], fontsize=6)
    return figure


def _arms(results: ClassesResults) -> TableSection:
    rows: list[list[Cell | str]] = [[name, *(score_cell(arm[c]) for c in COLUMNS)] for name, arm in results.arms.items()]
    for name, label in (("majority", "most frequent concept"), ("chance", "chance")):
        rows.append([label, *(number(results.summary[name].get(c)) for c in COLUMNS)])
    return TableSection(title="Scores", header=["", *COLUMNS], rows=rows)


def _label(name: str) -> str:
    # A dollar sign would begin a formula in a matplotlib label.
    return name.replace("$", r"\$") if len(name) <= 24 else name[:23].replace("$", r"\$") + "…"
