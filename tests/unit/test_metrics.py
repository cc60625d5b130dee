"""Retrieval and class metrics equal independent implementations, on random and on adversarial scores."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from sklearn.metrics import (
    balanced_accuracy_score,
    label_ranking_average_precision_score,
    ndcg_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from data_prep.contract import row_products
from data_prep.contract.ranking import cosine_similarity, ranks_among, retrieval_ranks
from tests.helpers.shared_data import shared_data
from trainer import metrics


def random_case(seed: int, *, ties: bool, relevant: int = 1, queries: int = 40, candidates: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Scores (rounded to few values where ``ties``) and relevance 0, 1, 2 with ``relevant`` exact candidates a query."""
    rng = np.random.default_rng(seed)
    scores_QG = rng.integers(0, 4, (queries, candidates)).astype(float) if ties else rng.standard_normal((queries, candidates))
    relevance_QG = (rng.random((queries, candidates)) < 0.2).astype(np.int64)
    for row in relevance_QG:
        row[rng.choice(candidates, relevant, replace=False)] = 2
    return scores_QG, relevance_QG


@pytest.mark.parametrize("seed", range(3))
def test_single_target_equals_scikit_learn_and_torchmetrics(seed: int) -> None:
    from torchmetrics.functional import retrieval as torch_retrieval  # five seconds, which a process without these tests need not wait for

    scores_QG, relevance_QG = random_case(seed, ties=False)
    exact_QG = relevance_QG == 2
    target_Q = exact_QG.argmax(axis=1)
    found = metrics.retrieval_metrics(scores_QG, relevance_QG)
    np.testing.assert_array_equal(found["rank"], rankdata(-scores_QG, axis=1)[np.arange(len(target_Q)), target_Q])
    for k in metrics.CUTOFFS:
        assert found[f"recall@{k}"].mean() == pytest.approx(top_k_accuracy_score(target_Q, scores_QG, k=k, labels=range(30)))
    assert found["map"].mean() == pytest.approx(label_ranking_average_precision_score(exact_QG, scores_QG))
    for query, (scores_G, exact_G) in enumerate(zip(scores_QG, exact_QG, strict=True)):
        # torchmetrics takes only positive scores for retrieved.
        preds, target = torch.from_numpy(scores_G - scores_G.min() + 1), torch.from_numpy(exact_G)
        assert found["mrr"][query] == pytest.approx(float(torch_retrieval.retrieval_reciprocal_rank(preds, target)), abs=1e-6)
        assert found["recall@5"][query] == float(torch_retrieval.retrieval_hit_rate(preds, target, top_k=5))


@pytest.mark.parametrize("relevant", [1, 2, 5])
def test_several_right_candidates_equal_torchmetrics(relevant: int) -> None:
    from torchmetrics.functional import retrieval as torch_retrieval

    scores_QG, relevance_QG = random_case(relevant, ties=False, relevant=relevant)
    exact_QG = relevance_QG == 2
    found = metrics.retrieval_metrics(scores_QG, relevance_QG)
    assert found["map"].mean() == pytest.approx(label_ranking_average_precision_score(exact_QG, scores_QG))
    for query, (scores_G, exact_G) in enumerate(zip(scores_QG, exact_QG, strict=True)):
        # torchmetrics takes only positive scores for retrieved.
        preds, target = torch.from_numpy(scores_G - scores_G.min() + 1), torch.from_numpy(exact_G)
        assert found["map"][query] == pytest.approx(float(torch_retrieval.retrieval_average_precision(preds, target)), abs=1e-6)
        assert found["mrr"][query] == pytest.approx(float(torch_retrieval.retrieval_reciprocal_rank(preds, target)), abs=1e-6)
        for k in metrics.CUTOFFS:
            assert found[f"recall@{k}"][query] == float(torch_retrieval.retrieval_hit_rate(preds, target, top_k=k))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 5, 10, 30, 100])
def test_ndcg_equals_scikit_learn_with_graded_gains_and_ties(ties: bool, k: int) -> None:
    scores_QG, relevance_QG = random_case(k, ties=ties, relevant=2)
    expected = [ndcg_score([2.0**r - 1], [s], k=k) for r, s in zip(relevance_QG, scores_QG, strict=True)]
    np.testing.assert_allclose(metrics.ndcg(scores_QG, relevance_QG, k), expected, rtol=1e-12)


