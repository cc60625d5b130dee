"""Sizes at which nothing can be learnt, chosen or scored are refused in a sentence, and those that are not refused do teach."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.contract.cli import main
from data_prep.contract.errors import CommandError, UserError
from tests.distributed.training import write_split
from tests.helpers.tiny_study import TinyEmbedding, write_tiny_study
from tests.helpers.tiny_text import write_tiny_encoder
from trainer.__main__ import COMMANDS
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.data.select import SelectConfig
from trainer.distributed.world import World
from trainer.losses import GlobalColumns, LossConfig, info_nce
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoders import FlatLinear
from trainer.tasks.contrastive.config import ContrastiveConfig
from trainer.tasks.contrastive.task import ContrastiveTask, Embedded, _named, naming_scores
from trainer.tasks.sizes import check_contrast
from trainer.training.completed import Completed, write_completed
from trainer.training.config import TrainConfig

CPU = torch.device("cpu")
MODEL = ContrastiveModelConfig(encoder=FlatLinear(embedding_dim=8))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of images, a shard a sample, and one of classes."""
    folder = tmp_path_factory.mktemp("sizes")
    same = {"tiny": TinyEmbedding(), "alike": TinyEmbedding(concept_share=1.0)}
    study = write_tiny_study(folder / "study", n_subjects=1, n_stimuli=12, n_test=4, n_reps=3, samples_per_shard=1, embeddings=same)
    clauses: dict[str, dict[str, Any]] = {
        "good": {"train": {"stimulus": [0, 1, 2, 3]}, "validation": {"stimulus": [4, 6]}, "test": {"stimulus": [8, 9]}},
        "lone": {"train": {"stimulus": [0]}, "validation": {"stimulus": [4, 5]}, "test": {"stimulus": [8, 9]}},
        "one-concept": {"train": {"stimulus": [0, 1]}, "validation": {"stimulus": [4, 6]}, "test": {"stimulus": [8]}},
        "lone-validation": {"train": {"stimulus": [0, 1, 2, 3]}, "validation": {"stimulus": [4]}, "test": {"stimulus": [8, 9]}},
        "no-validation": {"train": {"stimulus": [0, 1, 2, 3]}, "test": {"stimulus": [8, 9]}},
    }
    for name, parts in clauses.items():
        write_split(study, name, **parts)
    classes = write_tiny_study(folder / "classes", stimulus_level="class", n_subjects=1)
    write_split(classes, "good", train={"recording": [0]}, validation={"recording": [1]}, test={"recording": [2]})
    for part in ("train", "validation", "test"):
        numbers = {"train": 0, "validation": 1, "test": 2}
        parts = {name: {"recording": [number]} | ({"stimulus": [0]} if name == part else {}) for name, number in numbers.items()}
        write_split(classes, f"lone-{part}", **parts)
    return folder


def config_of(study: Path, split: str, *, embedding: str = "tiny", **changes: dict[str, Any]) -> ContrastiveConfig:
    data = {"study": str(study), "split": split, "embedding": embedding, "repetitions": "each"} | changes.get("data", {})
    return ContrastiveConfig(
        run="unused",
        model=MODEL,
        data=DataConfig(**data),
        train=TrainConfig(**{"steps": 1, "global_batch_size": 4} | changes.get("train", {})),
        loss=LossConfig(**changes.get("loss", {})),
    )


def task_of(*arguments: Any, world_size: int = 1, **changes: Any) -> ContrastiveTask:
    return ContrastiveTask(config_of(*arguments, **changes), World(size=world_size, local_size=world_size), CPU)


# ------------------------------------------------------------------------------------------------------- by the config


@pytest.mark.parametrize("name", ["info_nce", "siglip"])
@pytest.mark.parametrize("positives", ["pair", "stimulus", "concept"])
@pytest.mark.parametrize("weight", [1.0, 1e-6])
def test_a_row_without_others_is_not_contrasted(name: str, positives: str, weight: float) -> None:
    loss = {"name": name, "positives": positives, "contrastive_weight": weight, "mse_weight": 1.0}
    with pytest.raises(ValueError, match=r"global_batch_size: 1 with loss.contrastive_weight .* expected at least 2"):
        config_of(Path("s"), "good", train={"global_batch_size": 1}, loss=loss)
    config_of(Path("s"), "good", train={"global_batch_size": 1}, loss=loss | {"contrastive_weight": 0})


