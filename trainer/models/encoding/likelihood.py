"""Encoding models as the module of an export: EEG and images into coordinates in which a squared distance is a log-likelihood.

In the coordinates of a model the noise of one repetition is the identity and lack of fit is diagonal. The log-likelihood of y, the average
of n repetitions, under a candidate whose prediction is p is, up to a constant, -1/2 sum of (y - p)^2 / (1 / n + lack): the squared distance
of P^(1/2) y and P^(1/2) p, P the inverse of that variance. So both sides depend on n, and what is compared must have one n.

M: models (one a subject, and one of all), B: rows, D: features of a flattened trial, E: embedding dimensions, W: directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.contract.errors import UserError

if TYPE_CHECKING:  # scipy, which a served model does without
    from data_prep.contract.closed_form import EncodingModel

OF_ALL = -1
"""Key of the model of all subjects among those by subject."""


@dataclass(frozen=True, kw_only=True)
class EncodingSizes:
    """Which models there are, and whose they are."""

    num_models: int
    num_directions: int
    """Of the model that has most; others are filled up with directions that say nothing."""
    model_of_subject: tuple[int, ...]
    """For each subject of the study its model."""
    model_of_others: int
    """The model of whoever is none of them."""

    @property
    def fault(self) -> str | None:
        """What of it cannot be, in a sentence."""
        for name in ("num_models", "num_directions"):
            if not 0 < getattr(self, name) < 2**31:
                return f"encoding.{name}: {getattr(self, name)}, expected 1 or more, in 31 bits"
        for row in (*self.model_of_subject, self.model_of_others):
            if not 0 <= row < self.num_models:
                return f"encoding: names model {row}, expected one of its {self.num_models}"
        return None


class LikelihoodModel(nn.Module):
    """Encoding models in one module; its tensors are what an export keeps.

    Parameters
    ----------
    num_features, embedding_dim
        D and E.
    """

    mean_MD: Tensor
    to_white_MDW: Tensor
    embedding_mean_ME: Tensor
    components_MEW: Tensor
    lack_MW: Tensor

    def __init__(self, sizes: EncodingSizes, *, num_features: int, embedding_dim: int) -> None:
        super().__init__()
        self.sizes, self.num_features, self.embedding_dim = sizes, num_features, embedding_dim
        m, d, e, w = sizes.num_models, num_features, embedding_dim, sizes.num_directions
        shapes = {"mean_MD": (m, d), "to_white_MDW": (m, d, w), "embedding_mean_ME": (m, e), "components_MEW": (m, e, w), "lack_MW": (m, w)}
        for name, shape in shapes.items():
            # The image side keeps its digits: a gallery's rows are compared in float64.
            dtype = torch.float32 if name in ("mean_MD", "to_white_MDW") else torch.float64
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))

    def rows(self, subject_B: Tensor) -> Tensor:
        """Model of each row; ``subject_B`` are rows of the study's table, -1 unknown."""
        table = torch.tensor([*self.sizes.model_of_subject, self.sizes.model_of_others], device=subject_B.device)
        return table[subject_B]

    def embed_eeg(self, eeg_BCT: Tensor, subject_B: Tensor) -> Tensor:
        """Averaged EEG in its model's coordinates, noise of one repetition white: float32 (B, W)."""
        flat_BD, row_B = eeg_BCT.flatten(1), self.rows(subject_B)
        if flat_BD.shape[1] != self.num_features:
            raise UserError(f"EEG has {flat_BD.shape[1]} features a trial, the model wants {self.num_features}")
        found_BW = flat_BD.new_empty((len(flat_BD), self.sizes.num_directions))
        for row in torch.unique(row_B).tolist():
            own = row_B == row
            found_BW[own] = (flat_BD[own] - self.mean_MD[row]) @ self.to_white_MDW[row]
        return found_BW

    def model(self, row: int) -> EncodingModel:
        """One of the models."""
        from data_prep.contract.closed_form import EncodingModel

        return EncodingModel(
            mean_D=self.mean_MD[row].cpu().numpy(),
            to_white_DW=self.to_white_MDW[row].cpu().numpy(),
            embedding_mean_E=self.embedding_mean_ME[row].cpu().numpy(),
            components_EK=self.components_MEW[row].cpu().numpy(),
            weights_KW=np.eye(self.sizes.num_directions),
            lack_W=self.lack_MW[row].cpu().numpy(),
        )

    def predictions(self, row: int, embedding_GE: np.ndarray) -> np.ndarray:
        """Images in a model's coordinates, as EEG without noise would be: float64 (G, W)."""
        centred_GE = np.asarray(embedding_GE, np.float64) - self.embedding_mean_ME[row].cpu().numpy()
        found_GW: np.ndarray = centred_GE @ self.components_MEW[row].cpu().numpy()
        return found_GW

    def scale(self, row: int, n_reps: float) -> np.ndarray:
        """``P^(1/2)`` of averages of so many repetitions: float64 (W,)."""
        found_W: np.ndarray = 1.0 / np.sqrt(1.0 / n_reps + self.lack_MW[row].cpu().numpy())
        return found_W


def joined_models(fitted: Mapping[int, EncodingModel], subjects: Sequence[int]) -> LikelihoodModel:
    """Models by subject, and under :data:`OF_ALL` that of all, for whoever has none of its own.

    Parameters
    ----------
    subjects
        All of the study, rows of its table.
    """
    numbers = {subject: row for row, subject in enumerate(sorted(fitted))}
    first = fitted[OF_ALL]
    sizes = EncodingSizes(
        num_models=len(fitted),
        num_directions=max(len(model.lack_W) for model in fitted.values()),
        model_of_subject=tuple(numbers.get(subject, numbers[OF_ALL]) for subject in subjects),
        model_of_others=numbers[OF_ALL],
    )
    joined = LikelihoodModel(sizes, num_features=len(first.mean_D), embedding_dim=len(first.embedding_mean_E))
    for subject, row in numbers.items():
        model, width = fitted[subject], len(fitted[subject].lack_W)
        joined.mean_MD[row] = torch.from_numpy(np.asarray(model.mean_D, np.float32))
        joined.to_white_MDW[row, :, :width] = torch.from_numpy(np.asarray(model.to_white_DW, np.float32))
        joined.embedding_mean_ME[row] = torch.from_numpy(np.asarray(model.embedding_mean_E, np.float64))
        joined.components_MEW[row, :, :width] = torch.from_numpy(model.components_EK @ model.weights_KW)
        joined.lack_MW[row, :width] = torch.from_numpy(model.lack_W)
    return joined
