"""The faces of ``evaluate-retrieval``: a table in the terminal and a page for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from data_prep.contract.page import Cell, FigureSection, TableSection, number, render
from data_prep.contract.terminal import Terminal
from trainer.evaluate.figures import COLOUR, draw_scores, legend
from trainer.evaluate.results import Score
from trainer.evaluate.retrieval.results import ClassLevelResults, RetrievalArm, RetrievalResults
from trainer.evaluate.score_cells import score_cell, score_text
from trainer.evaluate.study_facts import context_notes, with_simulated

Found = RetrievalResults | ClassLevelResults
Scored = tuple[Found, np.ndarray | None]
"""Results and, of an image-level study, the rank of every trial's image."""
RETRIEVAL = ("recall@1", "recall@5", "recall@10", "mean_rank", "median_rank", "mrr", "map", "ndcg@1", "ndcg@5", "ndcg@10")
CLASSES = ("auc", "balanced_accuracy")
TERMINAL = ("recall@1", "recall@5", "median_rank", *CLASSES)
"""Columns that a terminal of 80 characters has room for; JSON and HTML have all."""
SUMMARY_NAMES = {"recall@1": "top1", "recall@5": "top5"}
"""Metrics whose name in the summary is another."""


def print_results(results: Found) -> None:
    """The table of arms, and what the numbers mean."""
    console = Terminal(soft_wrap=False)
    console.print(headline(results), soft_wrap=True)
    for section in tables(results, only=TERMINAL):
        table = Table(title=section.title, caption=section.remark or None)
        for position, column in enumerate(section.header):
            table.add_column(column, justify="left" if position == 0 else "right", no_wrap=position == 0)
        for row in section.cells():
            table.add_row(*("\n".join(filter(None, cell)) for cell in row))
        console.print(table)
    for note in notes(results):
        console.print(f"- {note}", soft_wrap=True)


def headline(results: Found) -> str:
    """What was scored on what."""
    split = f", split {results.split}" if results.split else ""
    where = f"{results.study}{split} ({results.part}, {results.eeg})"
    if isinstance(results, ClassLevelResults):
        return f"{where}: {results.num_queries} trials of {results.num_gallery} classes"
    averaged = _averaged(results.repetitions)
    return f"{where}: {results.num_queries} EEG trials{averaged}, {results.num_gallery} images"


def notes(results: Found) -> list[str]:
    """Method, and what to be warned of."""
    found = with_simulated(results.simulated, results.notes)
    found += context_notes(results, trained_elsewhere="concepts or recordings")
    if isinstance(results, RetrievalResults):
        for name, minus in results.model_minus.items():
            found.append(f"Model minus {name}, top-1, paired by query: {score_text(minus['recall@1'])}.")
    ceiling, model = results.summary.get("ceiling", {}).get("top1"), results.summary["model"].get("top1")
    if ceiling and model is not None:
        found.append(f"The model reaches {model / ceiling:.1%} of the ceiling's top-1, which no decoder can exceed.")
    return found


def tables(results: Found, only: Sequence[str] = (*RETRIEVAL, *CLASSES)) -> list[TableSection]:
    """Every table of the result, with the columns of ``only``."""
    found = _class_tables(results, only) if isinstance(results, ClassLevelResults) else _retrieval_tables(results, only)
    if len(results.by_subject) > 1:
        names = sorted({metric for scores in results.by_subject.values() for metric in scores})
        rows = [[subject, *(number(scores.get(n)) for n in names)] for subject, scores in results.by_subject.items()]
        found.append(TableSection(title="By subject", header=["subject", *names], rows=rows))
    return found


def page(results: Found, ranks_Q: np.ndarray | None = None) -> str:
    """The HTML report; figures are inside, nothing is fetched. ``ranks_Q``: rank of every trial's image, for their histogram."""
    sections: list[TableSection | FigureSection] = [_arms_figure(results)]
    if ranks_Q is not None:
        sections.append(_ranks_figure(ranks_Q, results.num_gallery))
    sections += tables(results)
    return render(headline(results), sections, notes=notes(results), provenance=results.provenance())


