"""One result, three faces: a table in the terminal, JSON for machines, a self-contained HTML page for people."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.contract.files import write_atomically, write_json

COLUMNS = {
    "retrieval": ("recall@1", "recall@5", "recall@10", "mean_rank", "median_rank", "mrr", "map", "ndcg@1", "ndcg@5", "ndcg@10"),
    "classes": ("auc", "balanced_accuracy"),
}
TERMINAL = ("recall@1", "recall@5", "median_rank", "mrr", "auc", "balanced_accuracy")
"""Columns that a terminal of 80 characters has room for; JSON and HTML have all."""
_POLICY = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
_SHORT = {"recall@1": "top1", "recall@5": "top5"}
DIRECTIONS = {"eeg_to_image": "EEG → image", "image_to_eeg": "image → EEG"}


def write(folder: Path, results: dict[str, Any]) -> None:
    """``retrieval.json`` and ``retrieval.html`` in ``folder``, each under its final name only when whole."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: value for name, value in results.items() if name != "per_query"}
    write_json(folder / "retrieval.json", _plain(plain))
    write_atomically(folder / "retrieval.html", page(results).encode())


def print_results(results: dict[str, Any]) -> None:
    """The table of arms, and what the numbers mean."""
    console = Console(soft_wrap=False, highlight=False)
    for title, header, rows in tables(results, only=TERMINAL):
        table = Table(title=title)
        for number, column in enumerate(header):
            table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in notes(results):
        console.print(f"- {note}", soft_wrap=True)


def headline(results: dict[str, Any]) -> str:
    """What was scored on what."""
    kind = "simulated EEG" if results["simulated"] else "EEG"
    asked = f"{results['num_queries']} {'trials' if results['kind'] == 'classes' else 'queries'}"
    among = f"{results['num_gallery']} {'classes' if results['kind'] == 'classes' else 'stimuli'}"
    repetitions = results.get("repetitions")
    averaged = f", {min(repetitions)} to {max(repetitions)} repetitions averaged" if repetitions and len(repetitions) > 1 else ""
    averaged = f", {repetitions[0]} repetitions averaged" if repetitions and len(repetitions) == 1 else averaged
    split = f", split {results['split']}" if results.get("split") else ""
    return f"{results['study']}{split} ({results['part']}, {kind}): {asked} among {among}{averaged}"


def notes(results: dict[str, Any]) -> list[str]:
    """Method, and what to be warned of."""
    found = list(results["notes"])
    if results["simulated"]:
        found.insert(0, "The EEG is simulated: these numbers say what the method can learn, not what brains tell.")
    if results["part"] == "train":
        found.append(
            "These are training trials: the scores say how well they were learnt by heart, the baselines were fitted on them, too."
        )
    elif results["part"] == "validation":
        found.append("These are validation trials: the encoder's best step was chosen by them.")
    for name, arm in results.get("model_minus", {}).items():
        found.append(f"Model minus {name}, top-1, paired by query: {_cell(arm['recall@1'])}.")
    if results.get("audit"):
        found.append(f"Audit of the split: {results['audit']}.")
    if results.get("trained_on_split") is False:
        found.append("The encoder was trained on another split: on none of these trials, but perhaps on their concepts or recordings.")
    ceiling, model = results["summary"].get("ceiling"), results["summary"]["model"]
    if ceiling:
        found.append(f"The model reaches {model['top1'] / ceiling['top1']:.1%} of the ceiling's top-1, which no decoder can exceed.")
    return found


