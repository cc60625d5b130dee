"""Weights from files that may be damaged: whatever is wrong with a ``.safetensors`` is one sentence that names the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
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


def check_shapes(expected: Mapping[str, Tensor], path: Path, described_by: str) -> None:
    """Hold the names and shapes that the header of ``path`` says against ``expected``, which may be on the meta device: a config that asks
    for more memory than there is must not get it before it is known to be that of the weights.

    Raises
    ------
    CommandError
        Names what differs, and ``described_by``, the file that ``expected`` is built from.
    """
    try:
        with safe_open(path, "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception:  # read_weights says it, after whatever is wrong with the config
        return
    for name in sorted(found.keys() | expected.keys()):
        sizes = [None if shape is None else tuple(shape) for shape in (found.get(name), getattr(expected.get(name), "shape", None))]
        if sizes[0] != sizes[1]:
            here, wanted = ("no such weights" if size is None else f"shape {size}" for size in sizes)
            raise CommandError(f"{path}: not the weights that {described_by} describes ({name}: {here}, expected {wanted})")


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
