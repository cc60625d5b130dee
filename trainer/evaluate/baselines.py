"""The arms that an encoder has to beat, fitted on the split's training rows only.

Each is fitted for every tested subject on that subject's own training trials; a subject without any (leave one subject out)
is predicted from all training subjects together, as the encoder is.
"""

from __future__ import annotations

import numpy as np

from data_prep.contract.closed_form import fit_encoding_model, fit_ridge
from trainer.artifacts.part import PartArrays, repetitions
from trainer.data.loader import Loader
from trainer.evaluate.lda import SHRINKAGES, lda_scores
from trainer.metrics import cosine_similarity

MIN_TRAINING_ROWS = 16
"""Fewer rows of a subject's own than this, and all training subjects are used."""


def ridge_scores(train: PartArrays, test: PartArrays, gallery_GE: np.ndarray) -> dict[str, np.ndarray]:
    """Cosine of the embedding that ridge regression predicts from EEG with every candidate, (Q, G) each.

    ``ridge``: of the embeddings as they are. ``centred ridge``: both sides less the mean training embedding. Features after
    a ReLU share a large mean, which hides what distinguishes images from a cosine: the stronger opponent.
    """
    scores = {name: np.empty((len(test), len(gallery_GE))) for name in ("ridge", "centred ridge")}
    for subject, rows in _by_subject(train, test):
        predicted_QE = fit_ridge(subject.eeg_NCT, subject.target_NE).predict(test.eeg_NCT[rows])
        mean_E = subject.target_NE.mean(axis=0)
        scores["ridge"][rows] = cosine_similarity(predicted_QE, gallery_GE)
        scores["centred ridge"][rows] = cosine_similarity(predicted_QE - mean_E, gallery_GE - mean_E)
    return scores


def encoding_scores(train: PartArrays, loader: Loader, test: PartArrays, gallery_GE: np.ndarray) -> np.ndarray:
    """Log-likelihood of the EEG under the Gaussian encoding model's prediction for every candidate: (Q, G)."""
    scores_QG = np.empty((len(test), len(gallery_GE)))
    for subject, rows in _by_subject(train, test):
        people = np.unique(subject.subject_N)
        trials = repetitions(loader, int(people[0]) if len(people) == 1 else None)
        fitted = fit_encoding_model(subject.eeg_NCT, subject.target_NE, subject.n_reps_N, trials)
        scores_QG[rows] = fitted.log_likelihood(test.eeg_NCT[rows], test.n_reps_N[rows], gallery_GE)
    return scores_QG


def ridge_concept_scores(train: PartArrays, test: PartArrays, concepts_K: np.ndarray) -> np.ndarray:
    """Ridge regression from EEG to which of the concepts was shown (0 or 1 each), fitted as every baseline: (Q, K)."""
    scores_QK = np.empty((len(test), len(concepts_K)))
    for subject, rows in _by_subject(train, test):
        shown_NK = (subject.concept_N[:, None] == concepts_K).astype(np.float32)
        scores_QK[rows] = fit_ridge(subject.eeg_NCT, shown_NK).predict(test.eeg_NCT[rows])
    return scores_QK


def lda_class_scores(train: PartArrays, test: PartArrays, num_classes: int) -> tuple[np.ndarray, list[float | None]]:
    """LDA scores of every test trial for every class (Q, K), and the shrinkages that inner folds over recordings chose.

    Two classes are one problem; more are one class against the others each. With fewer than two training recordings to
    choose the shrinkage from, it is the automatic one (None).
    """
    scores_QK = np.empty((len(test), num_classes))
    shrinkages = []
    for subject, rows in _by_subject(train, test, num_classes):
        for number in range(1 if num_classes == 2 else 0, num_classes):
            class_N = (subject.concept_N == number).astype(int)
            inner = [r for r in np.unique(subject.recording_N) if len(np.unique(class_N[subject.recording_N == r])) == 2]
            candidates = SHRINKAGES if len(inner) > 1 else None
            found = lda_scores(subject.eeg_NCT, class_N, subject.recording_N, test.eeg_NCT[rows], shrinkages=candidates)
            scores_QK[rows, number] = found.scores_B
            shrinkages.append(found.shrinkage)
    if num_classes == 2:
        scores_QK[:, 0] = -scores_QK[:, 1]
    return scores_QK, shrinkages


def _by_subject(train: PartArrays, test: PartArrays, num_classes: int = 0) -> list[tuple[PartArrays, np.ndarray]]:
    """Training arrays and test rows of every tested subject; its own training trials must show ``num_classes`` classes."""
    pairs = []
    for subject in np.unique(test.subject_N):
        own_N = train.subject_N == subject
        rows = np.flatnonzero(test.subject_N == subject)
        enough = own_N.sum() >= MIN_TRAINING_ROWS and (not num_classes or len(np.unique(train.concept_N[own_N])) == num_classes)
        pairs.append((train.where(own_N) if enough else train, rows))
    return pairs
