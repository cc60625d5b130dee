"""Training under the real launcher: killed, resumed on other numbers of ranks, and refused where it must be."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.contract.cli import main
from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, sha256_file, write_json
from tests.distributed.launcher import ROOT
from tests.distributed.training import by_step, events, last_step, make_study, saved_step, train, training, wait_for, write_split
from trainer.__main__ import COMMANDS
from trainer.artifacts.encoder import load_encoder
from trainer.distributed.child import environment_of_its_own
from trainer.distributed.weights_only import weights_only
from trainer.run import STOPPED_STATUS
from trainer.training.checkpoint import convert_to_universal, read_checkpoint
from trainer.training.completed import read_completed
from trainer.training.run_folder import RunFolder
from trainer.training.verify import verify

STEPS = 60
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    make_study(folder)
    return folder


@pytest.fixture(scope="module")
def whole(home: Path) -> Path:
    """A run of 2 ranks under ``deepspeed --module trainer`` that nothing disturbs."""
    run, asked = home / "whole", ("--train.world_size", "2", "--callbacks", "[{class_path: TensorBoard}]")
    output = train(run, *asked, ranks=2, config=home / "config.yaml", runner=True)
    assert (run / "completed.json").is_file(), output
    return run


def test_a_whole_run_leaves_what_the_run_folder_promises(whole: Path) -> None:
    completed = read_json(whole / "completed.json")
    assert completed["reason"] == "finished"
    assert (completed["step"], completed["samples_seen"]) == (STEPS, 8 * STEPS)
    assert {p.name for p in whole.iterdir()} >= {"config.yaml", "identity.json", "latest", "best", "export", "tensorboard"}
    assert sorted(p.name for p in (whole / "heartbeat").iterdir()) == ["0", "1"]
    assert saved_step(whole) == STEPS
    output = whole.with_suffix(".log").read_text()
    for word in ("samples/s", "data wait", "GiB", "lr ", "validation  top1"):
        assert word in output
    scores = by_step(whole, "metrics.jsonl", "validation_mrr")
    assert sorted(scores) == [20, 40, 60]
    assert completed["best_score"] == max(scores.values())
    encoder = load_encoder(whole / "export")
    assert encoder.export.step == completed["best_step"]


def test_a_data_pass_visits_every_item_once(whole: Path) -> None:
    items = [item for step in range(1, STEPS + 1) for item in by_step(whole, "items.jsonl", "items")[step]]
    num_items = 14 * 3
    passes = [items[i : i + num_items] for i in range(0, len(items) - num_items + 1, num_items)]
    assert len(passes) == 11
    assert all(sorted(one) == list(range(num_items)) for one in passes)


@pytest.mark.parametrize("ranks", [1, 2])
def test_checkpoints_by_the_clock_are_of_the_same_steps_on_all_ranks(home: Path, ranks: int) -> None:
    run = home / f"by-the-clock-{ranks}"
    asked = ("--checkpoint.every_steps", "0", "--checkpoint.every_minutes", "0.0005", "--checkpoint.keep_last", "99")
    output = train(run, *asked, "--train.steps", "30", "--train.validate_every_steps", "30", ranks=ranks, config=home / "config.yaml")
    assert read_completed(run) is not None, output
    steps = sorted(int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*"))
    assert len(steps) > 2
    assert min(after - before for before, after in itertools.pairwise(steps[:-1])) > 1, "what is due is asked for once"
    assert verify(run) == []


def test_killed_on_2_ranks_stopped_on_1_and_finished_on_2(home: Path, whole: Path) -> None:
    run, config = home / "killed", home / "config.yaml"
    kill(run, ranks=2, config=config)
    killed_at = saved_step(run)
    with training(run, "--resume", "latest", ranks=1, config=config) as process:
        wait_for(lambda: last_step(run) >= killed_at + 8, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == STOPPED_STATUS
    assert not (run / "completed.json").exists()
    assert events(run, "end")[-1]["reason"] == "signal"
    assert events(run, "end")[-1]["step"] == saved_step(run), "the step it stopped at was not saved"
    output = train(run, "--resume", "latest", ranks=2, config=config)
    assert (run / "completed.json").is_file(), output
    starts = [(e["event"], e["world_size"]) for e in events(run, "start") + events(run, "resume")]
    assert starts == [("start", 2), ("resume", 1), ("resume", 2)]
    assert_same_run(run, whole)


@pytest.mark.long
def test_killed_on_2_ranks_under_zero_3_and_finished_on_1(home: Path, whole: Path) -> None:
    run, config = home / "killed-3", home / "config.yaml"
    kill(run, "--zero.stage", "3", ranks=2, config=config)
    assert contrastive(home, run.name, "--zero.stage", "3", "--resume", "latest") == 0
    assert_same_run(run, whole)


def kill(run: Path, *arguments: str, ranks: int, config: Path) -> None:
    """Train until some steps after a checkpoint, then end all processes as a crash would."""
    with training(run, *arguments, ranks=ranks, config=config) as process:
        wait_for(lambda: last_step(run) >= 13 and saved_step(run) >= 10, process)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (run / "completed.json").exists()


def assert_same_run(run: Path, whole: Path) -> None:
    """The same items and losses in every step, and the same best score."""
    assert by_step(run, "items.jsonl", "items") == by_step(whole, "items.jsonl", "items")
    assert by_step(run, "metrics.jsonl", "loss") == pytest.approx(by_step(whole, "metrics.jsonl", "loss"), rel=1e-5)
    for score in ("best_score", "best_step"):
        assert read_json(run / "completed.json")[score] == pytest.approx(read_json(whole / "completed.json")[score])


# ------------------------------------------------------------------------------------------- in this process, on one rank


def contrastive(home: Path, run: str, *arguments: str) -> int:
    return main("trainer", "", COMMANDS, ["contrastive", "--config", str(home / "config.yaml"), "--run", str(home / run), *arguments])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--train.world_size", "2"), "train.world_size: 2 ranks were asked for, but 1 started"),
        (("--train.micro_batch_size", "3"), "train.micro_batch_size: 3 x 1 ranks"),
        (("--train.precision", "fp16", "--train.device", "cpu"), "fp16 is not supported on the CPU"),
        (("--train.accumulation", "3"), "train.accumulation: 3 does not divide the 8 items"),
        (("--train.speed", "fast"), "speed"),
        (("--resume", "latest"), "resume: latest, but"),
        (("--data.split", "other"), "no such split; this study has no-validation, tiny"),
        (("--init_from", "nowhere"), "nowhere: has neither config.json nor export/config.json"),
        (("--model.proj_dim", "7", "--model.image_head", "none"), "model.proj_dim: 7"),  # found when the model is built
        (("--deepspeed_overrides", "{zero_optimization: {stage: 2}}"), "deepspeed_overrides"),
        (("--train.seed", str(2**70)), "seed"),
        (("--model.encoder", "EEGNetz"), "model.encoder: there is no 'EEGNetz', expected one of ChannelNet, CnnTransformer, EEGProject"),
    ],
)
def test_refused_before_training_in_one_sentence(home: Path, capfd: pytest.CaptureFixture, arguments: tuple, says: str) -> None:
    assert contrastive(home, "refused", *arguments) != 0
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert says in error
    assert "internal" not in error
    assert not (home / "refused").exists(), "a refusal leaves no trace: mended, the run starts in the same folder"


@pytest.mark.parametrize("seed", [2**31, 2**44, 2**63 - 1])
def test_a_seed_that_the_config_takes_trains(home: Path, seed: int) -> None:
    steps = ("--train.steps", "3", "--mlflow.enabled", "false")
    assert contrastive(home, f"seed-{seed}", "--train.seed", str(seed), *steps) == 0


NO_ROOM = """
import resource, sys
from data_prep.contract.cli import leave, main
from trainer.__main__ import COMMANDS
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
leave(main("trainer", "", COMMANDS, sys.argv[2:]))
"""


@pytest.mark.parametrize("room", [12_000, 25_000])
def test_no_room_for_a_checkpoint_is_one_sentence_and_the_run_goes_on_later(home: Path, room: int) -> None:
    run = home / f"no-room-{room}"
    command = ["contrastive", "--config", str(home / "config.yaml"), "--run", str(run), "--mlflow.enabled", "false"]
    limited = [sys.executable, "-c", NO_ROOM, str(room), *command]
    alone = environment_of_its_own()
    done = subprocess.run(limited, capture_output=True, text=True, timeout=120, cwd=ROOT, env=alone, check=False)
    assert done.returncode == 1, done.stderr[-2000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "no room to write it" in line
    assert "inline_container" not in line
    assert not list((run / "checkpoints").glob("step-*")), "nothing half-written is left"
    assert not (run / "latest").exists()
    assert not (run / "export").exists()
    assert contrastive(home, run.name, "--mlflow.enabled", "false", "--resume", "auto") == 0


def test_a_run_is_resumed_only_as_itself(home: Path, whole: Path, capfd: pytest.CaptureFixture) -> None:
    before = (whole / "completed.json").read_bytes(), (whole / "latest").read_text()
    for arguments, says in [
        ((), "already holds a run; continue it with --resume latest"),
        (("--resume", "latest", "--optimizer.lr", "0.1"), "optimizer.lr was 0.003 when this run began and is 0.1 now"),
        (("--resume", "latest", "--train.global_batch_size", "4"), "train.global_batch_size was 8"),
        (("--resume", "latest", "--data.split", "no-validation"), "data.split"),
        (("--resume", "latest", "--zero.stage", "2"), "saved with zero.stage 1, the config says 2"),
        (("--resume", str(home)), "expected a finished checkpoint"),
    ]:
        assert contrastive(home, "whole", *arguments) == 1
        assert says in capfd.readouterr().err
    assert before == ((whole / "completed.json").read_bytes(), (whole / "latest").read_text()), "a refused command changed the run"


def test_deterministic_runs_are_bit_identical_and_an_unreachable_tracker_stops_nothing(home: Path, capfd: pytest.CaptureFixture) -> None:
    arguments = ("--train.deterministic", "true", "--train.steps", "6", "--data.split", "no-validation")
    dead = ("--mlflow.enabled", "true", "--mlflow.tracking_uri", "http://127.0.0.1:9", "--mlflow.timeout_seconds", "1")
    try:
        assert contrastive(home, "first", *arguments) == 0
        assert "no validation part: the last weights count as the best" in capfd.readouterr().out
        assert contrastive(home, "second", *arguments, *dead) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert capfd.readouterr().err.count("tracking is off from step 0") == 1
    assert [e["part"] for e in events(home / "second", "fault")] == ["mlflow"]
    exports = [home / run / "export" / "model.safetensors" for run in ("first", "second")]
    assert exports[0].read_bytes() == exports[1].read_bytes()
    assert load_encoder(home / "first" / "export").export.step == 6


def test_mlflow_knows_the_run_and_a_resumed_run_continues_it(home: Path) -> None:
    from mlflow import MlflowClient

    arguments = ("--mlflow.enabled", "true", "--mlflow.experiment", "tiny", "--train.validate_every_steps", "3")
    assert contrastive(home, "tracked", *arguments, "--train.steps", "3") == 0
    assert contrastive(home, "tracked", *arguments, "--train.steps", "6", "--resume", "latest") == 0
    completed = read_json(home / "tracked" / "completed.json")
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert found.info.run_id == completed["tracking_run_id"]
    assert found.info.status == "FINISHED"
    assert found.data.params["optimizer.lr"] == "0.003"
    assert [point.step for point in client.get_metric_history(found.info.run_id, "train/loss")] == [1, 2, 3, 4, 5, 6]
    assert found.data.metrics["validation/mrr"] > 0
    assert found.data.tags["git_revision"] == events(home / "tracked", "start")[0]["code"]
    (used,) = found.inputs.dataset_inputs
    identity = read_json(home / "tracked" / "identity.json")["data"]
    assert used.dataset.digest == identity["fingerprint"][:36]
    assert {tag.key: tag.value for tag in used.tags}["split_hash"] == identity["split_hash"]
    artifacts = {item.path for item in client.list_artifacts(found.info.run_id)} | {
        item.path for item in client.list_artifacts(found.info.run_id, "export")
    }
    assert artifacts >= {"config.yaml", "identity.json", "export/model.safetensors", "export/config.json"}


def test_early_stopping_ends_a_run_that_gets_no_better(home: Path) -> None:
    arguments = (
        "--optimizer.lr",
        "1e-12",
        "--model.norm",
        "layer",
        "--train.validate_every_steps",
        "2",
        "--train.early_stopping_validations",
        "2",
    )
    assert contrastive(home, "stale", *arguments) == 0
    completed = read_json(home / "stale" / "completed.json")
    assert (completed["reason"], completed["step"], completed["best_step"]) == ("early stopping", 6, 2)


def test_another_study_under_the_same_path_is_refused(home: Path, tmp_path: Path, whole: Path, capfd: pytest.CaptureFixture) -> None:
    other = tmp_path / "other"
    other.mkdir()
    root = make_study(other)
    write_split(root, "tiny", train={"stimulus": list(range(13))}, validation={"stimulus": [14, 15, 16, 17, 18]})
    assert contrastive(home, "whole", "--resume", "latest", "--data.study", str(root)) == 1
    assert "data.split_hash was" in capfd.readouterr().err


class Payload:
    """Unpickled, it calls something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def payload(function: str, ran: Path) -> Payload:
    """Leaves the file ``ran``."""
    return {
        "system": Payload(os.system, f"touch {ran}"),
        "eval": Payload(eval, f"open({str(ran)!r}, 'w')"),
        "call": Payload(subprocess.call, ["touch", str(ran)]),
        "touch": Payload(Path.touch, ran),
    }[function]


