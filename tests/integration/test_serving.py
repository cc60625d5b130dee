"""A registered model behind the real ``serve``: a real trial over HTTP gives the ranking that is computed here."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, write_json
from data_prep.contract.version import code_version, commit_of
from tests.distributed.launcher import ROOT, free_port
from tests.distributed.training import write_split
from tests.helpers.tiny_study import write_tiny_study
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.encoder_export import write_export
from trainer.artifacts.part import open_part
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoders.tsconv import TSConv
from trainer.serve.command import ServeConfig
from trainer.serve.command import run as serve
from trainer.serve.config import RegisterConfig
from trainer.serve.package import example, requirements, without_credentials
from trainer.serve.register import make_gallery, run
from trainer.serve.whole import TAG, write_files
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
def serving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """``python -m trainer serve`` on a free port in a process group of its own, ready to answer; both groups are gone afterwards."""
    argv = [sys.executable, "-m", "trainer", "serve", "--run", str(folder), "--port", "0", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        end = time.monotonic() + START_SECONDS
        while (port := said_port(folder)) is None:
            assert process.poll() is None, (folder / "serve.log").read_text()
            assert time.monotonic() < end, "the server did not answer in time:\n" + (folder / "serve.log").read_text()
            time.sleep(0.2)
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # which the command forwards to the server's own group
        try:
            process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def said_port(folder: Path) -> int | None:
    """The port that the command said it serves at, once it does."""
    found = re.search(r"^serving .* at http://127\.0\.0\.1:(\d+)/invocations", (folder / "serve.log").read_text(), re.MULTILINE)
    return int(found[1]) if found else None


def _alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def post(port: int, body: dict[str, Any] | bytes, content_type: str | None = "application/json") -> tuple[int, Any]:
    """Status and parsed body of ``POST /invocations``."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        headers = {"Content-Type": content_type} if content_type else {}
        connection.request("POST", "/invocations", body if isinstance(body, bytes) else json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


MISTAKES: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "a channel too few": (lambda x: x[:, 1:].tolist(), "shape"),
    "a channel too many": (lambda x: np.concatenate([x, x[:, :1]], axis=1).tolist(), "shape"),
    "a time point too few": (lambda x: x[:, :, :-1].tolist(), "shape"),
    "a second at another rate": (lambda x: np.repeat(x, 3, axis=2).tolist(), "shape"),
    "transposed": (lambda x: x.transpose(0, 2, 1).tolist(), "shape"),
    "one trial without its axis": (lambda x: x[0].tolist(), "shape"),
    "one channel": (lambda x: x[0, 0].tolist(), "shape"),
    "too many axes": (lambda x: x[None, None].tolist(), "shape"),
    "no trials": (lambda _: [], "shape"),
    "trials of nothing": (lambda _: [[], []], "shape"),
    "a number": (lambda _: 5, "shape"),
    "nothing": (lambda _: None, "shape"),
    "text": (lambda _: "EEG", "shape"),
    "an object": (lambda x: {"eeg": x.tolist()}, "shape"),
    "nested without end": (lambda _: json.loads("[" * 90 + "]" * 90), "EEG has"),
    "ragged trials": (lambda x: [x[0].tolist(), x[1, :, :-1].tolist()], "unequal length"),
    "ragged channels": (lambda x: [[row.tolist()[: 20 - n] for n, row in enumerate(x[0])]], "unequal length"),
    "texts": (lambda x: x.astype(str).tolist(), "expected numbers"),
    "truth values": (lambda x: (x > 0).tolist(), "expected numbers"),
    "one value is null": (lambda x: [[[None, *row[1:]] for row in trial] for trial in x.tolist()], "expected numbers"),
    "one value is text": (lambda x: [[["a", *row[1:]] for row in trial] for trial in x.tolist()], "expected numbers"),
    "huge whole numbers": (lambda x: [[[10**30 for _ in row] for row in trial] for trial in x.tolist()], "EEG"),
    "not a number": (lambda x: np.concatenate([x[:1], x[:1] * np.nan]).tolist(), "trial 1 has values that are not finite"),
    "infinite": (lambda x: np.concatenate([x[:1], x[:1] * np.inf]).tolist(), "trial 1 has values that are not finite"),
    "beyond float32": (lambda x: np.full(x.shape, 1e200).tolist(), "not finite"),
}  # fmt: skip
"""EEG that a client may send by mistake, made of (B, C, T) trials, and what the sentence says of it."""
EXPECTATIONS = ("4, 20)", "channels TP9, AF7, AF8, TP10", "100 Hz", "microvolts")


