"""A text evaluation's faces: verdicts and a table in the terminal, a page of pictures and captions.

Captions are a model's or a stranger's words: everything is escaped, the page runs nothing and fetches nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from data_prep.contract.errors import StudyError
from data_prep.contract.images import open_image
from data_prep.contract.page import Cell, FigureSection, TableSection, number, render
from data_prep.contract.terminal import Terminal
from trainer.artifacts.generations import Generations
from trainer.evaluate.figures import COLOUR, draw_scores, legend
from trainer.evaluate.study_facts import eeg_called
from trainer.evaluate.text import comparison
from trainer.evaluate.text.results import TextResults, TextScore

HEADLINE = ("bleu_1", "attribute_accuracy")
"""Metrics whose verdicts are printed; JSON and HTML have all."""
TERMINAL = ("bleu_1", "attribute_accuracy", "rouge_l", "concept_accuracy")
"""Columns of which a terminal of 80 characters has room for three; JSON and HTML have all."""
_RIVALS = ("label-only", "nearest-caption", comparison.UPPER)
PRINTED = {"eeg": (*comparison.CONTROLS, *_RIVALS), "eeg+concept": (comparison.WORD_CONTROL, comparison.PRIOR, *_RIVALS)}
"""Comparisons that are printed by tested arm; with the image, the share of its distance above the prior."""
THUMBNAIL_PIXELS = 160
_INVISIBLE = dict.fromkeys([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F], "\N{REPLACEMENT CHARACTER}")
_COLOUR = dict.fromkeys(comparison.TESTED, COLOUR) | {"image": "#5a9e6f"}


@dataclass(frozen=True, kw_only=True)
class ShownItem:
    """An item of the page."""

    name: str
    picture: str | None
    """A data URI."""
    captions: tuple[tuple[str, str], ...]
    """The true ones, then each arm's."""


@dataclass(frozen=True, kw_only=True)
class ShownCaptions:
    """Items drawn by chance, with every arm's caption."""

    items: tuple[ShownItem, ...]
    title: str
    notes: tuple[str, ...]
    """On pictures that could not be shown."""


def print_results(results: TextResults) -> None:
    """Verdicts, the table of arms, and what the numbers mean."""
    console = Terminal()
    table = Table(title=headline(results))
    shown = ([name for name in TERMINAL if name in results.metrics] or list(results.metrics))[:3]
    table.add_column("", no_wrap=True)
    for name in shown:
        table.add_column(results.metrics[name].title, justify="right")
    for arm, row in results.arms.items():
        table.add_row(arm, *(_with_error(row.scores.get(name)) for name in shown))
    console.print(table)
    for line in headline_verdicts(results):
        console.print(line, soft_wrap=True)
    for note in results.notes:
        console.print(f"- {note}", soft_wrap=True)


def headline(results: TextResults) -> str:
    """What was scored on what."""
    where = [results.study, f"split {results.split}" if results.split else "", results.part or "", eeg_called(results.simulated)]
    subjects = f", {results.num_subjects} subjects" if results.num_subjects > 1 else ""
    seeds = f"{results.num_seeds} training seed{'s' if results.num_seeds > 1 else ''}"
    return f"{', '.join(filter(None, where))}: captions of {results.num_images} images{subjects}, {seeds}"


def headline_verdicts(results: TextResults) -> list[str]:
    """The sentences to print: what EEG adds over the controls in BLEU-1 and attribute accuracy, or why nothing is said."""
    if refusal := no_verdict(results):
        return [refusal]
    return [
        v.sentence
        for v in results.verdicts
        if v.metric in HEADLINE and v.other in PRINTED[v.arm] and (v.excludes_zero is None or v.other != comparison.UPPER)
    ]


def no_verdict(results: TextResults) -> str:
    """Why there is no verdict, or an empty string."""
    if results.missing_controls:
        missing = ", ".join(results.missing_controls)
        return f"No verdict: without the controls {missing} these scores do not say what EEG adds; generate them with `arms`."
    if not results.differences:
        return f"No verdict: none of the arms {', '.join(comparison.TESTED)} was generated, there is nothing to compare the controls with."
    return ""


