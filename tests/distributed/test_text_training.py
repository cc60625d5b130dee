"""The text command under the real launcher: two ranks compute what one does, quantised bases too, and runs that die go on elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.contract.files import read_json
from tests.distributed import text_worker
from tests.distributed.launcher import launch
from tests.distributed.training import by_step, events
from tests.helpers.tiny_text import write_tiny_text
from trainer.artifacts.text import load_text
from trainer.training.run_folder import RunFolder

LIMIT = 1e-4
STEPS = 12
OFFLINE = {"HF_HUB_OFFLINE": "1"}
pytestmark = pytest.mark.timeout(500)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks have run the worker's phase ``begin``, whose last run SIGKILL has ended."""
    folder = tmp_path_factory.mktemp("text")
    write_tiny_text(folder)
    done = launch("tests.distributed.text_worker", ["begin", str(folder)], ranks=2, timeout_seconds=240, environment=OFFLINE)
    assert (folder / "results.json").is_file(), done.stdout[-4000:]
    assert (folder / "dying-3").is_dir(), done.stdout[-4000:]
    (folder / "begin.log").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def results(home: Path) -> dict[str, Any]:
    return json.loads((home / "results.json").read_text())


@pytest.mark.parametrize("cut", text_worker.CUTS)
def test_two_ranks_equal_one_however_the_batch_is_cut(results: dict[str, Any], cut: str) -> None:
    found = results["exact"][cut]
    assert found["loss"] < LIMIT
    assert found["gradient"].keys() == {"encoder", "projector", "adapter"}
    assert max(found["gradient"].values()) < LIMIT, found["gradient"]


@pytest.mark.parametrize("cut", text_worker.CUTS)
def test_adapter_projector_and_encoder_learn_and_the_base_keeps_its_bits(results: dict[str, Any], cut: str) -> None:
    found = results["exact"][cut]
    assert min(found["changed"].values()) > 1e-3, found["changed"]
    assert found["frozen_unchanged"]
    assert found["dtypes"] == ["torch.float32"]


def test_under_zero_3_each_rank_holds_half_of_the_base(results: dict[str, Any]) -> None:
    held = {cut: found["embedding_elements_held"] for cut, found in results["exact"].items()}
    assert held["3, packed"] * 2 == held["0"]


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantised_bases_train_alike_under_zero_2_and_3(results: dict[str, Any], bits: str) -> None:
    two, three = (results["quantised"][f"{bits}, {stage}"] for stage in (2, 3))
    assert len(two["losses"]) == text_worker.QUANTISED_STEPS
    assert three["losses"] == pytest.approx(two["losses"], rel=0.01)
    assert two["losses"][-1] < 0.95 * two["losses"][0]
    assert two["frozen_unchanged"]
    assert three["frozen_unchanged"]
    assert two["base_weights_kept"] == three["base_weights_kept"] == 0


@pytest.mark.parametrize("method", text_worker.DECODINGS)
def test_reloaded_on_one_rank_it_says_the_same(home: Path, results: dict[str, Any], method: str) -> None:
    task = text_worker.TextTask(text_worker.read_config(home, prompt__concepts=2), text_worker.World(), torch.device("cpu"))
    decoder = load_text(home / "said")
    assert task.validation is not None
    hosts = [task.validation.samples_batch(np.array([number])) for number in range(task.validation.num_samples)]
    eeg_BRCT = np.stack([host.repetitions_RCT.float().numpy() for host in hosts])
    labels = task.index.manifest.tables.subjects
    subjects = [labels[int(host.subject_B[0])] for host in hosts]
    assert decoder.caption(eeg_BRCT, subjects, decoding=text_worker.DECODINGS[method], batch_size=3) == results["said"][method]


def test_a_whole_run_leaves_what_the_run_folder_promises(home: Path) -> None:
    run = home / "whole"
    completed = read_json(run / "completed.json")
    assert (completed["reason"], completed["step"], completed["score_name"]) == ("finished", STEPS, "log_likelihood")
    assert {p.name for p in run.iterdir()} >= {"config.yaml", "identity.json", "metrics.jsonl", "latest", "best", "export", "heartbeat"}
    assert [event["event"] for event in events(run, "start")] == ["start"]
    assert sorted(by_step(run, "metrics.jsonl", "validation_log_likelihood")) == [6, 12]
    assert sorted(by_step(run, "metrics.jsonl", "validation_image_log_likelihood")) == [6, 12]
    latest = RunFolder(run).pointed("latest")
    assert latest is not None
    trained = sum(file.stat().st_size for file in latest.rglob("*") if file.is_file())
    assert trained < (home / "base" / "model.safetensors").stat().st_size, "the frozen base is in the checkpoint"
    output = (home / "begin.log").read_text()
    assert "adapter   │ 8,192   │ 8,192" in output
    assert "base      │ 0  " in output


@pytest.mark.long
def test_runs_that_died_on_2_ranks_go_on_with_1_and_end_on_2(home: Path) -> None:
    for stage in text_worker.STAGES:
        config = replace(text_worker.dying_config(home, stage), resume="latest")
        text_worker.run_until(config, 8, text_worker.crash)
    done = launch("tests.distributed.text_worker", ["finish", str(home)], ranks=2, timeout_seconds=240, environment=OFFLINE)
    assert done.returncode == 0, done.stdout[-4000:]
    whole = home / "whole"
    for stage in text_worker.STAGES:
        run = home / f"dying-{stage}"
        assert [(e["event"], e["world_size"]) for e in events(run, "start") + events(run, "resume")] == [
            ("start", 2),
            ("resume", 1),
            ("resume", 2),
        ]
        assert by_step(run, "items.jsonl", "items") == by_step(whole, "items.jsonl", "items")
        assert by_step(run, "metrics.jsonl", "loss") == pytest.approx(by_step(whole, "metrics.jsonl", "loss"), rel=1e-5), f"ZeRO-{stage}"
        for score in ("best_score", "best_step"):
            assert read_json(run / "completed.json")[score] == pytest.approx(read_json(whole / "completed.json")[score])
