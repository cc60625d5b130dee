"""``launch run`` with the real launcher: what is refused before there are ranks, and what is said when one fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from data_prep.contract.errors import CommandError, UserError
from launch.check import check, parse_trainers
from launch.config import LaunchConfig
from tests.distributed.launcher import ROOT
from tests.distributed.training import events, last_step, make_study, saved_step, wait_for
from trainer.distributed.child import environment_of_its_own
from trainer.distributed.rendezvous import hold_meeting_place
from trainer.training.run_folder import read_lines
from trainer.training.start import STOPPED_STATUS

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    make_study(folder)
    return folder


def launch_run(home: Path, run: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "launch", "run", "--num_processes", "2", *options, "--"]
    command = ["contrastive", "--config", str(home / "config.yaml"), "--run", str(home / run), *arguments]
    alone = environment_of_its_own() | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*argv, *command], capture_output=True, text=True, timeout=200, cwd=ROOT, env=alone, check=False)


def test_when_a_rank_fails_the_terminal_has_our_lines_and_the_users_and_the_logs_have_the_libraries(home: Path) -> None:
    done = launch_run(home, "broken", "--callbacks", "[{class_path: tests.distributed.noisy.Noisy}]")
    run = home / "broken"
    assert done.returncode == 1
    assert all(f"a user's own line of rank {rank}" in done.stdout for rank in (0, 1))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    ours = f"error: internal, not your fault: RuntimeError: this callback breaks; its traceback is in {run}/errors/rank-1.txt"
    assert errors.count(ours) == 1
    last = f"error: {run}: the ranks ended with status 1 and did not write completed.json; what libraries said is in {run}/logs"
    assert done.stderr.splitlines()[-1] == last
    for chatter in ("library chatter", "sigkill_handler", "exits with return code", "leaked"):
        assert chatter not in done.stdout + done.stderr
    assert "ERROR DeepSpeed: library trouble of rank 0" in done.stderr, "errors are shown"
    for rank in (0, 1):
        assert f"library chatter of rank {rank}" in (run / "logs" / f"rank-{rank}.log").read_text()
    assert "exits with return code = 1" in (run / "logs" / "launcher.log").read_text()


def test_what_every_rank_would_refuse_is_said_once_and_leaves_nothing(home: Path) -> None:
    done = launch_run(home, "refused", "--data.study", str(home / "nowhere"))
    assert (done.returncode, done.stdout) == (1, "")
    (said,) = [line for line in done.stderr.splitlines() if "loading libraries" not in line]
    assert said.startswith(f"error: {home}/nowhere: not a finished study")
    assert not (home / "refused").exists()


def test_a_taken_port_is_refused_before_there_are_ranks(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        done = launch_run(home, "refused", options=("--master_port", str(port)))
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if "loading libraries" not in line]
    assert said == f"error: master_port: {port} is in use by another program: choose another one, or 0 for any that is free"
    assert not (home / "refused").exists()


@pytest.mark.usefixtures("hangups_are_heard")
def test_a_terminal_that_goes_stops_the_ranks_which_save_though_nobody_reads_what_they_say(home: Path) -> None:
    run = home / "hung-up"
    argv = [sys.executable, "-m", "launch", "run", "--num_processes", "2", "--", "contrastive", "--config", str(home / "config.yaml")]
    alone = environment_of_its_own() | {"CUDA_VISIBLE_DEVICES": ""}
    reader, writer = os.pipe()
    command = [*argv, "--run", str(run), "--train.steps", "5000"]
    process = subprocess.Popen(command, stdout=writer, stderr=writer, cwd=ROOT, env=alone, start_new_session=True)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    try:
        wait_for(lambda: last_step(run) >= 6, process)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == STOPPED_STATUS
    finally:
        process.kill()
        process.wait()
    assert [(end["reason"], end["step"]) for end in events(run, "end")] == [("signal", saved_step(run))]


@pytest.mark.long
def test_a_run_that_loses_a_rank_goes_on_by_itself_and_is_looked_at_and_stopped_from_elsewhere(home: Path) -> None:
    run = home / "restarted"
    argv = [sys.executable, "-m", "launch", "run", "--num_processes", "2", "--max_restarts", "2", "--backoff_seconds", "0.1", "--"]
    command = [*argv, "contrastive", "--config", str(home / "config.yaml"), "--run", str(run), "--train.steps", "5000"]
    alone = environment_of_its_own() | {"CUDA_VISIBLE_DEVICES": ""}

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "launch", *words], capture_output=True, text=True, timeout=200, cwd=ROOT, env=alone, check=False
        )

    with (home / "restarted.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=alone, start_new_session=True)
    try:
        wait_for(lambda: saved_step(run) >= 5, process)
        ranks = [child for child in psutil.Process(process.pid).children(recursive=True) if "trainer" in child.cmdline()]
        assert len(ranks) == 2
        ranks[1].kill()
        wait_for(lambda: bool(events(run, "resume")) and last_step(run) > events(run, "resume")[0]["resumed_at"], process)
        assert [event["because"] for event in events(run, "restart")] == ["rank 1 on localhost was ended by SIGKILL"]

        said = ask("status", str(run)).stdout
        assert said.startswith(f"state       running, by process {process.pid} on {socket.gethostname()}")
        assert "ranks       2 on localhost\n" in said
        again = ask(*command[3:])
        assert again.returncode == 1
        assert f"error: run: {run / 'launch'} is in use by process {process.pid} on " in again.stderr
        stopped = ask("stop", str(run))
        assert stopped.stdout == f"{run}: stopped; its newest checkpoint is step {saved_step(run)}\n"
        assert process.wait(20) == STOPPED_STATUS
    finally:
        process.kill()
        process.wait()
    assert [end["step"] for end in events(run, "end")] == [saved_step(run)]
    steps = [line["step"] for line in read_lines(run / "items.jsonl")]
    assert steps == list(range(1, saved_step(run) + 1))
    assert ask("status", str(run)).stdout.startswith("state       stopped by a signal, and saved\n")
    assert ask("stop", str(run)).stderr == f"error: run: {run}: nothing trains it\n"
    assert "==> rank-1.log <==" in ask("logs", str(run), "--rank", "1").stdout


def test_a_port_is_held_from_the_moment_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "")
    held = hold_meeting_place(0)
    assert os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True"
    with pytest.raises(CommandError, match=f"master_port: {held.port} is in use"):
        hold_meeting_place(held.port)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--data.split", "other"), "no such split; this study has no-validation, tiny"),
        (("--data.embedding", "clip"), "no embedding 'clip'; this study has tiny"),
        (("--train.world_size", "3"), "train.world_size: 3 ranks were asked for, but 2 started"),
        (("--train.global_batch_size", "7"), "train.global_batch_size: 7 is not divisible by the 2 ranks"),
        (("--train.seed", str(2**70)), "seed"),
        (("--train.speed", "fast"), "speed"),
        (("--resume", "latest"), "resume: latest, but"),
    ],
)
def test_refused_by_the_launcher(home: Path, arguments: tuple[str, ...], says: str) -> None:
    command = ["contrastive", "--config", str(home / "config.yaml"), "--run", str(home / "refused"), *arguments]
    with pytest.raises(UserError, match=says):
        check(parse_trainers(LaunchConfig(num_processes=2, trainer_command=command)), ranks=2)


def test_a_run_that_can_start_is_not_refused(home: Path) -> None:
    command = ["contrastive", "--config", str(home / "config.yaml"), "--run", str(home / "fine")]
    check(parse_trainers(LaunchConfig(num_processes=2, trainer_command=command)), ranks=2)
    assert not (home / "fine").exists()
