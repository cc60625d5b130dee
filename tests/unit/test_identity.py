"""What may change on resume, what may not; run folders; checkpoints that are whole or refused."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from data_prep.contract.errors import CommandError
from data_prep.contract.files import sha256_file, write_json
from data_prep.contract.records import to_json
from trainer.data.augment import AugmentConfig
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.training import checkpoint
from trainer.training.config import TrainConfig
from trainer.training.identity import check_identity, make_identity
from trainer.training.optimizer import OptimizerConfig
from trainer.training.resume import find
from trainer.training.run_folder import RunFolder, read_lines
from trainer.training.state import TrainState

STUDY = {"fingerprint": "f" * 64, "split_hash": "a" * 64, "embedding_sha256": "e" * 64}


@dataclass(frozen=True, kw_only=True)
class Data:
    study: str = "studies/a"
    split: str = "zero-shot"


@dataclass(frozen=True, kw_only=True)
class Config:
    data: Data = field(default_factory=Data)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ContrastiveModelConfig = field(default_factory=ContrastiveModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=10))


def saved(tmp_path: Path, config: Config) -> Path:
    write_json(tmp_path / "identity.json", make_identity(config, STUDY))
    return tmp_path / "identity.json"


def test_paths_world_size_length_and_precision_may_change(tmp_path: Path) -> None:
    path = saved(tmp_path, Config())
    moved = Config(data=Data(study="/elsewhere"), train=TrainConfig(steps=99, world_size=4, precision="bf16"))
    check_identity(path, make_identity(moved, STUDY))


@pytest.mark.parametrize(
    ("change", "study", "says"),
    [
        ({"train": TrainConfig(steps=10, global_batch_size=64)}, {}, "train.global_batch_size was 128 .* is 64 now"),
        ({"train": TrainConfig(steps=10, seed=7)}, {}, "train.seed was 0 .* is 7 now"),
        ({"loss": LossConfig(positives="pair")}, {}, "loss.positives was stimulus .* is pair now"),
        ({"augment": AugmentConfig(noise=0.1)}, {}, r"augment.noise was 0.0 .* is 0.1 now"),
        ({"data": Data(split="other")}, {}, "data.split was zero-shot .* is other now"),
        ({}, {"fingerprint": "0" * 64}, "data.fingerprint was fff.* is 000"),
        ({}, {"split_hash": "0" * 64}, "data.split_hash was aaa.* is 000"),
    ],
)
def test_another_experiment_is_refused_naming_field_and_both_values(tmp_path: Path, change: dict, study: dict, says: str) -> None:
    path = saved(tmp_path, Config())
    with pytest.raises(CommandError, match=says):
        check_identity(path, make_identity(replace(Config(), **change), STUDY | study))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "train.steps is None and train.data_passes None"),
        ({"steps": 3, "data_passes": 1.0}, "train.steps is 3 and train.data_passes 1.0"),
        ({"steps": 3, "accumulation": 0}, "train.accumulation: 0, expected at least 1"),
        ({"steps": 0}, "train.steps: 0"),
    ],
)
def test_contradictory_train_configs(fields: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TrainConfig(**fields)


def test_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(CommandError, match=r"train.global_batch_size: 10 is not divisible by the 4 ranks"):
        TrainConfig(steps=1, global_batch_size=10).rank_batch_size(4)
    assert TrainConfig(steps=1, global_batch_size=24, accumulation=3).rank_batch_size(2) == 4
    with pytest.raises(CommandError, match=r"train.accumulation: 4 does not divide the 6 items"):
        TrainConfig(steps=1, global_batch_size=12, accumulation=4).rank_batch_size(2)
    with pytest.raises(CommandError, match=r"train.micro_batch_size: 3 x 2 ranks does not divide .* 10; expected a divisor of 5 or null"):
        TrainConfig(steps=1, global_batch_size=10, micro_batch_size=3).rank_batch_size(2)
    with pytest.raises(CommandError, match=r"train.micro_batch_size: 3 x 2 ranks x 2 is not .* 24; expected 6 or null"):
        TrainConfig(steps=1, global_batch_size=24, micro_batch_size=3, accumulation=2).rank_batch_size(2)
    assert TrainConfig(steps=1, global_batch_size=10).rank_batch_size(2) == 5


@pytest.mark.parametrize(("ranks", "forwards"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_fewer_ranks_make_more_forwards_of_the_same_size(ranks: int, forwards: int) -> None:
    train = TrainConfig(steps=1, global_batch_size=64, micro_batch_size=8)
    assert (train.rank_batch_size(ranks), train.forwards(ranks)) == (8, forwards)


def test_data_passes_are_counted_in_whole_steps() -> None:
    assert TrainConfig(data_passes=2, global_batch_size=30).num_steps(100) == 7


def write_checkpoint(folder: RunFolder, step: int) -> Path:
    path = folder.checkpoints / f"step-{step:08d}"
    path.mkdir(parents=True)
    (path / "weights.pt").write_bytes(b"weights")
    manifest = {
        "format_version": checkpoint.FORMAT_VERSION,
        "zero_stage": 1,
        "world_size": 2,
        "state": to_json(TrainState(step=step, samples_seen=step * 8, best_score=0.5)),
        "files": {"weights.pt": {"bytes": 7, "sha256": sha256_file(path / "weights.pt")}},
    }
    write_json(path / "manifest.json", manifest)
    return path


def test_which_checkpoint_a_run_continues_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert find(folder, "") is None
    assert find(folder, "auto") is None
    with pytest.raises(CommandError, match="has no checkpoint; --resume auto"):
        find(folder, "latest")
    path = write_checkpoint(folder, 3)
    folder.point("latest", path)
    write_json(folder.path / "identity.json", {})
    assert [find(folder, resume) for resume in ("latest", "auto", str(path), str(folder.path))] == [path] * 4
    with pytest.raises(CommandError, match="already holds a run; continue it with --resume latest"):
        find(folder, "")
    (path / "manifest.json").unlink()
    with pytest.raises(CommandError, match="expected a finished checkpoint"):
        find(folder, str(path))


def test_altered_truncated_or_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    path = write_checkpoint(RunFolder(tmp_path), 3)
    found = checkpoint.read_checkpoint(path)
    assert found.state.samples_seen == 24
    checkpoint.check_checkpoint(found, zero_stage=1)
    with pytest.raises(CommandError, match=r"saved with zero.stage 1, the config says 3"):
        checkpoint.check_checkpoint(found, zero_stage=3)
    (path / "weights.pt").write_bytes(b"WEIGHTS")
    with pytest.raises(CommandError, match=r"weights.pt: its SHA-256 is not that of"):
        checkpoint.check_checkpoint(found, zero_stage=1)
    (path / "weights.pt").write_bytes(b"wei")
    with pytest.raises(CommandError, match=r"weights.pt: 3 bytes, expected 7 bytes"):
        checkpoint.check_checkpoint(found, zero_stage=1)


def test_pruning_keeps_the_newest_and_the_best_and_drops_an_abandoned_future(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    paths = {step: write_checkpoint(folder, step) for step in (1, 2, 3, 4, 5)}
    folder.point("best", paths[1])
    folder.point("latest", paths[4])
    checkpoint.prune(folder, keep_last=2)
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == [paths[s].name for s in (1, 3, 4)]


def test_a_pointer_out_of_the_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("../../etc\n")
    with pytest.raises(CommandError, match="expected a checkpoint such as"):
        RunFolder(tmp_path).pointed("latest")


def test_a_line_cut_short_by_a_kill_spoils_no_other(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics(1, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 2, "lo')
    folder.metrics(2, {"loss": 2.0})
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize(
    "foreign",
    ["manifest.json", "000000.tar", "embeddings/clip.npy", "other-run/identity.json", "config.json", "model.safetensors", ".mine/../a b"],
)
@pytest.mark.parametrize("resume", ["", "auto", "latest"])
def test_a_run_never_starts_in_a_folder_of_something_else(tmp_path: Path, foreign: str, resume: str) -> None:
    file = tmp_path / "place" / foreign
    (tmp_path / "place" / ".mine").mkdir(parents=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("theirs")
    with pytest.raises(CommandError, match=r"place holds .* and no run: expected a new or an empty folder"):
        find(RunFolder(tmp_path / "place"), resume)
    assert file.read_text() == "theirs"


@pytest.mark.parametrize(
    "left", ["config.yaml", "checkpoints/step-00000001/x", "errors/rank-0.txt", "heartbeat/0", "logs/ranks.log", "train.log", ".nfs01"]
)
def test_a_run_starts_where_a_killed_start_or_a_log_is(tmp_path: Path, left: str) -> None:
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).write_text("")
    assert find(RunFolder(tmp_path), "") is None
