"""The whole path on real recordings, by the commands of the quickstart, and a real trial posted to the model it registers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract.files import read_json
from data_prep.studies.muse import MuseReaderConfig
from tests.distributed.launcher import ROOT
from tests.helpers.shared_data import shared_data
from tests.integration.test_serving import post, serving
from trainer.artifacts.encoder import load_encoder
from trainer.data.index import StudyIndex
from trainer.metrics import auc

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]
CHATTER = re.compile(r"\[(INFO|WARNING)\]|\bINFO\b|Warning:|alembic|\[Gloo\]|deepspeed\.|torch\.distributed")
"""What DeepSpeed, MLflow, torch and gloo say of themselves."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the quickstart has run on the Muse recordings."""
    data = shared_data()
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "configs").symlink_to(ROOT / "configs")
    quickstart(folder, data)
    return folder


def quickstart(folder: Path, data: Path) -> str:
    """Run it; returns its output."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    argv = [sys.executable, "-m", "launch", "quickstart", "--study", "muse", "--data_root", str(data)]
    began = time.monotonic()
    process = subprocess.Popen(argv, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    times, lines = [began], []
    for line in process.stdout:
        times.append(time.monotonic())
        lines.append(line)
    output = "".join(lines)
    assert process.wait(60) == 0, output[-6000:]
    silences = [(after - before, line) for before, after, line in zip(times, times[1:], lines, strict=False)]
    assert silences[0][0] < 5, "the first line of progress"
    assert max(silences)[0] < 10, max(silences)
    assert not [line for line in lines if CHATTER.search(line)]
    return output


def test_real_recordings_become_a_registered_model(home: Path) -> None:
    summary = read_json(home / "runs/quickstart/summary.json")
    assert summary["study"] == "muse"
    assert summary["simulated"] is False
    assert summary["model_uri"] == "models:/eeg-retrieval-muse/1"
    assert summary["run_id"]
    assert summary["top1"] is None, "a class-level study has no image retrieval"
    assert summary["auc"] > 0.6
    assert summary["lda_auc"] > 0.6
    assert (home / summary["report"]).read_text().startswith("<!doctype html>")
    assert read_json(home / "studies/muse/splits/recording.audit.json")["verdict"] == "sound"


def test_run_again_it_repeats_nothing(home: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in home.glob("runs/quickstart/muse/checkpoints/*/manifest.json")}
    assert quickstart(home, shared_data()).count("already there") == 5
    assert before == {p: p.stat().st_mtime_ns for p in home.glob("runs/quickstart/muse/checkpoints/*/manifest.json")}


def test_a_real_trial_over_http_is_ranked_as_here(home: Path) -> None:
    source = MuseReaderConfig(root=str(shared_data() / "muse_visual/eeg/N170"), subjects=("1",)).open()
    last = [i for i, plan in enumerate(source.samples) if plan.recording == source.samples[-1].recording][:40]
    trials_BCT = np.stack([source.eeg(i)[0] for i in last])
    run = home / "runs/quickstart/muse"
    encoder = load_encoder(run / "export")
    index = StudyIndex.open(home / "studies/muse")
    classes = encoder.embed_image(index.embedding("efficientnet_lite0"))
    expected_BK = encoder.embed(trials_BCT) @ classes.T
    with serving(run) as (_, port):
        status, answer = post(port, {"inputs": trials_BCT.tolist()})
    assert status == 200
    names = index.manifest.tables.concepts
    for row, scores_K in zip(answer["predictions"], expected_BK, strict=True):
        order = np.argsort(-scores_K)
        assert row["stimuli"] == [index.manifest.tables.stimuli[i].id for i in order]
        assert row["concepts"] == [names[i] for i in order]
        assert row["scores"] == pytest.approx(scores_K[order].tolist(), abs=1e-4)
    face = np.array([row["concepts"][0] == "face" for row in answer["predictions"]])
    shown = np.array([source.samples[i].stimulus for i in last]) == names.index("face")
    assert auc(face.astype(float), shown) > 0.5
