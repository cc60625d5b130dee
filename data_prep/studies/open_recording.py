"""Open a recording by what its bytes say it is: MNE's reader of that format, one of ours over another library, or a table of numbers."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.studies.continuous import Continuous, one_line
from data_prep.studies.formats import Formats, open_as
from data_prep.studies.mne_readers import CRASHING, PROBED
from data_prep.studies.recording_child import most_bytes, probe_in_child, read_in_child
from data_prep.studies.recording_files import ENDINGS, companions, format_of

log = logging.getLogger(__name__)

_TEXT_BYTES = 2**26
"""A header or a list of marks is no larger."""
TABLES = ("CSV", "NumPy array")
"""Formats that only this program reads, whatever their ending."""


def open_recording(file: Path, formats: Formats, keep: Sequence[str] | None = None) -> Continuous:
    """The recording in ``file``; ``keep`` names the channels to read where a format can leave out others (EDF, BDF).

    Raises
    ------
    StudyError
        One sentence: a format without its facts in the config, a damaged file, a library that is not installed.
    """
    kind = format_of(file)
    with in_a_sentence(file, kind):
        opened = _open(file, kind, formats, keep)
    files = {*companions(file), *opened.files, *(Path(name) for name in opened.raw.filenames if name)}
    return replace(opened, files=sorted(path for path in files if path.is_file() and not _in_scratch(path, opened)))


def _in_scratch(path: Path, opened: Continuous) -> bool:
    return opened.keep is not None and path.is_relative_to(opened.keep.name)


def _open(file: Path, kind: str, formats: Formats, keep: Sequence[str] | None) -> Continuous:
    if kind in TABLES:
        return open_as(file, kind, formats)
    path, scratch = file, None
    if file.suffix not in ENDINGS[kind]:
        path, scratch = _under_its_ending(file, ENDINGS[kind][0])
    if kind == "BrainVision":
        path, scratch = _in_utf8(path, scratch)
    if kind in CRASHING:
        opened = replace(read_in_child(path, kind, formats, named=file), keep=scratch)
    else:
        if kind in PROBED:
            probe_in_child(path, kind, formats, named=file)
        opened = replace(open_as(path, kind, formats, keep), file=file, keep=scratch)
    _check_extent(path, opened)
    if file.suffix.lower() not in ENDINGS[kind]:
        log.warning("%s: its first bytes say %s: it is read as that", file, kind)
        opened = replace(opened, notes={**opened.notes, "named": file.suffix})
    return opened


def _check_extent(path: Path, opened: Continuous) -> None:
    """Refuse a recording that is elsewhere than in its folder, or that says it is longer than its files can be."""
    folder = os.path.abspath(path.parent)
    for name in opened.raw.filenames:
        if name and not Path(os.path.abspath(name)).is_relative_to(folder):
            raise StudyError(f"{opened.file}: names {name}, which is not beside it: expected parts of the same recording in one folder")
    most, found = (
        most_bytes([*companions(path), *(Path(name) for name in opened.raw.filenames if name)]),
        8 * len(opened.raw.ch_names) * opened.n_times,
    )
    if found > most:
        raise StudyError(
            f"{opened.file}: says that it holds {opened.n_times:,} points of {len(opened.raw.ch_names)} channels, expected fewer in "
            "a file of its size"
        )


@contextlib.contextmanager
def in_a_sentence(file: Path, kind: str) -> Iterator[None]:
    """What a library raises, whatever it is, as one sentence; what it warns of, in the log."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            yield
        except StudyError:
            raise
        except ImportError as error:
            raise StudyError(
                f"{file}: {kind} needs a library that is not here ({one_line(error)}): pip install 'eeg-vision-stack[formats]'"
            ) from error
        except MemoryError as error:
            raise StudyError(f"{file}: needs more memory as {kind} than there is") from error
        except Exception as error:
            raise StudyError(f"{file}: cannot be read as {kind} ({one_line(error)})") from error
    for warning in said:
        if issubclass(warning.category, RuntimeWarning):
            log.info("%s: %s", file, one_line(warning.message))  # type: ignore[arg-type]


def _in_utf8(header: Path, scratch: Any) -> tuple[Path, Any]:
    """A BrainVision header as it is, or, where it or its marks are in Windows' code page or write micro by the Greek letter, which MNE does
    not take, copies of both in UTF-8 beside links to all else."""
    said: dict[str, str] = {}
    for file in header.parent.iterdir():
        if file.suffix.lower() not in (".vhdr", ".ahdr", ".vmrk", ".amrk") or file.stem != header.stem or file.stat().st_size > _TEXT_BYTES:
            continue
        content = file.read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            text = content.decode("cp1252", errors="replace")
            said[file.name] = text
        if "\u03bcV" in text:
            said[file.name] = text.replace("\u03bcV", "\u00b5V")
    if not said:
        return header, scratch
    folder = tempfile.TemporaryDirectory(prefix="recording-")
    for beside in header.parent.iterdir():
        if beside.name in said:
            text = re.sub(r"(?im)^codepage=.*$\r?\n?", "", said[beside.name])
            text = re.sub(r"(?i)(\[common infos\][ \t]*\r?\n)", r"\1Codepage=UTF-8\n", text)
            (Path(folder.name) / beside.name).write_text(text, encoding="utf-8", newline="")
        elif not beside.name.startswith("."):
            os.symlink(beside.resolve(), Path(folder.name) / beside.name)
    return Path(folder.name) / header.name, folder


def _under_its_ending(file: Path, ending: str) -> tuple[Path, Any]:
    """``file`` linked, with all that lies beside it, into a folder of ours under the ending that MNE asks for."""
    scratch = tempfile.TemporaryDirectory(prefix="recording-")
    folder = Path(scratch.name)
    for beside in file.parent.iterdir():
        if beside != file and not beside.name.startswith("."):
            os.symlink(beside.resolve(), folder / beside.name)
    link = folder / f"{file.stem}{ending}"
    if not link.is_symlink():
        os.symlink(file.resolve(), link)
    return link, scratch