@pytest.mark.parametrize("patience", [1, 7])
def test_early_stopping_needs_validations(home: Path, patience: int) -> None:
    early = {"early_stopping_validations": patience}
    with pytest.raises(ValueError, match=f"early_stopping_validations: {patience} with validate_every_steps 0"):
        config_of(home / "study", "good", train=early | {"validate_every_steps": 0})
    with pytest.raises(CommandError, match=f"early_stopping_validations: {patience}, but split 'no-validation' has no validation part"):
        task_of(home / "study", "no-validation", train=early)
    task_of(home / "study", "good", train=early)


@pytest.mark.parametrize("steps", [10**8, 10**18, 10**400])
def test_more_steps_than_checkpoints_have_names_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=r"train\.steps: 1.*, expected at most 99,999,999"):
        TrainConfig(steps=steps)


@pytest.mark.parametrize(
    ("name", "value"),
    [("global_batch_size", 2**20 + 1), ("global_batch_size", 10**12), ("timeout_seconds", 1e13), ("timeout_seconds", 1e38)],
)
def test_what_no_machine_can_hold_or_wait_for_is_refused_at_once(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"train\.{name}: 1.*, expected at most 1,0"):
        TrainConfig(steps=1, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("passes", [1e9, 1e305, 1.7e308])
def test_more_data_passes_than_checkpoints_have_names_are_refused(passes: float) -> None:
    with pytest.raises(CommandError, match=r"train\.data_passes: 1.* over 1000 items .*expected at most 99,999,999"):
        TrainConfig(data_passes=passes, global_batch_size=2).num_steps(1000)
    assert TrainConfig(data_passes=1e-300).num_steps(1000) == 1


# --------------------------------------------------------------------------------------------------------- by the data

CONTRAST = [{"name": name, "positives": positives} for name in ("info_nce", "siglip") for positives in ("pair", "stimulus", "concept")]
ALIGN = [{"contrastive_weight": 0, f"{name}_weight": 1.0} for name in ("mse", "cosine")]
NAMES = {"contrastive_weight": 0, "cross_entropy_weight": 1.0}


@pytest.mark.parametrize("loss", [*CONTRAST, *ALIGN, NAMES], ids=str)
@pytest.mark.parametrize("how", ["split", "select", "fraction"])
def test_a_training_part_with_nothing_to_tell_apart_is_refused(home: Path, loss: dict[str, Any], how: str) -> None:
    by_concept = "concept" in (loss.get("positives"), *(["concept"] if loss is NAMES else []))
    split, select = {
        "split": ("one-concept" if by_concept else "lone", {}),
        "select": ("one-concept", {"concepts": ["concept0", "concept2", "concept3"]} if by_concept else {"fraction": 0.1}),
        "fraction": ("good", {"fraction": 1e-9}),
    }[how]
    says = "leaves none of" if how == "fraction" or "fraction" in select else "to learn from: 1, expected at least 2"
    with pytest.raises(CommandError, match=says):
        task_of(home / "study", split, loss=loss, data={"select": SelectConfig(**select), "repetitions": "mean"})
    if by_concept:
        other = loss | ({"positives": "stimulus"} if loss is not NAMES else ALIGN[0] | {"cross_entropy_weight": 0})
        task_of(home / "study", "one-concept", loss=other)


@pytest.mark.parametrize("loss", [{}, *ALIGN], ids=str)
def test_embeddings_that_are_all_alike_are_refused(home: Path, loss: dict[str, Any]) -> None:
    with pytest.raises(CommandError, match=r"'alike' is one and the same for all 2 stimuli of .*part 'train'"):
        task_of(home / "study", "one-concept", embedding="alike", loss=loss)
    task_of(home / "study", "good", embedding="alike", loss=loss)


@pytest.mark.parametrize("loss", [{}, {"name": "siglip"}, *ALIGN], ids=str)
@pytest.mark.parametrize("factor", [0.0, 1e-44, 1e-20, 1e20, 1e30])
def test_embeddings_of_which_no_unit_vector_is_made_are_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, loss: dict[str, Any], factor: float
) -> None:
    read = StudyIndex.embedding

    def scaled(self: StudyIndex, name: str) -> np.ndarray:
        table = read(self, name).copy()
        table[[2, 3, 9]] *= np.float32(factor)  # two of training, one of the test
        return table

    monkeypatch.setattr(StudyIndex, "embedding", scaled)
    says = r"data\.embedding: 'tiny': that of stimulus train/0002 has no direction \(norm .* as 2 of 4 in .*part 'train'"
    with pytest.raises(CommandError, match=says):
        task_of(home / "study", "good", loss=loss)
    task_of(home / "study", "one-concept", loss=loss)
    assert not loss or task_of(home / "study", "good", loss=NAMES)


