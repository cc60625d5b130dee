"""One file of THINGS-EEG2 trials, in any layout that laboratories pass on: opened by its headers, its trials left where they are.

============ =================================================== ==========================================================================
layout       files of a subject's folder                         content
============ =================================================== ==========================================================================
``official`` ``preprocessed_eeg_training.npy``, ``..._test.npy`` dict ``preprocessed_eeg_data, ch_names, times``
``ubp``      ``train.pt``, ``test.pt``                           dict ``eeg, ch_names, times``; by repetition ``img, label, text, session``
``samga``    ``train.npy``, ``test.npy``                         dict ``data`` (or an array) by concept and image, ``ch_names, times``
============ =================================================== ==========================================================================

A dict may stand in an object array (``np.save``) or alone (``pickle.dump``), an array may have any memory order and any dtype of real
numbers, and any layout may hold any of the contents. Nothing in a file is executed.

Shape suffixes: N images, R repetitions, C channels, T time points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.studies.things_labels import Labels, read_labels
from data_prep.studies.things_rows import DenseRows, RaggedRows, TrialRows
from data_prep.studies.things_times import TimesConfig, measure_times
from data_prep.studies.trials import TrialFacts

Layout = Literal["official", "ubp", "samga"]
Part = Literal["training", "test"]
FILES: Mapping[Layout, Mapping[Part, str]] = {
    "official": {"training": "preprocessed_eeg_training.npy", "test": "preprocessed_eeg_test.npy"},
    "ubp": {"training": "train.pt", "test": "test.pt"},
    "samga": {"training": "train.npy", "test": "test.npy"},
}
EEG_KEYS = ("preprocessed_eeg_data", "eeg", "data")
_AXES = "(stimuli, repetitions, channels, times)"


@dataclass(frozen=True, kw_only=True)
class BareArrays:
    """What files hold that do not say it: arrays without a dict, or dicts without ``ch_names`` or ``times``."""

    sfreq: float
    """Sampling rate in Hz."""
    tmin: float
    """Seconds from onset to the first time point."""
    ch_names: tuple[str, ...]
    """Channels in order."""


@dataclass(frozen=True, kw_only=True)
class PartFile:
    """The trials of one subject and part."""

    file: Path
    rows: TrialRows
    facts: TrialFacts
    """As in the file."""
    images_each: int | None
    """Images of each concept, where the array has an axis for them."""
    labels: Labels | None
    """What the file itself says its rows are."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What was converted or is unclear, by kind."""


