"""Codes of a trigger channel, however a device writes them: the same events of every one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.studies.trigger_channel import rising_edges

few = settings(max_examples=40, deadline=None, derandomize=True)
pulses = st.lists(st.tuples(st.integers(1, 7), st.integers(5, 20), st.integers(30, 60)), min_size=12, max_size=20)
"""Code, points that it is held, points until the next."""


def level(runs: list[tuple[int, int, int]]) -> tuple[np.ndarray, list[int], list[str]]:
    """A trigger channel at rest before and after each of its codes; onsets and codes."""
    parts, onsets, at = [np.zeros(40, int)], [], 40
    for code, held, pause in runs:
        parts += [np.full(held, code), np.zeros(pause, int)]
        onsets.append(at)
        at += held + pause
    return np.concatenate(parts), onsets, [str(code) for code, *_ in runs]


def stuck_from_half(code_T: np.ndarray) -> np.ndarray:
    return code_T + 64 * (np.arange(len(code_T)) > len(code_T) // 2)


def stuck_till_a_third(code_T: np.ndarray) -> np.ndarray:
    return code_T + 64 * (np.arange(len(code_T)) < len(code_T) // 3)


def bounced(code_T: np.ndarray) -> np.ndarray:
    rises = np.flatnonzero(np.diff(code_T) > 0) + 1
    out_T = code_T.copy()
    out_T[rises + 2] = 0
    return out_T


DEVICES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they are": lambda code_T: code_T,
    "an offset bit": lambda code_T: code_T + 4096,
    "16 bits with a sign": lambda code_T: code_T - 32768,
    "an offset while nothing happens": lambda code_T: np.where(code_T == 0, 64, code_T),
    "events clear bits": lambda code_T: 255 - code_T,
    "a bit stuck from half on": stuck_from_half,
    "a bit stuck for a third": stuck_till_a_third,
    "a contact that bounces": bounced,
}


@few
@given(pulses, st.sampled_from(sorted(DEVICES)))
def test_every_device_gives_the_same_events(runs: list[tuple[int, int, int]], device: str) -> None:
    code_T, onsets, codes = level(runs)
    found = rising_edges(DEVICES[device](code_T), None)
    assert found.point_N.tolist() == onsets
    assert found.columns["value"] == codes


@few
@given(st.lists(st.integers(1, 6), min_size=6, max_size=20), st.integers(20, 60))
def test_codes_that_stay_until_the_next_are_events_though_none_is_at_rest(codes: list[int], length: int) -> None:
    code_T = np.concatenate([np.zeros(length, int), *(np.full(length, code) for code in codes)])
    merged = [code for i, code in enumerate(codes) if not i or code != codes[i - 1]]
    found = rising_edges(code_T, None)
    assert found.columns["value"] == [str(code) for code in merged]


@few
@given(st.lists(st.sampled_from([3, 5, 6, 7]), min_size=6, max_size=12))
def test_a_port_that_is_written_bit_by_bit_gives_one_event(codes: list[int]) -> None:
    code_T, onsets, names = level([(code, 10, 40) for code in codes])
    for onset, code in zip(onsets, codes, strict=True):
        code_T[onset] = code & -code  # its lowest bit a point before the others
    found = rising_edges(code_T, None)
    assert found.columns["value"] == names
    assert found.point_N.tolist() == [onset + 1 for onset in onsets]


def test_pulses_of_one_point_are_events() -> None:
    code_T, onsets, codes = level([(code, 1, 40) for code in (1, 2, 1, 1, 2, 3)])
    found = rising_edges(code_T, None)
    assert (found.point_N.tolist(), found.columns["value"]) == (onsets, codes)


@pytest.mark.parametrize("mask", [3, 7])
def test_a_mask_counts_its_bits_alone(mask: int) -> None:
    code_T, onsets, _ = level([(code, 5, 40) for code in (1, 2, 5, 6)])
    found = rising_edges(code_T + 64, mask)
    assert found.point_N.tolist() == onsets
    assert found.columns["value"] == [str(code & mask) for code in (1, 2, 5, 6)]


def test_a_channel_without_events() -> None:
    assert not len(rising_edges(np.zeros(100, int), None).point_N)
    assert not len(rising_edges(np.full(100, 255), None).point_N)
