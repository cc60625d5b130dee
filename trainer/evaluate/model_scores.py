"""Scores of an exported encoder, by the metric that its export names.

Q: queries, G: candidates, E: image embedding dimension, P: dimension of the common space.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from data_prep.contract.closed_form import EncodingModel
from data_prep.contract.row_products import CutRows, cut_rows
from trainer.artifacts.encoder import Encoder, LikelihoodEncoder
from trainer.evaluate.scores import Products, ProductScores, Scores, cosine_scores


def model_scores(encoder: Encoder, z_QP: np.ndarray, subject_Q: np.ndarray, n_reps_Q: np.ndarray, gallery_GE: np.ndarray) -> Scores:
    """Every image of a gallery for every query.

    Parameters
    ----------
    z_QP
        Of :meth:`Encoder.embed_batch`.
    subject_Q
        Rows of the table of subjects of the encoder's study.
    n_reps_Q
        Repetitions averaged in each query.
    """
    if not isinstance(encoder, LikelihoodEncoder):
        return cosine_scores(z_QP, encoder.embed_image(gallery_GE))
    row_Q = encoder.rows(torch.from_numpy(subject_Q).to(encoder.device))
    parts: list[Products] = []
    for row in np.unique(row_Q).tolist():
        fitted = encoder.model.model(row)
        for n in np.unique(n_reps_Q[row_Q == row]).tolist():
            own_Q = (row_Q == row) & (n_reps_Q == n)
            right = candidate_rows(fitted, n, gallery_GE)
            parts.append(Products(query_q=np.flatnonzero(own_Q), left=cut_rows(z_QP[own_Q]), right=right))
    return ProductScores(parts, len(gallery_GE))


def candidate_rows(fitted: EncodingModel, n_reps: int, gallery_GE: np.ndarray) -> Callable[[slice], tuple[CutRows, np.ndarray]]:
    """Rows and terms of some candidates for EEG averaged over ``n_reps`` repetitions."""
    return lambda rows: fitted.cut_candidates(gallery_GE[rows], n_reps)
