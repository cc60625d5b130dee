"""The process that becomes DeepSpeed's launcher: what every rank would refuse is refused here, once, before there are any.

:mod:`launch.supervise`, which holds this process's group, needs no torch. Here torch is imported anyway, by DeepSpeed: so this is where
a trainer's config is parsed, its study opened and the port taken where the ranks meet. Then the planned module is run in this very
process, and the file that rank 0 writes last is looked for.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import runpy
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_prep.contract.cli import parse
from data_prep.contract.errors import CommandError
from launch.hostfile import read_hostfile
from launch.plan import LaunchConfig, Plan, plan
from trainer.__main__ import COMMANDS
from trainer.artifacts.generations import FACTS
from trainer.artifacts.text_export import find_text_export, read_text_export
from trainer.data.index import StudyIndex
from trainer.distributed.lean_deepspeed import import_deepspeed
from trainer.distributed.library_log import collected
from trainer.distributed.rendezvous import free_port, hold_meeting_place
from trainer.distributed.stop_signals import stop_signals
from trainer.distributed.world import World, check_world_size
from trainer.generate.config import GenerateConfig
from trainer.training.config import RunConfig
from trainer.training.owner import refuse_if_alive
from trainer.training.resume import find
from trainer.training.run_folder import RunFolder, read_lines
from trainer.training.start import STOPPED_STATUS


def start(config: LaunchConfig) -> int:
    """Check, start the ranks, wait for them, and require what they write last; exit status 0, or 75 when a signal stopped them.

    Raises
    ------
    CommandError
        What the ranks would refuse; or they ended without success.
    """
    command = parse_trainers(config)
    check(command, ranks=sum(host.slots for host in read_hostfile(config.hostfile)) if config.hostfile else config.num_processes)
    done = last_file(command)
    logs = RunFolder(done.parent).logs
    before, logged = _stamp(done), _stamp(logs / "rank-0.log")
    with collected(show_errors=False) as said:
        import_deepspeed()
        store = None if config.hostfile else hold_meeting_place(config.master_port)
        prepared = plan(config, python=sys.executable, port=free_port() if store is None else store.port)
        with _signals() as received:
            status = become(prepared)
        if begun := _stamp(logs / "rank-0.log") != logged:
            said.open(logs / "launcher.log")
    if _stamp(done) in (None, before):
        if received() and isinstance(command, RunConfig) and (not begun or _stopped(done.parent)):
            return STOPPED_STATUS
        more = f"; what libraries said is in {logs}" if begun else ""
        raise CommandError(f"{done.parent}: the ranks ended with status {status} and did not write {done.name}{more}")
    return 0


def parse_trainers(config: LaunchConfig) -> Any:
    """The trainer's config that ``trainer_command`` gives."""
    name, *arguments = config.trainer_command
    importlib.import_module("trainer.callbacks")  # its names may stand in the config
    module, config_class = COMMANDS[name].config.split(":")
    return parse(getattr(importlib.import_module(module), config_class), arguments)


def check(command: Any, *, ranks: int) -> None:
    """Refuse what every rank would refuse for itself, half a minute later."""
    if isinstance(command, GenerateConfig):
        export = find_text_export(command.export)
        changes = {name: value for name, value in (("study", command.study), ("split", command.split)) if value}
        asked = read_text_export(export).data_config(**changes)
        StudyIndex.open(asked.study).split(asked.split)
        return
    if not isinstance(command, RunConfig):
        return
    check_world_size(World(size=ranks, local_size=ranks), command.train.world_size)
    command.train.rank_batch_size(ranks)
    refuse_if_alive(Path(command.run))
    find(RunFolder(command.run), command.resume)
    study = StudyIndex.open(command.data.study)
    study.split(command.data.split)
    study.embedding(command.data.embedding)


def last_file(command: Any) -> Path:
    """The file that success alone writes, last."""
    return RunFolder(command.run).completed if isinstance(command, RunConfig) else Path(command.output) / FACTS


def become(prepared: Plan) -> int:
    """Run the plan's module in this process, as ``python -m`` would; its exit status."""
    where = prepared.argv.index("-m") + 1
    sys.argv = list(prepared.argv[where:])
    for number in {*stop_signals()} - {signal.SIGTERM}:  # the launcher ends its ranks on SIGTERM, and on these would leave them alone
        signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        runpy.run_module(prepared.argv[where], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Context that gives a function: whether a signal came in it. The launcher sets handlers of its own, and on one ends with status 1."""
    heard, said = socket.socketpair()
    with heard, said:
        for end in (heard, said):
            end.setblocking(False)
        previous = signal.set_wakeup_fd(said.fileno(), warn_on_full_buffer=False)
        numbers: set[int] = set()
        try:
            yield lambda: bool(numbers & {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP})
        finally:
            signal.set_wakeup_fd(previous)
            with contextlib.suppress(BlockingIOError):
                numbers.update(heard.recv(4096))


def _stopped(run: Path) -> bool:
    """Whether the ranks saved where a signal stopped them."""
    last = [event for event in read_lines(run / "events.jsonl") if event.get("event") in ("start", "resume", "fault", "end")][-1:]
    return bool(last) and last[0]["event"] == "end" and last[0].get("reason") == "signal"


def _stamp(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.is_file() else None
