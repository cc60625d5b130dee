"""``generate`` on two ranks under the real launcher says what one process says."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.distributed.launcher import launch
from tests.distributed.training import write_split
from tests.helpers.tiny_text import write_tiny_text
from tests.unit.test_generate import export_model
from trainer.distributed.world import World
from trainer.generate.command import generate
from trainer.generate.config import GenerateConfig
from trainer.models.language.decoding import DecodingConfig

ARMS = ["eeg", "noise", "shuffled", "caption-prior"]


def test_two_ranks_say_what_one_process_says(tmp_path: Path) -> None:
    write_tiny_text(tmp_path)
    write_split(tmp_path / "study", "pairs", train={"stimulus": list(range(14))}, test={"stimulus": list(range(14, 20))})
    export = export_model(tmp_path, "model")
    decoding = DecodingConfig(method="sample", max_new_tokens=6)
    one = GenerateConfig(
        export=str(export), output=str(tmp_path / "one"), arms=ARMS, split="pairs", batch_size=5, decoding=decoding, device="cpu"
    )
    generate(one, World(), torch.device("cpu"))
    argv = ["generate", "--export", str(export), "--output", str(tmp_path / "two"), "--arms", json.dumps(ARMS), "--split", "pairs"]
    argv += ["--batch_size", "5", "--decoding.method", "sample", "--decoding.max_new_tokens", "6", "--timeout_seconds", "60"]
    done = launch("trainer", argv, ranks=2, timeout_seconds=150, environment={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("for example") == 1  # rank 0 alone prints
    assert done.stdout.count("eeg: batches 0/2\n") == 1
    assert "Initializing TorchBackend" not in done.stdout
    assert {path.name for path in (tmp_path / "two/logs").iterdir()} == {"rank-0.log", "rank-1.log"}
    assert (tmp_path / "two/generations.jsonl").read_bytes() == (tmp_path / "one/generations.jsonl").read_bytes()
    assert {path.name for path in (tmp_path / "two/parts").glob("eeg.*")} == {"eeg.0-of-2.jsonl", "eeg.1-of-2.jsonl"}
