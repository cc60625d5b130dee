"""A text evaluation's faces: verdicts and a table in the terminal, JSON for machines, a page of pictures and captions.

Captions are a model's or a stranger's words: everything is escaped, the page runs nothing and fetches nothing.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.contract.files import write_atomically, write_json
from trainer.artifacts.generations import Generations
from trainer.evaluate import page as report
from trainer.evaluate.text import comparison

HEADLINE = ("bleu_1", "attribute_accuracy")
"""Metrics whose verdicts are printed; JSON and HTML have all."""
TERMINAL = ("bleu_1", "attribute_accuracy", "rouge_l", "concept_accuracy")
"""Columns of which a terminal of 80 characters has room for three; JSON and HTML have all."""
_RIVALS = ("label-only", "nearest-caption", comparison.UPPER)
PRINTED = {"eeg": (*comparison.CONTROLS, *_RIVALS), "eeg+concept": (comparison.WORD_CONTROL, comparison.PRIOR, *_RIVALS)}
"""Comparisons that are printed by tested arm; with the image, the share of its distance above the prior."""
THUMBNAIL_PIXELS = 160
_INVISIBLE = dict.fromkeys([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F], "\N{REPLACEMENT CHARACTER}")
_COLOUR = dict.fromkeys(comparison.TESTED, "#4878a8") | {"image": "#5a9e6f"}


def write(folder: Path, results: dict[str, Any], generations: Generations, *, images: Path | None, num_items: int) -> None:
    """``text.json`` and ``text.html`` in ``folder``, each under its final name only when whole; notes on pictures are added to ``results``.

    Parameters
    ----------
    images
        Folder that the records' image paths are relative to; None: no pictures.
    num_items
        Items whose captions are shown, drawn by the evaluation's seed.
    """
    captions = _captions(results, generations, images, num_items)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "text.html", page(results, captions).encode())
    write_json(folder / "text.json", results)  # last: the sign that both are there


def print_results(results: dict[str, Any]) -> None:
    """Verdicts, the table of arms, and what the numbers mean."""
    console = Console(highlight=False)
    table = Table(title=headline(results))
    shown = ([name for name in TERMINAL if name in results["metrics"]] or list(results["metrics"]))[:3]
    table.add_column("", no_wrap=True)
    for name in shown:
        table.add_column(results["metrics"][name]["title"], justify="right")
    for arm, values in results["arms"].items():
        table.add_row(arm, *(_short(values.get(name)) for name in shown))
    console.print(table)
    for line in headline_verdicts(results):
        console.print(line, soft_wrap=True, markup=False)
    for note in results["notes"]:
        console.print(f"- {note}", soft_wrap=True, markup=False)


def headline(results: dict[str, Any]) -> str:
    """What was scored on what."""
    kind = "simulated EEG" if results["simulated"] else "EEG"
    where = ", ".join(filter(None, [f"split {results['split']}" if results["split"] else "", results["part"] or ""]))
    subjects = f", {results['num_subjects']} subjects" if results["num_subjects"] > 1 else ""
    seeds = f"{results['num_seeds']} training seed{'s' if results['num_seeds'] > 1 else ''}"
    study = f"{results['study']}, " if results["study"] else ""
    return f"{study}{where + ', ' if where else ''}{kind}: captions of {results['num_images']} images{subjects}, {seeds}"


def headline_verdicts(results: dict[str, Any]) -> list[str]:
    """The sentences to print: what EEG adds over the controls in BLEU-1 and attribute accuracy, or why nothing is said."""
    if refusal := no_verdict(results):
        return [refusal]
    return [
        v["sentence"]
        for v in results["verdicts"]
        if v["metric"] in HEADLINE and v["other"] in PRINTED[v["arm"]] and (v["excludes_zero"] is None or v["other"] != comparison.UPPER)
    ]


def no_verdict(results: dict[str, Any]) -> str:
    """Why there is no verdict, or an empty string."""
    if results["missing_controls"]:
        missing = ", ".join(results["missing_controls"])
        return f"No verdict: without the controls {missing} these scores do not say what EEG adds; generate them with `arms`."
    if not results["differences"]:
        return f"No verdict: none of the arms {', '.join(comparison.TESTED)} was generated, there is nothing to compare the controls with."
    return ""


def page(results: dict[str, Any], captions: str) -> str:
    """The HTML report; ``captions`` is its last part, escaped already."""
    titles = {name: facts["title"] for name, facts in results["metrics"].items()}
    refusal = no_verdict(results)
    lines = [refusal] if refusal else headline_verdicts(results)
    body = ["<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"]
    body += [report.html_figure("scores of all arms with intervals", _figure(results))]
    rows = [
        [arm, *(_long(values.get(name)) for name in titles), _long(values["distinct"]), str(values["num_items"])]
        for arm, values in results["arms"].items()
    ]
    body.append(report.html_table("All arms", ["", *titles.values(), "distinct captions", "items"], rows))
    compared = [name for name, facts in results["metrics"].items() if facts["compared"]]
    for arm, others in results["differences"].items():
        rows = [[f"minus {other}", *(_long(found.get(name)) for name in compared)] for other, found in others.items()]
        body.append(report.html_table(f"{arm} minus every other arm, paired", ["", *(titles[n] for n in compared)], rows))
    if results["share_of_image"] and not refusal:
        rows = [[arm, *(_long(found.get(name)) for name in compared)] for arm, found in results["share_of_image"].items()]
        title = "Share of the image arm's distance above the caption prior"
        body.append(report.html_table(title, ["", *(titles[n] for n in compared)], rows))
    if results["verdicts"]:
        sentences = "".join(f"<li>{html.escape(v['sentence'])}</li>" for v in results["verdicts"])
        body.append(f"<details><summary>All comparisons in words</summary><ul>{sentences}</ul></details>")
    body.append(captions)
    how = [f"{facts['title']}: {facts['how']}." for facts in results["metrics"].values()]
    return report.document(headline(results), body, [*results["notes"], *how], results)


def _captions(results: dict[str, Any], generations: Generations, images: Path | None, num_items: int) -> str:
    rng = np.random.default_rng([results["config"]["seed"], 9])
    chosen = sorted(rng.permutation(len(generations.items))[:num_items].tolist())
    if not chosen:
        return ""
    found, shown = 0, []
    for q in chosen:
        picture = thumbnail(images, generations.image_Q[q]) if images else None
        found += picture is not None
        records = {arm: generations.records[0, arm, q] for arm in generations.arms if (0, arm, q) in generations.records}
        first = next(iter(records.values()))
        rows = [("true", "; ".join(_clean(line) for line in first.expected))] + [(arm, _clean(r.generated)) for arm, r in records.items()]
        lines = "".join(
            f'<tr><th>{html.escape(arm)}</th><td style="text-align:left;white-space:pre-wrap">'
            f"<bdi>{html.escape(text) if text.strip() else '<em>(empty)</em>'}</bdi></td></tr>"
            for arm, text in rows
        )
        image = f'<img alt="" src="{picture}" style="width:{THUMBNAIL_PIXELS}px">' if picture else ""
        name = html.escape(_clean(f"item {first.item}, {first.concept_true or first.stimulus}"))
        shown.append(
            f'<div style="display:flex;gap:1rem;margin:1rem 0;border-top:1px solid #ddd;padding-top:.6rem">'
            f"<div>{image}</div><div><strong>{name}</strong><table>{lines}</table></div></div>"
        )
    if images and found < len(chosen):
        results["notes"].append(f"{len(chosen) - found} of {len(chosen)} pictures to show are not readable images under {images}.")
    seed = " (first training seed)" if results["num_seeds"] > 1 else ""
    return f"<h2>Captions{seed}: {len(chosen)} of {len(generations.items)} items, drawn by chance</h2>{''.join(shown)}"


def thumbnail(folder: Path, name: str) -> str | None:
    """A small JPEG as a data URI; None where ``name`` leads out of ``folder``, is not there, or is no image."""
    from PIL import Image

    if not name or "\0" in name:
        return None
    root = folder.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        return None
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP", "BMP", "GIF")) as image:
            image.draft("RGB", (2 * THUMBNAIL_PIXELS, 2 * THUMBNAIL_PIXELS))
            small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=80)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _figure(results: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    shown = [name for name in HEADLINE if name in results["metrics"]] or list(results["metrics"])[:1]
    arms = list(results["arms"])[::-1]
    figure = Figure(figsize=(4.5 * len(shown), 0.8 + 0.3 * len(arms)), layout="constrained")
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(shown), sharey=True)), shown, strict=True):
        cells = [results["arms"][arm][name] for arm in arms]
        value = np.array([np.nan if c["value"] is None else c["value"] for c in cells])
        low, high = (np.array([v if c[end] is None else c[end] for c, v in zip(cells, value, strict=True)]) for end in ("low", "high"))
        errors = np.maximum(np.stack([value - low, high - value]), 0)
        axis.barh(arms, value, xerr=errors, color=[_COLOUR.get(arm, "#b0b0b0") for arm in arms], capsize=3)
        axis.set_xlabel(results["metrics"][name]["title"])
        prior = results["arms"].get(comparison.PRIOR, {}).get(name, {}).get("value")
        if prior is not None:
            axis.axvline(prior, color="#222", linestyle=":", linewidth=1, label="caption prior")
            axis.legend(frameon=False, fontsize=8)
    return figure


def _clean(text: str) -> str:
    return text.translate(_INVISIBLE)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.1f}"


def _short(cell: dict[str, Any] | None) -> str:
    if not cell or cell["value"] is None:
        return ""
    return _number(cell["value"]) + (f" ± {_number(cell['se'])}" if cell.get("se") is not None else "")


def _long(cell: dict[str, Any] | None) -> str:
    if not cell or cell["value"] is None:
        return ""
    return _number(cell["value"]) + (f" [{_number(cell['low'])}, {_number(cell['high'])}]" if cell.get("low") is not None else "")
