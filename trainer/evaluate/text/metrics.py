"""Generated captions against their references: one number a sentence, and the sums that make one number a corpus.

Every metric is the reference package's own, at its default settings unless a field of the config says otherwise, on a
scale from 0 to 1 (sacrebleu's numbers divided by 100)::

    captions -> statistics of each sentence (N, F) -> sums over sentences -> combine -> the metric

For a metric that is a mean the statistics are (value, 1 where defined); for corpus BLEU and chrF they are matches, totals
and lengths, so that a bootstrap resamples sentences and computes the corpus score of each resample without touching text.

N: captions, F: statistics, A: attributes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.files import read_json
from data_prep.contract.progress import tracked
from trainer.artifacts.generations import Caption

BLEU_ORDERS = (1, 2, 3, 4)
ROUGES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
NUM_BLEU_STATISTICS = 2 + 2 * len(BLEU_ORDERS)


def combine_mean(sums_XF: np.ndarray) -> np.ndarray:
    """Mean from (sum of values, number of values); NaN where there are none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums_XF[..., 0] / sums_XF[..., 1])


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One column of the table."""

    name: str
    title: str
    how: str
    """Package, version and settings, in words."""
    combine: Callable[[np.ndarray], np.ndarray] = combine_mean
    """From summed statistics (..., F) to values (...)."""
    compared: bool = True
    """Whether more is better, so that arms are compared by it (length is only described)."""
    unit: str = ""
    """Said after a number in a verdict where the title does not do: empty: the title."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A metric on captions."""

    metric: Metric
    sentence_N: np.ndarray = field(repr=False)
    """float64; NaN where the metric is not defined for the caption."""
    statistics_NF: np.ndarray = field(repr=False)
    """float64; what :attr:`Metric.combine` takes, once summed over captions."""


def scored_mean(metric: Metric, sentence_N: np.ndarray) -> Scored:
    """A metric whose corpus value is the mean of its sentence values (NaN: not defined, not counted)."""
    known_N = np.isfinite(sentence_N)
    return Scored(metric=metric, sentence_N=sentence_N, statistics_NF=np.stack([np.where(known_N, sentence_N, 0.0), known_N], axis=1))


def on_unique(captions: Sequence[Caption], score: Callable[[list[Caption]], np.ndarray]) -> np.ndarray:
    """``score`` of every caption, asked once for each different one (a constant arm says the same of every image)."""
    unique: dict[tuple[str, tuple[str, ...]], int] = {}
    first: list[Caption] = []
    row_N = np.empty(len(captions), dtype=np.int64)
    for n, caption in enumerate(captions):
        key = (caption.generated, caption.expected)
        if key not in unique:
            unique[key] = len(first)
            first.append(caption)
        row_N[n] = unique[key]
    return score(first)[row_N]


# --------------------------------------------------------------------------------------------------- BLEU and chrF


def score_bleu(captions: Sequence[Caption], *, lowercase: bool) -> list[Scored]:
    """Corpus BLEU-1 to BLEU-4; a sentence's value is ``BLEU(max_ngram_order=n, effective_order=True)``."""
    from sacrebleu.metrics import BLEU

    statistics_NF = on_unique(captions, partial(bleu_statistics, lowercase=lowercase))
    found = []
    for order in BLEU_ORDERS:
        reference = BLEU(max_ngram_order=order, lowercase=lowercase)
        how = f"sacrebleu corpus BLEU with n-grams up to {order} ({_signature(reference)}), several references"
        metric = Metric(name=f"bleu_{order}", title=f"BLEU-{order}", how=how, combine=partial(bleu, order=order))
        sentence_N = bleu(statistics_NF, order=order, effective_order=True)
        found.append(Scored(metric=metric, sentence_N=sentence_N, statistics_NF=statistics_NF))
    return found


