"""A registered model behind the real ``mlflow models serve``: a real trial over HTTP gives the ranking that is computed here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.contract.files import read_json
from tests.distributed.launcher import ROOT, free_port
from tests.distributed.training import write_split
from tests.helpers.tiny_study import write_tiny_study
from trainer.artifacts.encoder import load_encoder, write_export
from trainer.artifacts.part import open_part
from trainer.data.index import StudyIndex
from trainer.data.loader import DataConfig, Loader
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoders.tsconv import TSConv
from trainer.serve.package import RegisterConfig, example, requirements, without_credentials
from trainer.serve.register import make_gallery, run
from trainer.training.completed import Completed, write_completed
from trainer.training.lineage import Lineage

START_SECONDS = 150
TOP_K = 3


def make_run(folder: Path, **study: Any) -> Path:
    """A run folder with the export of an untrained encoder, on a tiny study beside it."""
    root = write_tiny_study(folder / "study", n_subjects=2, samples_per_shard=5, **study)
    level = study.get("stimulus_level", "image")
    parts = ({"stimulus": list(range(8))}, {"stimulus": [8, 9, 10, 11]}) if level == "image" else ({"recording": [0]}, {"recording": [1]})
    write_split(root, "tiny", train=parts[0], test=parts[1])
    index = StudyIndex.open(root)
    loader = Loader(index, DataConfig(study=str(root), split="tiny", embedding="tiny", normalise="channel_zscore"), "train", seed=0)
    model = ContrastiveModelConfig(encoder=TSConv(num_filters=4, kernel_samples=5, pool_samples=6, stride_samples=3))
    torch.manual_seed(0)
    sizes = {"n_chans": loader.n_chans, "n_times": loader.n_times, "sfreq": loader.sfreq, "num_subjects": loader.num_subjects}
    concepts = len(index.manifest.tables.concepts)
    built = model.build(**sizes, embedding_dim=loader.embedding_dim, num_concepts=concepts, loss=LossConfig())
    lineage = Lineage(step=0, git_revision="unknown", split="tiny", split_hash=loader.split_hash, fingerprint=loader.fingerprint)
    run = folder / "runs" / "one"
    write_export(run / "export", weights=built.state_dict(), model=model, loss=LossConfig(), loader=loader, lineage=lineage)
    write_completed(run, Completed(step=0, best_score=None, best_step=0, score_name=None))
    return folder / "runs" / "one"


@contextlib.contextmanager
def serving(folder: Path, port: int, *arguments: str) -> Iterator[subprocess.Popen]:
    """``python -m trainer serve`` in a process group of its own, ready to answer; both groups are gone afterwards."""
    argv = [sys.executable, "-m", "trainer", "serve", "--run", str(folder), "--port", str(port), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        end = time.monotonic() + START_SECONDS
        while not _alive(port):
            assert process.poll() is None, (folder / "serve.log").read_text()
            assert time.monotonic() < end, "the server did not answer in time:\n" + (folder / "serve.log").read_text()
            time.sleep(0.2)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # which the command forwards to the server's own group
        try:
            process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def post(port: int, body: dict[str, Any]) -> tuple[int, Any]:
    """Status and parsed body of ``POST /invocations``."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_real_trial_over_http_gives_the_ranking_computed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path)
    run(RegisterConfig(run=str(folder), name="tiny-retrieval", top_k=TOP_K))
    registered = read_json(folder / "registered.json")
    assert registered["model_uri"] == "models:/tiny-retrieval@candidate"
    assert registered["version"] == "1"
    assert registered["tracking_uri"] == f"sqlite:///{folder.parent / 'mlflow.db'}"
    assert not (tmp_path / "mlruns").exists(), "nothing lies where the command happened to be run"

    encoder = load_encoder(folder / "export")
    loader = open_part(encoder, None, None, "test")
    gallery = make_gallery(encoder, loader)
    host = next(loader.sequential(5, single_trials=True))
    trials_BCT = host.repetitions_RCT.numpy().astype(np.float32)
    scores_BG = encoder.embed(trials_BCT, "01") @ gallery.embedding_GP.T
    best_BK = np.argsort(-scores_BG, axis=1, kind="stable")[:, :TOP_K]

    port = free_port()
    with serving(folder, port) as process:
        status, answer = post(port, {"inputs": trials_BCT.tolist(), "params": {"subject": "01"}})
        assert status == 200, answer
        assert [p["stimuli"] for p in answer["predictions"]] == [[gallery.stimuli[g] for g in row] for row in best_BK]
        assert [p["concepts"] for p in answer["predictions"]] == [[gallery.concepts[g] for g in row] for row in best_BK]
        found = np.array([p["scores"] for p in answer["predictions"]])
        np.testing.assert_allclose(found, np.take_along_axis(scores_BG, best_BK, axis=1), atol=1e-4)

        status, answer = post(port, {"inputs": trials_BCT[:, :, :-1].tolist()})
        assert 400 <= status < 500, answer
        assert "(5, 4, 19)" in answer["message"]
        assert "(-1, 4, 20)" in answer["message"]

        trials_BCT[1, 2, 3] = np.nan  # JSON as Python writes and reads it
        status, answer = post(port, {"inputs": trials_BCT.tolist()})
        assert 400 <= status < 500, answer
        assert "trial 1 has values that are not finite" in answer["message"]

        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not _alive(port)


