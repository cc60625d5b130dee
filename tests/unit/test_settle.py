"""A run folder is made to agree with the checkpoint from which it goes on, whatever lies in it and however often that is cut short."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from data_prep.contract import files
from data_prep.contract.errors import CommandError
from data_prep.contract.files import replace_folder, sha256_file, write_json
from data_prep.contract.records import SealedFile
from trainer.training import checkpoint, seal
from trainer.training.resume import find, newest_whole
from trainer.training.run_folder import RunFolder, read_lines
from trainer.training.seal import Seal, read_checkpoint, write_seal
from trainer.training.settle import adopt, best_is_lost, exported_step, settle, tracked_before, tracking_begun, tracking_run
from trainer.training.state import TrainState

SAVED, BEST = (3, 4, 6, 8, 9, 12), (4, 8)
"""Steps with a checkpoint, and those that were the best so far."""


def best_at(step: int) -> int:
    return max((each for each in BEST if each <= step), default=0)


def state_of(step: int) -> TrainState:
    return TrainState(step=step, best_step=best_at(step), best_score=0.1 * best_at(step) or None)


def saved(folder: RunFolder, step: int) -> None:
    path = folder.checkpoint(step)
    path.mkdir(parents=True)
    (path / "weights").write_text(f"of {step}")
    if step in BEST:
        write_export(path / "export", step)
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    sealed = {name: SealedFile(bytes=file.stat().st_size, sha256=sha256_file(file)) for name, file in found.items()}
    write_seal(path, Seal(zero_stage=0, world_size=1, state=state_of(step), files=sealed))


def write_export(path: Path, step: int) -> None:
    path.mkdir()
    write_json(path / "config.json", {"step": step})
    (path / "model.safetensors").write_text(f"best {step}")


def whole_run(path: Path) -> RunFolder:
    """All steps, none of which was undone."""
    folder = RunFolder(path)
    folder.path.mkdir()
    folder.event("start")
    for step in range(1, max(SAVED) + 1):
        folder.metrics(step, {"loss": 1 / step})
        folder.items(step, [step])
        if step in SAVED:
            folder.event("checkpoint", step=step, best=step in BEST)
            saved(folder, step)
            folder.point("latest", folder.checkpoint(step))
    folder.point("best", folder.checkpoint(max(BEST)))
    write_export(folder.export, max(BEST))
    return folder


def disturb(folder: RunFolder, draw: random.Random, step: int) -> None:
    """What kills and other pasts leave behind, all but the checkpoints up to ``step`` that it needs."""
    what = draw.randrange(4)
    if what:
        shutil.rmtree(folder.export)
    if what == 2:
        write_export(folder.export, draw.choice((2, 4, 8, 11)))
    if what == 3:
        folder.export.mkdir()  # half of one
    draw.choice((lambda: None, (folder.path / "best").unlink, lambda: folder.point("best", folder.checkpoint(draw.choice(SAVED)))))()
    for name in draw.sample((".best.x.partial", ".latest.y.partial"), draw.randrange(3)):
        (folder.path / name).write_text("half")
    for name in draw.sample((".export.new", ".export.old"), draw.randrange(3)):
        shutil.copytree(folder.checkpoint(4) / "export", folder.path / name)
    for name in draw.sample(("events.jsonl", "metrics.jsonl", "items.jsonl"), draw.randrange(4)):
        with (folder.path / name).open("a") as lines:
            lines.write(draw.choice(('{"step": 13, "lo', "{", '{"step": 13, "event": "checkpoint"}\n')))
    if draw.random() < 0.5:
        folder.checkpoint(13).mkdir()  # killed while it was written
    if draw.random() < 0.5:
        (folder.checkpoints / ".step-00000004.partial").mkdir()
    folder.point("latest", folder.checkpoint(step))


def content(folder: RunFolder) -> dict[str, bytes]:
    """All files by name but what was set aside."""
    found = (path for path in folder.path.rglob("*") if path.is_file() and folder.undone not in path.parents)
    return {path.relative_to(folder.path).as_posix(): path.read_bytes() for path in found}


def check(folder: RunFolder, step: int) -> None:
    best = best_at(step)
    names = {path.name for path in folder.path.iterdir()} - {"undone"}
    kept = {"checkpoints", "latest", "events.jsonl", "metrics.jsonl", "items.jsonl"}
    assert names == (kept | {"best", "export"} if best else kept)
    assert folder.pointed("best") == (folder.checkpoint(best) if best else None)
    assert exported_step(folder.export) == (best or None)
    if best:
        assert (folder.export / "model.safetensors").read_text() == f"best {best}"
    assert {path.name for path in folder.checkpoints.iterdir()} == {f"step-{each:08d}" for each in SAVED if each <= step}
    for name in ("metrics.jsonl", "items.jsonl"):
        assert [line["step"] for line in read_lines(folder.path / name)] == list(range(1, step + 1))
        assert (folder.path / name).read_bytes().count(b"\n") == step
    assert [event.get("step", 0) for event in read_lines(folder.path / "events.jsonl")] == [0, *(each for each in SAVED if each <= step)]


class Cut(BaseException):
    """Stands where a kill would."""


def cut_at(line: int, action: Callable[[], Any]) -> bool:
    """Whether ``action`` came to its ``line``-th line of ours, where it was cut short."""
    left = line

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if "/trainer/training/" not in frame.f_code.co_filename and frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise Cut
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except Cut:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("seed", range(24))
def test_whatever_lies_in_a_run_folder_it_agrees_with_the_step_afterwards(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    step = SAVED[seed % len(SAVED)]
    folder = whole_run(tmp_path / "run")
    before = content(folder)
    disturb(folder, draw, step)
    settle(folder, state_of(step))
    check(folder, step)
    aside = [line["step"] for line in read_lines(folder.undone / "metrics.jsonl") if "loss" in line]
    assert aside == list(range(step + 1, max(SAVED) + 1)), "lines that were cut are kept"
    after = content(folder)
    settle(folder, state_of(step))
    assert content(folder) == after, "settled once is settled"
    assert all(after[name] == content for name, content in before.items() if name in after and name.startswith("checkpoints/"))


@pytest.mark.parametrize("exchanged", [True, False])
def test_settling_may_be_cut_short_at_every_line(tmp_path: Path, exchanged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchanged:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    whole = whole_run(tmp_path / "whole")
    whole.point("latest", whole.checkpoint(6))
    folder, line = RunFolder(tmp_path / "run"), 0
    shutil.copytree(whole.path, folder.path)
    while cut_at(line, lambda: settle(folder, state_of(6))):
        line += 13  # other lines are met by and by, as what is left to do becomes less
    check(folder, 6)
    assert line > 50


@pytest.mark.parametrize("step", [3, 4, 12])
def test_what_is_adopted_is_a_run_of_its_own_however_often_it_is_cut_short(tmp_path: Path, step: int) -> None:
    source, folder = whole_run(tmp_path / "source"), RunFolder(tmp_path / "run")
    before = content(source)
    folder.path.mkdir()
    folder.event("resume", resumed_at=step, elsewhere=True)
    line = 0
    while cut_at(line, lambda: adopt(folder, source, source.checkpoint(step), state_of(step))):
        line += 29
    folder.point("latest", folder.checkpoint(step))
    settle(folder, state_of(step))
    assert content(source) == before
    assert {int(path.name[5:]) for path in folder.checkpoints.iterdir()} == {step, best_at(step)} - {0}
    for each in {step, best_at(step)} - {0}:
        seal.check_files(read_checkpoint(folder.checkpoint(each)))
    assert exported_step(folder.export) == (best_at(step) or None)
    assert [found["step"] for found in read_lines(folder.path / "metrics.jsonl")] == list(range(1, step + 1))


def test_a_folder_takes_the_place_of_another_however_that_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, final = tmp_path / ".it.new", tmp_path / "it"

    def put(text: str) -> None:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        (new / "file").write_text(text)
        replace_folder(new, final)

    for exchanged in (True, False):
        if not exchanged:
            monkeypatch.setattr(files, "_exchange", lambda one, other: False)
        for line in range(60):
            put("old")
            cut = cut_at(line, lambda: put("new"))
            there = (final / "file").read_text() if final.exists() else "none"
            assert there in ({"old", "new"} if exchanged else {"old", "new", "none"})
            put("newest")
            assert [path.name for path in tmp_path.iterdir()] == ["it"]
            assert (final / "file").read_text() == "newest"
            if not cut:
                break
        assert not cut
        assert line > 5


def test_what_a_start_left_that_was_killed_before_there_was_a_run_is_not_gone_on_from(tmp_path: Path) -> None:
    folder = whole_run(tmp_path / "run")
    shutil.rmtree(folder.export)
    (folder.path / "best").unlink()
    assert find(folder, "auto") is None
    with pytest.raises(CommandError, match="has no checkpoint"):
        find(folder, "latest")
    write_json(folder.path / "identity.json", {})
    assert find(folder, "auto") == find(folder, "latest") == folder.checkpoint(12)


def damage(path: Path, how: str) -> None:
    if how == "gone":
        shutil.rmtree(path)
    elif how == "no seal":
        (path / "manifest.json").unlink()
    elif how == "seal":
        (path / "manifest.json").write_text((path / "manifest.json").read_text().replace("samples_seen", "samples"))
    elif how == "short":
        (path / "weights").write_text("of")
    elif how == "altered":
        (path / "weights").write_text((path / "weights").read_text().replace("of", "OF"))
    else:
        (path / "later.pt").write_text("a part that nobody saved")


@pytest.mark.parametrize("how", ["gone", "no seal", "seal", "short", "altered", "later"])
def test_auto_goes_on_from_the_newest_whole_checkpoint_and_says_what_it_passed_over(tmp_path: Path, how: str) -> None:
    folder = whole_run(tmp_path / "run")
    write_json(folder.path / "identity.json", {})
    assert newest_whole(folder, folder.checkpoint(12)) == (folder.checkpoint(12), [])
    passed: list[str] = []
    for step, before in ((12, 9), (9, 8)):
        damage(folder.checkpoint(step), how)
        found, damaged = newest_whole(folder, folder.checkpoint(12))
        assert found == folder.checkpoint(before)
        assert all(str(folder.checkpoint(step)) in said for step, said in zip((12, 9), damaged, strict=False))
        passed = damaged
    assert len(passed) == 2 if how != "gone" else len(passed) == 1
    for step in SAVED:
        if folder.checkpoint(step).exists():
            damage(folder.checkpoint(step), "gone")
    with pytest.raises(CommandError, match="none of its 1 checkpoints is whole"):
        newest_whole(folder, folder.checkpoint(12))


def test_a_run_goes_on_from_its_best_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = whole_run(tmp_path / "run")
    write_json(folder.path / "identity.json", {})
    assert find(folder, "best") == folder.checkpoint(8)
    (folder.path / "best").unlink()
    with pytest.raises(CommandError, match=r"resume: best, but .* has no checkpoint that was the best of its validations"):
        find(folder, "best")


def test_a_best_that_is_nowhere_is_lost(tmp_path: Path) -> None:
    folder = whole_run(tmp_path / "run")
    assert not best_is_lost(folder, state_of(3))
    assert not best_is_lost(folder, state_of(12))
    shutil.rmtree(folder.checkpoint(8))
    assert not best_is_lost(folder, state_of(12)), "as an earlier version kept it"
    assert not best_is_lost(folder, state_of(6))
    shutil.rmtree(folder.export)
    assert best_is_lost(folder, state_of(12))
    assert not best_is_lost(folder, state_of(6))


def test_pruning_keeps_the_best_at_each_step_that_can_be_wound_back_to(tmp_path: Path) -> None:
    folder = whole_run(tmp_path / "run")
    folder.point("latest", folder.checkpoint(9))
    folder.point("best", folder.checkpoint(8))
    shutil.rmtree(folder.export)
    line = 0
    while cut_at(line, lambda: checkpoint.prune(folder, 3)):
        for found in map(read_checkpoint, (path.parent for path in folder.checkpoints.glob("*/manifest.json"))):
            assert not best_is_lost(folder, found.state) or not found.state.best_step
        line += 3
    assert {int(path.name[5:]) for path in folder.checkpoints.iterdir()} == {4, 6, 8, 9}


@pytest.mark.parametrize(("step", "name"), [(12, 13), (12, 11), (9, 12), (3, 99_999_999), (8, 4)])
@pytest.mark.parametrize("how", ["renamed", "copied", "linked"])
def test_a_checkpoint_under_another_steps_name_is_refused_and_nothing_is_lost(tmp_path: Path, step: int, name: int, how: str) -> None:
    folder = whole_run(tmp_path / "run")
    source, target = folder.checkpoint(step), folder.checkpoint(name)
    if target.exists():
        shutil.rmtree(target)
    if how == "linked":
        target.symlink_to(source)
    else:
        shutil.copytree(source, target)
    if how == "renamed":
        shutil.rmtree(source)
    with pytest.raises(CommandError, match=rf"manifest\.json: is of step {step}, expected {name} by its folder's name"):
        read_checkpoint(target)
    others = {each for each in SAVED if each not in (step, name)}
    found, passed_over = newest_whole(folder, target)
    assert read_checkpoint(found).state.step == max(each for each in others | ({step} if how != "renamed" else set()) if each <= name)
    assert len(passed_over) == 1
    checkpoint.prune(folder, 99)  # at a save of a run that goes on


@pytest.mark.parametrize("target", ["inside", "outside"])
@pytest.mark.parametrize("action", [lambda folder: settle(folder, state_of(9)), lambda folder: checkpoint.prune(folder, 1)])
def test_of_a_checkpoint_that_is_a_link_only_the_link_is_deleted(tmp_path: Path, target: str, action: Callable[[RunFolder], None]) -> None:
    folder = whole_run(tmp_path / "run")
    folder.point("latest", folder.checkpoint(9))
    for step in (3, 12):  # too old to keep, and of a future that is wound back
        lies = folder.checkpoint(9)
        if target == "outside":
            lies = tmp_path / f"large-disk-{step}"
            folder.checkpoint(step).rename(lies)
        else:
            shutil.rmtree(folder.checkpoint(step))
        folder.checkpoint(step).symlink_to(lies)
    action(folder)
    assert read_checkpoint(folder.checkpoint(9)).state.step == 9
    assert all((path / "manifest.json").is_file() for path in tmp_path.glob("large-disk-*"))
    assert {path.name for path in folder.checkpoints.iterdir() if path.is_symlink()} <= {"step-00000003", "step-00000012"}


@pytest.mark.parametrize("digits", ["\u0660" * 7 + "\u0668", "0000008\uff18", "\u0967" * 8])
def test_a_name_of_other_digits_is_no_checkpoint(tmp_path: Path, digits: str) -> None:
    folder = whole_run(tmp_path / "run")
    (folder.path / "best").write_text(f"step-{digits}\n", encoding="utf-8")
    with pytest.raises(CommandError, match=r"best: names .*expected a checkpoint such as step-"):
        folder.pointed("best")


@pytest.mark.parametrize("name", ["/etc/passwd", "../weights", "export/../../x", "a/../weights"])
def test_a_seal_lists_nothing_outside_of_its_checkpoint(tmp_path: Path, name: str) -> None:
    folder = whole_run(tmp_path / "run")
    path = folder.checkpoint(8)
    before = vars(read_checkpoint(path))
    sealed = {**before["files"], name: SealedFile(bytes=1, sha256="0" * 64)}
    write_seal(path, Seal(**{**{key: value for key, value in before.items() if key != "path"}, "files": sealed}))
    with pytest.raises(CommandError, match="expected files inside of"):
        read_checkpoint(path)


def test_an_export_that_is_a_link_to_nowhere_is_made_anew(tmp_path: Path) -> None:
    folder = whole_run(tmp_path / "run")
    shutil.rmtree(folder.export)
    folder.export.symlink_to(tmp_path / "disk that is not mounted")
    settle(folder, state_of(12))
    check(folder, 12)


# --------------------------------------------------------------------------------------------------- which run of MLflow

START, NAMED, ELSEWHERE = (
    {"event": "tracking", "start": "s1"},
    {"event": "tracking", "run_id": "r1"},
    {"event": "resume", "elsewhere": True},
)


def wound(step: int) -> dict[str, Any]:
    return {"event": "resume", "wound_back_from": step}


@pytest.mark.parametrize(
    ("events", "elsewhere", "continued", "before", "begun"),
    [
        ([], False, "state's", "", ""),
        ([], True, "", "", ""),
        ([ELSEWHERE], False, "", "", ""),  # killed before it had a run of its own: that of the checkpoint is another folder's
        ([START], False, "state's", "", "s1"),
        ([ELSEWHERE, START], False, "", "", "s1"),
        ([START, NAMED], False, "r1", "r1", ""),
        ([START, NAMED, {"event": "resume", "wound_back_from": None}], False, "r1", "r1", ""),
        ([START, NAMED, wound(9)], False, "", "r1", ""),
        ([START, NAMED, wound(9), {"event": "tracking", "start": "s2"}], False, "", "r1", "s2"),
        ([START, NAMED, wound(6), {"event": "tracking", "start": "s2"}], False, "", "r1", "s2"),  # the new one is in the old one's tags
        ([START, NAMED, wound(9), {"event": "tracking", "run_id": "r2"}], False, "r2", "r2", ""),
        ([START, NAMED, wound(6)], False, "r1", "r1", ""),  # and trained again to where it was
    ],
)
def test_which_run_of_mlflow_goes_on(
    tmp_path: Path, events: list[dict[str, Any]], elsewhere: bool, continued: str, before: str, begun: str
) -> None:
    folder = RunFolder(tmp_path)
    for event in events:
        folder.event(event["event"], **{name: value for name, value in event.items() if name != "event"})
    found = tracking_run(folder, TrainState(step=6, tracking_run_id="state's"), num_steps=12, elsewhere=elsewhere)
    assert (found, tracked_before(folder), tracking_begun(folder)) == (continued, before, begun)


def test_a_run_that_will_end_before_points_it_has_gets_a_new_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.event("tracking", run_id="r1")
    folder.metrics(12, {"loss": 1.0})
    state = TrainState(step=6)
    assert tracking_run(folder, state, num_steps=12, elsewhere=False) == "r1"
    assert tracking_run(folder, state, num_steps=11, elsewhere=False) == ""
