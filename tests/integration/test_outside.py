"""A reader, an encoder, a loss and a callback from a folder outside the project, by the commands and files of the rooms' pages.

Each is one file and one line of a config; nothing of the project is changed or installed for them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from data_prep.contract.manifest import read_manifest
from tests.helpers.readme import EXAMPLES, ROOT, blocks, commands, files
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.distributed.child import environment_of_its_own
from trainer.training.run_folder import read_lines

pytestmark = pytest.mark.timeout(300)
STUDY, RUN = Path("studies/my-lab"), Path("runs/my-lab")


def python(home: Path, *arguments: str) -> str:
    """Run Python as a user in ``home`` does, with the project installed; returns stdout."""
    environment = environment_of_its_own()  # a run that another test made in this process leaves its port in it
    environment |= {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=home, env=environment, text=True, capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def follow(home: Path, pages: tuple[str, ...]) -> None:
    """Lay out the files of the pages, then run their commands."""
    for name, text in files(*pages).items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    for block in blocks(*pages):
        if block.language == "sh" and not block.mark:
            for command in commands(block.text):
                assert command.startswith("python "), command
                python(home, *command.split()[1:])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, in which the rooms' pages have been followed."""
    folder = tmp_path_factory.mktemp("laboratory")
    follow(folder, EXAMPLES)
    return folder


@pytest.mark.long
def test_a_reader_from_outside_writes_its_trials(home: Path) -> None:
    manifest = read_manifest(home / STUDY)
    assert manifest.tables.subjects == ["01", "02"]
    assert manifest.tables.concepts == [f"concept{c:02d}" for c in range(12)]
    assert manifest.tables.recordings == ["sub-01", "sub-02"]
    loader = Loader(
        StudyIndex.open(home / STUDY), DataConfig(study=str(home / STUDY), split="zero-shot", embedding="features"), "test", seed=0
    )
    source: dict[str, Any] = dict(np.load(home / "recordings/sub-02.npz"))
    assert loader.n_chans == 8
    assert loader.sfreq == 100.0
    assert loader.num_items * 3 == 72  # two subjects, three concepts of four images, each the mean of three trials
    assert set(source["image"].tolist()) == {stimulus.id for stimulus in manifest.tables.stimuli}
    inspected = python(home, "-m", "data_prep", "inspect", "--page", "none", "--study", str(STUDY))
    assert "96, 288 (0 railed)" in inspected
    assert "8 channels x 50 points at 100 Hz, -0.1 to 0.39 s, microvolts" in inspected


def test_an_encoder_from_outside_is_trained_exported_and_loaded(home: Path) -> None:
    config = json.loads((home / RUN / "export/config.json").read_text())
    assert config["model"]["encoder"] == {"class_path": "my_lab.encoder.WindowPerceptron", "init_args": {"num_windows": 10, "width": 32}}
    with safe_open(home / RUN / "export/model.safetensors", "pt") as weights:
        assert weights.get_slice("encoder.hidden.weight").get_shape() == [32, 80]
    results = json.loads((home / RUN / "reports/retrieval.json").read_text())
    assert results["summary"]["model"]["top5"] > 1.5 * results["summary"]["chance"]["top5"]
    program = "from trainer import load_encoder; import numpy as np; e = load_encoder('runs/my-lab/export', trust=['my_lab'])"
    shown = python(home, "-c", f"{program}; print(e.embed(5 * np.random.default_rng(0).standard_normal((3, 8, 50))).shape)")
    assert shown.strip().endswith("(3, 16)")


def test_a_loss_from_outside_is_minimised_and_logged(home: Path) -> None:
    lines = [line for line in read_lines(home / RUN / "metrics.jsonl") if "loss" in line]
    first, last = lines[0], lines[-1]
    for line in lines:
        assert line["loss"] == pytest.approx(line["contrastive"] + 0.5 * line["Huber"], rel=1e-4)
    assert last["Huber"] < 0.9 * first["Huber"]


def test_a_callback_from_outside_sees_every_validation(home: Path) -> None:
    diary = (home / RUN / "diary.md").read_text().splitlines()
    assert [line.split(":")[0] for line in diary] == ["- step 20", "- step 40", "- step 60"]
    scores = [line["validation_mrr"] for line in read_lines(home / RUN / "metrics.jsonl") if "validation_mrr" in line]
    assert [f"mrr {score:.3f}" in line for score, line in zip(scores, diary, strict=True)] == [True] * 3
    assert diary[0].endswith("(best so far)")


def test_each_is_one_file_and_one_line_of_a_config() -> None:
    shown = files(*EXAMPLES)
    named = {
        yaml.safe_load(shown["my_lab/shard.yaml"])["reader"]["class_path"],
        *(part["class_path"] for part in _parts(yaml.safe_load(shown["my_lab/train.yaml"]))),
    }
    assert named == {"my_lab.reader.NpzReader", "my_lab.encoder.WindowPerceptron", "my_lab.loss.Huber", "my_lab.callback.Diary"}
    assert {name for name in shown if name.startswith("my_lab/") and name.endswith(".py")} == {
        name.rpartition(".")[0].replace(".", "/") + ".py" for name in named
    }


def _parts(train: dict[str, Any]) -> list[dict[str, Any]]:
    return [train["model"]["encoder"], *train["loss"]["terms"], *train["callbacks"]]
