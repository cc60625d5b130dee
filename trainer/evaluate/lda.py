"""Linear discriminant analysis with shrinkage chosen in inner folds: the baseline of class-level studies.

From trials to scores::

    trials_BCT -> bin_features -> features_BF        mean over short bins of every channel, in the trial's own unit: where the
                                              amplitude is large the signal is, so standardising features costs 0.02 AUC
    fit on the training rows with every shrinkage, leaving one group (recording) out at a time
        -> the shrinkage with the best mean inner AUC
    fit on all training rows with it -> score of every test row, larger for class 1

Nothing is ever fitted on, or chosen by, test rows.

Shape suffixes: B trials, C channels, T time points, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.contract.errors import UserError

SHRINKAGES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
"""Candidates: the share of a scaled identity in the covariance; 1 ignores covariances between features."""


@dataclass(frozen=True, kw_only=True)
class LdaScores:
    """What :func:`lda_scores` found."""

    scores_B: np.ndarray
    """Float64 score of every test row, larger for class 1."""
    shrinkage: float | None
    """The shrinkage used; None is the automatic one (Ledoit and Wolf)."""
    inner_auc: dict[float, float]
    """Mean AUC over inner folds of every candidate; empty where nothing was chosen."""


def bin_features(eeg_BCT: np.ndarray, bin_points: int = 4) -> np.ndarray:
    """Mean over bins of ``bin_points`` time points, (B, C * bins); points left over at the end are dropped."""
    if eeg_BCT.ndim != 3:
        raise UserError(f"eeg has shape {eeg_BCT.shape}, expected (trials, n_chans, n_times)")
    bins = eeg_BCT.shape[-1] // bin_points
    if bin_points < 1 or bins < 1:
        raise UserError(f"bin_points is {bin_points}, the trial has {eeg_BCT.shape[-1]} time points: expected from 1 to that many")
    trials, n_chans, _ = eeg_BCT.shape
    binned = np.asarray(eeg_BCT[..., : bins * bin_points], np.float64).reshape(trials, n_chans, bins, bin_points).mean(-1)
    return np.asarray(binned.reshape(trials, n_chans * bins))


def lda_scores(
    train_x: np.ndarray,
    train_y: np.ndarray,
    train_groups: np.ndarray | None,
    test_x: np.ndarray,
    *,
    shrinkages: Sequence[float] | None = SHRINKAGES,
    bin_points: int = 4,
) -> LdaScores:
    """Scores of test trials by two-class LDA fitted on training trials.

    Parameters
    ----------
    train_x, test_x
        Trials (B, C, T), any unit.
    train_y
        Class 0 or 1 of every training trial.
    train_groups
        Group (recording) of every training trial; each is left out once to choose the shrinkage.
    shrinkages
        Candidates in [0, 1]; None takes scikit-learn's automatic shrinkage and needs no groups.
    bin_points
        Width in time points of the bins whose means are the features.

    Raises
    ------
    ValueError
        Labels other than 0 and 1, a single class, fewer than two usable groups, or values that are not finite.
    """
    train_y = np.asarray(train_y).reshape(-1)
    _check(train_x, train_y, train_groups, test_x)
    train_BF, test_BF = bin_features(train_x, bin_points), bin_features(test_x, bin_points)
    if shrinkages is None:
        return LdaScores(scores_B=_automatic_scores(train_BF, train_y, test_BF), shrinkage=None, inner_auc={})
    candidates = [float(s) for s in shrinkages]
    if not candidates or min(candidates) < 0 or max(candidates) > 1:
        raise UserError(f"shrinkages is {candidates}, expected values from 0 to 1")
    inner_auc = dict.fromkeys(candidates, float("nan"))
    if len(candidates) > 1:
        if train_groups is None:
            raise UserError(f"train_groups is None, expected the recording of every trial to choose among {len(candidates)} shrinkages")
        inner_auc = _inner_auc(train_BF, train_y, np.asarray(train_groups).reshape(-1), candidates)
    best = candidates[0] if len(candidates) == 1 else max(candidates, key=lambda s: inner_auc[s])
    return LdaScores(scores_B=_scores(train_BF, train_y, test_BF, [best])[0], shrinkage=best, inner_auc=inner_auc)


def _inner_auc(x_BF: np.ndarray, y_B: np.ndarray, groups_B: np.ndarray, candidates: Sequence[float]) -> dict[float, float]:
    from sklearn.metrics import roc_auc_score

    folds = [(groups_B != g, groups_B == g) for g in np.unique(groups_B)]
    # A recording with one class only has no AUC, and training needs both classes.
    folds = [(fit, held) for fit, held in folds if len(np.unique(y_B[held])) == 2 and len(np.unique(y_B[fit])) == 2]
    if len(folds) < 2:
        raise UserError(f"{len(folds)} inner folds have both classes, expected at least 2 recordings to choose the shrinkage from")
    auc: list[list[float]] = []
    for fit, held in folds:
        scores_SB = _scores(x_BF[fit], y_B[fit], x_BF[held], candidates)
        auc.append([float(roc_auc_score(y_B[held], scores_B)) for scores_B in scores_SB])
    return dict(zip(candidates, np.mean(auc, axis=0).tolist(), strict=True))


def _scores(train_BF: np.ndarray, train_y: np.ndarray, test_BF: np.ndarray, shrinkages: Sequence[float]) -> np.ndarray:
    """Decision values (shrinkages, test rows); one eigendecomposition serves every shrinkage.

    Equal priors: a rare class shifts the threshold, not the direction.
    """
    means_KF = np.stack([train_BF[train_y == k].mean(0) for k in (0, 1)])
    centred = [train_BF[train_y == k] - means_KF[k] for k in (0, 1)]
    covariance_FF = sum(c.T @ c / len(c) for c in centred) / 2
    values_F, vectors_FF = np.linalg.eigh(covariance_FF)
    values_F = np.maximum(values_F, 0.0)
    level = values_F.mean()
    difference_F = vectors_FF.T @ (means_KF[1] - means_KF[0])
    test_rotated_BF = (test_BF - means_KF.mean(0)) @ vectors_FF
    floor = 1e-12 * max(float(values_F[-1]), 1e-300)
    return np.stack([test_rotated_BF @ (difference_F / np.maximum((1 - s) * values_F + s * level, floor)) for s in shrinkages])


def _automatic_scores(train_BF: np.ndarray, train_y: np.ndarray, test_BF: np.ndarray) -> np.ndarray:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
    return np.asarray(model.fit(train_BF, train_y).decision_function(test_BF))


def _check(train_x: np.ndarray, train_y: np.ndarray, train_groups: np.ndarray | None, test_x: np.ndarray) -> None:
    if train_x.ndim != 3 or test_x.ndim != 3 or train_x.shape[1:] != test_x.shape[1:]:
        raise UserError(
            f"train_x has shape {train_x.shape} and test_x {test_x.shape}, expected "
            "(trials, n_chans, n_times) with equal channels and times"
        )
    if len(train_x) != len(train_y) or (train_groups is not None and len(train_groups) != len(train_y)):
        groups = None if train_groups is None else len(train_groups)
        raise UserError(f"train_x has {len(train_x)} trials, train_y {len(train_y)} labels, train_groups {groups}: expected as many")
    if sorted(np.unique(train_y).tolist()) != [0, 1]:
        raise UserError(f"train_y holds the classes {np.unique(train_y).tolist()}, expected exactly 0 and 1")
    if len(train_y) < 3:
        raise UserError(f"{len(train_y)} training trials, expected at least 3 to know how trials of a class differ")
    if not (np.isfinite(train_x).all() and np.isfinite(test_x).all()):
        raise UserError("train_x or test_x holds values that are not finite")