def layout_of(folder: Path, wanted: Layout | None) -> Layout:
    """Which layout a subject's folder has.

    Raises
    ------
    StudyError
        None of them, or several.
    """
    found = [layout for layout, names in FILES.items() if any((folder / name).is_file() for name in names.values())]
    if wanted is not None:
        found = [layout for layout in found if layout == wanted]
    if not found:
        names = [name for layout, parts in FILES.items() if wanted in (None, layout) for name in parts.values()]
        have = [path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        raise StudyError(f"{folder}: holds {listed(have)}, expected {' or '.join(names)}")
    if len(found) > 1:
        raise StudyError(f"{folder}: holds files of the layouts {', '.join(found)}, expected one: say it in the reader's field layout")
    return found[0]


def open_part(path: Path, bare: BareArrays | None, times: TimesConfig, *, labelled: bool) -> PartFile:
    """Read what a file says of its trials, not the trials.

    Parameters
    ----------
    labelled
        Whether to read ``img``, ``label``, ``text`` and ``session``.

    Raises
    ------
    StudyError
        One sentence: the file, what was found, what was expected.
    """
    value = safe_load.load(path, headers_only=True)
    content: Mapping[str, Any] = value if isinstance(value, dict) else {EEG_KEYS[0]: value}
    keys = [key for key in EEG_KEYS if key in content]
    lacking = [key for key in ("ch_names", "times") if key not in content]
    if len(keys) > 1:
        raise StudyError(f"{path}: holds {' and '.join(keys)}, expected one array of trials")
    if not keys or (lacking and bare is None):
        if not isinstance(value, dict):
            raise StudyError(f"{path}: an array without ch_names and times: say them in the reader's field 'bare'")
        missing = lacking if keys else [EEG_KEYS[0], *lacking]
        raise StudyError(f"{path}: lacks {', '.join(missing)}; it has {listed(content)}: say what it lacks in the reader's field 'bare'")
    rows, images_each = _rows(path, content[keys[0]])
    n_chans, n_times = rows.trial_shape
    if "ch_names" in content:
        ch_names = tuple(safe_load.texts(content["ch_names"], path, "ch_names"))
    else:
        assert bare is not None
        ch_names = bare.ch_names
    if n_chans != len(ch_names):
        swapped = "; the axis after it fits: channels and times are the other way round" if n_times == len(ch_names) else ""
        raise StudyError(f"{path}: {n_chans} channels of EEG and {len(ch_names)} ch_names: expected as many{swapped}")
    if len(set(ch_names)) != len(ch_names):
        repeated = next(name for name in ch_names if ch_names.count(name) > 1)
        raise StudyError(f"{path}: has channel {repeated!r} twice, expected names that differ")
    notes: dict[str, str] = {}
    if "times" in content:
        measured = measure_times(path, content["times"], n_times, times)
        sfreq, tmin, notes = measured.sfreq, measured.tmin, dict(measured.notes)
    else:
        assert bare is not None
        sfreq, tmin = bare.sfreq, bare.tmin
    if times.expect_sfreq is not None and abs(sfreq - times.expect_sfreq) > 1e-3 * times.expect_sfreq:
        raise StudyError(
            f"{path}: sampled at {sfreq:g} Hz by its times, expect_sfreq is {times.expect_sfreq:g} Hz: the rate comes from the file"
        )
    labels = read_labels(path, content, rows.n_reps) if labelled and isinstance(value, dict) else None
    facts = TrialFacts(sfreq=sfreq, tmin=tmin, n_times=n_times, ch_names=ch_names)
    return PartFile(file=path, rows=rows, facts=facts, images_each=images_each, labels=labels, notes=notes)


def _rows(path: Path, eeg: Any) -> tuple[TrialRows, int | None]:
    """Trials as rows, and how many images each concept has where the array says so."""
    if isinstance(eeg, (list, tuple)) or (isinstance(eeg, np.ndarray) and eeg.dtype == object):
        return _ragged(path, list(eeg)), None
    if not isinstance(eeg, np.ndarray):
        raise StudyError(f"{path}: its trials are a {type(eeg).__name__}, expected an array {_AXES}")
    if eeg.ndim not in (4, 5):
        raise StudyError(f"{path}: EEG of shape {eeg.shape}, expected {_AXES} or (concepts, images, repetitions, channels, times)")
    _check_dtype(path, eeg.dtype)
    if not eeg.size:
        raise StudyError(f"{path}: EEG of shape {eeg.shape} holds nothing, expected trials")
    return DenseRows(eeg), eeg.shape[1] if eeg.ndim == 5 else None


def _ragged(path: Path, items: list[Any]) -> RaggedRows:
    """One entry an image: an array (R, C, T), or a list of (C, T)."""
    arrays: list[np.ndarray] = []
    shape: tuple[int, ...] | None = None
    for number, item in enumerate(items):
        trials = list(item) if isinstance(item, (list, tuple)) or (isinstance(item, np.ndarray) and item.dtype == object) else item
        if isinstance(trials, list):
            shapes = {np.shape(trial) for trial in trials if isinstance(trial, np.ndarray)}
            if any(not isinstance(trial, np.ndarray) or trial.dtype == object for trial in trials) or len(shapes) > 1:
                raise StudyError(
                    f"{path}: image {number} holds trials of shapes {listed(map(str, shapes)) or 'unknown'}, expected arrays of one"
                )
            trials = np.stack(trials) if trials else None
        if trials is None or (isinstance(trials, np.ndarray) and trials.size == 0):
            arrays.append(np.empty(0))
            continue
        if not isinstance(trials, np.ndarray) or trials.ndim != 3:
            found = f"of shape {trials.shape}" if isinstance(trials, np.ndarray) else f"as a {type(trials).__name__}"
            raise StudyError(f"{path}: image {number} has trials {found}, expected (repetitions, channels, times)")
        _check_dtype(path, trials.dtype)
        if shape is not None and trials.shape[1:] != shape:
            raise StudyError(
                f"{path}: image {number} has trials of (channels, times) {trials.shape[1:]}, those before have {shape}: expected the same"
            )
        shape = trials.shape[1:]
        arrays.append(trials)
    if shape is None:
        raise StudyError(f"{path}: holds no trial, expected some")
    n_chans, n_times = shape
    return RaggedRows([each if each.size else np.empty((0, n_chans, n_times), np.float32) for each in arrays], (n_chans, n_times))


def _check_dtype(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "fiu":
        raise StudyError(f"{path}: EEG of dtype {dtype}, expected real numbers")
