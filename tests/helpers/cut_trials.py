"""Trials that are already cut, as MNE, EEGLAB, braindecode and MOABB leave them.

Shape suffixes: B trials, C channels, T time points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.matlab_5 import save_eeglab_struct
from tests.helpers.matlab_73 import write_struct

CH_NAMES = ("Fz", "Cz", "Oz", "EOG")
SFREQ = 100.0
TMIN = -0.2
N_TIMES = 100
EVENT_ID = {"face/famous": 1, "face/other": 2, "house": 3, "rest": 9}
CODES = tuple(code for _ in range(4) for code in (1, 3, 2, 3))
"""Of 16 trials."""


def trials(seed: int = 0, num_trials: int = len(CODES), n_chans: int = len(CH_NAMES), n_times: int = N_TIMES) -> np.ndarray:
    """float64 (B, C, T), microvolts; an impulse at the onset of each, as high as the trial's number."""
    eeg_BCT = np.random.default_rng(seed).normal(0, 10, (num_trials, n_chans, n_times))
    eeg_BCT[:, 0, min(20, n_times - 1)] = 100.0 + np.arange(num_trials)
    return np.round(eeg_BCT, 3)


def mne_epochs(
    eeg_BCT: np.ndarray,
    *,
    codes: Sequence[int] = CODES,
    event_id: Mapping[str, int] = EVENT_ID,
    metadata: Mapping[str, Sequence[Any]] | None = None,
    ch_names: Sequence[str] = CH_NAMES,
    ch_types: Sequence[str] | str = ("eeg", "eeg", "eeg", "eog"),
    sfreq: float = SFREQ,
    tmin: float = TMIN,
    scale: float = 1e-6,
    timed: bool = True,
    **options: Any,
) -> Any:
    """MNE's object; the stimuli follow each other every two seconds."""
    import mne
    import pandas as pd

    info = mne.create_info(list(ch_names), sfreq, ch_types if isinstance(ch_types, str) else list(ch_types), verbose="error")
    points = np.arange(len(codes)) * (round(2 * sfreq) if timed else 1) + 50
    events = np.stack([points, np.zeros(len(codes), int), np.asarray(codes)], 1)
    made = mne.EpochsArray(scale * eeg_BCT, info, events, tmin, dict(event_id), on_missing="ignore", verbose="error", **options)
    if metadata is not None:
        made.metadata = pd.DataFrame(metadata)
    return made


def write_fif(file: Path, eeg_BCT: np.ndarray, **options: Any) -> Path:
    """MNE Epochs in one file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    mne_epochs(eeg_BCT, **options).save(file, fmt="double", verbose="error")
    return file


# ----------------------------------------------------------------------------------------------------------- EEGLAB


def eeglab_struct(eeg_BCT: np.ndarray, sides: Sequence[str], *, sfreq: float = SFREQ, tmin: float = TMIN) -> dict[str, Any]:
    """EEGLAB's structure of epochs: before and after the stimulus of each lie others (``key``, ``square``), as in a fast experiment."""
    num_trials, n_chans, n_times = eeg_BCT.shape
    events: list[dict[str, Any]] = []
    for trial, side in enumerate(sides):
        start = trial * n_times + 1
        at = start + round(-tmin * sfreq)
        if trial % 3 == 0:
            events.append({"type": "square", "side": "before", "latency": float(start + 2), "urevent": 2 * trial + 1, "epoch": trial + 1})
        events.append({"type": "square", "side": side, "latency": float(at), "urevent": 2 * trial + 2, "epoch": trial + 1})
        if trial % 2:
            events.append({"type": "key", "side": "", "latency": at + 31.4, "urevent": 1, "epoch": trial + 1})
    before = [{"type": "square", "latency": 1.0 + 100 * i} for i in range(2 * num_trials + 2)]
    places = [
        {"labels": name, "X": 80.0 + i, "Y": 5.0, "Z": 30.0, "type": "EOG" if name == "EOG" else "EEG"}
        for i, name in enumerate(CH_NAMES[:n_chans])
    ]
    return {
        "setname": "s", "nbchan": n_chans, "trials": num_trials, "pnts": n_times, "srate": sfreq, "xmin": tmin,
        "xmax": tmin + (n_times - 1) / sfreq, "data": np.ascontiguousarray(eeg_BCT.transpose(1, 2, 0), np.float32),
        "event": events, "urevent": before, "chanlocs": places,
        "epoch": [{"event": 1}] * num_trials, "ref": "common",
    }  # fmt: skip


def write_eeglab(
    file: Path, eeg_BCT: np.ndarray, sides: Sequence[str], *, beside: str | None = None, changes: Mapping[str, Any] | None = None
) -> Path:
    """A ``.set`` of MATLAB 5; ``beside`` is the path that it gives its ``.fdt``, which lies beside it; ``changes`` are other fields."""

    content = eeglab_struct(eeg_BCT, sides) | dict(changes or {})
    if beside is not None:
        eeg_BCT.transpose(0, 2, 1).astype("<f4").tofile(file.parent / Path(beside.replace("\\", "/")).name)
        content["data"] = beside
    return save_eeglab_struct(file, content, ("event", "urevent", "chanlocs", "epoch"))


def write_eeglab_73(file: Path, eeg_BCT: np.ndarray, sides: Sequence[str], **options: Any) -> Path:
    """A ``.set`` as MATLAB 7.3 saves it."""
    return write_struct(file, "EEG", eeglab_struct(eeg_BCT, sides, **options))


# ------------------------------------------------------------------------------------------------------ braindecode


def write_braindecode(
    root: Path,
    recordings: Sequence[tuple[Mapping[str, Any], np.ndarray]],
    targets: Sequence[int],
    *,
    mapping: Mapping[str, int],
    offset: int = 0,
    windows: int = 1,
    stride: int = 10,
    rate: float = SFREQ,
) -> Path:
    """A folder as ``BaseConcatDataset.save`` leaves it: ``0/0-epo.fif``, ``description.json``, ``window_kwargs.json`` ...

    ``offset`` is ``trial_start_offset_samples``, counted at ``rate``; each trial has ``windows``.
    """
    import pandas as pd

    for i, (description, eeg_BCT) in enumerate(recordings):
        folder = root / str(i)
        folder.mkdir(parents=True)
        length = round(eeg_BCT.shape[2] * rate / SFREQ)
        starts = [1000 * trial + stride * window + offset for trial in range(len(targets)) for window in range(windows)]
        metadata = {
            "i_window_in_trial": [window for _ in targets for window in range(windows)],
            "i_start_in_trial": starts,
            "i_stop_in_trial": [start + length for start in starts],
            "target": [target for target in targets for _ in range(windows)],
        }
        codes = metadata["target"]
        made = mne_epochs(eeg_BCT, codes=codes, event_id=mapping, metadata=metadata, tmin=0.0)
        made.save(folder / f"{i}-epo.fif", fmt="double", verbose="error")
        pd.Series(description).to_json(folder / "description.json", default_handler=str)
        settings = {
            "trial_start_offset_samples": offset,
            "trial_stop_offset_samples": 0,
            "window_size_samples": length,
            "mapping": dict(mapping),
        }
        steps = [["create_windows_from_events", settings], ["WindowsDataset", {"targets_from": "metadata", "last_target_only": True}]]
        (folder / "window_kwargs.json").write_text(json.dumps(steps, indent=2))
        (folder / "raw_preproc_kwargs.json").write_text(json.dumps([["filter", {"l_freq": 4.0, "h_freq": 38.0}]]))
    return root
