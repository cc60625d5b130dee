"""Training runs that are killed anywhere, resumed, wound back and continued elsewhere, until they are done.

::

    python -m tests.distributed.kills --seed 0 --kills 200

Each run is a child of one process that has imported everything once. A run's first step after a start, each of its checkpoints, and
its end are held against an undisturbed run (:mod:`tests.distributed.agreement`), and so is the run in MLflow.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.contract import files
from data_prep.contract.cli import ending, parse
from tests.distributed.agreement import MEASURED, Undisturbed, at_any_time, at_step, at_the_end, whole_steps
from tests.distributed.launcher import ROOT
from tests.distributed.training import make_study
from tests.helpers.killer import How, Killer
from trainer.callbacks.mlflow_points import points_of
from trainer.callbacks.mlflow_store import open_store
from trainer.distributed.lean_deepspeed import import_deepspeed
from trainer.run import contrastive
from trainer.tasks.contrastive.config import ContrastiveConfig
from trainer.training.callback import Callback, CallbackConfig, LoopView
from trainer.training.completed import read_completed
from trainer.training.run_folder import RunFolder, read_lines
from trainer.training.start import STOPPED_STATUS
from trainer.training.tracking import DATABASE, sqlite_uri

OVERRIDES = {
    "validated": (),
    "no validation": ("--data.split", "no-validation"),
    "early stopping": ("--train.early_stopping_validations", "2"),
    "ZeRO 2": ("--zero.stage", "2"),
}
_RUN = (
    *("--mlflow.enabled", "true", "--train.steps", "12", "--train.validate_every_steps", "2"),
    *("--checkpoint.every_steps", "3", "--checkpoint.keep_last", "2"),
)
_UNDISTURBED = ("--checkpoint.every_steps", "1", "--checkpoint.keep_last", "100")
_WATCHED = tuple(
    str(ROOT / name)
    for name in (
        "trainer/run.py",
        "trainer/training/",
        "trainer/callbacks/",
        "trainer/artifacts/",
        "data_prep/contract/files.py",
        "data_prep/contract/records.py",
        "data_prep/contract/seal.py",
    )
)
_IMPORTED = ("torch._dynamo", "mlflow.data.meta_dataset", "mlflow.data.sources", "mlflow.store.tracking.sqlalchemy_store")
_MOST_STARTS = 12
_KILLED = (-signal.SIGKILL, -signal.SIGTERM)  # which is heard from the start of a run to its end alone


@dataclass(frozen=True, kw_only=True)
class Watch(CallbackConfig):
    """Hold a run against an undisturbed one while it goes on."""

    def build(self) -> Callback:
        """The watcher of the process."""
        return _Watcher()


class _Watcher(Callback):
    undisturbed: Undisturbed
    killer: Killer

    def __init__(self) -> None:
        self.begun = False

    def on_step(self, loop: LoopView) -> None:
        """The folder has settled; nothing is written yet of the first step."""
        if not self.begun:
            self.begun = True
            self._hold(loop, loop.state.step - 1)

    def on_checkpoint(self, loop: LoopView, path: Path) -> None:
        """All is that of this step."""
        self._hold(loop, loop.state.step)

    def _hold(self, loop: LoopView, step: int) -> None:
        with self.killer.resting():
            wrong = list(at_step(loop.folder.path, self.undisturbed, step))
        if wrong:
            raise AssertionError(f"at step {step}: {'; '.join(wrong)}")


@dataclass(kw_only=True)
class Play:
    """What is done to runs, and what was found."""

    home: Path
    seed: int
    kills: int = 0
    starts: int = 0
    chains: int = 0
    wrong: list[str] = field(default_factory=list)
    places: set[str] = field(default_factory=set)
    undisturbed: dict[str, Undisturbed] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def prepare(self, variants: tuple[str, ...]) -> None:
        """A study, an undisturbed run of each variant, and what a run imports when it comes to it."""
        make_study(self.home)
        import_deepspeed()
        for name in _IMPORTED:
            importlib.import_module(name)
        forked(lambda: str(open_store(sqlite_uri(self.home / DATABASE), 5)), self.home / "store.log")
        for variant in variants:
            run = self.home / f"undisturbed {variant}" / "run"
            run.parent.mkdir()
            status, counted = self._start(run, variant)
            assert status == 0, run.with_suffix(".log").read_text()
            self.undisturbed[variant], self.counts[variant] = Undisturbed.of(run), counted

    def chain(self, variant: str, most_kills: int) -> None:
        """One run that is disturbed until it is done, with ``most_kills`` more kills at most."""
        self.chains += 1
        draw = random.Random(f"{self.seed} {self.chains}")
        folder, until = self.home / f"chain-{self.chains}", self.kills + most_kills
        folder.mkdir()
        if draw.random() < 0.8:  # other runs were tracked there before
            shutil.copyfile(self.home / DATABASE, folder / DATABASE)
        runs, resume, found, ended = [folder / "run"], "auto", [], False
        for start in range(_MOST_STARTS + 1):
            how = draw.choices(("kill", "torn", "stop"), (6, 3, 1))[0] if start < _MOST_STARTS and self.kills < until else "never"
            status, _ = self._start(runs[-1], variant, resume=resume, how=how, draw=draw)
            self.kills += status in _KILLED
            done = read_completed(runs[-1]) is not None
            found = self._wrong_after(status, runs, variant, done=done)
            ended = done and (how == "never" or draw.random() < 0.5)
            if found or ended:
                break
            resume, runs = _next(draw, runs)
        found = found or ([] if ended else ["it was never done"])
        self.wrong += [
            f"chain {self.chains} of seed {self.seed} ({variant}), start {start + 1}, resume {resume}: {fault}" for fault in found
        ]
        self.places |= {*_reports(folder)}
        if not found:
            shutil.rmtree(folder)

    def _wrong_after(self, status: int, runs: list[Path], variant: str, *, done: bool) -> list[str]:
        run, log = runs[-1], runs[-1].with_name("tracked.log")
        if status not in (0, STOPPED_STATUS, *_KILLED):
            return [f"status {status}: {_last_line(run.with_suffix('.log'))}"]
        if not done:
            return list(at_any_time(run)) if run.is_dir() else []
        _, tracked = forked(lambda: list(_tracked(runs)), log)
        return [*at_the_end(run, self.undisturbed[variant], killed=status in _KILLED), *([_last_line(log)] if tracked is None else tracked)]

    def _start(
        self, run: Path, variant: str, *, resume: str = "", how: How = "never", draw: random.Random | None = None
    ) -> tuple[int, float]:
        self.starts += 1
        draw = draw or random.Random(0)
        killer = Killer(
            _WATCHED,
            run.parent,
            after=draw.uniform(0, self.counts.get(variant, 0.0)),
            how=how,
            draw=random.Random(draw.random()),
            report=run.parent.with_suffix(".places"),
        )
        exchange, watched = draw.random() < 0.7, variant in self.undisturbed
        words = ("--config", str(self.home / "config.yaml"), *_RUN, *OVERRIDES[variant], "--run", "RUN", *(() if watched else _UNDISTURBED))
        config = replace(_parsed(words), run=str(run), resume=resume, callbacks=(Watch(),) if watched else ())

        def train() -> tuple[int, float]:
            if watched:
                _Watcher.undisturbed, _Watcher.killer = self.undisturbed[variant], killer
            if not exchange:
                files._exchange = lambda one, other: False  # as on a file system that cannot
            if how != "never" or not watched:
                killer.start()
            try:
                status = ending(lambda: contrastive(config), debug=True)
            except SystemExit as stopped:  # before the first step
                status = int(str(stopped))
            return status, killer.counted

        status, answer = forked(train, run.with_suffix(".log"))
        return (status, 0.0) if answer is None else tuple(answer)


@functools.cache
def _parsed(words: tuple[str, ...]) -> ContrastiveConfig:
    config: ContrastiveConfig = parse(ContrastiveConfig, words)
    return config


def forked(action: Callable[[], Any], log: Path) -> tuple[int, Any]:
    """What ``action`` gives in a child whose output goes to ``log``, as JSON has it; with another status than 0, nothing."""
    with tempfile.TemporaryFile() as answer:
        child = os.fork()
        if not child:
            status = 70
            try:
                output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.dup2(output, 1)
                os.dup2(output, 2)
                answer.write(json.dumps(action()).encode())
                answer.flush()
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            finally:
                sys.stdout.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answer.seek(0)
        return status, json.loads(answer.read()) if status == 0 else None


def _next(draw: random.Random, runs: list[Path]) -> tuple[str, list[Path]]:
    """From where to go on, and in which folder."""
    run, what = runs[-1], draw.random()
    steps = whole_steps(run) if RunFolder(run).holds_a_run() else []
    if not steps or what < 0.6:
        return "auto", runs
    checkpoint = str(RunFolder(run).checkpoint(draw.choice(steps)))
    if what < 0.85:
        return checkpoint, runs
    # A run that was killed between its first checkpoint and the pointer to it has nothing to go on from but that checkpoint's path.
    by_path = draw.random() < 0.7 or RunFolder(run).pointed("latest") is None
    return checkpoint if by_path else str(run), [*runs, run.with_name(f"run-{len(runs)}")]


def _tracked(runs: list[Path]) -> Iterator[str]:
    """What is wrong with the runs of a chain in MLflow when the last of them is done."""
    completed, client = read_completed(runs[-1]), open_store(sqlite_uri(runs[-1].parent / DATABASE), 5)
    assert completed is not None
    tracking = [[event for event in read_lines(run / "events.jsonl") if event["event"] == "tracking"] for run in runs]
    named = [event["run_id"] for event in tracking[-1] if "run_id" in event]
    elsewhere = {event.get("run_id") or event["start"] for events in tracking[:-1] for event in events}
    mine = completed.tracking_run_id
    if named[-1:] != [mine]:
        yield f"completed.json says the MLflow run {mine}, events {named}"
    experiment = client.get_experiment_by_name("contrastive").experiment_id
    found = {run.info.run_id: run for run in client.search_runs([experiment])}
    for run_id, run in found.items():
        if not {run_id, run.data.tags["eegvision.start"]} & {*named, *elsewhere}:
            yield f"an MLflow run that no event names, {run.info.status}"
        elif run_id in named[:-1] and run_id != mine and ("superseded_by" not in run.data.tags or run.info.status == "RUNNING"):
            yield f"an MLflow run of an earlier past is {run.info.status}, superseded by {run.data.tags.get('superseded_by')}"
    if found[mine].info.status != "FINISHED":
        yield f"the MLflow run is {found[mine].info.status}"
    expected = points_of((runs[-1] / "metrics.jsonl").read_text().split("\n"))
    history = [metric for name in {name for name, _ in expected} for metric in client.get_metric_history(mine, name)]
    shown = {(metric.key, metric.step): metric.value for metric in sorted(history, key=lambda metric: metric.timestamp)}
    if shown != expected:
        yield f"points in MLflow differ: {sorted({*shown.items()} ^ {*expected.items()})[:6]}"
    own = [(metric.key, metric.step) for metric in history if metric.key.partition("/")[2] not in MEASURED]
    if len({*own}) < len(own):
        yield "points in MLflow that came twice"
    export = runs[-1] / "export"
    kept = Path(client.download_artifacts(mine, "export", tempfile.mkdtemp(dir=runs[-1].parent)))
    if {path.name: path.read_bytes() for path in kept.iterdir()} != {path.name: path.read_bytes() for path in export.iterdir()}:
        yield "the export in MLflow is not that of the run"


def _reports(folder: Path) -> list[str]:
    report = folder.with_suffix(".places")
    return [line.partition(", ")[0] for line in report.read_text().splitlines()] if report.is_file() else []


def _last_line(log: Path) -> str:
    return (log.read_text().strip().splitlines() or [""])[-1]


def play(home: Path, *, seed: int, kills: int, variants: tuple[str, ...] = tuple(OVERRIDES)) -> Play:
    """Disturb runs of each variant in turn until there have been so many kills."""
    found = Play(home=home, seed=seed)
    found.prepare(variants)
    while found.kills < kills:
        found.chain(variants[found.chains % len(variants)], kills - found.kills)
    return found


def main() -> int:
    """Say what was done and what did not agree; 1 if anything did not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--variants", nargs="+", default=list(OVERRIDES))
    parser.add_argument("--keep", type=Path, help="work here, and leave what did not agree")
    given = parser.parse_args()
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        home = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-")))
        found = play(home, seed=given.seed, kills=given.kills, variants=tuple(given.variants))
    print(*found.wrong, sep="\n")
    print(
        f"seed {given.seed}: {found.kills} kills at {len(found.places)} places in {found.starts} starts of {found.chains} runs, "
        f"{len(found.wrong)} disagreements, {time.monotonic() - begun:.0f} s"
    )
    return bool(found.wrong)


if __name__ == "__main__":
    from tests.distributed import kills  # not __main__: a config names Watch by its module

    sys.exit(kills.main())
