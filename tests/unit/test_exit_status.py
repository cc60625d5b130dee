"""Who ends a process for Python ends it as Python does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from data_prep.contract.errors import exit_status


@pytest.mark.parametrize("code", ["", "None", "0", "3", "75", "256", "-1", "True", "'no room'", "''", "(1, 2)"])
def test_the_status_and_what_is_said_are_pythons_own(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.exit({code})"], capture_output=True, text=True, check=False)
    with pytest.raises(SystemExit) as ended:
        exec(f"import sys; sys.exit({code})")
    assert exit_status(ended.value) == theirs.returncode
    assert capsys.readouterr().err == theirs.stderr
