"""An encoder in inference, held to be so: the same picture gives the same numbers, whatever was drawn before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError

_OF_CHANCE = ("Random", "Jitter", "AutoAugment", "TrivialAugment", "AugMix", "RandAugment", "MixUp", "CutMix", "ErasingD")


def refuse_chance(transform: Callable[[Any], Any], encode: Callable[[Any], list[np.ndarray]], what: str) -> None:
    """Refuse a transform that is for training, whose crops would be of places that nobody can name, and a network that draws masks.

    Parameters
    ----------
    encode
        A list of transformed images to arrays.

    Raises
    ------
    StudyError
        It names its random step, or gave one picture twice differently.
    """
    from PIL import Image

    named = next((name for name in map(_name, _steps(transform)) if any(word in name for word in _OF_CHANCE)), None)
    if named is not None:
        raise StudyError(f"{what}: its transform has {named}, which draws at random: expected the model's inference transform")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 420, 3), dtype=np.uint8))
    first, second = transform(picture), transform(picture)
    if not np.array_equal(np.asarray(first), np.asarray(second)):
        raise StudyError(f"{what}: its transform gave one picture twice differently: expected the model's inference transform")
    for one, other in zip(encode([first]), encode([first]), strict=True):
        if not np.allclose(one, other, rtol=1e-2, atol=1e-2 * max(1e-6, float(np.abs(one).max()))):
            raise StudyError(f"{what}: gave one picture twice differently, as networks do that mask at random: expected one for inference")


def _steps(transform: Any, depth: int = 0) -> list[Any]:
    inner = getattr(transform, "transforms", None)
    steps = [transform]
    for each in inner if isinstance(inner, (list, tuple)) and depth < 8 else ():
        steps += _steps(each, depth + 1)
    return steps


def _name(step: Any) -> str:
    return type(step).__name__ if not hasattr(step, "__name__") else str(step.__name__)


def in_words(transform: Any) -> str:
    """A transform in one line, without addresses in memory."""
    import re

    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(transform).split()))
