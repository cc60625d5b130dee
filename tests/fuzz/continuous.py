"""Recordings as laboratories have them. Those whose readers run in a process of their own are read in a fork of this one, under the same
limits: what ends that process is a sentence, what ends this one a fault."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.studies import recording_child
from data_prep.studies.formats import Formats
from data_prep.studies.open_recording import open_recording
from data_prep.studies.signal_tables import ArrayConfig, CsvConfig
from tests.fuzz import harness
from tests.fuzz.harness import Target
from tests.helpers import recordings as made

FORMATS = Formats(
    csv=CsvConfig(channels=made.CH_NAMES, time="time", marker="stim", sfreq=made.SFREQ),
    array=ArrayConfig(ch_names=made.CH_NAMES, sfreq=made.SFREQ, unit="microvolts"),
)
NAME = "sub-01"
_CHILD_SECONDS = 4
"""Most that a fork may take of a core here; a real child may take minutes, and is given up as well."""


def _write_mat(file: Path, eeg_CT: np.ndarray) -> None:
    from scipy.io import savemat

    savemat(file, {"eeg": eeg_CT, "note": "x", "cell": np.array([1, "a"], dtype=object)}, do_compression=True)


def _write_hdf5(file: Path, eeg_CT: np.ndarray) -> None:
    import h5py

    with h5py.File(file, "w") as content:
        content.create_dataset("raw/eeg", data=eeg_CT, compression="gzip", chunks=(3, 100))
        content["note"] = "x"


WRITERS: dict[str, Callable[..., Any]] = {
    "edf": made.write_edf,
    "bdf": partial(made.write_edf, bdf=True),
    "csv": made.write_csv,
    "fif": made.write_fif,
    "gdf": made.write_gdf,
    "xdf": made.write_xdf,
    "set": made.write_eeglab,
    "set-73": made.write_eeglab_73,
    "cnt": made.write_neuroscan,
    "cnt-ant": made.write_ant,
    "mat": _write_mat,
    "h5": _write_hdf5,
}
"""Target -> writer; the text before a hyphen is the ending."""
MFF = ("info.xml", "info1.xml", "epochs.xml", "Events_ECI.xml", "sensorLayout.xml", "coordinates.xml")
PARTS = {
    "brainvision": (made.write_brainvision, "", ("sub-01.vhdr", "sub-01.vmrk", "sub-01.eeg")),
    "mff": (
        made.write_mff,
        "sub-01.mff",
        (*MFF, "signal1.bin"),
    ),
}
"""Formats of several files: writer, folder of the recording, and the files that are damaged."""


def recordings(folder: Path) -> Iterator[Target]:
    """One format each, and of formats of several files one file each."""
    for library in ("mne", "pyxdf", "pymatreader", "h5py", "scipy.io", "antio"):
        importlib.import_module(library)  # once, not in every fork
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in WRITERS.items():
        file = folder / f"{NAME}.{name.partition('-')[0]}"
        write(file, made.signal())
        yield Target(name=f"recording-{name}", suffix=file.suffix, seeds=[file.read_bytes()], read=_read, inputs=8)
    for name, (write, inner, parts) in PARTS.items():
        whole = folder / name
        whole.mkdir(exist_ok=True)
        write(whole / (inner or f"{NAME}.vhdr"), made.signal())
        for part in parts:
            yield Target(
                name=f"recording-{name}-{Path(part).stem if inner else Path(part).suffix[1:]}",
                suffix=Path(part).suffix,
                seeds=[(whole / inner / part).read_bytes()],
                read=partial(_read_among, whole, inner, part),
                inputs=4,
                refuses=False,
            )


def _read(path: Path) -> None:
    alone = path.parent / "alone"  # beside it nothing that another format's reader would take for its part
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir()
    _open(Path(shutil.copyfile(path, alone / path.name)))


def _read_among(whole: Path, inner: str, part: str, path: Path) -> None:
    """``path`` in the place of one file of several."""
    among = path.parent / "among"
    shutil.rmtree(among, ignore_errors=True)
    shutil.copytree(whole, among)
    shutil.copyfile(path, among / inner / part)
    try:
        _open(among / inner if inner else among / f"{NAME}.vhdr")
    except StudyError as error:
        raise StudyError(f"{error} ({path.name})" if str(among) in str(error) else str(error)) from error


def _open(file: Path) -> None:
    with in_forks():
        opened = open_recording(file, FORMATS)
    opened.microvolts(opened.raw.ch_names, opened.unit)


def in_forks() -> Any:
    """Context in which a reader's own process is a fork of this one, which has loaded the libraries already."""
    return mock.patch.object(recording_child, "run_reader_process", _run_forked)


def _run_forked(module: str, arguments: Sequence[str], seconds: float, uses: Sequence[str] = ()) -> tuple[int | None, str]:
    """As :func:`data_prep.studies.reading_process.run_reader_process`."""
    with tempfile.TemporaryFile() as errors, harness.allowed():
        pid = os.fork()
        if pid == 0:
            _as_child(module, arguments, errors.fileno())
        status = _waited(pid)
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace")
    if status == -signal.SIGXCPU:
        return None, ""
    return status, said


def _as_child(module: str, arguments: Sequence[str], errors: int) -> None:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.dup2(errors, 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_CPU, (_CHILD_SECONDS, _CHILD_SECONDS + 1))
        with contextlib.suppress(AttributeError):
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        status = importlib.import_module(module).main(*arguments)
        sys.stderr.flush()
        os._exit(status)
    finally:
        os._exit(99)


def _waited(pid: int) -> int:
    try:
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return os.waitstatus_to_exitcode(status)
