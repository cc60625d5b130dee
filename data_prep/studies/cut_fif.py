"""Cut trials in FIF files as MNE saves its Epochs, alone or in parts, and as braindecode saves its windows.

Shape suffixes: B trials, C channels, T time points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.studies.braindecode import Windows, windows_of
from data_prep.studies.continuous import one_line
from data_prep.studies.cut_files import CutFile, cell_text
from data_prep.studies.fif_tags import parts_of, read_fif

_IGNORED = "IGNORED"
"""MNE's word for an event that nobody asked to cut."""


def open_fif(file: Path) -> CutFile:
    """The trials of ``file`` and of its later parts; the signal is read when it is asked for.

    ``columns`` are ``value`` and ``event`` (the name that the file gives an event's code), ``code``, those of its metadata, and, where
    braindecode saved it, those of ``description.json`` and ``target_name``.

    Raises
    ------
    StudyError
        Another kind of FIF file, a part of another recording, one that is not whole, or two names of one code.
    """
    found = read_fif(file)
    if found.holds != "cut trials":
        hint = ": the reader mne cuts it" if found.holds == "continuous" else ""
        wanted = "trials: an average has lost them" if found.holds == "averages" else "cut trials (MNE Epochs)"
        raise StudyError(f"{file}: holds {'a continuous recording' if hint else found.holds}, expected {wanted}{hint}")
    _refuse_later_part(file)
    parts = parts_of(file)
    mne_epochs = _read(file, parts)
    names = _names_of_codes(file, mne_epochs.event_id)
    codes = mne_epochs.events[:, 2].tolist()
    num_trials = len(codes)
    if not num_trials:
        raise StudyError(f"{file}: holds no trial ({len(mne_epochs.drop_log):,} were dropped), expected some")
    shown = [names.get(code, str(code)) for code in codes]
    columns = {"value": shown, "event": shown, "code": [str(code) for code in codes]}
    for name, cells in _metadata(mne_epochs.metadata).items():
        columns["metadata." + name if name in columns else name] = cells
    sfreq = round(float(mne_epochs.info["sfreq"]), 6)
    n_times = len(mne_epochs.times)
    saved = windows_of(file, columns, sfreq, n_times)
    tmin = float(mne_epochs.tmin)
    if saved is not None:
        columns.update({name if name not in columns else f"description.{name}": cells for name, cells in saved.columns(num_trials).items()})
        tmin += saved.offset_seconds
    return CutFile(
        file=file,
        format="FIF" if saved is None else "FIF of braindecode",
        header=_header(mne_epochs.info),
        unit="volts",
        sfreq=sfreq,
        tmin=round(tmin, 6),
        n_times=n_times,
        num_trials=num_trials,
        columns=columns,
        trial_N=range(num_trials),
        number_B=_numbers(mne_epochs.selection, num_trials),
        onset_seconds_B=_onsets(mne_epochs, num_trials),
        read=lambda rows, picks: mne_epochs.get_data(picks=list(picks), item=np.asarray(rows), verbose="error"),
        files=[*parts, *(saved.files if saved else [])],
        num_before_drops=len(mne_epochs.drop_log),
        notes=_notes(mne_epochs, names, codes, saved),
    )


def _refuse_later_part(file: Path) -> None:
    """``x-epo-1.fif`` goes on with ``x-epo.fif``: read alone, it would be a recording without its beginning."""
    stem, dash, number = file.name.removesuffix(".gz").removesuffix(".fif").rpartition("-")
    if not dash or not number.isdigit() or not stem.endswith(("epo", "EPO")):
        return
    first = next((path for path in (file.with_name(f"{stem}.fif"), file.with_name(f"{stem}.fif.gz")) if path.is_file()), None)
    where = f"part {number} of {first.name}" if first else f"by its name a later part of {stem}.fif, which is not beside it"
    raise StudyError(f"{file}: is {where}: let 'files' match the first part of each recording alone, the others are read with it")


