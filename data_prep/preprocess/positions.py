"""Positions of electrodes: MNE's standard montages and files of positions; metres in head coordinates."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError, UserError
from data_prep.contract.words import listed


@functools.cache
def montage_positions(name: str, field: str) -> Mapping[str, list[float]]:
    """Name -> [x, y, z] of the electrodes of a standard montage, or of a file of positions; ``field`` of the config names it.

    Raises
    ------
    StudyError
        Neither a file of positions nor a standard montage.
    """
    import mne

    try:
        if Path(name).is_file():
            montage = mne.channels.read_custom_montage(name, verbose="error")
        else:
            with warnings.catch_warnings():  # names that MNE is about to give up
                warnings.simplefilter("ignore", FutureWarning)
                montage = mne.channels.make_standard_montage(name)
    except Exception as error:
        if Path(name).is_file():
            raise StudyError(f"{name}: not a file of positions that MNE reads ({' '.join(str(error).split())[:300]})") from error
        raise StudyError(f"{field} is {name!r}: no such file, and not one of {', '.join(mne.channels.get_builtin_montages())}") from error
    info = mne.create_info(montage.ch_names, 1.0, "eeg", verbose="error").set_montage(montage, verbose="error")  # in head coordinates
    return {channel["ch_name"]: [round(float(value), 6) for value in channel["loc"][:3]] for channel in info["chs"]}


def places_of(ch_names: Sequence[str], positions: Mapping[str, Sequence[float]], why: str) -> np.ndarray:
    """float64 (n_chans, 3).

    Raises
    ------
    UserError
        Channels without a position, which ``why`` needs.
    """
    lacking = [name for name in ch_names if name not in positions]
    if lacking:
        raise UserError(f"channels {listed(lacking)} have no position, which {why} needs: say a montage in channels.montage")
    return np.array([positions[name] for name in ch_names], np.float64)


def info_of(ch_names: Sequence[str], sfreq: float, places_C3: np.ndarray | None, more: Mapping[str, str] | None = None) -> Any:
    """``mne.Info`` of EEG channels, where they are, and channels of other types besides."""
    import mne

    more = more or {}
    info = mne.create_info([*ch_names, *more], sfreq, ["eeg"] * len(ch_names) + list(more.values()), verbose="error")
    if places_C3 is not None:
        montage = mne.channels.make_dig_montage(dict(zip(ch_names, places_C3, strict=True)), coord_frame="head")
        info.set_montage(montage, on_missing="ignore", verbose="error")
    return info
