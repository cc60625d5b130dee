"""``python -m trainer evaluate-text``: generated captions scored, arms compared, and what EEG adds said in sentences.

::

    folders of generate (one a training seed) -> captions of all arms -> metrics by sentence -> paired bootstrap
    -> verdicts -> text.json, text.html, sentences.csv -> the training's MLflow run

Nothing is filtered: every item that was captioned counts, right or wrong. Without the control arms (matched noise, shuffled
EEG, caption prior) no verdict is given, since most of a caption's score is what any caption of such pictures would get.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.contract.files import write_atomically
from data_prep.contract.seal import seal
from data_prep.contract.terminal import in_spreadsheet
from trainer.artifacts.generations import SOURCE, Generations, read_generations
from trainer.evaluate.results import check_output, write_report
from trainer.evaluate.text import comparison, report, scoring, summary
from trainer.evaluate.text.config import EvaluateTextConfig
from trainer.evaluate.text.metrics import Scored
from trainer.evaluate.text.results import TextResults
from trainer.evaluate.text.tracking import track


def run(config: EvaluateTextConfig) -> None:
    """Score, compare, write, print, log."""
    output = Path(config.output)
    check_output(output)
    results, generations = evaluate(config)
    shown = report.captions(
        generations, seed=config.seed, num_items=config.report_items, images=Path(config.images) if config.images else None
    )
    results = replace(results, notes=(*results.notes, *shown.notes))
    results = write_report(output, "text", results, lambda found: report.page(found, shown))
    if config.mlflow:
        results = replace(results, notes=(*results.notes, *track(results, generations, output, tracking_uri=config.tracking_uri)))
    report.print_results(results)


def evaluate(config: EvaluateTextConfig) -> tuple[TextResults, Generations]:
    """Everything in ``text.json``, and the captions; writes ``sentences.csv`` (and answers of a judge) into the output folder.

    Raises
    ------
    CommandError
        Folders that do not belong together; a model, file or endpoint that is named and cannot be used.
    """
    generations = read_generations([Path(folder) for folder in config.generations])
    scored, notes = scoring.score(config, generations)
    compared = comparison.compare(
        scoring.arm_scores(generations, scored),
        stimulus_Q=generations.stimulus_Q,
        subject_Q=generations.subject_Q,
        num_resamples=config.resamples,
        seed=config.seed,
        shares=summary.reads_images(generations),
    )
    table = Path(config.output) / "sentences.csv"
    write_atomically(table, _sentences(generations, scored).encode())
    seal(table.parent, [table])
    return summary.summarise(config, generations, compared, [found.metric for found in scored], notes), generations


def _sentences(generations: Generations, scored: Sequence[Scored]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    source = {name: getattr(generations.shared, name) for name in SOURCE}
    source |= {"study": Path(generations.shared.study or "").name or None, "simulated": generations.simulated}
    told = ["unknown" if value is None else value for value in source.values()]
    writer.writerow(["training_seed", "arm", "item", "stimulus", "subject", *(found.metric.name for found in scored), *source])
    for n, ((s, arm, _), record) in enumerate(generations.records.items()):
        values = [f"{found.sentence_N[n]:.6g}" if np.isfinite(found.sentence_N[n]) else "" for found in scored]
        writer.writerow([s, arm, record.item, *map(in_spreadsheet, (record.stimulus, record.subject)), *values, *map(in_spreadsheet, told)])
    return buffer.getvalue()
