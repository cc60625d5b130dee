"""``params`` of a request, as a client or MLflow gives them: known names, the right kinds, a subject there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.contract.words import short

LABELS: Mapping[str, str | int] = {"subject": "", "session": ""}
"""Labels as in the study, one for all trials of a request; empty: unknown."""
RETRIEVAL: Mapping[str, str | int] = {**LABELS, "n_reps": 1}
"""Of a retrieval model: also of how many repetitions each trial that is sent is the average already, of which a likelihood depends."""
TEXT: Mapping[str, str | int] = {**LABELS, "seed": 0, "max_new_tokens": 48}
"""Of a text model: also the seed of sampling, and the longest caption in tokens."""
_KINDS: dict[type, tuple[tuple[type, ...], str]] = {str: ((str,), "text"), int: ((int, np.integer), "a whole number")}


def read_params(given: Any, defaults: Mapping[str, str | int], subjects: Sequence[str]) -> dict[str, Any]:
    """``defaults`` with what is given.

    Raises
    ------
    UserError
        No mapping, a name that ``defaults`` does not have, a value of another kind, or a subject that is none of ``subjects``.
    """
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise UserError(f"params is {short(given)}, expected an object with some of {', '.join(defaults)}")
    for name, value in given.items():
        if name not in defaults:
            raise UserError(f"params.{short(name)}: no such parameter, expected some of {', '.join(defaults)}")
        kind, said = _KINDS[type(defaults[name])]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"params.{name} is {short(value)}, expected {said}")
    found = {**defaults, **given}
    if found["subject"] and found["subject"] not in subjects:
        raise UserError(
            f"params.subject is {short(found['subject'])!r}, expected one of {short(subjects, 200)}, "
            "or none for a person whom the encoder was not trained on"
        )
    return found