def tables(results: dict[str, Any], only: tuple[str, ...] | None = None) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of every table of the result; ``only`` these columns, where given."""
    columns = tuple(column for column in COLUMNS[results["kind"]] if only is None or column in only)
    found = []
    if results["kind"] == "classes":
        rows = [[name, *(_cell(arm[c]) for c in columns), _p(arm["null"]["p_auc"])] for name, arm in results["arms"].items()]
        rows += [["chance", *(f"{results['summary']['chance'][c]:.3f}" for c in columns), ""]]
        found.append((headline(results), ["", *columns, "p (AUC)"], rows))
    else:
        for direction, words in DIRECTIONS.items():
            rows = []
            for name, arm in results["arms"].items():
                if direction in arm:
                    p = _p(arm["null"]["p_top1"]) if direction == "eeg_to_image" else ""
                    rows.append([name, *(_cell(arm[direction][c]) for c in columns), p])
            if direction == "eeg_to_image":
                for name in ("chance", "ceiling"):
                    known = results["summary"].get(name, {})
                    short = {"mrr": "mrr", "median_rank": "median_rank", **_SHORT}
                    if known:
                        rows.append([name, *(_number(known.get(short.get(c, ""))) for c in columns), ""])
            if rows:
                found.append((f"{words}: {headline(results)}", ["", *columns, "p (top-1)"], rows))
    if len(results["by_subject"]) > 1:
        names = sorted({metric for scores in results["by_subject"].values() for metric in scores})
        rows = [[subject, *(_number(scores.get(n)) for n in names)] for subject, scores in results["by_subject"].items()]
        found.append(("by subject", ["subject", *names], rows))
    return found


def page(results: dict[str, Any]) -> str:
    """The HTML report; figures are inside, nothing is fetched."""
    body = [html_figure(title, figure) for title, figure in _figures(results)]
    body += [html_table(title, header, rows) for title, header, rows in tables(results)]
    return document(headline(results), body, notes(results), results)


def document(title: str, body: Sequence[str], notes: Sequence[str], results: Mapping[str, Any]) -> str:
    """A whole page: heading, ``body`` (HTML, escaped already), notes (text) and where ``results`` come from."""
    found = [f"<h1>{html.escape(title)}</h1>", *body]
    found.append("<h2>How to read this</h2><ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>")
    facts = {k: results[k] for k in ("fingerprint", "split_hash", "embedding", "step", "git_revision") if results.get(k) is not None}
    found.append("<h2>Provenance</h2><dl>" + "".join(f"<dt>{k}</dt><dd>{html.escape(str(v))}</dd>" for k, v in facts.items()) + "</dl>")
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}h1{font-size:1.3rem}"
        "h2{font-size:1.05rem;margin-top:2rem}table{border-collapse:collapse;font-size:.85rem;display:block;overflow-x:auto}"
        "th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}th:first-child{text-align:left}"
        "img{max-width:100%}dt{font-weight:600}dd{margin:0 0 .4rem;word-break:break-all}"
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{_POLICY}<title>{html.escape(title)}</title>'
        f"<style>{style}</style></head><body>{''.join(found)}</body></html>\n"
    )


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table under a heading; the first column names the rows."""
    cells = "".join(
        "<tr>" + "".join(f"<t{'h' if n == 0 else 'd'}>{html.escape(c)}</t{'h' if n == 0 else 'd'}>" for n, c in enumerate(row)) + "</tr>"
        for row in rows
    )
    heads = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    return f"<h2>{html.escape(title)}</h2><table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table>"


def html_figure(title: str, figure: Any) -> str:
    """A matplotlib figure as an image inside the page."""
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{_png(figure)}">'


def _figures(results: dict[str, Any]) -> list[tuple[str, Any]]:
    from matplotlib.figure import Figure

    shown = ("auc", "balanced_accuracy") if results["kind"] == "classes" else ("recall@1", "recall@5")
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axis, metric in zip(np.atleast_1d(figure.subplots(1, 2, sharey=True)), shown, strict=True):
        names, values, errors = [], [], []
        for name, arm in results["arms"].items():
            cell = arm.get("eeg_to_image", arm)[metric]
            names.append(name)
            values.append(cell["value"])
            errors.append((cell["value"] - cell["low"], cell["high"] - cell["value"]))
        axis.barh(names[::-1], values[::-1], xerr=np.maximum(np.array(errors[::-1]).T, 0), color="#4878a8", capsize=3)
        for name, style in (("chance", ":"), ("ceiling", "--")):
            known = results["summary"].get(name, {}).get(_SHORT.get(metric, metric))
            if known is not None:
                axis.axvline(known, color="#222", linestyle=style, linewidth=1, label=name)
        axis.set_xlabel(metric)
        axis.set_xlim(0, 1)
        axis.legend(frameon=False, fontsize=8)
    found = [("scores of all arms with intervals", figure)]
    ranks_Q = results.get("per_query", {}).get("rank")
    if ranks_Q is not None:
        figure = Figure(figsize=(9, 2.4), layout="constrained")
        axis = figure.subplots()
        num_bins = min(results["num_gallery"], 50)
        axis.hist(ranks_Q, bins=np.linspace(0.5, results["num_gallery"] + 0.5, num_bins + 1).tolist(), color="#4878a8")
        axis.axhline(len(ranks_Q) / num_bins, color="#222", linestyle=":", linewidth=1, label="chance")
        axis.set_xlabel("rank of the right image")
        axis.set_ylabel("queries")
        axis.legend(frameon=False, fontsize=8)
        found.append(("ranks", figure))
    return found


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def _cell(cell: dict[str, float]) -> str:
    interval = f" [{_number(cell['low'])}, {_number(cell['high'])}]" if "low" in cell else ""
    return _number(cell["value"]) + interval


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.1f}"


def _p(value: float) -> str:
    return f"{value:.4f}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
