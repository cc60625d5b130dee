"""Codes of a trigger channel: which levels are events, whatever bits rest high, fall, stay behind or bounce.

Shape suffixes: T time points, R runs of one level.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data_prep.studies.continuous import Events

_MOSTLY = 0.75
"""Share of time in which a level that is no 0 has to be there to be the one at rest."""
_STUCK_SHARE = 0.05
_STUCK_INSIDE = 4
"""A bit that changes twice at most, and while it is set other bits rise and fall twice, is no event's."""
_LONG_POINTS = 4
"""Codes that are usually held as long have no business with one of a single point."""
_PAUSES = 4
"""Times as long as a bounce lasts at most are pauses between codes, as a rule."""


def rising_edges(level_T: np.ndarray, mask: int | None, near: int = 2) -> Events:
    """An event where the code becomes another than 0; one that is held is one event.

    Bits that are always set, or stay behind once they were, do not count; where events clear bits of the level at rest, those are the code.
    A code of one point on the way to another, as ports that are written bit by bit give, is none, and one that comes back within ``near``
    points has bounced. ``mask``: the bits that count, as they are.
    """
    code_T, notes = (level_T & mask, {}) if mask is not None else _codes(level_T)
    starts_R = np.flatnonzero(np.diff(code_T, prepend=code_T[:1] - 1))
    code_R, length_R = code_T[starts_R], np.diff(starts_R, append=len(code_T))
    if (code_R != 0).any() and np.median(length_R[code_R != 0]) >= _LONG_POINTS:
        keep_R = ~((length_R == 1) & (code_R != 0) & (np.append(code_R[1:], 0) != 0))
        notes |= {"codes_of_one_point_on_the_way": int((~keep_R).sum())} if not keep_R.all() else {}
        starts_R, code_R, length_R = starts_R[keep_R], code_R[keep_R], length_R[keep_R]
    back_R = np.zeros(len(code_R), bool)
    if (code_R == 0).any() and np.quantile(length_R[code_R == 0], 0.75) >= _PAUSES * near:
        back_R[2:] = (code_R[2:] != 0) & (code_R[2:] == code_R[:-2]) & (code_R[1:-1] == 0) & (length_R[1:-1] <= near)
        notes |= {"bounced": int(back_R.sum())} if back_R.any() else {}
    rise_R = (code_R != 0) & ~back_R & (code_R != np.concatenate([[0], code_R[:-1]]))
    rises, code_R = starts_R[rise_R], code_R[rise_R]
    shared = int(np.bitwise_and.reduce(code_R)) if len(set(code_R.tolist())) > 1 else 0
    if shared:
        notes["bits_in_every_code"] = shared  # an offset of the trigger box, which events.stim_mask can leave out
    return Events(point_N=rises.astype(np.int64), columns={"value": [str(code) for code in code_R.tolist()]}, notes=notes)


def _codes(level_T: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """The level without what is always there, and what was left out of it."""
    notes: dict[str, Any] = {}
    always = int(np.bitwise_and.reduce(level_T))
    usual = _usual(level_T)
    stuck = sum(bit for bit in _bits(level_T & ~always) if _is_stuck(level_T, bit))
    if stuck:
        notes["bits_that_stay_set"] = stuck
    rest_T = level_T & ~(always | stuck)
    idle = _usual(rest_T)
    code_T = rest_T & ~idle
    if idle and not code_T.any() and np.mean(rest_T == idle) >= _MOSTLY:
        notes["events_clear_bits"] = idle
        code_T = idle & ~rest_T
    elif idle and np.mean(rest_T == idle) < _MOSTLY:
        notes["held_until_the_next"] = True  # no level is at rest: each code stays until another comes
        code_T = rest_T
    if usual and "held_until_the_next" not in notes:
        notes["idle_level"] = usual
    return code_T, notes


def _usual(level_T: np.ndarray) -> int:
    values, counts = np.unique(level_T, return_counts=True)
    return int(values[np.argmax(counts)])


def _bits(level_T: np.ndarray) -> list[int]:
    found = int(np.bitwise_or.reduce(level_T))
    return [1 << place for place in range(max(found, 0).bit_length()) if found >> place & 1]


def _is_stuck(level_T: np.ndarray, bit: int) -> bool:
    """Whether a bit stays set while the others come and go, and are away most of that time."""
    set_T = (level_T & bit) != 0
    if np.count_nonzero(np.diff(set_T)) > 2 or not _STUCK_SHARE <= set_T.mean() < 1:
        return False
    others_T = (level_T & ~bit)[set_T]
    away = _usual(others_T)
    return bool(np.count_nonzero(np.diff(others_T)) >= _STUCK_INSIDE and np.mean(others_T == away) >= _MOSTLY)
