"""An evaluation in blocks is to the last digit the evaluation of whole matrices, in a fraction of their memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from data_prep.contract import row_products
from data_prep.contract.closed_form import fit_encoding_model
from data_prep.contract.ranking import cosine_similarity, within
from trainer import metrics
from trainer.evaluate import intervals
from trainer.evaluate.baselines.encoding_model import candidate_rows
from trainer.evaluate.embeddings import Pairs
from trainer.evaluate.intervals import permutation_p_value
from trainer.evaluate.provenance import unknown_facts
from trainer.evaluate.retrieval.arms import Queries, ScoredArms, score_arms
from trainer.evaluate.retrieval.config import EvaluateRetrievalConfig
from trainer.evaluate.retrieval.image_level import evaluate_embeddings
from trainer.evaluate.scores import Products, ProductScores, Scores, WholeScores, cosine_scores, cosines


def case(seed: int) -> tuple[Queries, np.ndarray, np.ndarray]:
    """Queries of some subjects for a gallery with several stimuli a concept, and embeddings of both, with duplicates."""
    rng = np.random.default_rng(seed)
    num_stimuli, num_subjects, images_a_concept = (int(n) for n in rng.integers((2, 1, 1), (40, 4, 4)))
    gallery_GE = rng.standard_normal((num_stimuli, int(rng.integers(2, 30))))
    gallery_GE[rng.integers(0, num_stimuli, num_stimuli // 4)] = gallery_GE[0]
    stimulus_Q = rng.permutation(np.tile(np.arange(num_stimuli), num_subjects))[: max(2, num_stimuli)]
    stimulus_Q = np.r_[stimulus_Q, np.setdiff1d(np.arange(num_stimuli), stimulus_Q)]
    queries = Queries(
        stimulus_Q=stimulus_Q,
        concept_Q=stimulus_Q // images_a_concept,
        subject_Q=rng.integers(0, num_subjects, len(stimulus_Q)),
        stimulus_G=np.arange(num_stimuli),
        concept_G=np.arange(num_stimuli) // images_a_concept,
    )
    return queries, gallery_GE[stimulus_Q] + rng.standard_normal((len(stimulus_Q), gallery_GE.shape[1])), gallery_GE


def settings(seed: int = 0, **fields: Any) -> EvaluateRetrievalConfig:
    return EvaluateRetrievalConfig(output="x", embeds="x", seed=seed, **{"num_resamples": 70, "num_permutations": 9} | fields)


def every_kind(queries: Queries, embedding_QE: np.ndarray, gallery_GE: np.ndarray) -> dict[str, Scores]:
    """Scores of each kind: cosines, of subjects with centres of their own, a likelihood, and a matrix."""
    rng = np.random.default_rng(5)
    people = [np.flatnonzero(queries.subject_Q == s) for s in np.unique(queries.subject_Q)]
    centre_E = [rng.standard_normal(gallery_GE.shape[1]) for _ in people]
    centred = [cosines(rows, embedding_QE[rows], gallery_GE, centre) for rows, centre in zip(people, centre_E, strict=True)]
    eeg_NCT = rng.standard_normal((60, 2, 4))
    fitted = fit_encoding_model(eeg_NCT, rng.standard_normal((60, gallery_GE.shape[1])), 2, None)
    likelihood = [
        Products(
            query_q=rows,
            left=fitted.cut_queries(rng.standard_normal((len(rows), 2, 4))),
            right=candidate_rows(fitted, n_reps, gallery_GE),
        )
        for n_reps, rows in enumerate(people, 1)
    ]
    return {
        "model": cosine_scores(embedding_QE, gallery_GE),
        "centred": ProductScores(centred, len(gallery_GE)),
        "likelihood": ProductScores(likelihood, len(gallery_GE)),
        "matrix": WholeScores(rng.integers(0, 4, (len(embedding_QE), len(gallery_GE))).astype(float)),
    }


def set_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(row_products, "PRODUCTS_A_BLOCK", size)
    monkeypatch.setattr(row_products, "_ROWS_AT_ONCE", size)
    monkeypatch.setattr(intervals, "_RESAMPLES_A_BLOCK", size)


def assert_same(found: ScoredArms, expected: ScoredArms) -> None:
    assert found.arms == expected.arms
    assert (found.summary, found.model_minus) == (expected.summary, expected.model_minus)
    for name, values_Q in expected.model_Q.items():
        np.testing.assert_array_equal(found.model_Q[name], values_Q, err_msg=name)


@pytest.mark.parametrize("seed", range(6))
def test_blocks_of_any_size_give_the_digits_of_whole_matrices(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, embedding_QE, gallery_GE = case(seed)
    arms = every_kind(queries, embedding_QE, gallery_GE)
    matrices = {name: found.whole() for name, found in arms.items()}
    whole = score_arms(settings(seed), queries, matrices, one_way={"matrix"})
    np.testing.assert_array_equal(matrices["model"], cosine_similarity(embedding_QE, gallery_GE))
    for size in (1, 2, 7, 64, 100, 1 << 20):
        set_blocks(monkeypatch, size)
        for name, found in arms.items():
            np.testing.assert_array_equal(found.whole(), matrices[name])
            for rows, block in found.reverse_blocks():
                np.testing.assert_array_equal(block, matrices[name].T[rows])
        assert_same(score_arms(settings(seed), queries, arms, one_way={"matrix"}), whole)


@pytest.mark.parametrize("seed", range(6))
def test_an_arm_has_the_same_digits_alone_and_among_others_and_a_query_too(seed: int) -> None:
    queries, embedding_QE, gallery_GE = case(seed)
    arms = every_kind(queries, embedding_QE, gallery_GE)
    together = score_arms(settings(seed), queries, arms, one_way={"likelihood"})
    for name, found in arms.items():
        alone = score_arms(settings(seed), queries, {name: found}, one_way={"likelihood"})
        assert alone.arms[name] == together.arms[name]
    some = np.random.default_rng(seed).permutation(len(queries.stimulus_Q))[:5]
    relevance_QG = queries.relevance(np.arange(len(queries.stimulus_Q)))
    few = metrics.retrieval_metrics(cosine_similarity(embedding_QE[some], gallery_GE), relevance_QG[some])
    for name, values_Q in few.items():
        np.testing.assert_array_equal(values_Q, together.model_Q[name][some], err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_metrics_and_null_are_those_of_a_plain_loop(seed: int) -> None:
    queries, embedding_QE, gallery_GE = case(seed)
    arms = every_kind(queries, embedding_QE, gallery_GE)
    found = score_arms(settings(seed), queries, arms, one_way=())
    rows = np.arange(len(queries.stimulus_Q))
    for name, kind in arms.items():
        scores_QG, relevance_QG = kind.whole(), queries.relevance(rows)
        ways = ((scores_QG, relevance_QG, found.arms[name].eeg_to_image), (scores_QG.T, relevance_QG.T, found.arms[name].image_to_eeg))
        for scores_, relevance_, row in ways:
            assert row is not None
            expected = plain_metrics(scores_, relevance_)
            assert {m: score.value for m, score in row.items()} == {m: pytest.approx(v, rel=1e-12) for m, v in expected.items()}
        rank_QG = rankdata(-scores_QG, axis=1)
        for k in (1, 5):
            p, null = permutation_p_value(
                lambda order_G, k=k, r=rank_QG: float((r[rows, order_G[queries.target_Q]] <= k).mean()),
                len(gallery_GE), num_permutations=9, seed=seed,
            )  # fmt: skip
            assert (found.arms[name].null[f"p_top{k}"], found.arms[name].null[f"null_top{k}"]) == (p, null.mean())


def plain_metrics(scores_QG: np.ndarray, relevance_QG: np.ndarray) -> dict[str, float]:
    """The definitions, a query at a time."""
    sums: dict[str, list[float]] = {}
    for score_G, relevance_G in zip(scores_QG, relevance_QG, strict=True):
        exact_G, rank_G = relevance_G == 2, rankdata(-score_G)
        best = score_G[exact_G].max()
        tied = score_G == best
        rank = 1 + (score_G > best).sum() + (tied & ~exact_G).sum() / ((tied & exact_G).sum() + 1)
        among = rankdata(-score_G[exact_G])
        values = {f"recall@{k}": float(rank <= k) for k in (1, 5, 10)}
        values |= {"mean_rank": rank, "mrr": 1 / rank, "map": float((among / rank_G[exact_G]).mean())}
        gain_G = 2.0**relevance_G - 1
        for k in (1, 5, 10):
            discount = [1 / np.log2(place + 1) if place <= k else 0.0 for place in range(1, len(score_G) + 1)]
            found = 0.0
            for value in np.unique(score_G):  # the tied share the mean of their discounts
                places = np.arange((score_G > value).sum(), (score_G >= value).sum())
                found += gain_G[score_G == value].sum() * np.mean([discount[p] for p in places])
            values[f"ndcg@{k}"] = found / float(np.sort(gain_G)[::-1] @ discount)
        for name, value in values.items():
            sums.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in sums.items()} | {"median_rank": float(np.median(sums["mean_rank"]))}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("k", [1, 5, 40])
def test_within_k_are_the_candidates_of_mean_rank_k_and_better(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores_QG = rng.integers(0, 2 + 3 * seed, (20, int(rng.integers(1, 30)))).astype(float)
    query_P, candidate_P = within(scores_QG, k)
    expected = np.argwhere(rankdata(-scores_QG, axis=1) <= k)
    assert np.stack([query_P, candidate_P], axis=1).tolist() == expected.tolist()
    assert len(query_P) < 2 * k * len(scores_QG)


@pytest.mark.long
def test_memory_is_that_of_blocks_and_not_of_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_products, "PRODUCTS_A_BLOCK", 1 << 15)
    monkeypatch.setattr(row_products, "_ROWS_AT_ONCE", 128)
    num_rows, matrix_bytes = 1500, 8 * 1500**2
    rng = np.random.default_rng(0)
    eeg_QP, ids_Q = rng.standard_normal((num_rows, 4)), np.arange(num_rows)
    concepts_Q = np.zeros(num_rows, int)  # the worst: every candidate counts for every query
    pairs = Pairs(eeg_QP=eeg_QP, image_QP=eeg_QP + 1, ids_Q=ids_Q, subjects_Q=ids_Q % 3, concepts_Q=concepts_Q)
    facts = unknown_facts(Path("x"), part="test", config={})
    tracemalloc.start()
    try:
        evaluate_embeddings(settings(num_resamples=100, num_permutations=20), pairs, Path("x"), facts)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < matrix_bytes / 2
