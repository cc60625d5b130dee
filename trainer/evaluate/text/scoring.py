"""Captions -> metrics by sentence -> metrics by arm, training seed and item.

N: captions of all arms and seeds, Q: items, S: training seeds, F: statistics of a metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import CommandError
from trainer.artifacts.generations import Caption, Generations
from trainer.evaluate.text import comparison, wordnet
from trainer.evaluate.text import metrics as text_metrics
from trainer.evaluate.text import models as text_models
from trainer.evaluate.text.config import EvaluateTextConfig
from trainer.evaluate.text.judge import score_judge
from trainer.evaluate.text.metrics import Scored


def score(config: EvaluateTextConfig, generations: Generations) -> tuple[list[Scored], list[str]]:
    """Every metric asked for, on the captions in the order of ``generations.records``, and notes on what is left out."""
    captions = [record.caption() for record in generations.records.values()]
    notes: list[str] = []
    # First, though it stands late in the table: an endpoint that does not answer is known before minutes of scoring.
    judged = _judge(config, generations, captions, notes) if config.judge.endpoint and "judge" in config.metrics else []

    def meteor() -> list[Scored]:
        found = wordnet.find_wordnet(config.wordnet)
        if found is None:
            notes.append(wordnet.HOW_TO_GET_IT + ".")
            return []
        return text_metrics.score_meteor(captions, wordnet.open_wordnet(found))

    def bertscore() -> list[Scored]:
        layers = config.bertscore_layers or text_models.MINILM_LAYERS
        return text_models.score_bertscore(captions, model=str(config.bertscore_model), layers=layers, device=config.device)

    def attributes() -> list[Scored]:
        return text_metrics.score_attributes(captions, text_metrics.read_attributes(Path(str(config.attributes))))

    def embedding() -> list[Scored]:
        return text_models.score_embedding(captions, model=str(config.embedding_model), device=config.device)

    families: dict[str, tuple[Any, Callable[[], list[Scored]]]] = {
        "bleu": (True, lambda: text_metrics.score_bleu(captions, lowercase=config.lowercase)),
        "attributes": (config.attributes, attributes),
        "concepts": (True, lambda: text_metrics.score_concepts(captions)),
        "chrf": (True, lambda: text_metrics.score_chrf(captions, lowercase=config.lowercase)),
        "rouge": (True, lambda: text_metrics.score_rouge(captions, stemmer=config.rouge_stemmer)),
        "meteor": (True, meteor),
        "bertscore": (config.bertscore_model, bertscore),
        "embedding": (config.embedding_model, embedding),
        "judge": (True, lambda: judged),
        "length": (True, lambda: text_metrics.score_length(captions)),
    }
    scored = [found for name, (source, make) in families.items() if name in config.metrics and source for found in make()]
    if not scored:
        raise CommandError(
            f"metrics: none of {', '.join(config.metrics)} can be computed, expected one that needs no model or file, or theirs to be named"
        )
    return scored, notes


def _judge(config: EvaluateTextConfig, generations: Generations, captions: list[Caption], notes: list[str]) -> list[Scored]:
    items = [generations.items[q] for _, _, q in generations.records]
    found, said = score_judge(captions, items, config.judge, folder=Path(config.output), seed=config.seed)
    notes.extend(said)
    return found


def arm_scores(generations: Generations, scored: Sequence[Scored]) -> list[comparison.ArmScores]:
    """Metrics of the captions, in the order of ``generations.records``, arranged by arm, training seed and item."""
    row = {key: n for n, key in enumerate(generations.records)}
    seeds, num_items = range(len(generations.folders)), len(generations.items)
    found = []
    for own in scored:
        statistics = {}
        for arm in generations.arms:
            statistics[arm] = np.zeros((len(seeds), num_items, own.statistics_NF.shape[1]))
            for s in seeds:
                rows = [(q, row[s, arm, q]) for q in range(num_items) if (s, arm, q) in row]
                where_Q, from_Q = np.array(rows).T
                statistics[arm][s, where_Q] = own.statistics_NF[from_Q]
        present = {arm: generations.present(arm) for arm in generations.arms}
        found.append(comparison.ArmScores(metric=own.metric, statistics=statistics, present=present))
    return found