def bleu_statistics(captions: Sequence[Caption], *, lowercase: bool = False) -> np.ndarray:
    """(N, 10): words generated, words of the closest reference, matched n-grams and all n-grams of orders 1 to 4."""
    from sacrebleu.metrics import BLEU

    reference = BLEU(effective_order=True, lowercase=lowercase)
    rows = []
    for caption in tracked(captions, "BLEU: captions"):
        score = reference.sentence_score(caption.generated, list(caption.expected))
        rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    return np.asarray(rows, dtype=np.float64).reshape(-1, NUM_BLEU_STATISTICS)


def bleu(statistics_XF: np.ndarray, *, order: int, effective_order: bool = False) -> np.ndarray:
    """BLEU in [0, 1] from (summed) statistics (..., 10), as sacrebleu computes it with its default ``exp`` smoothing.

    Parameters
    ----------
    order
        Longest n-gram counted, 1 to 4.
    effective_order
        Leave out orders of which the caption has no n-gram (for single sentences); else the score of such is 0.
    """
    num_orders = len(BLEU_ORDERS)
    generated_X, reference_X = statistics_XF[..., 0], statistics_XF[..., 1]
    log_X = np.zeros(generated_X.shape)
    smoothing_X, alive_X, orders_X = np.ones(generated_X.shape), np.ones(generated_X.shape, dtype=bool), np.zeros(generated_X.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        for n in range(order):
            matched_X, total_X = statistics_XF[..., 2 + n], statistics_XF[..., 2 + num_orders + n]
            alive_X = alive_X & (total_X > 0)
            missed_X = alive_X & (matched_X == 0)
            smoothing_X = np.where(missed_X, 2 * smoothing_X, smoothing_X)
            precision_X = np.where(missed_X, 1 / (smoothing_X * total_X), matched_X / total_X)
            log_X += np.where(alive_X, np.log(precision_X), 0.0 if effective_order else -np.inf)
            orders_X += alive_X
        brevity_X = np.where(generated_X < reference_X, np.exp(1 - reference_X / generated_X), 1.0)
        score_X = brevity_X * np.exp(log_X / (np.maximum(orders_X, 1) if effective_order else order))
    return np.where(statistics_XF[..., 2] > 0, score_X, 0.0)  # without a matched word there is nothing to smooth


def score_chrf(captions: Sequence[Caption], *, lowercase: bool) -> list[Scored]:
    """Corpus chrF; a sentence's value is sacrebleu's ``CHRF().sentence_score``."""
    from sacrebleu.metrics import CHRF

    reference = CHRF(lowercase=lowercase)

    def statistics(unique: list[Caption]) -> np.ndarray:
        # The one place that needs a sacrebleu internal: CHRFScore does not tell the counts that corpus chrF sums.
        return np.asarray(
            [reference._extract_corpus_statistics([c.generated], [[line] for line in c.expected])[0] for c in unique], dtype=np.float64
        ).reshape(-1, 3 * reference.order)

    statistics_NF = on_unique(captions, statistics)
    metric = Metric(
        name="chrf", title="chrF", how=f"sacrebleu corpus chrF ({_signature(reference)}), best of several references", combine=chrf
    )
    return [Scored(metric=metric, sentence_N=chrf(statistics_NF), statistics_NF=statistics_NF)]


def chrf(statistics_XF: np.ndarray, *, beta: float = 2.0) -> np.ndarray:
    """ChrF in [0, 1] from (summed) statistics (..., 3 * 6): n-grams generated, of the reference, and matched, by order."""
    generated_XO, reference_XO, matched_XO = (statistics_XF[..., start::3] for start in range(3))
    known_XO = (generated_XO > 0) & (reference_XO > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        orders_X = known_XO.sum(axis=-1)
        precision_X = np.where(known_XO, matched_XO / generated_XO, 0.0).sum(axis=-1) / orders_X
        recall_X = np.where(known_XO, matched_XO / reference_XO, 0.0).sum(axis=-1) / orders_X
        score_X = (1 + beta**2) * precision_X * recall_X / (beta**2 * precision_X + recall_X)
    return np.where((orders_X > 0) & (precision_X + recall_X > 0), score_X, 0.0)


def _signature(metric: Any) -> str:
    metric.num_refs = -1  # sacrebleu's "varies": stimuli differ in it
    return str(metric.get_signature())


# ------------------------------------------------------------------------------------------------- ROUGE and METEOR


def score_rouge(captions: Sequence[Caption], *, stemmer: bool) -> list[Scored]:
    """F-measure of ROUGE-1, -2 and -L, of the best reference."""
    from rouge_score import rouge_scorer, tokenizers

    class Cached(tokenizers.Tokenizer):  # the same references are cut in every arm
        words = staticmethod(lru_cache(maxsize=None)(tokenizers.DefaultTokenizer(stemmer).tokenize))

        def tokenize(self, text: str) -> list[str]:
            return list(self.words(text))

    scorer = rouge_scorer.RougeScorer(list(ROUGES), tokenizer=Cached())

    def score(unique: list[Caption]) -> np.ndarray:
        rows = []
        for caption in tracked(unique, "ROUGE: captions"):
            best = scorer.score_multi(list(caption.expected), caption.generated)
            rows.append([best[name].fmeasure for name in ROUGES])
        return np.asarray(rows, dtype=np.float64).reshape(-1, len(ROUGES))

    score_NR = on_unique(captions, score)
    how = f"rouge-score F-measure, {'Porter stemmer' if stemmer else 'no stemmer'}, best of several references, mean over captions"
    return [
        scored_mean(Metric(name=name.lower().replace("rouge", "rouge_"), title=title, how=how), score_NR[:, r])
        for r, (name, title) in enumerate(ROUGES.items())
    ]


def score_meteor(captions: Sequence[Caption], wordnet: Any) -> list[Scored]:
    """METEOR of the best reference, with synonyms from ``wordnet`` (a reader of nltk, see :mod:`trainer.evaluate.text.wordnet`)."""
    from nltk.stem.porter import PorterStemmer
    from nltk.tokenize import word_tokenize
    from nltk.translate.meteor_score import meteor_score

    class Cached:
        def __init__(self) -> None:
            self.stem = lru_cache(maxsize=None)(PorterStemmer().stem)
            self.synsets = lru_cache(maxsize=None)(wordnet.synsets)

    cached = Cached()
    # preserve_line: one caption is one line to nltk, whose sentence splitter would need data of its own.
    tokens = lru_cache(maxsize=None)(partial(word_tokenize, preserve_line=True))

    def score(unique: list[Caption]) -> np.ndarray:
        return np.asarray(
            [
                meteor_score([tokens(line) for line in c.expected], tokens(c.generated), stemmer=cached, wordnet=cached)
                for c in tracked(unique, "METEOR: captions")
            ],
            dtype=np.float64,
        )

    how = (
        "nltk meteor_score on word_tokenize(preserve_line=True), Porter stems (before WordNet is asked for synonyms, too, as nltk "
        "has it), best of several references, mean over captions"
    )
    return [scored_mean(Metric(name="meteor", title="METEOR", how=how), on_unique(captions, score))]


# -------------------------------------------------------------------------------------- attributes, concepts, wording


def read_attributes(path: Path) -> dict[str, list[str]]:
    """``{"colour": ["red", ...], ...}`` from JSON.

    Raises
    ------
    CommandError
        Not there, not JSON, or not lists of phrases by attribute.
    """
    try:
        found = read_json(path)
    except (OSError, StudyError) as error:
        raise CommandError(f"attributes: {path} cannot be read ({error})") from error

    def phrases(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(isinstance(phrase, str) and phrase.strip() for phrase in value)

    if not isinstance(found, dict) or not found or not all(map(phrases, found.values())):
        raise CommandError(f'attributes: {path} holds no lists of phrases by attribute, expected {{"colour": ["red", ...], ...}}')
    return found


class PhraseFinder:
    """Finds the longest of some phrases in a text, by word boundaries, case aside; of equally long ones the first."""

    def __init__(self, phrases: Sequence[str]) -> None:
        words = sorted({" ".join(p.casefold().split()) for p in phrases}, key=lambda p: (-len(p), p))
        spaced = "|".join(r"\s+".join(map(re.escape, p.split(" "))) for p in words)
        # A look-ahead, so that a long phrase is found that begins inside a shorter one.
        self.pattern = re.compile(rf"(?<!\w)(?=((?:{spaced})(?!\w)))")
        self._known: dict[str, str | None] = {}

    def find(self, text: str) -> str | None:
        """The phrase (case-folded, single spaces), or None."""
        if text not in self._known:
            self._known[text] = self._find(text)
        return self._known[text]

    def _find(self, text: str) -> str | None:
        found = [" ".join(match.group(1).split()) for match in self.pattern.finditer(text.casefold())]
        return max(found, key=len) if found else None


def score_attributes(captions: Sequence[Caption], attributes: Mapping[str, Sequence[str]]) -> list[Scored]:
    """Share of a picture's attributes that its generated caption tells rightly, all together and one by one.

    An attribute counts for pictures whose references name it; right is a phrase that one of the references uses.
    """
    finders = {name: PhraseFinder(phrases) for name, phrases in attributes.items()}

    def score(unique: list[Caption]) -> np.ndarray:
        right_NA = np.full((len(unique), len(finders)), np.nan)
        for n, caption in enumerate(unique):
            for a, finder in enumerate(finders.values()):
                true = {phrase for line in caption.expected if (phrase := finder.find(line))}
                if true:
                    right_NA[n, a] = finder.find(caption.generated) in true
        return right_NA

    right_NA = on_unique(captions, score)
    counted_N = np.isfinite(right_NA).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_N = np.where(counted_N > 0, np.nansum(right_NA, axis=1) / counted_N, np.nan)
    how = "share of the attributes named in the references that the caption names alike (longest phrase by word boundaries)"
    together = Metric(name="attribute_accuracy", title="attribute accuracy", how=f"{how}: {', '.join(attributes)}; mean over pictures")
    single = [
        Metric(name=f"attribute_{name}", title=f"{name} accuracy", how=f"{how}; mean over pictures whose references name it")
        for name in attributes
    ]
    return [scored_mean(together, mean_N), *(scored_mean(metric, right_NA[:, a]) for a, metric in enumerate(single))]


def score_concepts(captions: Sequence[Caption]) -> list[Scored]:
    """Whether the caption has every word of its concept's name (by stem), and whether the predicted concept is the true one."""
    from nltk.stem.porter import PorterStemmer

    stem = lru_cache(maxsize=None)(PorterStemmer().stem)

    def stems(text: str) -> set[str]:
        return {stem(word) for word in re.findall(r"\w+", text.casefold().replace("_", " "))}

    named_N, predicted_N = np.full(len(captions), np.nan), np.full(len(captions), np.nan)
    for n, caption in enumerate(captions):
        true = stems(caption.concept_true)
        if true:
            named_N[n] = true <= stems(caption.generated)
            if caption.concept_predicted:
                predicted_N[n] = stems(caption.concept_predicted) == true
    named = "share of captions with every word of the true concept's name (Porter stems)"
    predicted = "share of items whose predicted concept is the true one"
    metrics = [
        (Metric(name="concept_accuracy", title="concept accuracy", how=named), named_N),
        (Metric(name="predicted_concept", title="predicted concept", how=predicted), predicted_N),
    ]
    return [scored_mean(metric, values) for metric, values in metrics if np.isfinite(values).any()]


def score_length(captions: Sequence[Caption]) -> list[Scored]:
    """Words of the generated caption."""
    length_N = np.asarray([len(caption.generated.split()) for caption in captions], dtype=np.float64)
    metric = Metric(name="length_words", title="words", how="mean number of words separated by white space", compared=False)
    return [scored_mean(metric, length_N)]


def distinct_share(generated: Sequence[str]) -> float:
    """Number of different captions by the number of captions."""
    return len({" ".join(text.split()) for text in generated}) / len(generated)
