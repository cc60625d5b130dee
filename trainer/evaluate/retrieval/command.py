"""``python -m trainer evaluate-retrieval``: an encoder on held-out trials, beside the baselines that could embarrass it.

From an export and a study, or from a file of embeddings, to one table::

    encoder, baselines -> scores (trials, candidates) -> metrics a trial -> means, intervals, null
    chance by arithmetic, the ceiling where the study is simulated

A class-level study knows no image of a trial: it is scored as classification and never as retrieval; see
:mod:`trainer.evaluate.retrieval.class_level`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.part import open_part
from trainer.evaluate.embeddings import read_embeddings
from trainer.evaluate.provenance import study_facts, unknown_facts
from trainer.evaluate.results import check_output, write_report
from trainer.evaluate.retrieval import class_level, image_level, report
from trainer.evaluate.retrieval.config import EvaluateRetrievalConfig
from trainer.evaluate.tracking import track


def run(config: EvaluateRetrievalConfig) -> None:
    """Score, print the table, write JSON and HTML."""
    check_output(Path(config.output))
    found, ranks_Q = evaluate(config)
    found = write_report(Path(config.output), "retrieval", found, lambda results: report.page(results, ranks_Q))
    if config.mlflow:
        said = track(found, "retrieval", config.export, Path(config.output), tracking_uri=config.tracking_uri)
        found = replace(found, notes=(*found.notes, *said))
    report.print_results(found)


def evaluate(config: EvaluateRetrievalConfig) -> report.Scored:
    """Everything in ``retrieval.json``, and the model's ranks (None in a class-level study).

    Raises
    ------
    CommandError, StudyError
        The study does not fit the encoder; a file of embeddings that is none.
    """
    if config.embeds:
        path = Path(config.embeds)
        pairs, plain = read_embeddings(path), to_plain(config)
        if pairs.facts is not None and not pairs.changed:
            facts = replace(pairs.facts, config=plain)
        else:
            facts = unknown_facts(path, part=config.part, config=plain, changed=pairs.facts)
        return image_level.evaluate_embeddings(config, pairs, path, facts)
    export = Path(str(config.export))
    encoder = load_encoder(str(export), config.device)
    loader = open_part(encoder, config.study, config.split, config.part)
    if config.expect_sfreq is not None and abs(config.expect_sfreq - loader.sfreq) > 1e-6 * loader.sfreq:
        raise CommandError(f"expect_sfreq: {config.expect_sfreq:g} Hz, but {loader.index.root} is sampled at {loader.sfreq:g} Hz")
    facts = study_facts(encoder, loader, export=export, config=to_plain(config))
    if loader.index.manifest.class_level:
        return class_level.evaluate_class_level(config, encoder, loader, facts), None
    return image_level.evaluate_image_level(config, encoder, loader, facts)
