"""The process that becomes DeepSpeed's own launcher, for those who must: target ``deepspeed``.

What every rank would refuse is refused before. Then the planned module is run in this very process, and the file that rank 0 writes last is
looked for.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from data_prep.contract.errors import CommandError, exit_status
from launch.check import check, last_file, num_ranks, parse_trainers
from launch.config import LaunchConfig
from launch.hostfile import read_hostfile
from launch.outcome import stamp, stopped
from launch.plan import Start, Surroundings, plan
from trainer.distributed.lean_deepspeed import import_deepspeed
from trainer.distributed.library_log import collected
from trainer.distributed.rendezvous import free_port, hold_meeting_place
from trainer.distributed.stop_signals import stop_signals
from trainer.training.config import RunConfig
from trainer.training.run_folder import RunFolder
from trainer.training.start import STOPPED_STATUS


def start(config: LaunchConfig) -> int:
    """Check, start the ranks, wait for them, and require what they write last; exit status 0, or 75 when a signal stopped them.

    Raises
    ------
    CommandError
        What the ranks would refuse; or they ended without success.
    """
    command = parse_trainers(config)
    hosts = read_hostfile(config.hostfile) if config.hostfile else ()
    check(command, ranks=num_ranks(config))
    done = last_file(command)
    logs = RunFolder(done.parent).logs
    before, logged = stamp(done), stamp(logs / "rank-0.log")
    with collected(show_errors=False) as said:
        import_deepspeed()
        store = None if config.hostfile else hold_meeting_place(config.master_port)
        port = store.port if store is not None else config.master_port or free_port()
        planned = plan(replace(config, master_port=port), hosts, Surroundings.here(config.python or sys.executable))
        with tempfile.TemporaryDirectory(prefix="eegvision-") as folder, _signals() as received:
            for name, text in planned.files.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
                os.environ.setdefault("DS_ENV_FILE", str(Path(folder) / name))
            status = become(planned.starts[0])
        if begun := stamp(logs / "rank-0.log") != logged:
            said.open(logs / "launcher.log")
    if stamp(done) in (None, before):
        if received() and isinstance(command, RunConfig) and (not begun or stopped(done.parent)):
            return STOPPED_STATUS
        more = f"; what libraries said is in {logs}" if begun else ""
        raise CommandError(f"{done.parent}: the ranks ended with status {status} and did not write {done.name}{more}")
    return 0


def become(prepared: Start) -> int:
    """Run the plan's module in this process, as ``python -m`` would; its exit status."""
    where = prepared.argv.index("-m") + 1
    sys.argv = list(prepared.argv[where:])
    for number in {*stop_signals()} - {signal.SIGTERM}:  # the launcher ends its ranks on SIGTERM, and on these would leave them alone
        signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        runpy.run_module(prepared.argv[where], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return exit_status(ended)
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
