"""What a comparison has found: one table and sentences, in the terminal and as a page."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from data_prep.contract.page import TableSection, render
from data_prep.contract.terminal import Terminal
from launch.compare_bases.plan import METRICS, CompareBasesConfig
from trainer.artifacts.seen import trained_not_known
from trainer.evaluate.results import plain
from trainer.evaluate.study_facts import with_simulated
from trainer.evaluate.text import base_differences


def notes(config: CompareBasesConfig, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How to read the table."""
    sources = {name: base["source"] for name, base in found.items()}
    simulated = next(iter(sources.values()))["simulated"]
    unknown = [
        trained_not_known(f"the model of {n}", told["trained_not_known"]) for n, told in sources.items() if told["trained_trials"] is None
    ]
    method = [
        "Log-likelihood is that of a whole caption (in nats, end included; mean of the seeds), since bases cut text into other tokens.",
        "± is the standard error over images"
        + (f", values are means of {len(config.seeds)} training seeds." if len(config.seeds) > 1 else "; there is one training seed."),
        f"Seconds and tokens/s are those of one training ({config.num_processes} ranks), start and validation included in the seconds.",
        "Intervals are not corrected for the number of comparisons.",
    ]
    return with_simulated(simulated, [*method, *unknown])


def rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the one table."""
    metrics = results["metrics"]
    header = ["base", "parameters", "trained", "seeds", "log-likelihood"]
    header += [*(METRICS[metric] for metric in metrics), *(f"EEG - noise, {METRICS[metric]}" for metric in metrics), "seconds", "tokens/s"]
    table = []
    for name, found in results["bases"].items():
        likelihood = found["log_likelihood"]
        line = [name, _count(found["parameters"]), _count(found["trained_parameters"]), str(len(likelihood["by_seed"]))]
        line.append("" if likelihood["value"] is None else f"{likelihood['value']:.2f}")
        line += [_value(found["eeg"][metric], "") for metric in metrics] + [
            _value(found["eeg_minus_noise"][metric], "+") for metric in metrics
        ]
        speed = found["tokens_per_second"]
        table.append([*line, f"{found['seconds']:.0f}", "" if speed is None else f"{speed:.0f}"])
    return header, table


def show(results: Mapping[str, Any]) -> None:
    """The table and the sentences."""
    header, lines = rows(results)
    table = Table(title="Base models: same split, steps, batch and seeds")
    for number, column in enumerate(header):
        table.add_column(column, justify="left" if number == 0 else "right")
    for line in lines:
        table.add_row(*line)
    console = Terminal(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    for sentence in [*base_differences.sentences(results["differences"]), *results["notes"]]:
        console.print(f"- {sentence}", soft_wrap=True)


def page(results: Mapping[str, Any]) -> str:
    """The HTML report."""
    header, lines = rows(results)
    told = [[f"{d.a} - {d.b}, {d.title}", *_told(d)] for d in results["differences"]]
    sections = [
        TableSection(title="EEG arm", header=header, rows=lines),
        TableSection(title="Differences", header=["pair", "difference", "95 % interval", "by seed", "clear"], rows=told),
    ]
    said = [*base_differences.sentences(results["differences"]), *results["notes"]]
    return render("Base models compared: same split, steps, batch and seeds", sections, notes=said)


def _told(d: base_differences.BaseDifference) -> list[str]:
    clear = {True: "yes", False: "no", None: "one seed"}[d.clear]
    by_seed = ", ".join("" if value is None else f"{value:+.3f}" for value in d.by_seed)
    return [_value(plain(d), "+"), "" if d.low is None else f"{d.low:+.3f} to {d.high:+.3f}", by_seed, clear]


def _value(cell: Mapping[str, Any] | None, sign: str) -> str:
    return "" if cell is None or cell["value"] is None else f"{cell['value']:{sign}.3f} ± {cell['se'] or 0.0:.3f}"


def _count(number: int) -> str:
    scale, unit = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= s), (1, ""))
    return f"{number / scale:.3g} {unit}".strip()
