"""What a registered model does with a trial: MLflow runs this file ("models from code"), nothing is pickled.

Beside it, MLflow keeps the packages ``trainer`` and ``data_prep`` as they were at registration, and two artifacts: ``export``
(see :mod:`trainer.artifacts.encoder`) and ``gallery`` (see :mod:`trainer.serve.gallery`).

B: trials, C: channels, T: time points, G: gallery entries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from data_prep.contract.errors import UserError
from trainer.artifacts.encoder import Encoder, load_encoder
from trainer.serve.gallery import Gallery, read_top_k
from trainer.serve.loading import check_registered
from trainer.serve.params import RETRIEVAL, read_params


class RetrievalModel(PythonModel):
    """Trials in, ranked stimuli (or classes) out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the encoder and the gallery, once a process."""
        folder = Path(context.artifacts["gallery"])
        try:
            check_registered(context.artifacts)
            self.encoder: Encoder = load_encoder(context.artifacts["export"])
            self.gallery, self.top_k = Gallery.read(folder, self.encoder.gallery_width), read_top_k(folder)
        except UserError as error:
            raise MlflowException(str(error)) from error
        self.expects: str = self.encoder.expects

    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rank the gallery for each trial.

        Parameters
        ----------
        model_input
            (B, C, T) trials or (B, R, C, T) repeated trials, which are averaged: any type of numbers, or nested lists of them, in unit,
            rate, window and channel order of the export's ``signal``.
        params
            ``subject`` and ``session``: labels as in the study, one for all trials; empty: unknown. ``n_reps``: of how many repetitions
            each trial is the average already.

        Returns
        -------
        list of dict
            A trial each: ``stimuli`` (ids, best first), their ``concepts``, and ``scores``: cosine, or log-likelihood up to a
            constant of the trial, as the export's ``metric`` says.
        """
        try:
            given = read_params(params, RETRIEVAL, self.encoder.export.subjects)
            labels = given["subject"] or None, given["session"] or None
            scores_BG = self.encoder.scores(model_input, self.gallery.embedding_GK, *labels, n_reps=int(given["n_reps"]))
        except ValueError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        gallery = self.gallery
        # Stable: candidates that tie stay in the gallery's order, here and wherever it is recomputed.
        best_BK = np.argsort(-scores_BG, axis=1, kind="stable")[:, : self.top_k]
        return [
            {
                "stimuli": [gallery.stimuli[g] for g in best_K],
                "concepts": [gallery.concepts[g] for g in best_K],
                "scores": [float(scores_G[g]) for g in best_K],
            }
            for best_K, scores_G in zip(best_BK.tolist(), scores_BG, strict=True)
        ]


set_model(RetrievalModel())
