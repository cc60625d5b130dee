"""The report of ``evaluate-classes``: a table in the terminal, ``classes.json``, and a page with the confusion matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.contract.files import write_atomically, write_json
from trainer.evaluate.page import document, html_figure, html_table

COLUMNS = ("top1", "top5", "balanced_accuracy")
MAX_LABELS = 60
"""More concepts than this, and the confusion matrix has no room for their names."""
NUM_CONFUSIONS = 20


def write(folder: Path, results: dict[str, Any]) -> None:
    """``classes.json`` and ``classes.html`` in ``folder``, each under its final name only when whole."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "classes.json", results)
    write_atomically(folder / "classes.html", page(results).encode())


def print_results(results: dict[str, Any]) -> None:
    """The table of arms, the best and worst named concepts, and what the numbers mean."""
    console = Console(soft_wrap=False, highlight=False)
    header, rows = _arms(results)
    table = Table(*header, title=headline(results))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    ranked = sorted(results["per_class"], key=lambda row: -row["f1"])
    for title, chosen in (("named best", ranked[:3]), ("named worst", ranked[3:][-3:])):
        if chosen:
            text = ", ".join(f"{row['concept']} (F1 {row['f1']:.2f} of {row['support']})" for row in chosen)
            console.print(f"{title}: {text}", soft_wrap=True, markup=False)
    for note in notes(results):
        console.print(f"- {note}", soft_wrap=True, markup=False)


def headline(results: dict[str, Any]) -> str:
    """What was scored on what."""
    kind = "simulated EEG" if results["simulated"] else "EEG"
    return (
        f"{results['study']}, split {results['split']} ({results['part']}, {kind}): {results['num_trials']} trials of "
        f"{results['num_shown']} concepts, named among {results['num_candidates']}"
    )


def notes(results: dict[str, Any]) -> list[str]:
    """Method, and what to be warned of."""
    found = list(results["notes"])
    if results["simulated"]:
        found.insert(0, "The EEG is simulated: these numbers say what the method can learn, not what brains tell.")
    if results["part"] == "train":
        found.append("These are training trials: the scores say how well they were learnt by heart, the baseline was fitted on them, too.")
    elif results["part"] == "validation":
        found.append("These are validation trials: the encoder's best step was chosen by them.")
    for name, arm in results["model_minus"].items():
        found.append(f"Model minus {name}, top-1, paired by trial: {_text(arm['top1'])}.")
    if results["num_candidates"] <= 5:
        found.append(f"With {results['num_candidates']} candidates the top-5 says nothing.")
    if results.get("audit"):
        found.append(f"Audit of the split: {results['audit']}.")
    if results.get("trained_on_split") is False:
        found.append("The encoder was trained on another split: on none of these trials, but perhaps on their recordings.")
    return found


def page(results: dict[str, Any]) -> str:
    """The HTML report; figures are inside, nothing is fetched."""
    header, rows = _arms(results)
    body = [html_table("Scores", header, rows), html_figure("confusion matrix", confusion_figure(results))]
    if len(results["by_subject"]) > 1:
        by_subject = [[s, *(f"{scores[c]:.3f}" for c in ("top1", "balanced_accuracy"))] for s, scores in results["by_subject"].items()]
        body.append(html_table("By subject", ["subject", "top1", "balanced_accuracy"], by_subject))
    per_class = [
        [row["concept"], *(f"{row[c]:.3f}" for c in ("precision", "recall", "f1")), str(row["support"]), str(row["named"])]
        for row in results["per_class"]
    ]
    body.append(html_table("By concept", ["concept", "precision", "recall", "F1", "support", "named"], per_class))
    confused = sorted((c for c in results["confusion"] if c["true"] != c["named"]), key=lambda c: -c["trials"])[:NUM_CONFUSIONS]
    if confused:
        rows = [[c["true"], c["named"], str(c["trials"])] for c in confused]
        body.append(html_table("Most frequent confusions", ["shown", "named", "trials"], rows))
    return document(headline(results), body, notes(results), results)


def confusion_figure(results: dict[str, Any]) -> Any:
    """Share of each shown concept's trials by the concept they were named, a matplotlib figure; shown concepts first."""
    from matplotlib.figure import Figure

    shown = [row["concept"] for row in results["per_class"]]
    named = [*shown, *sorted({c["named"] for c in results["confusion"]} - set(shown))]
    row, column = ({name: number for number, name in enumerate(names)} for names in (shown, named))
    counts = np.zeros((len(shown), len(named)))
    for cell in results["confusion"]:
        counts[row[cell["true"]], column[cell["named"]]] = cell["trials"]
    side = min(12.0, 3.0 + 0.16 * len(named))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    figure.colorbar(picture, label="share of the concept's trials", shrink=0.7)
    axis.set_xlabel("named")
    axis.set_ylabel("shown")
    if len(named) <= MAX_LABELS:
        axis.set_xticks(range(len(named)), [_short(name) for name in named], rotation=90, fontsize=6)
        axis.set_yticks(range(len(shown)), [_short(name) for name in shown], fontsize=6)
    return figure


def _arms(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [[name, *(_text(arm[c]) for c in COLUMNS)] for name, arm in results["arms"].items()]
    for name, label in (("majority", "most frequent concept"), ("chance", "chance")):
        scores = results["summary"][name]
        rows.append([label, *(f"{scores[c]:.3f}" if c in scores else "" for c in COLUMNS)])
    return ["", *COLUMNS], rows


def _text(cell: dict[str, float]) -> str:
    return f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def _short(name: str) -> str:
    # A dollar sign would begin a formula in a matplotlib label.
    return name.replace("$", r"\$") if len(name) <= 24 else name[:23].replace("$", r"\$") + "…"
