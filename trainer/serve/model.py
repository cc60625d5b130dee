"""What a registered model does with a trial: MLflow runs this file ("models from code"), nothing is pickled.

Beside it, MLflow keeps the packages ``trainer`` and ``data_prep`` as they were at registration, and two artifacts: ``export``
(see :mod:`trainer.artifacts.encoder`) and ``gallery`` (see :mod:`trainer.serve.register`).

B: trials, C: channels, T: time points, G: gallery entries, P: dimension of the common space.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from trainer.artifacts.encoder import Encoder, load_encoder

GALLERY, FACTS = "gallery.npz", "gallery.json"


class RetrievalModel(PythonModel):
    """Trials in, ranked stimuli (or classes) out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the encoder and the gallery, once a process."""
        self.encoder: Encoder = load_encoder(context.artifacts["export"])
        folder = Path(context.artifacts["gallery"])
        with np.load(folder / GALLERY, allow_pickle=False) as file:
            self.gallery_GP = file["embedding"]
            self.stimuli: list[str] = file["stimulus"].tolist()
            self.concepts: list[str] = file["concept"].tolist()
        self.top_k: int = json.loads((folder / FACTS).read_text(encoding="utf-8"))["top_k"]

    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rank the gallery for each trial.

        Parameters
        ----------
        model_input
            float32 (B, C, T): unit, rate, window and channel order of the export's ``signal``. Repetitions of a stimulus are
            averaged by the caller.
        params
            ``subject`` and ``session``: labels as in the study, one for all trials; empty: unknown.

        Returns
        -------
        list of dict
            A trial each: ``stimuli`` (ids, best first), their ``concepts``, and ``scores`` (cosine).
        """
        given = params or {}
        try:
            z_BP = self.encoder.embed(model_input, given.get("subject") or None, given.get("session") or None)
        except ValueError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        scores_BG = z_BP @ self.gallery_GP.T
        # Stable: candidates that tie stay in the gallery's order, here and wherever it is recomputed.
        best_BK = np.argsort(-scores_BG, axis=1, kind="stable")[:, : self.top_k]
        return [
            {
                "stimuli": [self.stimuli[g] for g in best_K],
                "concepts": [self.concepts[g] for g in best_K],
                "scores": [float(scores_G[g]) for g in best_K],
            }
            for best_K, scores_G in zip(best_BK.tolist(), scores_BG, strict=True)
        ]


set_model(RetrievalModel())
