"""What ``doctor`` asks of one host: sizes of models, marks in a folder, trackers that answer or do not."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.doctor.config import DoctorConfig
from launch.doctor.gather import ASKED as TOLD
from launch.doctor.host import ASKED, Host, nearest_folder, why_not_reached
from launch.doctor.marks import ASKED as MARKED
from tests.distributed.launcher import ROOT
from tests.helpers.tiny_study import write_tiny_study
from tests.helpers.tiny_text import write_tiny_text
from trainer.training.tracking import sqlite_uri


def test_a_language_models_sizes_are_those_of_the_model_that_is_built(tmp_path: Path) -> None:
    write_tiny_text(tmp_path)
    command = ["text", "--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")]
    host = Host(DoctorConfig(trainer_command=command), 1)
    asked, study = host.config_facts(), host.study()
    assert asked.run == str(tmp_path / "run")
    assert study is not None
    assert {"data.fingerprint", "data.encoder_sha256", "training items"} <= study.facts.keys()
    sizes = host.model()
    assert sizes is not None
    parameters = list(host.task.build_model().parameters())
    assert sizes.trained == sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    assert sizes.frozen_bytes == sum(4 * parameter.numel() for parameter in parameters if not parameter.requires_grad)
    hashed = host.shards()
    assert hashed is not None
    assert (hashed.hashed, hashed.wrong) == (hashed.total, [])
    assert not (tmp_path / "run").exists()


def marks(folders: list[Path], seconds: float) -> list[list[int]]:
    """What each of some hosts sees, each with a run folder of its own."""
    processes = []
    for number, folder in enumerate(folders):
        asked = {"run": str(folder / "runs" / "x"), "nonce": "n", "hosts": len(folders), "me": number, "seconds": seconds}
        environment = {**os.environ, MARKED: json.dumps(asked), "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, "-m", "launch.doctor.marks"]
        processes.append(subprocess.Popen(argv, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True))
    said = []
    for process in processes:
        assert process.stdout is not None
        said.append(json.loads(process.stdout.readline())["marks"])
    for process in processes:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        process.stdout.close()  # type: ignore[union-attr]
    return said


def test_marks_tell_one_folder_from_two_and_are_taken_away(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    assert marks([one, one, one], 20) == [[0, 1, 2]] * 3
    assert marks([one, other], 0.5) == [[0], [1]]
    assert not [*one.iterdir(), *other.iterdir()]


def test_all_programs_look_for_their_question_in_one_place() -> None:
    from launch.doctor.bandwidth import ASKED as MEASURED

    assert {ASKED, TOLD, MARKED, MEASURED} == {"EEGVISION_DOCTOR"}


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/health": 200, "/guarded/health": 401}.get(self.path, 500))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def test_a_tracker_is_reached_or_not(server: http.server.HTTPServer, tmp_path: Path) -> None:
    at = f"http://127.0.0.1:{server.server_port}"
    assert why_not_reached(at, 5) == ""
    assert why_not_reached(f"{at}/guarded", 5) == ""  # it is there, and wants to know who asks
    assert why_not_reached(f"{at}/broken", 5) == "it answers with status 500"
    assert "refused" in why_not_reached("http://127.0.0.1:9", 5).lower()
    assert why_not_reached(sqlite_uri(tmp_path / "deep" / "down" / "mlflow.db"), 5) == ""


def test_the_nearest_folder(tmp_path: Path) -> None:
    assert nearest_folder(str(tmp_path / "a" / "b")) == tmp_path
    assert nearest_folder(str(tmp_path)) == tmp_path


def test_a_shard_that_is_not_as_written_is_named(tmp_path: Path) -> None:
    from trainer.data.index import StudyIndex

    study = write_tiny_study(tmp_path / "study", n_subjects=1, n_stimuli=8, samples_per_shard=4)
    index = StudyIndex.open(study)
    host = Host(DoctorConfig(trainer_command=["contrastive"]), 1)

    class Task:
        pass

    host.task = Task()
    host.task.index = index
    shard = index.tar_path(1)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    found = host.shards()
    assert found is not None
    assert found.hashed == found.total
    assert len(found.wrong) == 1
    assert str(shard) in found.wrong[0]