def _averaged(repetitions: Sequence[int] | None) -> str:
    if not repetitions:
        return ""
    low, high = min(repetitions), max(repetitions)
    return f" ({low} repetition{'s' if low > 1 else ''} averaged)" if low == high else f" ({low} to {high} repetitions averaged)"


def _class_tables(results: ClassLevelResults, only: Sequence[str]) -> list[TableSection]:
    columns = [column for column in CLASSES if column in only]
    rows: list[list[Cell | str]] = [
        [name, *(score_cell(getattr(arm, c)) for c in columns), _p(arm.null["p_auc"])] for name, arm in results.arms.items()
    ]
    rows.append(["chance", *(number(results.summary["chance"][c]) for c in columns), ""])
    remark = f"Each of {results.num_queries} trials is one of {results.num_gallery} classes."
    return [TableSection(title="Scores", header=["", *columns, "p (AUC)"], rows=rows, remark=remark)]


def _retrieval_tables(results: RetrievalResults, only: Sequence[str]) -> list[TableSection]:
    columns = [column for column in RETRIEVAL if column in only]
    trials, images = results.num_queries, results.num_gallery
    rows: list[list[Cell | str]] = [
        [name, *(score_cell(arm.eeg_to_image[c]) for c in columns), _p(arm.null["p_top1"])] for name, arm in results.arms.items()
    ]
    for name in ("chance", "ceiling"):
        if known := results.summary.get(name):
            rows.append([name, *(number(known.get(SUMMARY_NAMES.get(c, c))) for c in columns), ""])
    remark = f"Each of {trials} EEG trials ranks {images} images, of which one is its own."
    found = [TableSection(title="EEG → image", header=["", *columns, "p (top-1)"], rows=rows, remark=remark)]
    rows = [[name, *(score_cell(arm.image_to_eeg[c]) for c in columns)] for name, arm in results.arms.items() if arm.image_to_eeg]
    own = "one is its own" if trials == images else f"{trials / images:.3g} on average are its own: the first of them counts"
    remark = f"Each of {images} images ranks {trials} EEG trials, of which {own}."
    if rows:
        found.append(TableSection(title="image → EEG", header=["", *columns], rows=rows, remark=remark))
    return found


def _arms_figure(results: Found) -> FigureSection:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    shown = CLASSES if isinstance(results, ClassLevelResults) else ("recall@1", "recall@5")
    for axis, metric in zip(np.atleast_1d(figure.subplots(1, 2, sharey=True)), shown, strict=True):
        scores = {name: _of(arm, metric) for name, arm in results.arms.items()}
        draw_scores(axis, scores)
        for name, style in (("chance", ":"), ("ceiling", "--")):
            known = results.summary.get(name, {}).get(SUMMARY_NAMES.get(metric, metric))
            if known is not None:
                axis.axvline(known, color="#222", linestyle=style, linewidth=1, label=name)
        axis.set_xlabel(metric)
        axis.set_xlim(0, 1)
        legend(axis)
    return FigureSection(title="Scores of all arms with 95 % intervals", figure=figure)


def _of(arm: Any, metric: str) -> Score:
    found: Score = arm.eeg_to_image[metric] if isinstance(arm, RetrievalArm) else getattr(arm, metric)
    return found


def _ranks_figure(ranks_Q: np.ndarray, num_gallery: int) -> FigureSection:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.4), layout="constrained")
    axis = figure.subplots()
    num_bins = min(num_gallery, 50)
    axis.hist(ranks_Q, bins=np.linspace(0.5, num_gallery + 0.5, num_bins + 1).tolist(), color=COLOUR)
    axis.axhline(len(ranks_Q) / num_bins, color="#222", linestyle=":", linewidth=1, label="chance")
    axis.set_xlabel(f"rank of the right image among {num_gallery}")
    axis.set_ylabel("EEG trials")
    legend(axis)
    return FigureSection(title="Ranks that the model gives to the right image", figure=figure)


def _p(value: float) -> str:
    return f"{value:.4f}"
