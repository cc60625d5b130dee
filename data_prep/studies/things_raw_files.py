"""One raw THINGS-EEG2 session file: ``raw_eeg_training.npy`` or ``raw_eeg_test.npy``, read where it lies.

A dict ``raw_eeg_data`` (channels, times), ``ch_names``, ``ch_types``, ``sfreq``, ``highpass``, ``lowpass``; the stim channel holds the
number
of the image (from 1) at its onset, 99999 for a target. A training file is five runs laid end to end, and does not say where one ends.

Shape suffixes: C channels, T time points, N events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.file_rows import give_back
from data_prep.contract.words import listed
from data_prep.studies.channels import recognised

TARGET = 99999
"""Event of a target, to which the subject responds."""
RUN_LENGTH = 3360
"""Presentations of a training run, targets counted."""
NUM_RUNS = 5
_KEYS = ("raw_eeg_data", "ch_names", "ch_types", "sfreq")
_ROWS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """An opened session file."""

    file: Path
    data_CT: np.ndarray
    """In the file, with its stim channel."""
    eeg_rows: Mapping[str, int]
    """EEG channels, in the file's order, and their rows."""
    left_out: list[str]
    """Channels that are no EEG."""
    sfreq: float
    filters: Mapping[str, float]
    """``highpass`` and ``lowpass`` of the amplifier, Hz, as the file says."""
    point_N: np.ndarray
    """int64: onsets, targets among them."""
    code_N: np.ndarray
    """int64: what was shown."""
    held: int
    """Events whose trigger lasts more than one point."""

    def signal(self, ch_names: Sequence[str], start: int, stop: int, factor: float) -> np.ndarray:
        """float64 (C, T) of some channels and points, times ``factor``.

        Raises
        ------
        StudyError
            Values that are not finite.
        """
        eeg_CT = np.empty((len(ch_names), stop - start), np.float64)
        for row, name in enumerate(ch_names):
            eeg_CT[row] = self.data_CT[self.eeg_rows[name], start:stop]
            if row % _ROWS_AT_ONCE == _ROWS_AT_ONCE - 1:
                give_back(self.data_CT)
        give_back(self.data_CT)
        eeg_CT *= factor
        bad_C = ~np.isfinite(eeg_CT).all(1)
        if bad_C.any():
            raise StudyError(
                f"{self.file}: channel {ch_names[int(bad_C.argmax())]!r} has values that are not finite, expected a whole signal"
            )
        return eeg_CT


def open_raw(file: Path, num_images: int) -> RawFile:
    """Read what a file says, and its stim channel.

    Raises
    ------
    StudyError
        One sentence: what is missing, contradicts itself, or is no image of the study.
    """
    content = safe_load.load(file, headers_only=True)
    if not isinstance(content, dict) or any(key not in content for key in _KEYS):
        raise StudyError(
            f"{file}: expected a dict of {', '.join(_KEYS)}; it has {listed(content) if isinstance(content, dict) else 'none of them'}"
        )
    data_CT = content["raw_eeg_data"]
    if not isinstance(data_CT, np.ndarray) or data_CT.ndim != 2 or data_CT.dtype.kind not in "fiu" or not data_CT.size:
        found = f"{data_CT.dtype} of shape {data_CT.shape}" if isinstance(data_CT, np.ndarray) else f"a {type(data_CT).__name__}"
        raise StudyError(f"{file}: raw_eeg_data is {found}, expected real numbers (channels, times)")
    names = safe_load.texts(content["ch_names"], file, "ch_names")
    types = safe_load.texts(content["ch_types"], file, "ch_types")
    if not len(names) == len(types) == len(data_CT):
        raise StudyError(
            f"{file}: {len(data_CT)} channels of raw_eeg_data, {len(names)} ch_names and {len(types)} ch_types: expected as many"
        )
    if len(set(names)) != len(names):
        raise StudyError(f"{file}: has channel {next(name for name in names if names.count(name) > 1)!r} twice, expected names that differ")
    stims = [row for row, kind in enumerate(types) if kind == "stim"]
    if len(stims) != 1:
        raise StudyError(f"{file}: has {len(stims)} channels of type stim ({listed(names[row] for row in stims)}), expected one")
    eeg_rows = {name: row for row, (name, kind) in enumerate(zip(names, types, strict=True)) if kind == "eeg" and recognised(name) is None}
    if not eeg_rows:
        raise StudyError(f"{file}: has no channel of type eeg; it has {listed(f'{n} ({k})' for n, k in zip(names, types, strict=True))}")
    point_N, code_N, held = _events(file, np.array(data_CT[stims[0]], np.float64), num_images)
    give_back(data_CT)
    return RawFile(
        file=file,
        data_CT=data_CT,
        eeg_rows=eeg_rows,
        left_out=[name for row, name in enumerate(names) if name not in eeg_rows and row != stims[0]],
        sfreq=_number(file, content, "sfreq"),
        filters={key: _number(file, content, key) for key in ("highpass", "lowpass") if content.get(key) is not None},
        point_N=point_N,
        code_N=code_N,
        held=held,
    )


def _number(file: Path, content: Mapping[str, Any], key: str) -> float:
    value = content[key]
    value = value.item() if isinstance(value, (np.ndarray, np.generic)) and value.size == 1 else value
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (np.isfinite(value) and value >= 0)
        or (key == "sfreq" and not value)
    ):
        raise StudyError(f"{file}: {key} is {value!r}, expected a number of Hz")
    return float(value)


def _events(file: Path, stim_T: np.ndarray, num_images: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Onsets, codes, and how many triggers are held: a rising edge is an event."""
    if not np.isfinite(stim_T).all() or (stim_T != np.round(stim_T)).any() or stim_T.min() < 0:
        raise StudyError(f"{file}: its stim channel holds values that are no event codes ({stim_T.min():g} to {stim_T.max():g})")
    rises_T = (stim_T != 0) & (stim_T != np.r_[0.0, stim_T[:-1]])
    point_N = np.flatnonzero(rises_T).astype(np.int64)
    code_N = stim_T[point_N].astype(np.int64)
    if not len(point_N):
        raise StudyError(f"{file}: its stim channel is 0 throughout, expected event codes")
    strange = code_N[(code_N > num_images) & (code_N != TARGET)]
    if len(strange):
        raise StudyError(
            f"{file}: event code {strange[0]} ({len(strange)} such events), expected an image's number from 1 to {num_images} as in "
            f"image_metadata.npy, or {TARGET} for a target"
        )
    lasts = point_N[point_N + 1 < len(stim_T)]
    return point_N, code_N, int((stim_T[lasts + 1] == stim_T[lasts]).sum())


def run_starts(raw: RawFile, ch_names: Sequence[str], run_length: int) -> list[int]:
    """First time point of every run of ``run_length`` events: between two runs, where the channels jump most."""
    starts = [0]
    for first in range(run_length, len(raw.point_N), run_length):
        before, after = int(raw.point_N[first - 1]), int(raw.point_N[first])
        steps_CT = np.abs(np.diff(raw.signal(ch_names, before, after + 1, 1.0), axis=1))
        usual_C = np.median(steps_CT, axis=1)
        jump_T = (steps_CT / np.where(usual_C > 0, usual_C, np.inf)[:, None]).sum(0)
        starts.append(before + int(jump_T.argmax()) + 1)
    return starts
