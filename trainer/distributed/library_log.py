"""What libraries say goes into a file, and their errors to the terminal as well; a user's own lines, and ours, stay where they are.

A library is one of :data:`LIBRARIES`, whose loggers bring handlers of their own for the terminal, or whoever warns from installed code.
Lines are kept until :meth:`LibraryLog.open` says where they belong: a run that is refused has no file.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from data_prep.contract.secrets import masked, private

LIBRARIES = ("DeepSpeed", "accelerate", "alembic", "bitsandbytes", "huggingface_hub", "mlflow", "peft", "torch", "transformers")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_OURS = tuple(Path(__file__).parents[2] / room for room in ("data_prep", "trainer", "launch"))


class LibraryLog(logging.Handler):
    """The file, once there is one.

    Parameters
    ----------
    show_errors
        Print lines of level ERROR and above to stderr as well.
    """

    def __init__(self, *, show_errors: bool = True) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(_FORMAT))
        self._show_errors = show_errors
        self._kept: list[str] = []
        self._file: TextIO | None = None

    def open(self, path: Path) -> None:
        """Write what was kept, and from now on every line, at the end of ``path``. A disk that takes none ends nothing."""
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1, opener=private)  # noqa: SIM115
            self._file.writelines(self._kept)
        self._kept.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep or write a line."""
        line = masked(f"{self.format(record)}\n")
        with contextlib.suppress(OSError):
            if self._show_errors and record.levelno >= logging.ERROR:
                sys.stderr.write(line)
                sys.stderr.flush()
            if self._file is not None:
                self._file.write(line)
        if self._file is None:
            self._kept.append(line)

    def end(self) -> None:
        """No more lines. Not called ``close``: whoever configures logging anew, as MLflow does when it is imported, closes all handlers."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None


@contextlib.contextmanager
def collected(*, show_errors: bool = True) -> Iterator[LibraryLog]:
    """Context in which what libraries say, those too that are imported in it, goes to the log that it gives."""
    log = LibraryLog(show_errors=show_errors)
    with contextlib.ExitStack() as undo:
        undo.callback(log.end)
        for name in LIBRARIES:
            undo.enter_context(_taken_over(logging.getLogger(name), log))
        undo.enter_context(_warnings_to(log))
        yield log


@contextlib.contextmanager
def _taken_over(logger: logging.Logger, log: LibraryLog) -> Iterator[None]:
    """Context in which a logger has ``log`` as its one handler; those that its library brings meanwhile wait for the end."""
    handlers = logger.handlers

    def remove(handler: logging.Handler) -> None:
        if handler in handlers:
            handlers.remove(handler)

    own = vars(logger)
    own["handlers"], own["addHandler"], own["removeHandler"] = [log], handlers.append, remove
    try:
        yield
    finally:
        del own["addHandler"], own["removeHandler"]
        own["handlers"] = handlers


@contextlib.contextmanager
def _warnings_to(log: LibraryLog) -> Iterator[None]:
    """Context in which warnings of installed code, and of ours, go to the log."""
    show = warnings.showwarning

    def sort(message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        if _is_a_librarys(filename):
            said = logging.makeLogRecord({"name": filename, "levelno": logging.WARNING, "levelname": "WARNING"})
            said.msg = f"line {lineno}: {category.__name__}: {message}"
            log.handle(said)
        else:
            show(message, category, filename, lineno, *rest)

    warnings.showwarning = sort  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = show


def _is_a_librarys(filename: str) -> bool:
    path = Path(filename)
    installed = {"site-packages", "dist-packages"} & {*path.parts} or path.is_relative_to(sysconfig.get_path("stdlib"))
    return filename.startswith("<") or bool(installed) or any(path.is_relative_to(room) for room in _OURS)
