"""Of ranks on other hosts rank 0 is shown as it speaks, and each error once, whoever says it first."""

from __future__ import annotations

import pytest

from launch.shown import Shown


def test_rank_0_is_shown_and_of_the_others_each_error_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown()
    shown.take(0, 1, "step 1\nst")
    shown.take(1, 1, "step 1\n")
    shown.take(1, 2, "a warning\nerror: the disk is ")
    shown.take(0, 1, "ep 2\n")
    shown.take(1, 2, "full\n")
    shown.take(0, 2, "error: the disk is full\nerror: another rank is gone")
    shown.flush()
    printed = capsys.readouterr()
    assert printed.out == "step 1\nstep 2\n"
    assert printed.err == "error: the disk is full\nerror: another rank is gone\n"
