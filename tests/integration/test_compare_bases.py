"""Two tiny base models trained, captioned and scored alike by the real commands, one table at the end, nothing done twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM

from data_prep.contract.files import read_json
from tests.helpers.tiny_llm import write_tiny_llm
from tests.helpers.tiny_text import write_tiny_text

ROOT = Path(__file__).parents[2]


def compare(config: Path) -> subprocess.CompletedProcess[str]:
    """The command, in its own process."""
    argv = [sys.executable, "-m", "launch", "compare-bases", "--config", str(config)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(argv, cwd=ROOT, env=environment, check=False, timeout=280, capture_output=True, text=True)


def told(output: str) -> list[str]:
    """The table and the sentences, without what launchers print."""
    return [line for line in output.splitlines() if line.startswith(("│", "- "))]


@pytest.mark.long
def test_two_bases_one_table(tmp_path: Path) -> None:
    text = write_tiny_text(tmp_path)
    write_tiny_llm(tmp_path / "other", "qwen2", seed=3)
    generate = {"export": "x", "output": "x", "part": "validation", "arms": ["eeg", "noise", "shuffled", "caption-prior"]}
    evaluate = {"generations": ["x"], "output": "x", "metrics": ["bleu", "rouge"], "resamples": 50}
    config: dict[str, Any] = {
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
    assert "one training seed" in result.stdout
    found = read_json(tmp_path / "compared" / "compare.json")
    assert list(found["bases"]) == ["one", "two"]
    assert {d["metric"] for d in found["differences"]} == {"bleu_1", "rouge_l"}
    assert all(base["log_likelihood"]["value"] < 0 for base in found["bases"].values())
    source = {"study": "study", "split": "tiny", "part": "validation", "unit": "microvolts", "simulated": False}
    assert all(base["source"] == source | {"trained_trials": 0, "trained_not_known": []} for base in found["bases"].values())
    # Table and differences are the same scores: what one base has more of is what the table says.
    bleu = {name: base["eeg"]["bleu_1"]["value"] for name, base in found["bases"].items()}
    (difference,) = [d for d in found["differences"] if d["metric"] == "bleu_1"]
    assert difference["value"] == pytest.approx(bleu["one"] - bleu["two"], abs=1e-9)
    for name, base in found["bases"].items():
        llm = AutoModelForCausalLM.from_pretrained(config["bases"][name]["name"])
        assert base["parameters"] == llm.num_parameters()
        assert 0 < base["trained_parameters"] < base["parameters"]
        assert base["seconds"] > 0
        assert base["tokens_per_second"] > 0
    assert (tmp_path / "compared" / "compare.html").is_file()

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("compared/*/seed-0/completed.json")}
    assert len(before) == 2
    again = compare(tmp_path / "compare.yaml")
    assert again.returncode == 0
    repeated = told(again.stdout)
    assert len(repeated) > 2
    assert repeated == told(result.stdout)[-len(repeated) :]
    assert before == {path: path.stat().st_mtime_ns for path in before}, "what is completed is not repeated"

    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(config | {"overrides": [*config["overrides"], "--optimizer.lr", "0.5"]}))
    changed = compare(tmp_path / "compare.yaml")
    assert changed.returncode == 1
    assert "was trained with optimizer.lr 0.003, now it is 0.5" in changed.stderr
