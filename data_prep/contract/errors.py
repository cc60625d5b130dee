"""The one root of what a user can cause: said in one sentence, ended with a non-zero status, never a traceback.

Whatever else ends a command is ours to mend, and its traceback is kept; see :func:`data_prep.contract.cli.main`.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path


class UserError(ValueError):
    """What a user can mend; the message is one sentence that names the file or field, what was found and what was expected."""


class CommandError(UserError):
    """A command cannot do what it was asked."""


class ConfigError(CommandError):
    """A config that cannot be: unknown key, wrong type, contradiction. Exit status 2."""


class StudyError(UserError):
    """A study on disk contradicts the contract."""


def exit_status(ended: SystemExit) -> int:
    """The status with which Python ends for ``ended``, whose text it writes to standard error: for those who end a process themselves."""
    if ended.code is None or isinstance(ended.code, int):
        return (ended.code or 0) & 0xFF
    print(ended.code, file=sys.stderr)
    return 1


_traceback_file: Path | None = None


def set_traceback_folder(path: Path | None, rank: int = 0) -> None:
    """From here on tracebacks of what is ours to mend belong into ``path/errors/rank-N.txt``; None: there is no run folder any more."""
    global _traceback_file
    _traceback_file = None if path is None else path / "errors" / f"rank-{rank}.txt"


def traceback_file() -> Path | None:
    """Where this process's traceback belongs (its folder need not be there yet); None: no run folder was set."""
    return _traceback_file


_SYSTEM = {
    errno.ENOENT: "no such file or folder",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "larger than this system lets a file be",
    errno.EROFS: "the file system is read-only",
    errno.EISDIR: "is a folder, expected a file",
    errno.ENOTDIR: "is no folder, expected one",
    errno.EEXIST: "is there already",
    errno.ENOTEMPTY: "is a folder that is not empty",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many open files: raise `ulimit -n`",
    errno.EADDRINUSE: "the port is in use by another program: choose another one",
    errno.ECONNREFUSED: "nobody answers there",
    errno.EPIPE: "whoever read the output has gone",
}
_PORT_IS_TAKEN = ("failed to listen", "EADDRINUSE", "Address already in use")
_PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe")


def sentence_of(error: BaseException) -> str | None:
    """What ended a command, where it is not ours to mend: a user's error, or the system's in our words. None: it is ours."""
    if isinstance(error, UserError):
        return str(error) or type(error).__name__
    if isinstance(error, OSError):
        words = _SYSTEM.get(error.errno or 0) or error.strerror or " ".join(str(error).split()) or type(error).__name__
        return f"{error.filename}: {words}" if error.filename else words
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _no_memory(error):
        return f"out of memory: lower the batch size ({' '.join(str(error).split())[:160] or 'no more is known'})"
    if port_is_taken(error):
        return "the port where the ranks meet is in use by another program: start again, or choose another with --master_port"
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _PEER_IS_GONE):
        return f"another rank is gone, see its error ({' '.join(str(error).split())[:160]})"
    return None


def _no_memory(error: BaseException) -> bool:
    """Whether torch got no memory of the host: it has no class of errors for that."""
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def port_is_taken(error: BaseException) -> bool:
    """Whether torch could not listen where the ranks were to meet."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _PORT_IS_TAKEN)