def test_ndcg_is_not_one_for_a_wrong_order() -> None:
    # The ideal is over the whole gallery: a right image in place two is worth log2(2) / log2(3).
    assert metrics.ndcg(np.array([[0.1, 0.9]]), np.array([[2, 0]]), 5)[0] == pytest.approx(1 / np.log2(3))
    assert metrics.ndcg(np.array([[0.1, 0.9]]), np.array([[2, 0]]), 1)[0] == 0.0
    # The same concept's other image in front costs less than a stranger's.
    assert metrics.ndcg(np.array([[0.1, 0.9]]), np.array([[2, 1]]), 5)[0] > metrics.ndcg(np.array([[0.1, 0.9]]), np.array([[2, 0]]), 5)[0]


@pytest.mark.parametrize("relevant", [1, 3])
def test_tied_ranks_are_the_mean_over_all_orders_of_the_tied(relevant: int) -> None:
    scores_QG, relevance_QG = random_case(7, ties=True, relevant=relevant, candidates=12)
    exact_QG = relevance_QG == 2
    rng = np.random.default_rng(0)
    drawn = [retrieval_ranks(scores_QG + 1e-6 * rng.random(scores_QG.shape), exact_QG) for _ in range(4000)]
    np.testing.assert_allclose(retrieval_ranks(scores_QG, exact_QG), np.mean(drawn, axis=0), atol=0.15)


def test_a_scorer_that_cannot_tell_candidates_apart_gets_the_middle_rank() -> None:
    relevance_QG = 2 * np.eye(200, dtype=np.int64)
    found = metrics.retrieval_metrics(np.zeros((200, 200)), relevance_QG)
    assert (found["rank"] == 100.5).all()
    assert found["recall@10"].sum() == 0
    assert found["mrr"][0] == pytest.approx(1 / 100.5)
    assert found["map"][0] == pytest.approx(1 / 100.5)
    assert found["ndcg@10"][0] == pytest.approx((1 / np.log2(np.arange(2, 12))).sum() / 200)


def test_recall_asks_whether_the_mean_rank_is_within_k() -> None:
    # Tied with one other for place one: mean rank 1.5, so not top-1, but top-2.
    ranks_Q = retrieval_ranks(np.array([[0.5, 0.5, 0.1]]), np.array([[True, False, False]]))
    assert ranks_Q[0] == 1.5
    assert metrics.recall_at(ranks_Q, 1)[0] == 0.0
    assert metrics.recall_at(ranks_Q, 2)[0] == 1.0


def test_the_order_of_duplicate_candidates_does_not_matter() -> None:
    scores_QG, relevance_QG = random_case(3, ties=True, relevant=2)
    shuffled = np.random.default_rng(1).permutation(scores_QG.shape[1])
    found, other = (
        metrics.retrieval_metrics(s, r) for s, r in ((scores_QG, relevance_QG), (scores_QG[:, shuffled], relevance_QG[:, shuffled]))
    )
    for name in found:
        np.testing.assert_allclose(found[name], other[name], rtol=1e-12, err_msg=name)


def test_one_candidate_is_always_right() -> None:
    found = metrics.retrieval_metrics(np.array([[-3.0], [0.0]]), np.array([[2], [2]]))
    assert {name: values.tolist() for name, values in found.items()} == {name: [1.0, 1.0] for name in found}


def test_relevance_grades_stimulus_and_concept() -> None:
    found = metrics.relevance(np.array([4, 5]), np.array([1, 1]), np.array([4, 5, 6]), np.array([1, 1, 2]))
    assert found.tolist() == [[2, 1, 0], [1, 2, 0]]