def poisoned(checkpoint: Path, to: Path, number: int, payload: Payload) -> Path:
    """A copy whose ``number``-th torch file also holds ``payload``, sealed anew as its forger would."""
    copy = Path(shutil.copytree(checkpoint, to / checkpoint.name))
    file = sorted(copy.glob("*.pt"))[number]
    with weights_only():
        values = torch.load(file)
    torch.save({**values, "more": payload}, file)
    seal = read_json(copy / "manifest.json")
    seal["files"][file.name] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    del seal["sha256"]  # as manifests of earlier versions
    write_json(copy / "manifest.json", seal)
    return copy


@pytest.mark.parametrize(("number", "function"), [(0, "system"), (1, "eval"), (2, "touch")])
def test_no_code_of_a_checkpoint_is_run_in_its_conversion(whole: Path, tmp_path: Path, number: int, function: str) -> None:
    ran = tmp_path / "ran"
    checkpoint = poisoned(whole / "checkpoints" / f"step-{STEPS:08d}", tmp_path, number, payload(function, ran))
    with pytest.raises(CommandError, match="not run"):
        convert_to_universal(read_checkpoint(checkpoint), RunFolder(tmp_path / "run"), 100)
    assert not ran.exists()


@pytest.mark.parametrize("number", [0, 1])
def test_nor_where_it_is_resumed_from(home: Path, capfd: pytest.CaptureFixture, tmp_path: Path, number: int) -> None:
    steps = ("--train.steps", "3", "--mlflow.enabled", "false")
    run, ran = f"poisoned-{number}", tmp_path / "ran"
    assert contrastive(home, run, *steps) == 0
    (tmp_path / "theirs/checkpoints").mkdir(parents=True)
    shutil.copy(home / run / "identity.json", tmp_path / "theirs")
    checkpoint = poisoned(home / run / "checkpoints/step-00000003", tmp_path / "theirs/checkpoints", number, payload("call", ran))
    assert contrastive(home, f"{run}-again", *steps, "--resume", str(checkpoint)) == 1
    assert f"{sorted(checkpoint.glob('*.pt'))[number]}: asks for" in capfd.readouterr().err
    assert not ran.exists()
