"""A file of trials that are already cut, opened, whatever its format; labels and cells of its table as text.

Shape suffixes: B trials, C channels, T time points, N rows of events.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed, short
from data_prep.studies.continuous import Unit
from data_prep.studies.laid_trials import LaidTrials
from data_prep.studies.patterns import FilePattern
from data_prep.studies.recording_files import files_below, natural

CutUnit = Literal["volts", "millivolts", "microvolts", "nanovolts", "zscore", "tesla"]
"""Unit of the numbers of a file; ``tesla`` stands for all that magnetic sensors measure."""
LABELS = ("subject", "session", "run")


@dataclass(frozen=True, kw_only=True)
class CutFile:
    """Trials of one file."""

    file: Path
    format: str
    header: Any
    """``mne.io.BaseRaw`` of one time point: names, types and positions of the channels."""
    unit: CutUnit
    sfreq: float
    tmin: float
    """Seconds from onset to the first time point."""
    n_times: int
    num_trials: int
    columns: Mapping[str, Sequence[str]]
    """Name -> a text for every row of events."""
    trial_N: Sequence[int]
    """Trial of every row of events: as a rule one a trial, in order."""
    number_B: Sequence[int]
    """Place of every trial among all that the recording had, lost ones included."""
    onset_seconds_B: Sequence[float | None]
    """Onset from the start of the recording, None where lost."""
    read: Callable[[Sequence[int], Sequence[int]], np.ndarray]
    """Rows of trials, rows of channels -> (B, C, T) in ``unit``."""
    files: Sequence[Path]
    """All files that it is read from."""
    laid: LaidTrials | None = None
    """Where the trials lie in one of them, which ``read`` then reads: they are read when they are asked for. None: they are kept elsewhere
    when the study is opened."""
    num_before_drops: int | None = None
    """Events that the file's own numbers of trials count from, where it says so."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What was measured or is unusual, as plain values."""


def find_cut_files(root: Path, pattern: FilePattern) -> list[tuple[Path, dict[str, str]]]:
    """Files below ``root`` that ``pattern`` matches, with the labels that it gives them, numbers in names as numbers.

    Raises
    ------
    StudyError
        No such folder, or no file.
    """
    if not root.is_dir():
        raise StudyError(f"{root}: no such folder, expected one that holds {pattern.pattern}")
    seen = sorted(files_below(root), key=lambda relative: natural(relative.as_posix()))
    found = [(root / relative, labels) for relative in seen if (labels := pattern.labels(relative.as_posix())) is not None]
    if not found:
        pickled = next((relative for relative in seen if relative.name == "metadata_df.pkl"), None)
        if pickled is not None:
            raise StudyError(
                f"{root / pickled}: windows that braindecode keeps as a pickle beside a continuous recording: a pickle is not read; save "
                "dataset.to_epochs_dataset() there, or read the recording with the reader mne"
            )
        raise StudyError(f"{root}: no file matches {pattern.pattern}; it has {listed(seen, 4)}")
    return found


def cell_text(value: Any) -> str:
    """A cell of a table as text: blank where there is nothing, whole numbers without a point, blanks joined."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size == 1 else None if not value.size else value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(str(value).split())


def label_of(text: str, name: str, file: Path) -> str:
    """``text`` as a label: letters and digits, numbers with two digits at least, without ``sub-`` and the like in front.

    Raises
    ------
    StudyError
        Nothing is left of it.
    """
    bare = re.sub(r"^(sub|subject|ses|session|run)[-_ ]", "", text.strip(), flags=re.IGNORECASE)
    plain = re.sub(r"[-_. ]", "", bare)
    if not re.fullmatch(r"[A-Za-z0-9]+", plain):
        raise StudyError(f"{file}: {name} {short(text)!r} is no label, expected letters and digits")
    return plain.zfill(2) if plain.isdigit() else plain


def header_of(file: Path, ch_names: Sequence[str], ch_types: Sequence[str], positions: Mapping[str, Sequence[float]]) -> Any:
    """``CutFile.header`` from names, types and head coordinates in metres."""
    import mne

    if len(set(ch_names)) != len(ch_names):
        repeated = next(name for name in ch_names if list(ch_names).count(name) > 1)
        raise StudyError(f"{file}: has channel {repeated!r} twice, expected names that differ")
    info = mne.create_info(list(ch_names), 1.0, list(ch_types), verbose="error")
    raw = mne.io.RawArray(np.zeros((len(ch_names), 1)), info, verbose="error")
    if positions:
        places = {name: np.asarray(place, np.float64) for name, place in positions.items()}
        raw.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), on_missing="ignore", verbose="error")
    return raw


def electric(unit: CutUnit) -> Unit | None:
    """``unit`` where it is one of a voltage."""
    return None if unit in ("zscore", "tesla") else unit  # type: ignore[return-value]