def test_registering_again_adds_a_version_and_moves_the_alias(tmp_path: Path) -> None:
    import mlflow

    folder = make_run(tmp_path, stimulus_level="class", n_concepts=3)
    store = f"sqlite:///{tmp_path / 'other' / 'store.db'}"
    (tmp_path / "other").mkdir()
    config = RegisterConfig(run=str(folder), name="classes", tracking_uri=store)
    run(config)
    first = read_json(folder / "registered.json")
    write_completed(folder, Completed(step=0, best_score=None, best_step=0, score_name=None, tracking_run_id=first["run_id"]))
    run(config)
    second = read_json(folder / "registered.json")
    assert (first["version"], second["version"]) == ("1", "2")
    assert second["run_id"] == first["run_id"]

    client = mlflow.MlflowClient(tracking_uri=store, registry_uri=store)
    version = client.get_model_version_by_alias("classes", "candidate")
    assert version.version in (2, "2")
    assert version.tags["part"] == "test"
    model = mlflow.pyfunc.load_model(second["model_uri"])
    loader = open_part(load_encoder(folder / "export"), None, None, "test")
    trial_BCT, params = example(loader)
    (answer,) = model.predict(trial_BCT, params=params)
    assert sorted(answer["stimuli"]) == ["class0", "class1", "class2"], "a gallery below top_k gives all it has"
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    saved = list((tmp_path / "other" / "mlartifacts").rglob("*"))
    assert not [p for p in saved if p.suffix in (".pkl", ".pickle")], "nothing is pickled"
    text = next(p for p in saved if p.name == "requirements.txt").read_text()
    assert set(requirements()) <= set(text.split())


def test_what_a_user_can_get_wrong_is_one_sentence(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    other = write_tiny_study(tmp_path / "other", seed=5)
    write_split(other, "tiny", train={"stimulus": [0, 1]}, test={"stimulus": [8, 9]})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"export": str(tmp_path / "nowhere")}, "holds no exported model"),
        ({"study": str(other)}, "fingerprint .* expected .*, the study of"),
        ({"tracking_uri": f"http://127.0.0.1:{free_port()}", "timeout_seconds": 1}, "does not take the model"),
        ({"run": str(tmp_path)}, "is not a completed run"),
    ]
    for changes, message in cases:
        with pytest.raises(Exception, match=message) as raised:
            run(RegisterConfig(**({"run": str(folder), "name": "tiny"} | changes)))
        assert type(raised.value).__name__ == "CommandError"
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="holds a password"):
        RegisterConfig(run=str(folder), name="tiny", tracking_uri="http://me:secret@127.0.0.1")
    assert without_credentials("http://me:secret@host:5000/x") == "http://host:5000/x"
    assert without_credentials("sqlite:////data/a@b/mlflow.db") == "sqlite:////data/a@b/mlflow.db"
