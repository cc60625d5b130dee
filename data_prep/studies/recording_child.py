"""A process of its own that reads one recording and leaves plain arrays: ``python -m data_prep.studies.recording_child FILE KIND FORMATS
OUT``.

What the reader of a damaged file does ends this process, not the one that shards a study: a crash, or more memory or time than a file of
its size needs. Without OUT it only opens the file, before the other process does.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.contract.errors import StudyError
from data_prep.contract.records import from_json, to_json
from data_prep.studies.continuous import Continuous, one_line
from data_prep.studies.formats import Formats, open_as
from data_prep.studies.reading_process import run_reader_process
from data_prep.studies.recording_arrays import load_recording, save_recording
from data_prep.studies.recording_files import companions

FAILED, REFUSED, LACKING = 1, 3, 4
"""Exit statuses: what the library raised, a sentence of ours, a library that is not installed."""
_BASE_BYTES = 2 * 2**30
_BYTES_A_BYTE = 40
"""Two copies in float64 of what a file holds in int16, compressed by half, and as much again for what its reader needs."""
_BASE_SECONDS = 120
_BYTES_A_SECOND = 250_000
"""What the slowest reader does on a busy machine."""
_MAX_CHARACTERS = 500


def read_in_child(file: Path, kind: str, formats: Formats, *, named: Path) -> Continuous:
    """What a process of its own reads of ``file``; errors call it ``named``, as the user does.

    Raises
    ------
    StudyError
        One sentence, whatever became of that process.
    ImportError
        A library is not installed.
    """
    formats.check(named, kind)
    with tempfile.TemporaryDirectory(prefix="recording-") as folder:
        out = Path(folder) / "recording.npz"
        _have_read(file, kind, formats, named, str(out))
        return load_recording(out, named, kind)


def probe_in_child(file: Path, kind: str, formats: Formats, *, named: Path) -> None:
    """Open ``file`` in a process of its own and leave nothing: what it costs there it will cost here; raises as :func:`read_in_child`."""
    _have_read(file, kind, formats, named, "")


def _have_read(file: Path, kind: str, formats: Formats, named: Path, out: str) -> None:
    run_reader(file, kind, __name__, [str(file), kind, json.dumps(to_json(formats)), out], uses=("mne",), named=named)


def run_reader(
    file: Path, kind: str, module: str, arguments: Sequence[str], *, uses: Sequence[str] = (), named: Path | None = None
) -> None:
    """Run ``module.main(*arguments)``, which reads ``file`` and ends by :func:`status_of`, in a process of its own; errors call the file
    ``named``.

    Raises
    ------
    StudyError
        What it says, or how it ended.
    ImportError
        A library is not installed.
    """
    named = named or file
    seconds = _BASE_SECONDS + _size(companions(file)) // _BYTES_A_SECOND
    status, errors = run_reader_process(module, arguments, seconds, uses)
    said = (errors.strip().splitlines() or [f"status {status}"])[-1][:_MAX_CHARACTERS].replace(str(file), str(named))
    if status is None:
        raise StudyError(f"{named}: reading it as {kind} took longer than {seconds:,} s: it is damaged, or this machine is too busy")
    if status == REFUSED:
        raise StudyError(said if str(named) in said else f"{named}: {said}")
    if status == LACKING:
        raise ImportError(said)
    if status:
        crash = f"its reader was ended by signal {-status}: the file is damaged, or of a kind that it does not know"
        raise StudyError(f"{named}: cannot be read as {kind} ({crash if status < 0 else said})")


def most_bytes(files: list[Path]) -> int:
    """Most memory that recordings in these files need."""
    return _BASE_BYTES + _BYTES_A_BYTE * _size(files)


def limit_memory(files: list[Path]) -> None:
    """Let this process have as much memory, and write as much, as recordings of that size need, where the system can hold it to that."""
    most = most_bytes(files)
    for limit in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (most, most))


def read(file: Path, kind: str, formats: Formats, out: Path | None) -> None:
    """Open ``file`` and leave it in ``out``."""
    opened = open_as(file, kind, formats)
    if out is not None:
        save_recording(out, opened)


def main(file: str, kind: str, formats: str, out: str) -> int:
    """Exit status; what was wrong stands on stderr, in one line."""
    told = from_json(Formats, json.loads(formats), "formats", written_by="the parent")
    return status_of(Path(file), lambda path: read(path, kind, told, Path(out) if out else None))


def status_of(path: Path, read_it: Callable[[Path], None]) -> int:
    """Exit status of reading ``path`` with the memory that its size needs; what was wrong stands on stderr, in one line."""
    limit_memory(companions(path))
    try:
        read_it(path)
    except MemoryError:
        print("it asks for more memory than a file of its size should: it is damaged", file=sys.stderr)
        return FAILED
    except Exception as error:
        print(one_line(error), file=sys.stderr)
        return REFUSED if isinstance(error, StudyError) else LACKING if isinstance(error, ImportError) else FAILED
    return 0


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
