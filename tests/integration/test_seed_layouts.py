"""The layouts of EEG-CLIP and Thought2Text, and of the latter's pretraining data, by the configs and commands of their page.

Data are small ones of the same form. Commands run as they stand, with what makes a run short behind them; CLIP, which needs a model hub, is
replaced by vectors of the same name, and the language model by a tiny one.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import yaml

from data_prep.contract.files import read_json
from data_prep.contract.manifest import read_manifest
from tests.distributed.training import by_step, events
from tests.helpers import bdd, eeg_clip, eegcvpr40, mindbigdata, warm
from tests.helpers.readme import ROOT, blocks, commands, files
from tests.helpers.tiny_llm import write_tiny_llm
from trainer.distributed.child import environment_of_its_own

pytestmark = pytest.mark.timeout(600)
PAGE = "data_prep/studies/layouts.md"
SHORT = (
    "--train.data_passes 1 --train.validate_every_steps 2 --train.precision fp32 --train.device cpu --train.timeout_seconds 60 "
    "--mlflow.enabled false"
)
_NET = "--model.encoder.init_args"
SMALL_NET = f"{_NET}.temporal_filters 3 {_NET}.spatial_filters 4 {_NET}.residual_blocks 1"
SMALL_TRANSFORMER = f"{_NET}.d_model 16 {_NET}.num_layers 1 {_NET}.num_heads 2"


def commands_of(first: str) -> list[str]:
    """Commands of the page's block that begins with ``first``."""
    [found] = [lines for block in blocks(PAGE) if block.language == "sh" and (lines := commands(block.text))[0].endswith(first)]
    return found


def follow(home: Path, first: str, short: dict[str, str]) -> None:
    """Run a block's commands in ``home``; ``short`` appends to those that hold a word."""
    environment = environment_of_its_own()
    environment |= {
        "PYTHONPATH": str(ROOT),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    for command in commands_of(first):
        more = [word for part, words in short.items() if part in command for word in shlex.split(words)]
        words = shlex.split(command)
        argv = ["-m", *words[words.index("trainer") :]] if words[0] == "deepspeed" else words[1:]
        done = warm.run([sys.executable, *argv, *more], cwd=home, environment=environment, timeout=200)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the configs, in which vectors of its name stand for CLIP's."""
    for folder in ("contrastive", "text", "evaluate", "data_prep"):
        (tmp_path / "configs" / folder).mkdir(parents=True)
        for file in (ROOT / "configs" / folder).glob("*.yaml"):
            plain = yaml.safe_load(file.read_text())
            for embedding in (plain.get("embeddings") or {}).values():
                if embedding["class_path"] == "OpenClipConfig":
                    embedding |= {"class_path": "tests.helpers.tiny_study.TinyEmbedding", "init_args": {"dim": 512, "concept_share": 0.7}}
            (tmp_path / "configs" / folder / file.name).write_text(yaml.safe_dump(plain))
    return tmp_path


@pytest.mark.parametrize("name", ["shard_eeg_clip", "shard_eegcvpr40", "shard_bdd", "shard_mindbigdata"])
def test_the_page_shows_the_configs_that_there_are(name: str) -> None:
    path = f"configs/data_prep/{name}.yaml"
    assert files(PAGE)[path] == (ROOT / path).read_text()


def test_eeg_clip_from_its_folder_to_its_report(home: Path) -> None:
    eeg_clip.write_layout(home / "data", subjects=("01", "02", "03"))
    follow(
        home,
        "shard_eeg_clip.yaml",
        {"trainer contrastive": f"{SHORT} {SMALL_TRANSFORMER} --train.global_batch_size 8", "evaluate-retrieval": "--num_resamples 50"},
    )
    manifest = read_manifest(home / "studies/eeg-clip")
    assert manifest.preprocessing["pairs_of_eeg_clip_itself"] == {"row_i_with_concept_i": 6, "right": 1}
    assert read_json(home / "studies/eeg-clip/splits/subject.audit.json")["parts"]["test"]["subjects"] == 1
    assert read_json(home / "runs/eegclip/completed.json")["step"] >= 4
    assert list((home / "eval_report").glob("*.json"))


@pytest.mark.long
def test_thought2text_from_its_pth_to_captions(home: Path) -> None:
    whole = eegcvpr40.write_layout(home / "data", eegcvpr40.content(subjects=1, images_per_class=5, classes=3))
    texts = [path.read_text() for path in (home / "data/images").rglob("*_caption.txt")]
    write_tiny_llm(home / "base", texts=texts)
    base = (
        f"--base.name {home / 'base'} --base.quantisation none --base.dtype fp32 --adapter.targets [q_proj,v_proj] --train.accumulation 1"
    )
    short = {
        "trainer contrastive": f"{SHORT} {SMALL_NET} --train.global_batch_size 8",
        "trainer text": f"{SHORT} {base} --train.global_batch_size 8",
        "trainer generate": "--arms [eeg,noise] --decoding.max_new_tokens 4 --precision fp32 --batch_size 8 --limit 2",
    }
    follow(home, "shard_eegcvpr40.yaml", short)
    manifest = read_manifest(home / "studies/eegcvpr40")
    assert len(manifest.tables.stimuli) == len(whole["images"])
    assert all(str(stimulus.image).endswith("_sketch.JPEG") for stimulus in manifest.tables.stimuli)
    audit = read_json(home / "studies/eegcvpr40/splits/official.audit.json")
    assert audit["verdict"] == "unsound"
    assert "block_design" in {finding["kind"] for finding in audit["findings"]}
    assert (home / "runs/t2t-eeg/completed.json").is_file()
    assert [event["path"] for event in events(home / "runs/t2t-eeg", "init")]
    assert list((home / "runs/t2t-eeg/generations").iterdir())


def test_an_encoder_pretrained_on_headset_recordings_begins_another_run(home: Path) -> None:
    bdd.write_layout(home / "data/BDD", records=4, stimuli=6)
    (home / "data/MindBigData-IN-v1.06").mkdir(parents=True)
    mindbigdata.write_mnist(home / "data/MindBigData-IN-v1.06/IN.txt", events=60)
    short = {
        "split_bdd": "--num_validation_recordings 4",
        "trainer contrastive": f"{SHORT} {SMALL_NET} --train.global_batch_size 16",
    }
    follow(home, "shard_bdd.yaml", short)
    audit = read_json(home / "studies/bdd/splits/recording.audit.json")
    assert [audit["parts"][part]["recordings"] for part in ("train", "validation", "test")] == [9, 4, 1]
    assert (home / "studies/bdd/transforms/recording.npz").is_file()
    [init] = events(home / "runs/digits", "init")
    assert "encoder" in init["taken"]
    assert init["new"]["concept_head"]
    first = by_step(home / "runs/pretrain", "metrics.jsonl", "cross_entropy")
    assert first[max(first)] < 1.2 * first[min(first)]
