"""``make chaos``: runs on three hosts to which things happen at random, until the time is over; each must end as if nothing had happened.

::

    python -m tests.hosts.chaos --seed 0 --minutes 20

``launch run`` goes on by itself after all that is in :data:`FAULTS` but what ends or stops ``launch run``: then it is typed once more. Of
each fault it is told how long it took until the run's event log names it, when nothing is left of the attempt that it ended, and until
a step of the next attempt is done. What comes back (a host, a link) is waited for before the next one: the run then has three hosts again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tests.benchmarks.report import machine
from tests.distributed.training import events, last_step, saved_step
from tests.hosts.cluster import Cluster, why_not
from tests.hosts.launch_runs import (
    SLOW,
    by_one_process,
    is_what_one_process_trains,
    killed,
    nothing_is_left,
    rank_on,
    same_on_any_hosts,
    trains_anew,
    typed,
    wait_until,
    worlds,
)
from trainer.training.run_folder import RunFolder

STEPS, HOSTS = 500, 3
_LAST_FAULT = STEPS - 80
"""No fault begins after this step: the run has to be there to go on."""
_OPTIONS = ("--max_restarts", "5", "--backoff_seconds", "1", "--grace_seconds", "30", "--stall_seconds", "60")
_SHORT_WAITS = ("--train.timeout_seconds", "20")
_LONGEST_SECONDS = 180.0
MOST_SECONDS, MOST_SECONDS_TO_NOTICE = 60.0, 30.0


@dataclass
class Scene:
    """A run that goes on, and what is drawn for it."""

    cluster: Cluster
    run: Path
    draw: random.Random
    process: subprocess.Popen[bytes]
    """``launch run``."""

    def host(self) -> str:
        """Any of the hosts."""
        return self.draw.choice(self.cluster.names)

    def signal_rank(self, number: int) -> None:
        """Send a signal to a rank of any host."""
        host = self.host()
        self.cluster.run(host, "kill", f"-{number}", rank_on(self.cluster, host))


def _kill_agent(scene: Scene) -> None:
    host = scene.host()
    for line in scene.cluster.processes(host):
        if "launch.agent" in line and " -m trainer " not in line:
            scene.cluster.run(host, "kill", "-9", line.split()[0])


def _damage_latest(scene: Scene) -> None:
    latest = RunFolder(scene.run).pointed("latest")
    assert latest is not None
    with contextlib.suppress(OSError):  # it has just gone, for a newer one
        file = scene.draw.choice(sorted(path for path in latest.rglob("*") if path.is_file() and path.stat().st_size))
        content = bytearray(file.read_bytes())
        content[scene.draw.randrange(len(content))] ^= 1 << scene.draw.randrange(8)
        file.write_bytes(content)
    scene.signal_rank(signal.SIGKILL)


def _power_off(scene: Scene) -> Callable[[], None]:
    host = scene.host()
    scene.cluster.power_off(host)
    return lambda: scene.cluster.power_on(host)


def _cut(scene: Scene) -> Callable[[], None]:
    host = scene.host()
    scene.cluster.cut(host)
    return lambda: scene.cluster.heal(host)


def _kill_launch(scene: Scene) -> None:
    scene.process.kill()


def _stop_launch(scene: Scene) -> None:
    os.kill(scene.process.pid, signal.SIGTERM)


FAULTS: dict[str, Callable[[Scene], Callable[[], None] | None]] = {
    "a rank is killed": lambda scene: scene.signal_rank(signal.SIGKILL),
    "a rank is stopped (SIGSTOP)": lambda scene: scene.signal_rank(signal.SIGSTOP),
    "an agent is killed": _kill_agent,
    "a bit of the latest checkpoint flips, and a rank is killed": _damage_latest,
    "a host is switched off, and on again": _power_off,
    "a cable is pulled, and put back": _cut,
    "launch run is killed, and typed again": _kill_launch,
    "launch run gets SIGTERM, and is typed again": _stop_launch,
}
_BY_A_PERSON = (_kill_launch, _stop_launch)


@dataclass
class Seen:
    """Of one kind of fault."""

    noticed: list[float] = field(default_factory=list)
    """Seconds."""
    new_step: list[float] = field(default_factory=list)


def play(home: Path, seed: int, minutes: float, report: Callable[[str], None]) -> tuple[dict[str, Seen], int]:
    """Runs, one after the other, with faults drawn from ``seed``; what was seen by kind, and how many runs there were.

    Raises
    ------
    AssertionError
        A run hung, ended otherwise than it should, is not what one process trains, or left something on a host.
    """
    draw, end = random.Random(seed), time.monotonic() + 60 * minutes
    config, seen, rounds = same_on_any_hosts(home, STEPS), {name: Seen() for name in FAULTS}, 0
    alone = by_one_process(config, home / "alone")
    kinds = _in_turn(draw)
    with Cluster(home / "cluster", HOSTS, debian=True) as cluster:
        while time.monotonic() < end:
            rounds += 1
            run = home / f"run-{rounds}"
            scene = Scene(cluster, run, draw, _typed(cluster, run, config))
            try:
                _round(scene, config, kinds, seen, end, report)
            finally:
                killed(scene.process)
            is_what_one_process_trains(run, alone, STEPS)
            wait_until(lambda: nothing_is_left(cluster), None, run, 30)
            report(f"run {rounds}: {len(worlds(run))} attempts on {worlds(run)} hosts, every step once, the losses of one process")
            shutil.rmtree(run)
    return seen, rounds


def _in_turn(draw: random.Random) -> Iterator[str]:
    """All kinds, shuffled, again and again."""
    while True:
        yield from draw.sample(list(FAULTS), len(FAULTS))


def _typed(cluster: Cluster, run: Path, config: Path) -> subprocess.Popen[bytes]:
    return typed(cluster, run, *SLOW, *_SHORT_WAITS, config=config, options=_OPTIONS)


def _round(scene: Scene, config: Path, kinds: Iterator[str], seen: dict[str, Seen], end: float, report: Callable[[str], None]) -> None:
    run = scene.run
    wait_until(lambda: saved_step(run) >= 5, scene.process, run)
    while time.monotonic() < end and last_step(run) < _LAST_FAULT:
        time.sleep(scene.draw.uniform(0, 3))
        name, attempts, begun = next(kinds), len(worlds(run)), time.time()
        back = FAULTS[name](scene)
        if FAULTS[name] in _BY_A_PERSON:
            status = scene.process.wait(_LONGEST_SECONDS)
            assert status == (75 if FAULTS[name] is _stop_launch else -signal.SIGKILL), f"{name}: launch run ended with {status}"
            scene.process = _typed(scene.cluster, run, config)
        hosts = HOSTS - (back is not None)
        wait_until(_goes_on(run, attempts, hosts), scene.process, run, _LONGEST_SECONDS)
        took = time.time() - begun
        restarts = [at for event in events(run, "restart") if (at := datetime.fromisoformat(event["time"]).timestamp()) > begun]
        noticed = restarts[0] - begun if restarts else took
        seen[name].noticed.append(noticed)
        seen[name].new_step.append(took)
        report(f"step {last_step(run)}: {name}: noticed after {noticed:.1f} s, a new step after {took:.1f} s")
        if back is not None:
            attempts = len(worlds(run))
            back()
            wait_until(_goes_on(run, attempts, HOSTS), scene.process, run, _LONGEST_SECONDS)
    status = scene.process.wait(STEPS)
    assert status == 0, run.with_suffix(".log").read_text()[-2000:]


def _goes_on(run: Path, attempts: int, hosts: int) -> Callable[[], bool]:
    """Whether an attempt after these has made a step on so many hosts: a fault may cost more than one."""
    return lambda: len(worlds(run)) > attempts and trains_anew(run, len(worlds(run)), hosts)()


def table(seen: dict[str, Seen]) -> list[str]:
    """Lines of Markdown."""
    lines = ["| what happens | times | noticed and ended, median s | a new step, median s | at worst |", "|---|---|---|---|---|"]
    for name, found in seen.items():
        if found.new_step:
            noticed, new = statistics.median(found.noticed), statistics.median(found.new_step)
            lines.append(f"| {name} | {len(found.new_step)} | {noticed:.0f} | {new:.0f} | {max(found.new_step):.0f} |")
    return lines


def main() -> int:
    """Print what happened as it happens, then the table; 1 where the limits of time do not hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20.0)
    given = parser.parse_args()
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 2
    home = Path(tempfile.mkdtemp(prefix="eegvision-hosts-", dir="/var/tmp"))
    try:
        seen, rounds = play(home, given.seed, given.minutes, lambda line: print(line, flush=True))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    alone = [found for name, found in seen.items() if FAULTS[name] not in _BY_A_PERSON and found.new_step]
    new, noticed = (statistics.median([at for found in alone for at in getattr(found, what)]) for what in ("new_step", "noticed"))
    print(*table(seen), sep="\n")
    print(f"seed {given.seed}, {rounds} runs of {STEPS} steps on {HOSTS} hosts played by {machine()}")
    print(f"without a person: noticed after {noticed:.0f} s, a new step after {new:.0f} s (medians)")
    return 0 if new < MOST_SECONDS and noticed < MOST_SECONDS_TO_NOTICE else 1


if __name__ == "__main__":
    sys.exit(main())
