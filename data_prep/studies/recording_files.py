"""Which recordings there are, and what each is by its first bytes, whatever its name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.studies.mat_names import mat_names
from data_prep.studies.patterns import FilePattern
from data_prep.studies.recording import Recording

ENDINGS = {
    "EDF": (".edf",),
    "BDF": (".bdf",),
    "GDF": (".gdf",),
    "FIF": (".fif",),
    "BrainVision": (".vhdr", ".ahdr"),
    "EEGLAB": (".set",),
    "Neuroscan CNT": (".cnt",),
    "ANT CNT": (".cnt",),
    "EGI MFF": (".mff",),
    "Nihon Kohden": (".eeg",),
    "XDF": (".xdf",),
    "NumPy array": (".npy",),
    "MAT array": (".mat",),
    "HDF5 array": (".h5", ".hdf5", ".hdf", ".mat"),
    "CSV": (".csv", ".tsv", ".txt"),
}
"""Format -> the endings that its readers take; the first is the usual one."""
_MAGIC = (
    (re.compile(rb"0 {7}"), "EDF"),
    (re.compile(rb"\xffBIOSEMI"), "BDF"),
    (re.compile(rb"GDF "), "GDF"),
    (re.compile(rb"\x00\x00\x00\x64\x00\x00\x00\x1f"), "FIF"),
    (re.compile(rb"(\xef\xbb\xbf)?\s*Brain ?Vision (Data Exchange|V-Amp|Core)[^\r\n]*Header", re.IGNORECASE), "BrainVision"),
    (re.compile(rb"Version 3\.0"), "Neuroscan CNT"),
    (re.compile(rb"(RIFF|RF64).{4,8}CNT ", re.DOTALL), "ANT CNT"),
    (re.compile(rb"(EEG-(1100|2100|1200)|QI-403|DAE-2100)"), "Nihon Kohden"),
    (re.compile(rb"XDF:"), "XDF"),
    (re.compile(rb"\x93NUMPY"), "NumPy array"),
)
_HDF5 = b"\x89HDF\r\n\x1a\n"


def find_recordings(root: Path, pattern: FilePattern, subjects: tuple[str, ...] | None) -> list[Recording]:
    """Files (folders of ``.mff``) below ``root`` that ``pattern`` matches, by subject, session, run and name, numbers as numbers.

    Names that begin with a dot are no recordings (macOS leaves ``._NAME`` beside each file). Without ``{session}`` all are of
    session 01; without ``{run}`` those of a session are numbered by name.

    Raises
    ------
    StudyError
        No such folder, no recording, a wanted subject that is not there, or two files of the same subject, session and run.
    """
    if not root.is_dir():
        raise StudyError(f"{root}: no such folder, expected one that holds {pattern.pattern}")
    seen = sorted(files_below(root), key=lambda relative: natural(str(relative)))
    found = [(labels, relative) for relative in seen if (labels := pattern.labels(relative.as_posix())) is not None]
    if not found:
        raise StudyError(f"{root}: no file matches {pattern.pattern}; it has {listed(seen, 4)}")
    have = sorted({labels["subject"] for labels, _ in found}, key=natural)
    wanted = have if subjects is None else [subject.zfill(2) if subject.isdigit() else subject for subject in subjects]
    missing = [subject for subject in wanted if subject not in have]
    if missing:
        raise StudyError(f"{root}: has no subject {missing[0]}; it has {listed(have)}")
    rows = sorted(
        (
            (labels["subject"], labels.get("session", "01"), labels.get("run"), relative)
            for labels, relative in found
            if labels["subject"] in wanted
        ),
        key=lambda row: tuple(natural(str(part or "")) for part in row),
    )
    recordings: list[Recording] = []
    numbers: dict[tuple[str, str], int] = {}
    by_label: dict[str, Path] = {}
    for subject, session, run, relative in rows:
        numbers[subject, session] = numbers.get((subject, session), 0) + 1
        recording = Recording(file=root / relative, subject=subject, session=session, run=run or f"{numbers[subject, session]:02d}")
        if recording.label in by_label:
            raise StudyError(f"{root / relative}: is {recording.label}, and so is {by_label[recording.label]}: expected one file each")
        by_label[recording.label] = root / relative
        recordings.append(recording)
    return recordings


def files_below(root: Path) -> Iterator[Path]:
    """Relative paths of all files (folders of ``.mff``) whose names do not begin with a dot."""
    for folder, folders, files in os.walk(root):
        recordings = [name for name in folders if name.lower().endswith(".mff")]
        folders[:] = [name for name in folders if not name.startswith(".") and name not in recordings]
        for name in (*files, *recordings):
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(root)


def natural(text: str) -> list[tuple[int, str]]:
    """Key that sorts numbers in names as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def format_of(file: Path) -> str:
    """A key of :data:`ENDINGS`, by the file's content.

    Raises
    ------
    StudyError
        None of them.
    """
    if file.is_dir():
        if (file / "info.xml").is_file():
            return "EGI MFF"
        raise StudyError(f"{file}: is a folder without info.xml, expected an EGI recording or a file")
    with file.open("rb") as stream:
        head = stream.read(4096)
    for magic, name in _MAGIC:
        if magic.match(head):
            return name
    if head.startswith(_HDF5) or head[512:].startswith(_HDF5):
        return "EEGLAB" if file.suffix.lower() == ".set" else "HDF5 array"
    if head.startswith(b"MATLAB 5.0 MAT-file"):
        return "EEGLAB" if file.suffix.lower() == ".set" or _has_eeglab_names(file) else "MAT array"
    if head and (b"\0" not in head or text_encoding(file) == "utf-16"):
        return "CSV"
    raise StudyError(f"{file}: {'is empty' if not head else f'begins with {head[:8]!r}'}, expected one of {', '.join(ENDINGS)}")


def text_encoding(file: Path) -> str:
    """``utf-16`` where a byte order mark says it, as of text that Excel calls Unicode; else UTF-8."""
    with file.open("rb") as stream:
        return "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _has_eeglab_names(file: Path) -> bool:
    names = set(mat_names(file))
    return "EEG" in names or {"srate", "nbchan", "data"} <= names


def companions(file: Path) -> list[Path]:
    """All files of a recording: those beside it with its stem, or those inside its folder; what shares no byte with it does no harm."""
    if file.is_dir():
        return sorted(path for path in file.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in file.parent.iterdir() if path.is_file() and path.stem == file.stem and not path.name.startswith("."))
