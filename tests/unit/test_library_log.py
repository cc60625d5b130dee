"""Where the lines of libraries go, and that a user's own stay where they are."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import pytest

from trainer.distributed.library_log import collected


@pytest.fixture
def library() -> logging.Logger:
    """A library's logger, with a handler of its own for the terminal."""
    logger = logging.getLogger("transformers")
    logger.setLevel(logging.INFO)
    return logger


def test_lines_wait_for_their_file_and_errors_are_shown_too(
    library: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(library.handlers)
    with collected() as log:
        library.addHandler(logging.StreamHandler(sys.stdout))
        library.warning("before there is a folder")
        logging.getLogger("transformers.deep.inside").info("a child's")
        log.open(tmp_path / "run" / "logs" / "rank-0.log")
        for handler in list(library.handlers):  # what MLflow does when it configures logging
            handler.close()
            library.removeHandler(handler)
        library.addHandler(logging.StreamHandler())
        library.info("after")
        library.error("broken")
    said = capsys.readouterr()
    assert said.out == ""
    (shown,) = said.err.splitlines()
    assert shown.endswith("ERROR transformers: broken")
    lines = (tmp_path / "run" / "logs" / "rank-0.log").read_text().splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == ["before there is a folder", "a child's", "after", "broken"]
    for handler in set(library.handlers) - set(before):
        library.removeHandler(handler)
    assert library.handlers == before
    library.warning("nobody collects any more")
    assert "nobody collects any more" not in (tmp_path / "run" / "logs" / "rank-0.log").read_text()


def test_what_is_never_opened_leaves_nothing(library: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with collected():
        library.warning("of a run that is refused")
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_a_users_own_warnings_and_loggers_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "my_lab.py"
    own.write_text("import warnings\nwarnings.warn('mine')")
    installed = tmp_path / "site-packages" / "theirs.py"
    installed.parent.mkdir()
    installed.write_text("import warnings\nwarnings.warn('theirs')")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)
        with collected() as log:
            log.open(tmp_path / "log")
            for file in (own, installed):
                exec(compile(file.read_text(), str(file), "exec"), {})
    assert capsys.readouterr().err == "mine\n"
    assert "theirs" in (tmp_path / "log").read_text()


def test_a_disk_that_takes_no_line_ends_nothing(library: logging.Logger) -> None:
    with collected() as log:
        log.open(Path("/dev/full"))
        library.warning("lost")
