"""One bit flipped anywhere in a finished run: verify names the file, and what is loaded or resumed is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.cli import main
from data_prep.contract.errors import UserError
from data_prep.contract.files import read_json
from data_prep.contract.seal import SEALS
from tests.distributed.training import make_study
from tests.unit.test_flipped_bits import damages, flipped, flips, holding, unnamed
from trainer.__main__ import COMMANDS
from trainer.artifacts.encoder import load_encoder
from trainer.evaluate.results import Results, write_report
from trainer.training.checkpoint import check_files, read_checkpoint
from trainer.training.verify import verify

GROWING = ("heartbeat", "logs", "owner")
"""Of no use to any later command; the mark of the owner is refused by name where a later start finds it damaged."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("flips")
    make_study(home)
    assert command(home, "run", "--train.steps", "6", "--train.validate_every_steps", "3") == 0
    return home


def command(home: Path, run: str, *arguments: str) -> int:
    words = ["contrastive", "--config", str(home / "config.yaml"), "--run", str(home / run), "--mlflow.enabled", "false", *arguments]
    return main("trainer", "", COMMANDS, words)


@pytest.mark.parametrize("made", [flips, damages])
def test_verify_names_whatever_was_damaged_in_a_run_and_its_export(home: Path, tmp_path: Path, made: Any) -> None:
    run = Path(shutil.copytree(home / "run", tmp_path / "run", ignore=shutil.ignore_patterns(*GROWING)))
    write_report(run / "reports", "some", Results(kind="retrieval", notes=("one",)), lambda results: f"<p>{results.notes}</p>")
    assert verify(run) == []
    assert unnamed(run, 0, verify, made) == []
    assert verify(run / "export") == []
    assert unnamed(run / "export", 0, verify, made) == []


def test_a_pointer_to_nothing_and_a_part_that_came_later_are_named(home: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    (run / SEALS).unlink()  # as of a run that is not done
    with holding({run / "latest": b"step-00000009\n"}):
        assert any("latest: names step-00000009, which is no finished checkpoint" in fault for fault in verify(run))
    with holding({run / "latest": b"step-0000000\xb6\n"}):
        assert any("latest: names" in fault for fault in verify(run))
        assert command(home, str(run), "--resume", "latest") == 1
    (path, *_) = sorted((run / "checkpoints").glob("step-*"))
    (path / "zero_pp_rank_1_mp_rank_00_optim_states.pt").write_bytes(b"1")
    assert any("optim_states.pt: not a file that was saved" in fault for fault in verify(run))
    with pytest.raises(UserError, match="it came later"):
        check_files(read_checkpoint(path))


@pytest.mark.parametrize("seed", range(30))
def test_weights_with_a_flipped_bit_are_not_loaded(home: Path, seed: int) -> None:
    weights = home / "run" / "export" / "model.safetensors"
    with (
        flipped(weights, int(np.random.default_rng(seed).integers(8 * weights.stat().st_size))),
        pytest.raises(UserError, match=r"model\.saf"),
    ):
        load_encoder(home / "run" / "export")


@pytest.mark.parametrize("seed", range(30))
def test_a_checkpoint_with_a_flipped_bit_is_not_resumed(home: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    (path, *_) = sorted((home / "run" / "checkpoints").iterdir())
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file = files[seed % len(files)]
    with flipped(file, int(rng.integers(8 * file.stat().st_size))), pytest.raises(UserError, match=file.name):
        check_files(read_checkpoint(path))


def test_a_run_that_goes_on_is_sealed_anew(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(home / "run", home / "longer")
    assert command(home, "longer", "--resume", "latest", "--train.steps", "8") == 0
    assert main("trainer", "", COMMANDS, ["verify", "--folder", str(home / "longer")]) == 0
    assert "whole" in capsys.readouterr().err
    metrics = home / "longer" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("0", "1", 1))
    assert main("trainer", "", COMMANDS, ["verify", "--folder", str(home / "longer")]) == 1
    assert "metrics.jsonl: SHA-256" in capsys.readouterr().err
    assert main("trainer", "", COMMANDS, ["verify", "--folder", str(tmp_path)]) == 1


def test_a_run_of_an_earlier_version_is_read_and_what_has_no_hash_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = Path(shutil.copytree(home / "run", home / "old"))
    for folder in (old, old / "export"):
        (folder / SEALS).unlink()
    for manifest in old.glob("checkpoints/*/manifest.json"):
        text = manifest.read_text()
        manifest.write_text(text.replace(f'"sha256": "{read_json(manifest)["sha256"]}"', '"later": 1'))
    load_encoder(old / "export")
    assert main("trainer", "", COMMANDS, ["verify", "--folder", str(old)]) == 0
    assert "no hash is known of its files" in capsys.readouterr().err
    assert command(home, "old", "--resume", "latest", "--train.steps", "7") == 0


def test_a_text_that_was_edited_is_said_and_loads(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = Path(shutil.copytree(home / "run" / "export", home / "edited"))
    file = export / "config.json"
    file.write_text(file.read_text() + "\n")
    load_encoder(export)
    assert "config.json: SHA-256" in capsys.readouterr().err
    with pytest.raises(UserError, match="expected the folder of a run"):
        verify(home / "study")
