"""Weights from files that may be damaged: whatever is wrong with a ``.safetensors`` is one sentence that names the file."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from data_prep.contract.errors import CommandError
from data_prep.contract.words import short
from trainer.data.finite import all_finite


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, by name, on the CPU.

    Raises
    ------
    CommandError
        The file is missing, truncated, altered or of another format, or a weight is not finite.
    """
    if not path.is_file():
        raise CommandError(f"{path}: no such file")
    try:
        weights = load_file(path)
    except Exception as error:  # lengths, headers and offsets that are wrong raise several kinds
        what = "truncated, altered or of another format"
        raise CommandError(f"{path}: not the weights of a model (.safetensors): {what} ({short(error, 120)})") from error
    for name, value in weights.items():
        if value.is_floating_point() and not all_finite(value):
            raise CommandError(f"{path}: {name} is not finite, expected numbers: the training that wrote it had failed")
    return weights


def load_weights(model: nn.Module, path: Path, described_by: str) -> None:
    """Put the weights of ``path`` into ``model``; ``described_by`` names the file that the model was built from.

    Raises
    ------
    CommandError
        As :func:`read_weights`, or names or shapes are not the model's.
    """
    weights = read_weights(path)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CommandError(f"{path}: not the weights that {described_by} describes ({short(error, 300)})") from error
