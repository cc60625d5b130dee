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

from data_prep.contract.errors import UserError
from data_prep.contract.seed import check_seed
from trainer.artifacts.text import load_text
from trainer.models.language.decoding import DecodingConfig
from trainer.serve.loading import check_registered
from trainer.serve.params import TEXT, read_params

BASE_VARIABLE = "EEG_TEXT_BASE"
"""Names another place of the base model than the one it had in training."""
DEVICE_VARIABLE = "EEG_TEXT_DEVICE"
"""Where it computes; unset: the GPU in bf16 where there is one, else the CPU in fp32."""


class TextModel(PythonModel):
    """Trials in, captions out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load base, adapter, projector and encoder, once a process."""
        try:
            check_registered(context.artifacts)
            base = context.artifacts.get("base") or os.environ.get(BASE_VARIABLE)
            device = os.environ.get(DEVICE_VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
            precision: Literal["fp32", "bf16"] = "fp32" if device == "cpu" else "bf16"
            self.decoder = load_text(context.artifacts["export"], device, base=base, precision=precision)
        except UserError as error:
            raise MlflowException(str(error)) from error
        self.expects = self.decoder.encoder.expects

    def predict(self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Caption each trial.

        Parameters
        ----------
        model_input
            (B, C, T) trials or (B, R, C, T) repeated trials, which are averaged: any type of numbers, or nested lists of them, in unit,
            rate, window and channel order of the export's ``signal``.
        params
            ``subject`` and ``session``: labels as in the study, one for all trials; empty: unknown. ``seed``, ``max_new_tokens``.

        Returns
        -------
        list of dict
            A trial each: ``caption``.
        """
        try:
            given = read_params(params, TEXT, self.decoder.encoder.export.subjects)
            decoding, longest = DecodingConfig(max_new_tokens=given["max_new_tokens"]), self.decoder.prompter.max_length
            if decoding.max_new_tokens > longest:
                raise UserError(f"params.max_new_tokens is {decoding.max_new_tokens}, expected at most {longest}, the model's context")
            captions = self.decoder.caption(
                model_input,
                given["subject"] or None,
                given["session"] or None,
                decoding=decoding,
                seed=check_seed(int(given["seed"]), "params.seed"),
            )
        except ValueError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        return [{"caption": caption} for caption in captions]


set_model(TextModel())
