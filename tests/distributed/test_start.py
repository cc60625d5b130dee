"""Whatever ends a run before its first step leaves the run folder as it was, and what was mended starts there."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.contract.cli import main
from data_prep.contract.errors import CommandError
from tests.distributed.training import make_study, train
from trainer import run as set_up
from trainer.__main__ import COMMANDS
from trainer.callbacks.checkpoints import Checkpoints
from trainer.callbacks.progress import ProgressLine
from trainer.callbacks.tensorboard import TensorBoardScalars
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.tasks.contrastive.task import ContrastiveTask
from trainer.training import checkpoint
from trainer.training.loop import Loop
from trainer.training.run_folder import RunFolder

pytestmark = pytest.mark.timeout(400)
TENSORBOARD = ("--callbacks", "[{class_path: TensorBoard}]")
FAULTS: list[Callable[[], BaseException]] = [
    lambda: RuntimeError("ours to mend"),
    lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    lambda: CommandError("this cannot be"),
    KeyboardInterrupt,
    lambda: torch.OutOfMemoryError("CUDA out of memory"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study, and a run that was trained to step 6 by one rank."""
    folder = tmp_path_factory.mktemp("start")
    make_study(folder)
    assert contrastive(folder, folder / "trained", "--train.steps", "6", *TENSORBOARD) == 0
    return folder


def contrastive(home: Path, run: Path, *arguments: str) -> int:
    return main("trainer", "", COMMANDS, ["contrastive", "--config", str(home / "config.yaml"), "--run", str(run), *arguments])


def what_is_in(folder: Path) -> dict[str, bytes | None]:
    """Every path in a folder, and what each file holds."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


OTHERS = (pytest.param(name, marks=pytest.mark.long) for name in ("empty", "with a stranger's file", "wound back", "continued elsewhere"))


@pytest.fixture(params=["missing", "resumed", *OTHERS])
def prepared(request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """A run folder, and the arguments of a run that can start there."""
    run = tmp_path / "runs" / "deep" / "run"
    if request.param == "missing":
        return run, TENSORBOARD
    if request.param == "continued elsewhere":
        return run, ("--resume", str(home / "trained"), *TENSORBOARD)
    if request.param in ("resumed", "wound back"):
        shutil.copytree(home / "trained", run)
        first = min((run / "checkpoints").iterdir())
        return run, ("--resume", "latest" if request.param == "resumed" else str(first), *TENSORBOARD)
    run.mkdir(parents=True)
    if request.param == "with a stranger's file":
        (run / "why.txt").write_text("because")
        (run / "events.jsonl").write_text('{"event": "of an earlier start"}\n')
    return run, TENSORBOARD


@pytest.fixture
def no_steps(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    """A run that has started is over, and nothing ends it any more."""

    def over(loop: Loop) -> int:
        fault.folder = None
        return 0

    monkeypatch.setattr(set_up, "_train", over)


class Fault:
    """Ends the process's next write but ``after`` into a folder, once."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.after = 0
        self.error = FAULTS[0]()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or event.split(".")[0] not in ("open", "os", "shutil") or not isinstance(arguments[0], str | os.PathLike):
            return
        if (event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR))) or event in ("os.listdir", "os.scandir"):
            return
        if str(arguments[0]).startswith(self.folder):
            self.after -= 1
            if self.after < 0:
                self.folder = None
                # What a folder that is there already says to mkdir(exist_ok=True) is an OSError as well.
                raise FAULTS[0]() if event == "os.mkdir" else self.error

    @contextmanager
    def ends(self, folder: Path, after: int, error: BaseException) -> Iterator[None]:
        self.folder, self.after, self.error = str(folder), after, error
        try:
            yield
        finally:
            self.folder = None


@pytest.fixture(scope="module")
def fault() -> Fault:
    made = Fault()
    sys.addaudithook(made)  # for good: Python has no way to take one back
    return made


def test_a_start_that_fails_at_any_write_leaves_no_trace(
    home: Path, prepared: tuple[Path, tuple[str, ...]], fault: Fault, no_steps: None
) -> None:
    run, arguments = prepared
    root = next(path for path in run.parents if path.exists())
    before = what_is_in(root)
    status, writes = 1, 0
    while status:
        with fault.ends(run, writes, FAULTS[writes % len(FAULTS)]()):
            status = contrastive(home, run, *arguments)
        if status:
            assert what_is_in(root) == before, f"a failure at write {writes} left a trace"
            writes += 1
    assert writes >= 8, "the faults were not where a start writes"
    assert (run / "identity.json").is_file()


