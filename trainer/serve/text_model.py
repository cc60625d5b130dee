"""What a registered text model does with a trial: MLflow runs this file ("models from code"), nothing is pickled.

Beside it MLflow keeps the packages ``trainer`` and ``data_prep`` as they were at registration, and ``export`` (see
:mod:`trainer.artifacts.text`), with ``base`` where the base model was bundled.

B: trials, C: channels, T: time points.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from data_prep.contract.errors import CommandError
from trainer.artifacts.text import load_text
from trainer.models.language.decoding import DecodingConfig

BASE_VARIABLE = "EEG_TEXT_BASE"
"""Names another place of the base model than the one it had in training."""
DEVICE_VARIABLE = "EEG_TEXT_DEVICE"
"""Where it computes; unset: the GPU in bf16 where there is one, else the CPU in fp32."""


class TextModel(PythonModel):
    """Trials in, captions out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load base, adapter, projector and encoder, once a process."""
        try:
            base = context.artifacts.get("base") or os.environ.get(BASE_VARIABLE)
            device = os.environ.get(DEVICE_VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
            precision: Literal["fp32", "bf16"] = "fp32" if device == "cpu" else "bf16"
            self.decoder = load_text(context.artifacts["export"], device, base=base, precision=precision)
        except CommandError as error:
            raise MlflowException(str(error)) from None

    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Caption each trial.

        Parameters
        ----------
        model_input
            float32 (B, C, T): unit, rate, window and channel order of the export's ``signal``. Repetitions of a stimulus are
            averaged by the caller.
        params
            ``subject`` and ``session``: labels as in the study, one for all trials; empty: unknown. ``seed``, ``max_new_tokens``.

        Returns
        -------
        list of dict
            A trial each: ``caption``.
        """
        given = params or {}
        try:
            decoding = DecodingConfig(max_new_tokens=int(given.get("max_new_tokens", 48)))
            captions = self.decoder.caption(
                model_input,
                given.get("subject") or None,
                given.get("session") or None,
                decoding=decoding,
                seed=int(given.get("seed", 0)),
            )
        except ValueError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        return [{"caption": caption} for caption in captions]


set_model(TextModel())
