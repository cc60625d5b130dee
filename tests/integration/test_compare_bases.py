"""Two tiny base models trained, captioned and scored alike by the real commands, one table at the end, nothing done twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from data_prep import schema
from tests.helpers.tiny_llm import write_tiny_llm
from tests.helpers.tiny_text import write_tiny_text

ROOT = Path(__file__).parents[2]


def compare(config: Path) -> subprocess.CompletedProcess[str]:
    """The command, in its own process."""
    argv = [sys.executable, "-m", "trainer", "compare-bases", "--config", str(config)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(argv, cwd=ROOT, env=environment, check=False, timeout=280, capture_output=True, text=True)


def test_two_bases_one_table(tmp_path: Path) -> None:
    text = write_tiny_text(tmp_path)
    write_tiny_llm(tmp_path / "other", "qwen2", seed=3)
    generate = {"export": "x", "output": "x", "part": "validation", "arms": ["eeg", "noise", "shuffled", "caption-prior"]}
    evaluate = {"generations": ["x"], "output": "x", "metrics": ["bleu", "rouge"], "resamples": 50}
    config = {
        "text": str(text),
        "overrides": ["--train.steps", "2", "--train.validate_every_steps", "0"],
        "output": str(tmp_path / "compared"),
        "seeds": [0],
        "bases": {"one": {"name": str(tmp_path / "base"), "dtype": "fp32"}, "two": {"name": str(tmp_path / "other"), "dtype": "fp32"}},
        "generate": str(tmp_path / "generate.yaml"),
        "evaluate": str(tmp_path / "evaluate.yaml"),
        "resamples": 50,
    }
    generate["decoding"] = {"max_new_tokens": 6}
    for name, plain in (("generate", generate), ("evaluate", evaluate), ("compare", config)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(plain))

    result = compare(tmp_path / "compare.yaml")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "log-likelihood" in result.stdout
    assert "with one training seed nothing is said about another training" in result.stdout
    found = schema.read_json(tmp_path / "compared" / "compare.json")
    assert list(found["bases"]) == ["one", "two"]
    assert {d["metric"] for d in found["differences"]} == {"bleu_1", "rouge_l"}
    assert all(base["log_likelihood"]["value"] < 0 for base in found["bases"].values())
    assert (tmp_path / "compared" / "compare.html").is_file()

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("compared/*/seed-0/completed.json")}
    assert len(before) == 2
    assert compare(tmp_path / "compare.yaml").returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}, "what is completed is not repeated"
