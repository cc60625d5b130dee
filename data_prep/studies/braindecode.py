"""What braindecode writes beside windows that it saves: ``0/0-epo.fif`` has ``description.json`` and ``window_kwargs.json`` for neighbours.

A window's own clock begins with the window; where it lies after the trial's onset stands in ``window_kwargs.json``, in points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json
from data_prep.studies.cut_files import cell_text

WINDOW = "i_window_in_trial"
_COLUMNS = (WINDOW, "i_start_in_trial", "i_stop_in_trial", "target")
"""Columns of the metadata of every window."""
_BY_EVENTS, _BY_LENGTH = "create_windows_from_events", "create_fixed_length_windows"


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Facts of one saved set of windows."""

    description: Mapping[str, str]
    """What it says of the recording: subject, session, run ..."""
    target_names: Sequence[str] | None
    """Name of the target of each window."""
    offset_seconds: float
    """From the trial's onset to the begin of its first window."""
    files: Sequence[Path]
    notes: Mapping[str, Any]

    def columns(self, num_trials: int) -> dict[str, list[str]]:
        """The description, repeated, and ``target_name``."""
        found = {name: [value] * num_trials for name, value in self.description.items()}
        return found | ({"target_name": list(self.target_names)} if self.target_names is not None else {})


def windows_of(file: Path, columns: Mapping[str, Sequence[str]], sfreq: float, n_times: int) -> Windows | None:
    """What stands beside ``file``, whose metadata are ``columns``; None where braindecode did not save it.

    Raises
    ------
    StudyError
        Windows of fixed length, which have no onset, or files of another form.
    """
    described, kwargs = file.with_name("description.json"), file.with_name("window_kwargs.json")
    if not set(_COLUMNS) <= set(columns):
        return None
    files = [
        path
        for path in (described, kwargs, file.with_name("window_preproc_kwargs.json"), file.with_name("raw_preproc_kwargs.json"))
        if path.is_file()
    ]
    description = read_json(described) if described in files else {}
    if not isinstance(description, dict):
        raise StudyError(f"{described}: holds a {type(description).__name__}, expected an object of the recording's facts")
    steps = _steps(kwargs) if kwargs in files else {}
    if _BY_LENGTH in steps:
        raise StudyError(f"{kwargs}: its windows have a fixed length and no onset ({_BY_LENGTH}), expected windows from events")
    made = steps.get(_BY_EVENTS, {})
    offset = made.get("trial_start_offset_samples", 0)
    if not isinstance(offset, int):
        raise StudyError(f"{kwargs}: trial_start_offset_samples is {offset!r}, expected a number of points")
    mapping = made.get("mapping")
    preprocessing = {path.stem: [step[0] for step in _listed(path)] for path in files[1:] if path != kwargs}
    return Windows(
        description={str(name): cell_text(value) for name, value in description.items() if not isinstance(value, (dict, list))},
        target_names=_names(columns["target"], mapping) if isinstance(mapping, dict) else None,
        offset_seconds=offset / _rate_of_windows(file, columns, sfreq, n_times) if offset else 0.0,
        files=files,
        notes={**preprocessing, **({"window_offset_points": offset} if offset else {})},
    )


def _rate_of_windows(file: Path, columns: Mapping[str, Sequence[str]], sfreq: float, n_times: int) -> float:
    """Rate at which windows were counted: they may have been resampled since, which their own counts of points tell."""
    lengths = {int(stop) - int(start) for start, stop in zip(columns["i_start_in_trial"], columns["i_stop_in_trial"], strict=True)}
    if len(lengths) != 1:
        raise StudyError(f"{file}: its windows span {sorted(lengths)[:4]} points of the recording, expected one length")
    return sfreq * lengths.pop() / n_times


def _steps(file: Path) -> dict[str, Mapping[str, Any]]:
    return {str(step[0]): step[1] for step in _listed(file) if len(step) > 1 and isinstance(step[1], dict)}


def _listed(file: Path) -> list[list[Any]]:
    found = read_json(file)
    if not isinstance(found, list) or not all(isinstance(step, list) and step for step in found):
        raise StudyError(f"{file}: expected a list of steps, each a name and its settings")
    return found


def _names(targets: Sequence[str], mapping: Mapping[str, Any]) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, code in mapping.items():
        names.setdefault(cell_text(code), []).append(str(name))
    return ["/".join(sorted(names.get(target, [target]))) for target in targets]