def check_mistakes(port: int, trials_BCT: np.ndarray) -> None:
    """Whatever a client gets wrong is a 4xx status with one sentence of ours, and the next request is answered."""
    bodies: list[tuple[str, Any, str | None, str]] = [
        (title, {"inputs": make(trials_BCT)}, "application/json", said) for title, (make, said) in MISTAKES.items()
    ]
    right = {"inputs": trials_BCT.tolist()}
    whole = json.dumps(right).encode()
    bodies += [
        ("another field", {"eeg": trials_BCT.tolist()}, "application/json", "the field 'eeg'"),
        ("MLflow's other form", {"dataframe_split": {"columns": ["a"], "data": [[1]]}}, "application/json", "'dataframe_split'"),
        ("no field", {}, "application/json", "no inputs"),
        ("two fields", right | {"instances": []}, "application/json", "inputs and instances"),
        ("a list", json.dumps(trials_BCT.tolist()).encode(), "application/json", "no object"),
        ("null", b"null", "application/json", "no object"),
        ("no body", b"", "application/json", "not JSON"),
        ("a body cut short", whole[:-7], "application/json", "not JSON"),
        ("another encoding", b"\xff\xfe\x00" + whole, "application/json", "not JSON"),
        ("very deep", b"[" * 200_000, "application/json", "not JSON"),
        ("a form", whole, "application/x-www-form-urlencoded", "content type is application/x-www-form-urlencoded"),
        ("CSV", b"a,b\n1,2\n", "text/csv", "content type is text/csv"),
        ("Parquet", b"PAR1", "application/vnd.apache.parquet", "content type"),
        ("no content type", whole, None, "content type is missing"),
        ("params are a list", right | {"params": ["01"]}, "application/json", "params is 01, expected an object"),
        ("an unknown subject", right | {"params": {"subject": "nobody"}}, "application/json", "expected one of "),
        ("a subject by number", right | {"params": {"subject": 1}}, "application/json", "params.subject is 1, expected text"),
        ("an unknown parameter", right | {"params": {"person": "01"}}, "application/json", "params.person: no such parameter"),
    ]  # fmt: skip
    for title, body, content_type, said in bodies:
        status, answer = post(port, body, content_type)
        assert status == (415 if "content type" in said else 400), f"{title}: {status} {answer}"
        assert answer.keys() == {"error_code", "message"}, title
        message = answer["message"]
        assert said in message, f"{title}: {message}"
        for word in ("Traceback", "mlflow", "schema", "\n", ".py"):
            assert word not in message, f"{title}: {message}"
        assert len(message) < 600, f"{title}: {message}"
        if said in ("shape", "unequal length", "expected numbers", "no inputs"):
            assert all(word in message for word in EXPECTATIONS), f"{title}: {message}"
    assert post(port, right)[0] == 200


def test_a_real_trial_over_http_gives_the_ranking_computed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path)
    run(RegisterConfig(run=str(folder), name="tiny-retrieval", top_k=TOP_K))
    registered = read_json(folder / "registered.json")
    assert registered["model_uri"] == "models:/tiny-retrieval/1"
    assert registered["version"] == "1"
    assert registered["tracking_uri"] == f"sqlite:///{folder.parent / 'mlflow.db'}"
    assert not (tmp_path / "mlruns").exists(), "nothing lies where the command happened to be run"

    encoder = load_encoder(folder / "export")
    loader = open_part(encoder, None, None, "test")
    gallery = make_gallery(encoder, loader)
    host = next(loader.sequential(5, single_trials=True))
    trials_BCT = host.repetitions_RCT.numpy().astype(np.float32)
    scores_BG = encoder.embed(trials_BCT, "01") @ gallery.embedding_GK.T
    best_BK = np.argsort(-scores_BG, axis=1, kind="stable")[:, :TOP_K]

    alter_registered_code(registered)
    with serving(folder) as (process, port):
        status, answer = post(port, {"inputs": trials_BCT.tolist(), "params": {"subject": "01"}})
        assert status == 200, answer
        assert [p["stimuli"] for p in answer["predictions"]] == [[gallery.stimuli[g] for g in row] for row in best_BK]
        assert [p["concepts"] for p in answer["predictions"]] == [[gallery.concepts[g] for g in row] for row in best_BK]
        found = np.array([p["scores"] for p in answer["predictions"]])
        np.testing.assert_allclose(found, np.take_along_axis(scores_BG, best_BK, axis=1), atol=1e-4)
        repeated = np.stack([trials_BCT, trials_BCT], axis=1)
        assert post(port, {"inputs": repeated.tolist(), "params": {"subject": "01"}}) == (200, answer)

        check_mistakes(port, trials_BCT)
        assert "registered code" in post(port, {"inputs": [], "params": {"subject": "nobody"}})[1]["message"]
        with pytest.raises(CommandError, match=rf"port: cannot listen on 127\.0\.0\.1:{port} \(Address already in use\)"):
            serve(ServeConfig(run=str(folder), port=port))

        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not _alive(port)
    lines = (folder / "serve.log").read_text().splitlines()
    assert lines[0] == "servers of models:/tiny-retrieval/1 that answer 0/1"
    assert all(line.startswith(("servers of", "serving ")) for line in lines), "MLflow and uvicorn keep to themselves"