def _read(file: Path, parts: Sequence[Path]) -> Any:
    import mne

    if any(part.is_symlink() for part in parts[1:]):
        raise StudyError(f"{file}: a later part is a link, expected the file")
    try:
        return mne.read_epochs(file, proj=False, preload=False, verbose="error")
    except MemoryError:
        raise
    except Exception as error:
        raise StudyError(f"{file}: cannot be read as cut trials of FIF ({one_line(error)})") from error


def _names_of_codes(file: Path, event_id: Mapping[str, int]) -> dict[int, str]:
    names: dict[int, str] = {}
    for name, code in event_id.items():
        if names.setdefault(int(code), str(name)) != str(name):
            raise StudyError(f"{file}: its events of code {code} are named {names[int(code)]!r} and {name!r}, expected one name")
    return names


def _metadata(metadata: Any) -> dict[str, list[str]]:
    """Columns of a data frame, or, where pandas is not there, of a list of rows."""
    if metadata is None:
        return {}
    if isinstance(metadata, list):
        return {str(name): [cell_text(row.get(name)) for row in metadata] for name in (metadata[0] if metadata else {})}
    return {str(name): [cell_text(value) for value in metadata[name].tolist()] for name in metadata.columns}


def _header(info: Any) -> Any:
    import mne

    return mne.io.RawArray(np.zeros((len(info["ch_names"]), 1)), info.copy(), verbose="error")


def _numbers(selection: np.ndarray, num_trials: int) -> list[int]:
    numbers: list[int] = [int(number) for number in selection]
    return numbers if len(set(numbers)) == num_trials else list(range(num_trials))


def _onsets(mne_epochs: Any, num_trials: int) -> list[float | None]:
    """By the sample of each event, where the rate that they were counted at is known and they are not numbered one by one."""
    points_B = mne_epochs.events[:, 0].astype(np.int64)
    rate = _counted_at(mne_epochs)
    steps = np.diff(points_B)
    # Trials that were built from an array have the events 0, 1, 2 ...: no stimulus follows another after one sample.
    if not rate or (steps <= 0).any() or (len(steps) and np.median(steps) <= 1):
        return [None] * num_trials
    return [round(float(point) / rate, 4) for point in points_B]


def _counted_at(mne_epochs: Any) -> float | None:
    """Rate of the recording that the trials were cut from, Hz; files of old versions do not say it."""
    found = getattr(mne_epochs, "_raw_sfreq", None)
    rate = None if found is None else float(np.asarray(found).reshape(-1)[0])
    return None if rate is None or not np.isfinite(rate) or rate <= 0 else round(rate, 6)


def _notes(mne_epochs: Any, names: Mapping[int, str], codes: Sequence[int], saved: Windows | None) -> dict[str, Any]:
    info = mne_epochs.info
    reasons = Counter(reason for log in mne_epochs.drop_log for reason in log)
    ignored = reasons.pop(_IGNORED, 0)
    baseline = None if mne_epochs.baseline is None else [None if edge is None else round(float(edge), 6) for edge in mne_epochs.baseline]
    unused = [name for code, name in names.items() if code not in set(codes)]
    waiting = [str(projection["desc"]) for projection in info["projs"] if not projection["active"]]
    notes: dict[str, Any] = {
        "highpass_hz": round(float(info["highpass"]), 4),
        "lowpass_hz": round(float(info["lowpass"]), 4),
        "baseline_seconds": baseline,
    }
    optional = {
        "dropped_before": dict(reasons.most_common(30)),
        "events_not_cut": ignored,
        "names_without_trials": unused[:50],
        "bad_channels": list(info["bads"]),
        "projections_not_applied": waiting,
        "cut_at_hz": _counted_at(mne_epochs),
        **(saved.notes if saved else {}),
    }
    return notes | {name: value for name, value in optional.items() if value}