@pytest.mark.parametrize(
    ("study", "split", "says"),
    [
        ("study", "lone-validation", "part 'validation' of split 'lone-validation': stimuli to choose from: 1"),
        ("classes", "lone-validation", "part 'validation' of split 'lone-validation': concepts to choose from: 1"),
        ("classes", "lone-train", "part 'train' of split 'lone-train': stimuli to learn from: 1"),
    ],
)
def test_a_score_that_is_always_perfect_chooses_nothing(home: Path, study: str, split: str, says: str) -> None:
    with pytest.raises(CommandError, match=re.escape(says) + ".*expected at least 2"):
        task_of(home / study, split)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_a_validation_part_smaller_than_the_world_is_refused(home: Path, world_size: int) -> None:
    if world_size > 2:
        with pytest.raises(CommandError, match=f"2 samples to score on {world_size} ranks, expected one for each rank or more"):
            task_of(home / "study", "good", world_size=world_size, train={"global_batch_size": 12})
    else:
        task_of(home / "study", "good", world_size=world_size)


def test_what_is_not_wrong_but_not_as_it_reads_is_said(home: Path) -> None:
    def notes(**changes: Any) -> list[str]:
        return [facts["message"] for _, facts in task_of(home / "study", "good", **changes).notes]

    assert notes() == []
    for size in (13, 40):
        assert notes(train={"global_batch_size": size}) == [
            f"train.global_batch_size {size} is more than the 12 training items: every batch holds some of them twice"
        ]
    for k, count in ((1, 0), (2, 0), (3, 1), (9, 1)):
        found = notes(data={"repetitions": "random_mean", "random_mean_k": k})
        assert len(found) == count
        assert all(f"data.random_mean_k {k}: no training sample has more than 3 repetitions" in note for note in found)


