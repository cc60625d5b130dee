"""The classic first stage under the launcher: a classifier trained, begun from, and trained on what it names rightly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.contract.files import read_json
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from tests.distributed.training import by_step, events, train
from tests.helpers.tiny_study import write_tiny_study
from trainer.__main__ import COMMANDS, main
from trainer.artifacts.encoder import load_encoder

pytestmark = pytest.mark.timeout(400)
CONFIG = """
data: {study: STUDY, split: closed-set, embedding: tiny, repetitions: each}
model:
  encoder:
    class_path: ChannelNet
    init_args: {temporal_filters: 3, spatial_filters: 4, kernel_samples: 5, residual_blocks: 1, embedding_dim: 16, dropout: 0.0}
  eeg_head: linear
loss: {contrastive_weight: 0.0, cross_entropy_weight: 1.0, mse_weight: 1.0}
train: {steps: 40, global_batch_size: 16, validate_every_steps: 10, log_every_steps: 5, timeout_seconds: 60}
optimizer: {lr: 0.01}
checkpoint: {every_steps: 10}
mlflow: {enabled: false}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 5 concepts x 8 images, and a classifier trained on two ranks."""
    folder = tmp_path_factory.mktemp("classify")
    sizes = {"n_stimuli": 42, "n_test": 2, "images_per_concept": 8, "concept_share": 0.8, "n_subjects": 1}
    study = write_tiny_study(folder / "study", **sizes, n_reps=3, noise=0.5, dim=10, samples_per_shard=20)
    write_split(SplitConfig(study=str(study), policy="closed-set", test_share=0.25, validation_share=0.25))
    (folder / "config.yaml").write_text(CONFIG.replace("STUDY", str(study)))
    output = train(folder / "first", "--zero.stage", "1", ranks=2, config=folder / "config.yaml")
    assert (folder / "first" / "completed.json").is_file(), output
    return folder


def test_a_classifier_learns_and_its_weights_are_picked_by_concepts_named(home: Path, tmp_path: Path) -> None:
    completed = read_json(home / "first" / "completed.json")
    scores = by_step(home / "first", "metrics.jsonl", "validation_concept_accuracy")
    assert completed["score_name"] == "concept_accuracy"
    assert completed["best_score"] == max(scores.values()) > 0.4  # chance among 5 shown concepts: 0.2
    command = ["evaluate-classes", "--export", str(home / "first" / "export"), "--output", str(tmp_path), "--num_resamples", "100"]
    assert main("python -m trainer", "", COMMANDS, command) == 0
    found = json.loads((tmp_path / "classes.json").read_text())
    assert found["summary"]["model"]["top1"] > 0.4
    assert len(found["per_class"]) == 5


def test_a_run_begins_with_the_classifier_keeps_what_it_names_and_resumes_without_it(home: Path) -> None:
    run, first = home / "second", home / "first"
    keep = ("--data.select.keep", "correctly_classified", "--data.select.keep_encoder", str(first))
    contrast = ("--loss.contrastive_weight", "1.0", "--train.validate_every_steps", "5", "--zero.stage", "0", *keep)
    output = train(run, "--init_from", str(first), "--train.steps", "10", *contrast, ranks=2, config=home / "config.yaml")
    assert (run / "completed.json").is_file(), output
    [init], [kept] = events(run, "init"), events(run, "kept")
    assert set(init["taken"]) == {"encoder", "eeg_head", "concept_head", "log_logit_scale"}
    assert init["new"] == {}
    assert 0 < kept["kept"] <= kept["of"]
    assert ": takes encoder (" in output
    assert f"{kept['kept']} of {kept['of']} training items" in output
    lineage = load_encoder(run / "export").export.started_from
    assert [origin.split for origin in lineage] == ["closed-set"]
    assert by_step(run, "metrics.jsonl", "cross_entropy")[5] < by_step(first, "metrics.jsonl", "cross_entropy")[5]

    # What a resumed run continues is its checkpoint: the folder of init_from may be gone.
    gone = ("--resume", "latest", "--init_from", str(home / "gone"))
    output = train(run, *gone, "--train.steps", "15", *contrast, ranks=1, config=home / "config.yaml")
    assert read_json(run / "completed.json")["step"] == 15, output
    assert len(events(run, "init")) == 1
    assert load_encoder(run / "export").export.started_from == lineage

    refused = train(home / "third", "--init_from", str(home / "gone"), ranks=1, config=home / "config.yaml")
    assert "gone: has neither config.json nor export/config.json" in refused
    assert not (home / "third").exists()
