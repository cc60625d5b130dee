"""A text model trained here for a moment, registered in a real store, and asked over HTTP in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep import schema
from data_prep.cli import CommandError
from tests.helpers.tiny_llm import write_tiny_llm
from tests.helpers.tiny_text import write_tiny_text
from tests.integration.test_serving import free_port, post, serving
from trainer.evaluate.embeddings import open_part
from trainer.export_text import load_text
from trainer.models.decoding import DecodingConfig
from trainer.registry import RegisterConfig, run

ROOT = Path(__file__).parents[2]
TOKENS = 6


def train(home: Path) -> Path:
    """Four steps by the command; the run folder."""
    config = write_tiny_text(home)
    argv = [sys.executable, "-m", "trainer", "text", "--config", str(config), "--train.steps", "4", "--train.validate_every_steps", "4"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(argv, cwd=ROOT, env=environment, check=True, timeout=240)
    return home / "run"


def test_a_registered_text_model_says_over_http_what_it_says_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = train(tmp_path)
    run(RegisterConfig(run=str(folder), name="tiny-text", part="validation", bundle_base=True))
    registered = schema.read_json(folder / "registered.json")
    assert registered["model_uri"] == "models:/tiny-text@candidate"

    decoder = load_text(folder)
    loader = open_part(decoder.encoder, None, None, "validation")
    trials_BCT = next(loader.sequential(3, single_trials=True)).repetitions_RCT.numpy().astype(np.float32)
    subject = decoder.config["encoder"]["subjects"][0]
    expected = decoder.caption(trials_BCT, subject, decoding=DecodingConfig(max_new_tokens=TOKENS))
    assert len(expected) == len(trials_BCT)

    os.rename(tmp_path / "base", tmp_path / "elsewhere")  # the base is inside the registered model
    port = free_port()
    with serving(folder, port):
        body = {"inputs": trials_BCT.tolist(), "params": {"subject": subject, "max_new_tokens": TOKENS}}
        status, answer = post(port, body)
        assert status == 200, answer
        assert [found["caption"] for found in answer["predictions"]] == expected
        status, answer = post(port, {"inputs": trials_BCT[:, :-1].tolist()})
        assert status == 400, "a trial with a channel too few is the client's mistake"

    other = write_tiny_llm(tmp_path / "other", seed=5)
    with pytest.raises(CommandError, match="base"):
        load_text(folder, base=str(other))