STAGES = [
    (set_up, "build_deepspeed_config"),
    (ContrastiveTask, "build_optimizer"),
    (ContrastiveModelConfig, "build"),
    (set_up, "check_parameters"),
    (set_up, "make_callbacks"),
    (set_up, "_claim"),
    (RunFolder, "event"),
    (Checkpoints, "on_start"),
    (ProgressLine, "on_start"),
    (TensorBoardScalars, "on_start"),
    (Loop, "start"),
]
RESUMING = [(checkpoint, "read_checkpoint"), (checkpoint, "load")]


def test_a_start_that_fails_after_any_stage_leaves_no_trace(
    home: Path, prepared: tuple[Path, tuple[str, ...]], no_steps: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, arguments = prepared
    root = next(path for path in run.parents if path.exists())
    monkeypatch.setattr("tempfile.tempdir", str(home))
    before, stages = what_is_in(root), STAGES + (RESUMING if "--resume" in arguments else [])
    for number, (owner, name) in enumerate(stages):
        error, done = FAULTS[number % len(FAULTS)](), getattr(owner, name)

        def fail(*given: Any, _done: Any = done, _error: BaseException = error, **named: Any) -> None:
            _done(*given, **named)
            raise _error

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            status = contrastive(home, run, *arguments)
        assert status
        assert what_is_in(root) == before, f"a failure after {name} left a trace"
        said = capsys.readouterr().err.strip().splitlines()[-1]
        if type(error) is RuntimeError:
            assert "internal, not your fault" in said
            kept = Path(said.split("its traceback is in ")[1])
            assert "ours to mend" in kept.read_text(), "the traceback is kept outside the run folder"
    assert contrastive(home, run, *arguments) == 0


@pytest.mark.long
def test_a_start_that_fails_after_a_conversion_leaves_nothing_of_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    train(run, "--train.steps", "6", ranks=2, config=home / "config.yaml")
    before = what_is_in(tmp_path)
    made: list[str] = []
    convert = checkpoint.convert_to_universal

    def converted(*given: Any) -> str:
        made.append(convert(*given))
        return made[-1]

    def fail(*_: Any) -> None:
        assert Path(made[-1]).is_dir()
        raise CommandError("this model cannot be")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "convert_to_universal", converted)
        patch.setattr(ContrastiveTask, "build_model", fail)
        assert contrastive(home, run, "--resume", "latest") == 1
        assert what_is_in(tmp_path) == before
        assert contrastive(home, elsewhere, "--resume", str(run)) == 1
    assert what_is_in(tmp_path) == before
    assert capsys.readouterr().err.count("error: this model cannot be") == len(made) == 2


@pytest.mark.parametrize("how", ["raise", pytest.param("kill", marks=pytest.mark.long)])
def test_another_rank_that_fails_leaves_no_trace_either(home: Path, tmp_path: Path, how: str) -> None:
    """Rank 0 has claimed the folder by then, and converted the checkpoint of another number of ranks."""
    run = tmp_path / "run"
    shutil.copytree(home / "trained", run)
    before = what_is_in(run)
    broken = f"[{{class_path: tests.distributed.broken_start.BrokenStart, init_args: {{how: {how}}}}}]"
    said = train(run, "--resume", "latest", "--callbacks", broken, ranks=2, config=home / "config.yaml")
    assert what_is_in(run) == before
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    if how == "raise":
        (ours,) = [line for line in lines if "internal, not your fault: RuntimeError: this callback cannot begin" in line]
        assert "this callback cannot begin" in Path(ours.split("its traceback is in ")[1]).read_text()
        assert "error: rank 1 of 2 could not start, see its error" in lines


def test_a_checkpoint_that_is_gone_or_past_the_end_is_one_sentence(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(home / "trained", tmp_path / "run"))
    best = (run / "best").read_text().strip()
    before = what_is_in(run)
    for arguments, wanted in (
        (
            ("--resume", "latest", "--train.steps", "3"),
            r"train\.steps: a run of 3 steps, but .*step-00000006 was saved after step 6",
        ),
        (
            ("--resume", "auto", "--train.steps", "5"),
            r"train\.steps: a run of 5 steps, but .*step-00000006 was saved after step 6",
        ),
    ):
        assert contrastive(home, run, *arguments) == 1
        assert re.search(wanted, capsys.readouterr().err.strip().splitlines()[-1])
    assert what_is_in(run) == before
    shutil.rmtree(run / "checkpoints" / best)
    before = what_is_in(run)
    assert contrastive(home, run, "--resume", "best") == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(rf"resume: best: .*run/best names {best}, which is not in .*checkpoints any more; --resume latest", said)
    assert what_is_in(run) == before
