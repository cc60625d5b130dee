"""The encoding task under the real launcher: the same bits on one rank and on several, also when it is killed and stopped in the middle."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from data_prep.contract.files import read_json
from tests.distributed.training import events, last_step, saved_step, train, training, wait_for, write_split
from tests.helpers.tiny_study import write_tiny_study
from trainer.training.data_pass import SUMS
from trainer.training.run_folder import RunFolder
from trainer.training.start import STOPPED_STATUS
from trainer.training.verify import verify

CONFIG = """
data: {study: STUDY, split: tiny, embedding: tiny}
train: {global_batch_size: 5, timeout_seconds: 60}
checkpoint: {every_steps: 4}
mlflow: {enabled: false}
"""
SLOW = ("--callbacks", "[{class_path: tests.hosts.slow.Slow}]")
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoding")
    root = write_tiny_study(folder / "study", n_subjects=2, n_stimuli=60, n_test=10, samples_per_shard=7, vary_reps=True, noise=3.0)
    write_split(root, "tiny", train={"stimulus": list(range(40))}, validation={"stimulus": list(range(40, 50))})
    (folder / "config.yaml").write_text(CONFIG.replace("STUDY", str(root)))
    return folder


@pytest.fixture(scope="module")
def alone(home: Path) -> Path:
    """A run of one rank that nothing disturbs."""
    output = train(home / "alone", ranks=1, config=home / "config.yaml", task="encoding")
    assert (home / "alone" / "completed.json").is_file(), output
    return home / "alone"


def assert_same_models(run: Path, other: Path) -> None:
    """Every coefficient, and what was exported, to the last bit."""
    found, expected = (load_file((RunFolder(each).pointed("latest") or each) / SUMS) for each in (run, other))
    names = [name for name in expected if name.startswith("fitted.")]
    assert len(names) == 3 * 6
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    exported, wanted = (load_file(each / "export" / "model.safetensors") for each in (run, other))
    for name, array in wanted.items():
        np.testing.assert_array_equal(exported[name], array, err_msg=name)
    score = "best_score"
    assert read_json(run / "completed.json")[score] == read_json(other / "completed.json")[score]
    assert verify(run) == []


def test_two_ranks_give_the_bits_of_one(home: Path, alone: Path) -> None:
    output = train(home / "two", "--train.world_size", "2", ranks=2, config=home / "config.yaml", task="encoding", runner=True)
    assert (home / "two" / "completed.json").is_file(), output
    assert sorted(path.name for path in (home / "two" / "heartbeat").iterdir()) == ["0", "1"]
    assert_same_models(home / "two", alone)


def test_killed_on_two_ranks_stopped_on_one_and_finished_on_three(home: Path, alone: Path) -> None:
    run, config = home / "killed", home / "config.yaml"
    with training(run, *SLOW, ranks=2, config=config, task="encoding") as process:
        wait_for(lambda: saved_step(run) >= 4 and last_step(run) >= 6, process)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (run / "completed.json").exists()
    killed_at = saved_step(run)
    assert killed_at % 8, "it was killed in the middle of a subject"
    with training(run, *SLOW, "--resume", "latest", ranks=1, config=config, task="encoding") as process:
        wait_for(lambda: saved_step(run) > killed_at, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == STOPPED_STATUS
    assert events(run, "end")[-1]["step"] == saved_step(run) > killed_at, "the step it stopped at was not saved"
    output = train(run, "--resume", "auto", ranks=3, config=config, task="encoding")
    assert (run / "completed.json").is_file(), output
    assert [event["world_size"] for event in events(run, "resume")] == [1, 3]
    assert_same_models(run, alone)