def page(results: TextResults, shown: ShownCaptions) -> str:
    """The HTML report."""
    refusal = no_verdict(results)
    compared = {name: facts.title for name, facts in results.metrics.items() if facts.compared}
    sections: list[TableSection | FigureSection] = [_figure(results), _all_arms(results)]
    for arm, others in results.differences.items():
        rows = {f"minus {other}": found for other, found in others.items()}
        sections.append(_scores(f"{arm} minus every other arm, paired", rows, compared))
    if results.share_of_image and not refusal:
        title = "Share of the image arm's distance above the caption prior"
        sections.append(_scores(title, results.share_of_image, compared))
    return render(
        headline(results),
        sections,
        notes=[*results.notes, *(f"{facts.title}: {facts.how}." for facts in results.metrics.values())],
        provenance={
            "fingerprint": results.fingerprint,
            "unit": results.unit,
            "trials of this part trained on": "not known" if results.trained_trials is None else results.trained_trials,
        },
        template=("trainer.evaluate", "text.html"),
        verdicts=[refusal] if refusal else headline_verdicts(results),
        comparisons=[v.sentence for v in results.verdicts],
        items=shown.items,
        items_title=shown.title,
    )


def captions(generations: Generations, *, seed: int, num_items: int, images: Path | None) -> ShownCaptions:
    """Items to show, drawn by ``seed`` and never chosen by score; ``images`` is the folder of their pictures, None: no pictures."""
    rng = np.random.default_rng([seed, 9])
    chosen = sorted(rng.permutation(len(generations.items))[:num_items].tolist())
    items = []
    for q in chosen:
        records = {arm: generations.records[0, arm, q] for arm in generations.arms if (0, arm, q) in generations.records}
        first = next(iter(records.values()))
        true = "; ".join(_clean(line) for line in first.expected)
        items.append(
            ShownItem(
                name=_clean(f"item {first.item}, {first.concept_true or first.stimulus}"),
                picture=thumbnail(images, generations.image_Q[q]) if images else None,
                captions=(("true", true), *((arm, _clean(record.generated)) for arm, record in records.items())),
            )
        )
    lacking = sum(item.picture is None for item in items) if images else 0
    note = f"{lacking} of {len(chosen)} pictures to show are not readable images under {images}."
    first_seed = " (first training seed)" if len(generations.folders) > 1 else ""
    title = f"Captions{first_seed}: {len(chosen)} of {len(generations.items)} items, drawn by chance"
    return ShownCaptions(items=tuple(items), title=title, notes=(note,) if lacking else ())


def thumbnail(folder: Path, name: str) -> str | None:
    """A small JPEG as a data URI; None where ``name`` leads out of ``folder``, is not there, or is no image."""
    if not name or "\0" in name:
        return None
    root = folder.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        return None
    try:
        small = open_image(path, smaller=2 * THUMBNAIL_PIXELS)
    except StudyError:
        return None
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _all_arms(results: TextResults) -> TableSection:
    titles = {name: facts.title for name, facts in results.metrics.items()}
    rows: list[list[Cell | str]] = [
        [arm, *(_cell(row.scores.get(name)) for name in titles), number(row.distinct.value), str(row.num_items)]
        for arm, row in results.arms.items()
    ]
    return TableSection(title="All arms", header=["", *titles.values(), "distinct captions", "items"], rows=rows).turned()


def _scores(title: str, rows: Mapping[str, Mapping[str, TextScore]], titles: Mapping[str, str]) -> TableSection:
    cells: list[list[Cell | str]] = [[name, *(_cell(found.get(metric)) for metric in titles)] for name, found in rows.items()]
    return TableSection(title=title, header=["", *titles.values()], rows=cells).turned()


def _figure(results: TextResults) -> FigureSection:
    from matplotlib.figure import Figure

    shown = [name for name in HEADLINE if name in results.metrics] or list(results.metrics)[:1]
    figure = Figure(figsize=(4.5 * len(shown), 0.8 + 0.3 * len(results.arms)), layout="constrained")
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(shown), sharey=True)), shown, strict=True):
        draw_scores(axis, {arm: row.scores[name] for arm, row in results.arms.items()}, _COLOUR)
        axis.set_xlabel(results.metrics[name].title)
        prior = results.arms[comparison.PRIOR].scores[name].value if comparison.PRIOR in results.arms else None
        if prior is not None:
            axis.axvline(prior, color="#222", linestyle=":", linewidth=1, label="caption prior")
            legend(axis)
    return FigureSection(title="Scores of all arms with 95 % intervals", figure=figure)


def _clean(text: str) -> str:
    return text.translate(_INVISIBLE)


def _with_error(score: TextScore | None) -> str:
    if score is None or score.value is None:
        return ""
    return number(score.value) + (f" ± {number(score.se)}" if score.se is not None else "")


def _cell(score: TextScore | None) -> Cell:
    if score is None or score.value is None:
        return Cell("")
    return Cell(number(score.value), f"[{number(score.low)}, {number(score.high)}]" if score.low is not None else "")