@pytest.mark.parametrize(
    ("scores_QG", "relevant_QG", "message"),
    [
        (np.array([[0.1, np.nan]]), np.array([[True, False]]), "scores hold NaN .first at query 0, candidate 1."),
        (np.zeros((0, 3)), np.zeros((0, 3), bool), "at least one of each"),
        (np.zeros((1, 2)), np.zeros((1, 2), bool), "query 0 has no relevant candidate"),
        (np.zeros((1, 2)), np.ones((2, 2), bool), "expected the same"),
    ],
)
def test_bad_scores_are_refused_in_a_sentence(scores_QG: np.ndarray, relevant_QG: np.ndarray, message: str) -> None:
    for function in (retrieval_ranks, metrics.average_precision):
        with pytest.raises(ValueError, match=message):
            function(scores_QG, relevant_QG)


def test_embeddings_without_a_direction_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1 of the first embeddings has no direction"):
        cosine_similarity(np.array([[1.0, 0.0], [0.0, 0.0]]), np.eye(2))
    with pytest.raises(ValueError, match="NaN"):
        cosine_similarity(np.eye(2), np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match="row 0 of the second embeddings"):
        cosine_similarity(np.eye(2), np.array([[np.inf, 1.0]]))


@pytest.mark.parametrize("ties", [False, True])
def test_auc_and_balanced_accuracy_equal_scikit_learn(ties: bool) -> None:
    rng = np.random.default_rng(0)
    scores_Q = rng.standard_normal(200).round(1) if ties else rng.standard_normal(200)
    positive_Q = rng.random(200) < 0.2
    assert metrics.auc(scores_Q, positive_Q) == pytest.approx(roc_auc_score(positive_Q, scores_Q))
    predicted_Q, true_Q = rng.integers(0, 3, 200), rng.integers(0, 4, 200)
    assert metrics.balanced_accuracy(predicted_Q, true_Q) == pytest.approx(balanced_accuracy_score(true_Q, predicted_Q))


def test_auc_of_a_constant_is_chance_and_one_class_or_nan_is_refused() -> None:
    assert metrics.auc(np.zeros(10), np.arange(10) < 3) == 0.5
    with pytest.raises(ValueError, match="0 positive and 4 negative trials"):
        metrics.auc(np.arange(4.0), np.zeros(4, bool))
    with pytest.raises(ValueError, match=r"NaN .first at trial 2"):
        metrics.auc(np.array([0.0, 1.0, np.nan]), np.array([True, False, True]))


def test_real_clip_vectors_find_their_centres() -> None:
    folder = shared_data() / "things_clip"
    images, centres = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("clip_feature_maps_test", "center_clip"))
    scores_QG = cosine_similarity(images[:, 0], centres)
    found = metrics.retrieval_metrics(scores_QG, 2 * np.eye(200, dtype=np.int64))
    assert found["recall@1"].mean() == pytest.approx(0.98)
    assert found["recall@5"].mean() == 1.0
    assert found["recall@1"].mean() == top_k_accuracy_score(np.arange(200), scores_QG, k=1, labels=range(200))


@pytest.mark.parametrize("seed", range(8))
def test_ranks_in_blocks_are_those_of_the_whole_matrix(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    num_stimuli, dim = int(rng.integers(1, 30)), int(rng.integers(2, 9))
    gallery_GE, stimulus_Q = rng.standard_normal((num_stimuli, dim)), rng.integers(0, num_stimuli, int(rng.integers(1, 80)))
    gallery_GE[rng.integers(0, num_stimuli, num_stimuli // 3)] = gallery_GE[0]
    query_QE, ids_G = gallery_GE[stimulus_Q] + rng.standard_normal((len(stimulus_Q), dim)), np.arange(num_stimuli)
    whole = retrieval_ranks(cosine_similarity(query_QE, gallery_GE), stimulus_Q[:, None] == ids_G)
    monkeypatch.setattr(row_products, "PRODUCTS_A_BLOCK", int(rng.integers(1, 200)))
    np.testing.assert_array_equal(ranks_among(query_QE, gallery_GE, stimulus_Q, ids_G), whole)


def test_ranks_of_many_queries_never_need_all_scores() -> None:
    rng, count = np.random.default_rng(0), 6000
    rows = rng.standard_normal((count, 4)).astype(np.float32)
    tracemalloc.start()
    ranks_Q = ranks_among(rows, rows, np.arange(count), np.arange(count))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (ranks_Q == 1).all()
    assert peak < 8 * count * count  # one matrix of all scores is 288 MB, of which ranking takes several
