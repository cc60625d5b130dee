"""The LDA baseline against scikit-learn's, against the number measured on real recordings, and against leakage."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from data_prep.studies.muse import MuseReaderConfig
from tests.helpers.shared_data import shared_data
from trainer.evaluate.lda import bin_features, lda_scores


def toy(seed: int = 0, n: int = 240, shift: float = 0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    x = np.cumsum(rng.normal(size=(n, 3, 40)), -1)
    x[y == 1, 1, 20:28] += shift * 10
    return x.astype(np.float32), y, np.arange(n) % 4


@pytest.mark.parametrize("shrinkage", [0.05, 0.5, 1.0])
def test_scores_are_those_of_scikit_learn(shrinkage: float) -> None:
    x, y, _ = toy()
    ours = lda_scores(x[:160], y[:160], None, x[160:], shrinkages=[shrinkage]).scores_B
    peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=[0.5, 0.5])
    expected = peer.fit(bin_features(x[:160]), y[:160]).decision_function(bin_features(x[160:]))
    # scikit-learn shrinks each class towards its own mean variance, we the pooled covariance towards its own: the same number.
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-8)


def test_bins_are_means_in_time_within_a_channel() -> None:
    eeg_BCT = np.arange(2 * 2 * 9).reshape(2, 2, 9)
    assert bin_features(eeg_BCT).tolist()[0] == [1.5, 5.5, 10.5, 14.5]
    with pytest.raises(ValueError, match="bin_points is 10, the trial has 9"):
        bin_features(eeg_BCT, 10)


def test_the_choice_looks_at_training_rows_only() -> None:
    x, y, groups = toy()
    one = lda_scores(x[:160], y[:160], groups[:160], x[160:])
    two = lda_scores(x[:160], y[:160], groups[:160], x[160:] * 3 + 5)
    assert one.shrinkage == two.shrinkage
    assert one.inner_auc == two.inner_auc
    assert one.shrinkage == max(one.inner_auc, key=lambda s: one.inner_auc[s])
    assert roc_auc_score(y[160:], one.scores_B) > 0.7


@pytest.mark.long
def test_shuffled_labels_give_chance() -> None:
    aucs = []
    for seed in range(10):
        x, y, groups = toy(seed)
        shuffled = np.random.default_rng(seed).permutation(y[:160])
        aucs.append(roc_auc_score(y[160:], lda_scores(x[:160], shuffled, groups[:160], x[160:]).scores_B))
    assert abs(np.mean(aucs) - 0.5) < 0.1


def test_bad_input_is_one_sentence() -> None:
    x, y, groups = toy()
    for call, says in [
        (lambda: lda_scores(x, y + 1, groups, x), r"classes \[1, 2\], expected exactly 0 and 1"),
        (lambda: lda_scores(x, y * 0, groups, x), r"classes \[0\]"),
        (lambda: lda_scores(x, y, groups * 0, x), "0 inner folds have both classes"),
        (lambda: lda_scores(x, y, None, x), "train_groups is None"),
        (lambda: lda_scores(x, y[:-1], None, x), "240 trials, train_y 239 labels"),
        (lambda: lda_scores(x, y, groups, x[:, :2]), "with equal channels"),
        (lambda: lda_scores(x * np.nan, y, groups, x), "not finite"),
        (lambda: lda_scores(x, y, groups, x, shrinkages=[1.5]), r"shrinkages is \[1.5\]"),
    ]:
        with pytest.raises(ValueError, match=says):
            call()


@pytest.mark.long
def test_n170_subject_1_leave_one_recording_out_as_measured() -> None:
    source = MuseReaderConfig(root=str(shared_data() / "muse_visual/eeg/N170"), subjects=("1",)).open()
    x = np.concatenate([source.eeg(i) for i in range(len(source.samples))])
    y = np.array([sample.stimulus for sample in source.samples])
    recording = np.array([sample.recording[0] for sample in source.samples])
    aucs: dict[str, list[float]] = {"automatic": [], "inner": []}
    for held_out in np.unique(recording):
        fit = recording != held_out
        for name, options in (("automatic", {"shrinkages": None}), ("inner", {})):
            found = lda_scores(x[fit], y[fit], recording[fit], x[~fit], **options)
            aucs[name].append(float(roc_auc_score(y[~fit], found.scores_B)))
    assert np.mean(aucs["automatic"]) == pytest.approx(0.668, abs=0.005)
    assert np.mean(aucs["inner"]) == pytest.approx(0.705, abs=0.008)
