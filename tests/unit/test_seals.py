"""``files.sha256`` shows that it is not as it was written, whatever became of it, and names what it does not speak of."""

from __future__ import annotations

import hashlib
import itertools
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from data_prep.contract.cli import main
from data_prep.contract.errors import StudyError
from data_prep.contract.seal import SEALS, broken_seals, check_seals, read_seals, seal, seal_all
from data_prep.contract.seal_list import SealList, parse
from data_prep.shards.verify import VerifyConfig
from data_prep.shards.verify import run as verify_study
from tests.helpers.tiny_study import write_tiny_study
from trainer.__main__ import COMMANDS
from trainer.training.seal import Seal, read_checkpoint, write_seal
from trainer.training.state import TrainState

NAMES = ["config.json", "model.safetensors", "sub/a b.npz", "ümlaut.txt", "two\nlines", "back\\slash", " blank", "a: b.json", "half\udcff"]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    root = tmp_path / "export"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name.encode("utf-8", "replace").decode())
    seal_all(root)
    return root


def changed(text: bytes, draw: random.Random) -> bytes:
    """The list as a disk, a copy or an editor may leave it."""
    lines = text.splitlines(keepends=True)
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    at = draw.randrange(len(text))
    exchanged = [lines[{one: other, other: one}.get(n, n)] for n in range(len(lines))]
    ways = [
        text[:at],
        text[at + 1 :],
        b"".join(lines[:one]),
        b"".join(lines[one:]) if one else text + text,
        b"".join(lines[:one] + lines[one + 1 :]),
        b"".join(exchanged),
        b"".join([*lines[:one], lines[other], *lines[one:]]),
        b"".join([*lines[:one], b"0" * 64 + b"  later.json\n", *lines[one:]]),
        text[:at] + bytes([text[at] ^ (1 << draw.randrange(8))]) + text[at + 1 :],
        text[: at // 16 * 16] + bytes(16) + text[at // 16 * 16 + 16 :],
        text + b"\n",
        text.replace(b"\n", b"\r\n"),
        text.removesuffix(b"\n"),
        text[:at] + draw.randbytes(3) + text[at:],
    ]
    return draw.choice(ways)


def test_a_list_that_is_not_as_it_was_written_is_none(export: Path) -> None:
    whole = (export / SEALS).read_bytes()
    assert parse(whole) == read_seals(export)
    assert set(read_seals(export).sha256) == set(NAMES)
    tried = 0
    for seed in range(3000):
        text = changed(whole, random.Random(seed))
        if text != whole:
            tried += 1
            assert parse(text) is None, text
    assert tried > 2500


def test_a_list_cut_at_any_line_is_named_by_verify_and_refused_at_use(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (export / SEALS).read_bytes().splitlines(keepends=True)
    for kept in range(len(lines)):
        (export / SEALS).write_bytes(b"".join(lines[:kept]))
        assert main("trainer", "", COMMANDS, ["verify", "--folder", str(export)]) == 1
        assert f"{export / SEALS}: not a list of hashes" in capsys.readouterr().err
        with pytest.raises(StudyError, match="altered or cut short"):
            check_seals(export)
        with pytest.raises(StudyError, match="altered or cut short"):
            seal(export, [export / "config.json"])


def test_files_that_came_later_are_named_and_numbers_among_them_refused(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(broken_seals(export)) == []
    (export / ".DS_Store").write_text("x")
    assert check_seals(export) == []
    (export / "sub" / "notes.md").write_text("x")
    assert "notes.md: not a file that was sealed" in check_seals(export)[0]
    (export / "concepts.npz").write_text("x")
    with pytest.raises(StudyError, match=r"concepts\.npz: not a file that was sealed"):
        check_seals(export)
    assert main("trainer", "", COMMANDS, ["verify", "--folder", str(export)]) == 1
    said = capsys.readouterr().err
    assert "concepts.npz: not a file" in said
    assert "notes.md: not a file" in said


def test_reports_within_have_a_list_of_their_own_and_are_checked_with_the_rest(export: Path) -> None:
    (export / "reports").mkdir()
    (export / "reports" / "a.json").write_text("{}")
    seal(export / "reports", [export / "reports" / "a.json"])
    verify = ["verify", "--folder", str(export)]
    assert main("trainer", "", COMMANDS, verify) == 0
    (export / "reports" / "a.json").write_text("[]")
    assert main("trainer", "", COMMANDS, verify) == 1


def test_a_partial_list_names_what_it_does_not_speak_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.json", "b.json", "c.html"):
        (tmp_path / name).write_text(name)
    seal(tmp_path, [tmp_path / "a.json"])
    seal(tmp_path, [tmp_path / "c.html"])
    assert main("trainer", "", COMMANDS, ["verify", "--folder", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path}: no hash is known of b.json: {SEALS} does not list them" in said
    assert "whole as far as hashes are known" in said


def test_a_list_of_an_earlier_version_is_read_and_said_not_to_show_what_it_lacks(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = "".join(f"{hashlib.sha256((export / name).read_bytes()).hexdigest()}  {name}\n" for name in ("config.json", "model.safetensors"))
    (export / SEALS).write_text(old)
    assert check_seals(export) == []
    assert main("trainer", "", COMMANDS, ["verify", "--folder", str(export)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "of an earlier version, whose lists do not show whether lines of them are missing" in said
    assert "whole as far as hashes are known" in said
    assert "no hash is known of" in said
    seal(export, [export / "ümlaut.txt"])
    assert read_seals(export).guarded

    study = write_tiny_study(tmp_path / "study", n_stimuli=4)
    verify_study(VerifyConfig(study=str(study)))
    assert "earlier version" not in capsys.readouterr().err
    lines = (study / SEALS).read_text().splitlines(keepends=True)
    (study / SEALS).write_text("".join(lines[1:-1]))
    verify_study(VerifyConfig(study=str(study)))
    assert "of an earlier version" in capsys.readouterr().err


def test_the_list_is_read_by_sha256sum(export: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    done = subprocess.run(["sha256sum", "--strict", "-c", SEALS], cwd=export, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b": OK") == len(NAMES)


def test_what_a_complete_list_leaves_out_stays_left_out(tmp_path: Path) -> None:
    for name in ("logs/a.log", "parts/b.jsonl"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    seal_all(tmp_path, but=("logs",))
    (tmp_path / "logs" / "more.log").write_text("x")
    (tmp_path / "text.json").write_text("x")
    seal(tmp_path, [tmp_path / "text.json"])
    assert list(broken_seals(tmp_path)) == []
    (tmp_path / "parts" / "c.jsonl").write_text("x")
    assert [broken.path.name for broken in broken_seals(tmp_path)] == ["c.jsonl"]
    assert parse(SealList(complete=True, but=("a", "b-c")).text()) == SealList(complete=True, but=("a", "b-c"))


def test_a_checkpoint_is_whole_though_its_state_changes_while_it_is_sealed(tmp_path: Path) -> None:
    """A tracker's thread learns the run's id when the server answers, which may be at any line of saving."""
    told = itertools.count(1)

    class Told(TrainState):
        tracking_run_id = property(lambda self: f"{next(told):032x}", lambda self, value: None)  # type: ignore[assignment]

    path = tmp_path / "step-00000003"
    path.mkdir()
    write_seal(path, Seal(zero_stage=0, world_size=1, state=Told(step=3), files={}))
    assert read_checkpoint(path).state.tracking_run_id == f"{1:032x}"
    assert next(told) == 2  # it was asked once
