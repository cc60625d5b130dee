"""What hosts compare before they train together."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from tests.distributed.training import CONFIG
from trainer.distributed.agreement import differences, verdict
from trainer.training.provenance import facts_of_the_data, facts_of_the_start


def config(tmp_path: Path) -> object:
    from data_prep.contract.cli import parse
    from trainer.tasks.contrastive.config import ContrastiveConfig

    (tmp_path / "config.yaml").write_text(CONFIG.replace("STUDY", str(tmp_path / "study")))
    return parse(ContrastiveConfig, ["--config", str(tmp_path / "config.yaml"), "--run", "runs/one"])


def test_config_device_packages_and_every_file_of_the_code_are_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    facts = facts_of_the_start(config(tmp_path), "cpu")
    assert facts["optimizer.lr"] == "0.003"
    assert facts["device"] == "cpu"
    assert facts["package torch"].startswith("2.")
    assert {"code", "python", "code trainer/losses.py", "code data_prep/contract/cli.py"} <= facts.keys()
    assert facts == facts_of_the_start(config(tmp_path), "cpu")


@pytest.mark.long
def test_a_users_own_modules_count_and_modules_without_a_file_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any working directory: torch.ops says that it lies in a file ``_ops.py``, which is nowhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.py").write_text("A = 1")
    for name, file in (("lab", str(tmp_path / "lab.py")), ("made_up", "_ops.py"), ("gone", str(tmp_path / "gone.py")), ("built", None)):
        module = types.ModuleType(name)
        module.__file__ = file
        monkeypatch.setitem(sys.modules, name, module)
    before = facts_of_the_start(config(tmp_path), "cpu")
    assert not {"code module made_up", "code module gone", "code module built"} & before.keys()
    (tmp_path / "lab.py").write_text("A = 2")
    assert [field for field, *_ in differences(before, facts_of_the_start(config(tmp_path), "cpu"))] == ["code module lab"]


def test_the_verdict_names_hosts_and_fields() -> None:
    first = {"data.split_hash": "1", "train.seed": "0", "a": "x", "b": "x", "c": "x", "long": "x"}
    assert verdict([("node0", []), ("node1", differences(first, dict(first)))]) == ""
    said = verdict([("node0", []), ("node0", []), ("node1", differences(first, first | {"train.seed": "7"})), ("node2", [("a", "x", "y")])])
    assert said == (
        "node1 (rank 2) would not train what node0 (rank 0) does: train.seed is 7 there and 0 here; node2 (rank 3) differs, too: "
        "expected the same on all ranks"
    )
    lacking = differences(first, {})
    assert verdict([("a", []), ("b", lacking)]).count(" is nothing there") == 4
    assert "and 2 more fields differ" in verdict([("a", []), ("b", lacking)])


def test_the_data_are_compared_by_their_hashes() -> None:
    one = facts_of_the_data({"data": {"fingerprint": "1", "split_hash": "2"}, "train": {"seed": 3}}, 1440)
    assert one == {"data.fingerprint": "1", "data.split_hash": "2", "train.seed": "3", "training items": "1440"}
