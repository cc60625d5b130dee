"""Reader of trials that are already cut: MNE Epochs in FIF, EEGLAB epochs, windows that braindecode or MOABB saved.

See :mod:`data_prep.studies.cut_study` for the way from file to trial.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_prep.contract.errors import StudyError
from data_prep.studies.braindecode import WINDOW
from data_prep.studies.cut_eeglab import open_described
from data_prep.studies.cut_fif import open_fif
from data_prep.studies.cut_files import CutFile
from data_prep.studies.cut_study import CutReaderConfig
from data_prep.studies.open_recording import in_a_sentence
from data_prep.studies.recording_child import run_reader
from data_prep.studies.recording_files import format_of

_TABLES = ("NumPy array", "MAT array", "HDF5 array")


@dataclass(frozen=True, kw_only=True)
class EpochsReaderConfig(CutReaderConfig):
    """Trials already cut: FIF of MNE Epochs (in parts, too), EEGLAB epochs, saved windows of braindecode and MOABB."""

    sensors: Literal["eeg", "mag", "grad"] = "eeg"
    """Which sensors of a file are read; magnetic ones need ``zscore``."""
    windows: Literal["refuse", "first", "each"] = "refuse"
    """Windows of braindecode, of which a trial has several: refuse them, keep the first of each trial, or take each as a trial that begins
    with the window."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sensors != "eeg" and self.zscore is None:
            raise ValueError(
                f"sensors is {self.sensors}, whose unit is tesla, a study is in microvolts or z-scores: expected zscore: source or "
                "zscore: trial"
            )

    @property
    def sensor_type(self) -> str:
        """Type of the channels that are read, in MNE's words."""
        return self.sensors

    def open_file(self, file: Path, labels: Mapping[str, str], table: Mapping[str, Sequence[str]] | None) -> CutFile:
        """The trials of one file.

        Raises
        ------
        StudyError
            One sentence: a continuous recording, averages, another format, a damaged file.
        """
        kind = _format(file)
        with in_a_sentence(file, kind):
            if kind == "EEGLAB":
                return _open_eeglab(file)
            cut = open_fif(file)
        if self.sensors != "eeg":
            cut = replace(cut, unit="tesla")
        return self._whole_windows(cut)

    def _whole_windows(self, cut: CutFile) -> CutFile:
        """Windows of braindecode that lie alike in their trials, or as ``windows`` says."""
        numbers = cut.columns.get(WINDOW, [])
        if not any(number not in ("", "0") for number in numbers) or cut.format != "FIF of braindecode":
            return cut
        if self.windows == "refuse":
            raise StudyError(
                f"{cut.file}: its trials have several windows ({WINDOW} up to {max(numbers, key=int)}): say windows: first or windows: each"
            )
        if self.windows == "each":
            return replace(cut, tmin=0.0, notes={**cut.notes, "windows": "each begins a trial; they may overlap"})
        rows = [row for row, number in enumerate(numbers) if number == "0"]
        columns = {name: [cells[row] for row in rows] for name, cells in cut.columns.items()}
        return replace(
            cut, columns=columns, trial_N=[cut.trial_N[row] for row in rows], notes={**cut.notes, "windows": "first of each trial"}
        )


def _format(file: Path) -> str:
    if file.name.lower().endswith((".fif", ".fif.gz")):
        return "FIF"
    if file.suffix.lower() in (".pkl", ".pickle", ".joblib"):
        raise StudyError(f"{file}: is a pickle, which is not read: save the windows with braindecode's dataset.save or MNE's epochs.save")
    if file.is_dir():
        raise StudyError(f"{file}: is a folder, expected a file of cut trials")
    kind = format_of(file)
    if kind in ("FIF", "EEGLAB"):
        return kind
    reader = "arrays" if kind in _TABLES else "mne"
    raise StudyError(f"{file}: is {kind}, expected cut trials of FIF or EEGLAB: the reader {reader} takes it")


def _open_eeglab(file: Path) -> CutFile:
    folder = tempfile.TemporaryDirectory(prefix="recording-")
    run_reader(file, "EEGLAB", "data_prep.studies.cut_eeglab_child", [str(file), folder.name], uses=("scipy.io",))
    return open_described(file, Path(folder.name), folder)
