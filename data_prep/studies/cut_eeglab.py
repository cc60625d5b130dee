"""Cut trials in EEGLAB files: ``.set`` of MATLAB 5 and 7.3, with the signal inside or in a ``.fdt`` beside it.

A trial may hold several events; the one at latency 0 is that which it was cut around, and all its fields are columns.

Shape suffixes: B trials, C channels, T time points, N events.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.studies.cut_files import CutFile, cell_text, header_of
from data_prep.studies.eeglab_events import content_of, is_hdf5, rows_of
from data_prep.studies.laid_trials import laid_trials, state_of
from data_prep.studies.recording_files import companions

_SCALES = ((0.25, 1.0), (2.5, 0.1), (25.0, 0.01))
"""Median distance of electrodes from the centre below -> metres of one: EEGLAB's positions have no unit."""
_TYPES = {"eeg": "eeg", "eog": "eog", "ecg": "ecg", "emg": "emg", "stim": "stim", "misc": "misc", "ref": "misc"}


def describe(file: Path, folder: Path) -> None:
    """Read all of ``file`` but a signal beside it; leave ``facts.json`` and, for a signal inside, ``trials.npy`` in ``folder``.

    Raises
    ------
    StudyError
        A continuous recording, or fields that contradict each other.
    """
    eeg = content_of(file)
    n_chans, n_times, num_trials = (_count(file, eeg, name) for name in ("nbchan", "pnts", "trials"))
    if num_trials < 2:
        raise StudyError(f"{file}: holds a continuous recording, expected cut trials: the reader mne cuts it")
    sfreq, tmin = _number(file, eeg, "srate"), _number(file, eeg, "xmin")
    labels, types, positions = _channels(file, eeg.get("chanlocs"), n_chans)
    signal = _signal(file, eeg, (n_chans, n_times, num_trials))
    if isinstance(signal, np.ndarray):
        np.save(folder / "trials.npy", signal)
    facts = {
        "shape": [n_chans, n_times, num_trials],
        "sfreq": sfreq,
        "tmin": tmin,
        "ch_names": labels,
        "ch_types": types,
        "positions": positions,
        "signal": None if isinstance(signal, np.ndarray) else str(signal),
        **_events(file, eeg, sfreq, tmin, n_times, num_trials),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def open_described(file: Path, folder: Path, keep: Any) -> CutFile:
    """What :func:`describe` left; ``keep`` lives as long as the trials are read."""
    facts = json.loads((folder / "facts.json").read_text())
    n_chans, n_times, num_trials = facts["shape"]
    beside = None if facts["signal"] is None else Path(facts["signal"])
    laid = None
    if beside is None:
        trials_BTC = np.load(folder / "trials.npy", mmap_mode="r", allow_pickle=False)
    else:
        state = state_of(beside)
        trials_BTC = np.memmap(beside, "<f4", "r", shape=(num_trials, n_times, n_chans))
        laid = laid_trials(beside, trials_BTC.transpose(0, 2, 1), state)

    def read(rows: Sequence[int], picks: Sequence[int], _keep: Any = keep) -> np.ndarray:
        return np.ascontiguousarray(trials_BTC[np.asarray(rows)][:, :, list(picks)].transpose(0, 2, 1))

    return CutFile(
        file=file,
        format="EEGLAB",
        header=header_of(file, facts["ch_names"], facts["ch_types"], facts["positions"]),
        unit="microvolts",
        sfreq=round(float(facts["sfreq"]), 6),
        tmin=round(float(facts["tmin"]), 6),
        n_times=n_times,
        num_trials=num_trials,
        columns=facts["columns"],
        trial_N=facts["trial"],
        number_B=range(num_trials),
        onset_seconds_B=facts["onset_seconds"],
        read=laid.read if laid else read,
        files=[path for path in {*companions(file), *([beside] if beside else [])} if path.is_file()],
        laid=laid,
        notes=facts["notes"],
    )


# ------------------------------------------------------------------------------------------------------------ fields


def _number(file: Path, eeg: Mapping[str, Any], name: str) -> float:
    try:
        value = float(np.asarray(eeg[name], np.float64).reshape(-1)[0])
    except (KeyError, IndexError, TypeError, ValueError):
        raise StudyError(f"{file}: EEG.{name} is {eeg.get(name)!r}, expected a number") from None
    if not np.isfinite(value):
        raise StudyError(f"{file}: EEG.{name} is {value}, expected a number")
    return value


def _count(file: Path, eeg: Mapping[str, Any], name: str) -> int:
    value = _number(file, eeg, name)
    if value != int(value) or value < 1:
        raise StudyError(f"{file}: EEG.{name} is {value:g}, expected a whole number of at least 1")
    return int(value)


def _channels(file: Path, table: Any, n_chans: int) -> tuple[list[str], list[str], dict[str, list[float]]]:
    rows = rows_of(table if table is not None else [])
    if rows and len(rows) != n_chans:
        raise StudyError(f"{file}: EEG.chanlocs has {len(rows)} channels, EEG.nbchan says {n_chans}: expected as many")
    labels = [cell_text(row.get("labels")) or f"E{i + 1}" for i, row in enumerate(rows)] or [f"E{i + 1}" for i in range(n_chans)]
    types = [_TYPES.get(cell_text(row.get("type")).lower(), "eeg") for row in rows] or ["eeg"] * n_chans
    places: dict[str, list[float]] = {}
    for label, row in zip(labels, rows, strict=False):
        try:
            x, y, z = (float(cell_text(row.get(axis))) for axis in "XYZ")
        except ValueError:
            continue
        if np.isfinite([x, y, z]).all() and any((x, y, z)):
            places[label] = [0.0 - y, x, z]  # EEGLAB's X is the nose
    if places:
        radius = float(np.median([np.linalg.norm(place) for place in places.values()]))
        scale = next((scale for most, scale in _SCALES if radius < most), 0.001)
        places = {label: [scale * value for value in place] for label, place in places.items()}
    return labels, types, places


def _signal(file: Path, eeg: Mapping[str, Any], shape: tuple[int, int, int]) -> np.ndarray | Path:
    """float32 (B, T, C), or the file that holds it."""
    data = _hdf5_data(file) if is_hdf5(file) else eeg.get("data")
    if isinstance(data, np.ndarray) and data.dtype.kind in "fiu" and data.size > 1:
        data = data.reshape(shape, order="F") if data.ndim == 2 and data.size == np.prod(shape) else data
        if data.shape != shape:
            raise StudyError(f"{file}: EEG.data has shape {data.shape}, expected {shape} (nbchan, pnts, trials)")
        return np.ascontiguousarray(data.transpose(2, 1, 0), "<f4")
    named = cell_text(data)
    # The path is that of the machine that saved it; EEGLAB, too, looks beside the .set, under its name where it was renamed.
    choices = [file.with_name(Path(named.replace("\\", "/")).name)] if named else []
    choices.append(file.with_suffix(".fdt"))
    beside = next((path for path in choices if path.is_file()), None)
    if beside is None:
        raise StudyError(f"{file}: its signal is in {choices[0].name}, which is not beside it")
    if beside.suffix.lower() != ".fdt":
        raise StudyError(f"{file}: its signal is in {beside.name}, expected a .fdt file")
    wanted = 4 * int(np.prod(shape, dtype=np.int64))
    if beside.stat().st_size != wanted:
        raise StudyError(
            f"{beside}: has {beside.stat().st_size:,} bytes, {file.name} says {shape[0]} channels, {shape[1]} points and {shape[2]} "
            "trials: "
            f"expected {wanted:,}"
        )
    return beside


def _hdf5_data(file: Path) -> Any:
    import h5py

    with h5py.File(file, "r") as content:
        top = content.get("EEG", content)
        node = top["data"]
        if node.attrs.get("MATLAB_class") == b"char":
            return "".join(chr(int(code)) for code in np.asarray(node).reshape(-1))
        return np.asarray(node).transpose()


# ------------------------------------------------------------------------------------------------------------ events


def _events(file: Path, eeg: Mapping[str, Any], sfreq: float, tmin: float, n_times: int, num_trials: int) -> dict[str, Any]:
    """``columns``, ``trial`` (a row for every event at latency 0), ``onset_seconds`` and ``notes``."""
    rows = rows_of(eeg.get("event", []))
    chosen: list[tuple[int, Mapping[str, Any]]] = []
    for number, row in enumerate(rows, start=1):
        try:
            latency = float(cell_text(row.get("latency")))
        except ValueError:
            raise StudyError(f"{file}: event {number} has latency {row.get('latency')!r}, expected a time point") from None
        trial = int(np.floor((latency - 1 + 1e-6) / n_times))
        said = cell_text(row.get("epoch"))
        if said and said != str(trial + 1):
            raise StudyError(
                f"{file}: event {number} says trial {said}, its latency {latency:g} lies in trial {trial + 1} of {n_times} points"
            )
        seconds = (latency - 1 - trial * n_times) / sfreq + tmin
        if abs(seconds) <= 0.51 / sfreq and 0 <= trial < num_trials and cell_text(row.get("type")).lower() != "boundary":
            chosen.append((trial, row))
    if not chosen:
        raise StudyError(f"{file}: none of its {len(rows)} events is at latency 0 of a trial ({tmin:g} s to {tmin + n_times / sfreq:g} s)")
    fields = list(dict.fromkeys(name for _, row in chosen for name in row if name != "latency"))
    columns = {name: [cell_text(row.get(name)) for _, row in chosen] for name in fields}
    types = columns.get("type", [""] * len(chosen))
    without = num_trials - len({trial for trial, _ in chosen})
    return {
        "columns": {"event": types, "value": types, **columns},
        "trial": [trial for trial, _ in chosen],
        "onset_seconds": _onsets(eeg, chosen, sfreq, num_trials),
        "notes": {
            "reference": cell_text(eeg.get("ref")),
            **({"trials_without_an_event_at_0": without} if without else {}),
            **({"events_at_other_times": len(rows) - len(chosen)} if len(rows) > len(chosen) else {}),
        },
    }


def _onsets(eeg: Mapping[str, Any], chosen: Sequence[tuple[int, Mapping[str, Any]]], sfreq: float, num_trials: int) -> list[float | None]:
    """From the table of the events before they were cut (``urevent``), by the number that each event has there."""
    before = rows_of(eeg.get("urevent", []))
    onsets: list[float | None] = [None] * num_trials
    for trial, row in chosen:
        number = cell_text(row.get("urevent"))
        if number.isdigit() and 0 < int(number) <= len(before):
            try:
                onsets[trial] = round((float(cell_text(before[int(number) - 1].get("latency"))) - 1) / sfreq, 4)
            except ValueError:
                onsets[trial] = None
    return onsets