@pytest.mark.parametrize(
    ("steps", "every", "patience", "said"),
    [(60, 100, 1, True), (60, 60, 1, True), (60, 30, 1, True), (61, 30, 1, False), (60, 20, 2, True), (60, 20, 1, False), (8, 1, 7, True)],
)
def test_early_stopping_that_cannot_happen_is_said(home: Path, steps: int, every: int, patience: int, said: bool) -> None:
    train = {"steps": steps, "validate_every_steps": every, "early_stopping_validations": patience}
    notes = [facts["message"] for _, facts in task_of(home / "study", "good", train=train).notes]
    assert len(notes) == said
    assert all(f"early_stopping_validations {patience} never stops this run" in note and f"ends at {steps}" in note for note in notes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_concept_scores_that_are_no_numbers_name_no_concept(value: float) -> None:
    concepts_Q = np.arange(4) % 2
    logits_QK = torch.eye(2)[concepts_Q]
    assert naming_scores(embedded(_named(logits_QK), concepts_Q))["concept_accuracy"] == 1
    logits_QK[2, 1] = value
    with pytest.raises(UserError, match="concept scores of 1 of 4 trials are not finite"):
        naming_scores(embedded(_named(logits_QK), concepts_Q))


def embedded(named_Q: torch.Tensor, concept_Q: np.ndarray) -> Embedded:
    nothing = np.zeros((len(concept_Q), 1))
    return Embedded(nothing, nothing, concept_Q, concept_Q, named_Q.numpy())


@pytest.mark.parametrize("seed", range(40))
def test_a_stream_is_refused_exactly_where_no_batch_of_it_ever_has_a_loss_to_lower(home: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, block, positives = int(rng.integers(2, 5)), int(rng.choice([1, 1, 2, 16])), str(rng.choice(["stimulus", "concept"]))
    stimuli = sorted(rng.choice(8, int(rng.integers(1, 5)), replace=False).tolist())
    write_split(home / "study", f"drawn-{seed}", train={"stimulus": stimuli})
    data = DataConfig(study=str(home / "study"), split=f"drawn-{seed}", embedding="tiny", repetitions="each", block_shards=block)
    loader = Loader(StudyIndex.open(home / "study", verify="sizes"), data, "train", seed=seed)
    generator, losses = torch.Generator().manual_seed(seed), []
    for step in range(-(-loader.num_items // size)):
        host = loader.batch(step * size, (step + 1) * size)
        ids_B = host.stimulus_B if positives == "stimulus" else host.concept_B
        z_BE = torch.nn.functional.normalize(torch.randn(size, 8, generator=generator), dim=1)
        image_BE = torch.nn.functional.normalize(host.embedding_BE, dim=1)
        losses.append(float(info_nce(z_BE, image_BE, GlobalColumns(z_BE, image_BE, ids_B, 0), torch.ones(1), ids_B)))
    never_mixed = block == 1 and size == 3  # a shard is a sample of three repetitions
    one = len(loader.stimuli if positives == "stimulus" else loader.concepts) == 1
    if not (never_mixed or one):
        check_contrast(loader, size, positives)  # type: ignore[arg-type]
        return
    assert max(losses) == 0
    with pytest.raises(CommandError, match=rf"batches of .*part 'train' of split 'drawn-{seed}' shows a single {positives}"):
        check_contrast(loader, size, positives)  # type: ignore[arg-type]


def test_batches_that_contrast_nothing_are_counted(home: Path) -> None:
    (note,) = [facts["message"] for _, facts in task_of(home / "classes", "good", train={"global_batch_size": 2}).notes]
    assert re.match(r"[1-4] of the first 4 batches show a single stimulus and contrast nothing", note)


# -------------------------------------------------------------------------------------------------------- evaluation


def command(name: str, *arguments: object) -> int:
    return main("trainer", "", COMMANDS, [name, *map(str, arguments)])


@pytest.mark.parametrize("rows", [1, 3])
def test_a_gallery_of_one_is_not_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int) -> None:
    arrays = {"eeg": np.eye(3)[:rows], "image": np.tile(np.eye(3)[:1], (rows, 1)), "ids": np.full(rows, "a")}
    np.savez(tmp_path / "e.npz", **arrays)  # type: ignore[arg-type]
    assert command("evaluate-retrieval", "--embeds", tmp_path / "e.npz", "--output", tmp_path / "out") == 1
    assert "e.npz: stimuli to choose from: 1, expected at least 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_single_candidate_is_neither_scored_nor_registered(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = {name: write_tiny_encoder(tmp_path / name / "export", home / name, split="good") for name in ("study", "classes")}
    one = write_tiny_encoder(tmp_path / "one", home / "study", split="one-concept")
    write_completed(tmp_path / "study", Completed(step=1, best_score=None, best_step=0, score_name=None))
    lone = ("--split", "lone-validation")
    register = ("--name", "m", "--run", tmp_path / "study", "--study", home / "study", *lone)
    for name, arguments, says in (
        (
            "evaluate-retrieval",
            ("--export", alone["study"], "--split", "lone-validation", "--part", "validation"),
            "stimuli to choose from: 1",
        ),
        ("evaluate-retrieval", ("--export", alone["classes"], "--split", "lone-test"), "classes to choose from: 1"),
        ("evaluate-classes", ("--export", one, "--part", "train"), "one: trained concepts to choose from: 1"),
        ("register", (*register, "--part", "validation"), "stimuli to choose from: 1"),
    ):
        where = ("--tracking_uri", f"sqlite:///{tmp_path}/mlflow.db") if name == "register" else ("--output", tmp_path / "out")
        assert command(name, *arguments, *where) == 1, says
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert says in error
        assert error.endswith("expected at least 2, since a single one always comes first")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("study", "command_name", "split", "says"),
    [
        ("study", "evaluate-retrieval", "lone", "baseline Ridge, fitted on its 1 trials: 1 rows: expected at least 3"),
        ("classes", "evaluate-retrieval", "lone-train", "baseline Lda, fitted on its 4 trials: train_y holds the classes [0]"),
        ("classes", "evaluate-classes", "lone-train", " shows no stimulus of 'class1', expected one of each concept"),
    ],
)
def test_baselines_say_on_what_they_cannot_be_fitted(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], study: str, command_name: str, split: str, says: str
) -> None:
    export = write_tiny_encoder(tmp_path / "export", home / study, split="good")
    assert command(command_name, "--export", export, "--split", split, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"part 'train' of split {split!r}" in error
    assert says in error
    assert not (tmp_path / "out").exists()
