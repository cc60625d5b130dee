"""What every EEG encoder is: a config that builds a module with one forward signature.

B: rows, C: channels, T: time points, L: tokens, D: token width, E: embedding dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from data_prep.contract.cli import polymorphic
from trainer.distributed.batch_norm import NormKind


class EncoderOutput(NamedTuple):
    """Tokens for what reads sequences (language models), one embedding for what compares."""

    tokens_BLD: Tensor
    embedding_BE: Tensor


class Encoder(nn.Module):
    """Base of the encoders; ``embedding_dim`` is E and ``token_dim`` is D of their output."""

    embedding_dim: int
    token_dim: int

    def forward(self, eeg_BCT: Tensor, subject_B: Tensor, positions_C3: Tensor | None = None) -> EncoderOutput:
        """Encode trials.

        Parameters
        ----------
        eeg_BCT
            Normalised EEG.
        subject_B
            Row in the study's table of subjects, int64; -1 is a subject not seen in training.
        positions_C3
            Electrode positions in metres (head coordinates), for encoders that use them; None where the study has none.
            The same in training and wherever the export is loaded.
        """
        raise NotImplementedError


@polymorphic
@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Base of the encoder configs; a subclass names the architecture and its sizes."""

    def build(self, *, n_chans: int, n_times: int, sfreq: float, num_subjects: int, norm: NormKind = "batch") -> Encoder:
        """The module for data of this shape, randomly initialised.

        Raises
        ------
        UserError
            The architecture does not fit ``n_chans`` or ``n_times``; both values are in the message.
        """
        raise NotImplementedError


def require_positive(name: str, **fields: float) -> None:
    """Raise ValueError for the first field that is not above 0."""
    for field, value in fields.items():
        if not value > 0:
            raise ValueError(f"{name}.{field}: {value}, expected a positive number")


def require_share(name: str, **fields: float) -> None:
    """Raise ValueError for the first field that is not in [0, 1), as a dropout must be."""
    for field, value in fields.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}.{field}: {value}, expected 0 to below 1")
