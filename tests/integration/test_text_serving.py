"""A text model trained here for a moment, registered in a real store, and asked over HTTP in a fresh process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json
from tests.helpers import warm
from tests.helpers.tiny_llm import write_tiny_llm
from tests.helpers.tiny_text import write_tiny_text
from tests.integration.test_serving import post, serving
from trainer.artifacts.part import open_part
from trainer.artifacts.text import load_text
from trainer.models.language.decoding import DecodingConfig
from trainer.serve.config import RegisterConfig
from trainer.serve.register import run

ROOT = Path(__file__).parents[2]
TOKENS = 6


def train(home: Path) -> Path:
    """Four steps by the command; the run folder."""
    config = write_tiny_text(home)
    argv = [sys.executable, "-m", "trainer", "text", "--config", str(config), "--train.steps", "4", "--train.validate_every_steps", "4"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = warm.run(argv, environment=environment, timeout=240)
    assert done.returncode == 0, done.stdout
    return home / "run"


@pytest.mark.long
def test_a_registered_text_model_says_over_http_what_it_says_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = train(tmp_path)
    run(RegisterConfig(run=str(folder), name="tiny-text", part="validation", bundle_base=True))
    registered = read_json(folder / "registered.json")
    assert registered["model_uri"] == "models:/tiny-text/1"
    tags = MlflowClient(registered["tracking_uri"], registered["tracking_uri"]).get_model_version("tiny-text", registered["version"]).tags
    told = {
        "study": "study",
        "split": "tiny",
        "part": "validation",
        "unit": "microvolts",
        "simulated": "False",
        "trained_trials": "0 of 20",
    }
    assert {name: tags[name] for name in told} == told

    decoder = load_text(folder)
    loader = open_part(decoder.encoder, None, None, "validation")
    trials_BCT = next(loader.sequential(3, single_trials=True)).repetitions_RCT.numpy().astype(np.float32)
    subject = decoder.encoder.export.subjects[0]
    expected = decoder.caption(trials_BCT, subject, decoding=DecodingConfig(max_new_tokens=TOKENS))
    assert len(expected) == len(trials_BCT)

    os.rename(tmp_path / "base", tmp_path / "elsewhere")  # the base is inside the registered model
    with serving(folder) as (_, port):
        right = {"inputs": trials_BCT.tolist(), "params": {"subject": subject, "max_new_tokens": TOKENS}}
        status, answer = post(port, right)
        assert status == 200, answer
        assert [found["caption"] for found in answer["predictions"]] == expected
        for inputs, params, message in (
            (trials_BCT[:, :-1], {}, "EEG has shape .* channels .* at 100 Hz .* in "),
            (trials_BCT.transpose(0, 2, 1), {}, "EEG has shape"),
            (trials_BCT.astype(str), {}, "expected numbers"),
            (trials_BCT * np.nan, {}, "trial 0 has values that are not finite"),
            (trials_BCT[:0], {}, "EEG has shape"),
            (trials_BCT, {"subject": "nobody"}, "params.subject is 'nobody', expected one of"),
            (trials_BCT, {"max_new_tokens": 0}, "max_new_tokens: 0, expected at least 1"),
            (trials_BCT, {"max_new_tokens": 10**9}, "params.max_new_tokens is 1000000000, expected at most [0-9]+"),
            (trials_BCT, {"max_new_tokens": "all"}, "params.max_new_tokens is all, expected a whole number"),
            (trials_BCT, {"seed": -1}, "params.seed is -1, expected 0 to"),
            (trials_BCT, {"seed": 2**70}, "params.seed is 1180591620717411303424, expected 0 to"),
            (trials_BCT, {"temperature": 1}, "params.temperature: no such parameter"),
        ):
            status, answer = post(port, {"inputs": inputs.tolist(), "params": params})
            assert status == 400, (params, answer)
            assert re.search(message, answer["message"]), answer
        assert post(port, right)[0] == 200, "it goes on answering"

    run(RegisterConfig(run=str(folder), name="tiny-text", part="validation", export=str(moved_back(tmp_path))))
    assert read_json(folder / "registered.json")["version"] == "2", "by reference this time"
    os.rename(tmp_path / "base", tmp_path / "elsewhere")
    assert in_a_fresh_process(tmp_path, trials_BCT, subject, base=tmp_path / "elsewhere") == (0, expected)
    other = write_tiny_llm(tmp_path / "other", seed=5)
    for base, message in ((other, "an adapter of another base model: fingerprint"), (None, "base")):
        status, said = in_a_fresh_process(tmp_path, trials_BCT, subject, base=base)
        assert status == 3, said
        assert message in said
    with pytest.raises(CommandError, match="an adapter of another base model"):
        load_text(folder, base=str(other))
    for path in sorted((tmp_path / "mlartifacts").rglob("projector.safetensors")):
        path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    status, said = in_a_fresh_process(tmp_path, trials_BCT, subject, base=tmp_path / "elsewhere")
    assert status == 3, said
    assert "projector.safetensors: not the file that was registered" in said


def moved_back(home: Path) -> Path:
    """The base is where it was in training again; the run's export."""
    os.rename(home / "elsewhere", home / "base")
    return home / "run" / "export"


def in_a_fresh_process(home: Path, trials_BCT: np.ndarray, subject: str, *, base: Path | None) -> tuple[int, Any]:
    """Captions by ``mlflow.pyfunc.load_model`` with the base at another place; or status 3 and the message of its refusal."""
    np.save(home / "trials.npy", trials_BCT)
    program = f"""
import json, sys
import mlflow, numpy as np
from mlflow.exceptions import MlflowException
try:
    model = mlflow.pyfunc.load_model("models:/tiny-text@candidate")
except MlflowException as error:
    print(json.dumps(str(error)))
    sys.exit(3)
params = {{"subject": {subject!r}, "max_new_tokens": {TOKENS}}}
print(json.dumps([found["caption"] for found in model.predict(np.load("trials.npy"), params=params)]))
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""}
    environment |= {"MLFLOW_TRACKING_URI": read_json(home / "run" / "registered.json")["tracking_uri"]}
    environment |= {"EEG_TEXT_BASE": str(base)} if base else {}
    argv = [sys.executable, "-c", program]
    result = subprocess.run(argv, cwd=home, env=environment, check=False, timeout=150, capture_output=True, text=True)
    assert result.returncode in (0, 3), result.stderr
    return result.returncode, json.loads(result.stdout.strip().splitlines()[-1])