def alter_registered_code(registered: dict[str, Any]) -> None:
    """Make what lies in the registry tell itself from the code that serves it."""
    import mlflow

    mlflow.set_tracking_uri(registered["tracking_uri"])
    local = Path(mlflow.artifacts.download_artifacts(registered["model_uri"]))
    (path,) = (local / "code").rglob("serve/params.py")
    path.write_text(path.read_text().replace("was not trained on", "was not trained on (registered code)"))
    seal_again(registered, local)


def seal_again(registered: dict[str, Any], model: Path) -> None:
    """What someone does who may change a version, its tag and the run folder: the list of files and its hash anew."""
    import mlflow

    (path,) = Path(registered["tracking_uri"].removeprefix("sqlite:///")).parent.glob("*/registered.json")
    sha256 = write_files(model)
    mlflow.MlflowClient(registered["tracking_uri"]).set_model_version_tag(registered["name"], registered["version"], TAG, sha256)
    write_json(path, registered | {"files_sha256": sha256})


def damaged_in_registry(registered: dict[str, Any], name: str) -> Path:
    """A file of the registered model, cut short."""
    import mlflow

    mlflow.set_tracking_uri(registered["tracking_uri"])
    (path,) = Path(mlflow.artifacts.download_artifacts(registered["model_uri"])).rglob(name)
    path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.long
@pytest.mark.parametrize(("name", "workers"), [("model.safetensors", "1"), ("gallery.npz", "2")])
def test_a_damaged_registered_model_ends_serve_in_one_sentence(tmp_path: Path, name: str, workers: str) -> None:
    folder = make_run(tmp_path)
    run(RegisterConfig(run=str(folder), name="tiny", top_k=TOP_K))
    damaged_in_registry(read_json(folder / "registered.json"), name)
    argv = [sys.executable, "-m", "trainer", "serve", "--run", str(folder), "--port", "0", "--workers", workers]
    result = subprocess.run(argv, cwd=ROOT, check=False, timeout=START_SECONDS, capture_output=True, text=True)
    assert result.returncode == 1
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert re.match(rf"error: model_uri: models:/tiny/1 cannot be loaded: /.*{name}: not .*truncated", said), said
    assert "Traceback" not in result.stderr


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
    told = {"study": "study", "split": "tiny", "part": "test", "unit": "microvolts", "simulated": "False", "trained_trials": "0 of 12"}
    assert {name: version.tags[name] for name in told} == told
    assert version.tags["trained_on"] == "study study, split tiny"
    source = {
        name: value for name, value in client.get_logged_model(version.source.rpartition("/")[2]).tags.items() if "source.git" in name
    }
    commit = commit_of(code_version())
    assert source == ({"mlflow.source.git.commit": commit} if commit else {}), "of our code, not of a repository around what was started"
    model = mlflow.pyfunc.load_model(second["model_uri"])
    loader = open_part(load_encoder(folder / "export"), None, None, "test")
    trial_BCT, params = example(loader)
    (answer,) = model.predict(trial_BCT, params=params)
    assert sorted(answer["stimuli"]) == ["class0", "class1", "class2"], "a gallery below top_k gives all it has"
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"^[^']*EEG has shape \(1, 4, 19\), .* channels TP9, .* in microvolts$"):
        model.predict(trial_BCT[:, :, :-1])  # a program of one's own is told the same
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
    with pytest.raises(ValueError, match="holds a password or token"):
        RegisterConfig(run=str(folder), name="tiny", tracking_uri="http://me:secret@127.0.0.1")
    assert without_credentials("http://me:secret@host:5000/x") == "http://host:5000/x"
    assert without_credentials("sqlite:////data/a@b/mlflow.db") == "sqlite:////data/a@b/mlflow.db"
