"""Sharding by other processes: the same bytes from one, several, and a cluster whose workers are killed."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.errors import StudyError
from data_prep.preprocess.eyes import EyesConfig
from data_prep.shards.write import ShardConfig, write_study
from data_prep.studies.continuous import Continuous
from data_prep.studies.cutting import CuttingConfig
from data_prep.studies.events import EventsConfig
from data_prep.studies.mne import MneReaderConfig, _FilesByPattern
from data_prep.studies.recording import Recording
from data_prep.studies.recordings_study import RecordingsSource
from data_prep.studies.spool import Spool
from data_prep.studies.things import ThingsReaderConfig
from data_prep.workers import mapped, others_work, working
from tests.helpers import recordings as made
from tests.helpers.processes import ended
from tests.helpers.simulation import small_study
from tests.helpers.tiny_study import TinyEmbedding, TinyReader, TinySource
from tests.unit.test_preprocess_reader import EVERYTHING
from tests.unit.test_preprocess_reader import write as write_recording


def twice(shared: int, piece: int) -> tuple[int, int]:
    return shared * piece, os.getpid()


def wrong(shared: str, piece: int) -> int:
    raise StudyError(f"{shared} {piece} is wrong")


def dies(shared: tuple[str, bool], piece: int) -> int:
    """The worker that is given piece 3 ends: each time, or the first time."""
    folder, always = shared
    if piece == 3 and (always or not Path(folder, "died").exists()):
        Path(folder, "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


@dataclass(frozen=True, kw_only=True)
class DyingReader(TinyReader):
    """Its EEG kills the worker that reads the sample in the middle, once in each folder of ``deaths``."""

    deaths: str = ""
    spared: int = 0
    """The test's own process, which reads some samples beforehand."""

    def open(self) -> TinySource:
        return DyingSource(self)


class DyingSource(TinySource):
    def eeg(self, i: int) -> np.ndarray:
        mark = Path(self.config.deaths, "died")  # type: ignore[attr-defined]
        if i == len(self.samples) // 2 and not mark.exists() and os.getpid() != self.config.spared:  # type: ignore[attr-defined]
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().eeg(i)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler and two workers of a user's own, found by the scheduler's file."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {**os.environ, "PYTHONPATH": os.getcwd()}}
    address = ["--scheduler-file", str(file)]
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *address]
    processes = [subprocess.Popen(dask, **quiet)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder)]
    processes += [subprocess.Popen([*worker, *address, "--name", str(n)], **quiet) for n in range(2)]
    end = time.monotonic() + 60
    while not file.is_file():
        assert time.monotonic() < end, "no scheduler"
        time.sleep(0.05)
    yield str(file)
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        process.wait(30)


def test_here_nothing_is_sent() -> None:
    with working():
        assert not others_work()
        assert list(mapped(lambda shared, piece: shared + piece, 1, [1, 2])) == [2, 3]  # a lambda could not be


def test_pieces_come_in_order_and_what_goes_wrong_is_said(tmp_path: Path) -> None:
    with working(2):
        assert others_work()
        found = list(mapped(twice, 10, list(range(40))))
        assert [value for value, _ in found] == [10 * n for n in range(40)]
        assert os.getpid() not in {pid for _, pid in found}
        with pytest.raises(StudyError, match=r"^piece 0 is wrong$"):
            list(mapped(wrong, "piece", [0, 1, 2]))
        with (tmp_path / "open").open("w") as file, pytest.raises(StudyError, match=r"TextIOWrapper cannot be sent .* \(workers: 1\)"):
            list(mapped(twice, file, [1]))  # type: ignore[arg-type]
        assert list(mapped(dies, (str(tmp_path), False), list(range(8)))) == list(range(8))
        assert (tmp_path / "died").exists()
        for pieces in ([3], list(range(8))):  # the piece that is named is the one of which they died, whoever worked beside it
            with pytest.raises(StudyError, match=r"several workers died of one piece of the work \(3\)"):
                list(mapped(dies, (str(tmp_path), True), pieces))
        assert [value for value, _ in mapped(twice, 1, [4])] == [4]


_MAPS_FOREVER = """
import os, time
from data_prep.workers import mapped, working

def stays(shared, piece):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(0.2 if piece < 2 else 60)

with working(2):
    list(mapped(stays, None, list(range(9))))
"""


def test_workers_end_with_the_process_that_asked_them() -> None:
    asking = subprocess.Popen([sys.executable, "-c", _MAPS_FOREVER], stdout=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    workers = {int(asking.stdout.readline()) for _ in range(4)}
    assert len(workers) == 2
    asking.kill()
    asking.wait(10)
    assert all(ended(pid, 10) for pid in workers), "a worker has outlived who asked it"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "no scheduler", "tls://127.0.0.1:9"])
def test_a_cluster_that_is_not_there_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.workers.dask_cluster._CONNECT_SECONDS", 1)
    with pytest.raises(StudyError, match=f"no workers at {address}"), working(scheduler=address):
        pass


def test_one_that_could_not_connect_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is collected in the thread that the next one begins, whose start it would wait for."""
    monkeypatch.setattr("data_prep.workers.dask_cluster._CONNECT_SECONDS", 1)
    before = gc.get_threshold()
    gc.set_threshold(50)
    try:
        for address in ("tcp://127.0.0.1:9", "no scheduler", "tls://127.0.0.1:9") * 2:
            with pytest.raises(StudyError, match=f"no workers at {address}"), working(scheduler=address):
                pass
    finally:
        gc.set_threshold(*before)


def config(output: Path, **fields: Any) -> ShardConfig:
    reader = fields.pop("reader", TinyReader(n_stimuli=30, n_reps=3))
    return ShardConfig(reader=reader, output=str(output), embeddings={"tiny": TinyEmbedding()}, samples_per_shard=7, **fields)


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in ("config.yaml", "files.sha256")  # the one field that differs here is the folder
    }


def test_a_study_has_the_same_bytes_whoever_writes_it(tmp_path: Path, cluster: str) -> None:
    write_study(config(tmp_path / "one"))
    write_study(config(tmp_path / "four", workers=4))
    write_study(config(tmp_path / "cluster", scheduler=cluster))
    expected = contents(tmp_path / "one")
    assert len([name for name in expected if name.endswith(".tar")]) == 9
    for name in ("four", "cluster"):
        assert contents(tmp_path / name) == expected
        written = (tmp_path / name / "config.yaml").read_text().replace(name, "one")
        assert written == (tmp_path / "one" / "config.yaml").read_text()


def test_things_arrays_that_stay_in_their_file_are_read_by_workers(tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.contract.safe_load.LARGE_BYTES", 1)  # mapped, as those of a real study are
    fields = {"one": {}, "pool": {"workers": 2}, "cluster": {"scheduler": cluster}}
    for name, where in fields.items():
        write_study(
            ShardConfig(reader=ThingsReaderConfig(root=str(small_study())), output=str(tmp_path / name), samples_per_shard=8, **where)
        )
    expected = contents(tmp_path / "one")
    assert contents(tmp_path / "pool") == expected
    assert contents(tmp_path / "cluster") == expected


def test_a_worker_that_is_killed_costs_nothing(tmp_path: Path, cluster: str) -> None:
    for name, fields in {"pool": {"workers": 2}, "cluster": {"scheduler": cluster}}.items():
        deaths = tmp_path / f"deaths {name}"
        deaths.mkdir()
        reader = DyingReader(n_stimuli=30, n_reps=3, deaths=str(deaths), spared=os.getpid())
        write_study(config(tmp_path / name, reader=reader, **fields))
        assert (deaths / "died").exists()
        assert not list((tmp_path / name).glob(".*.partial"))
        write_study(config(tmp_path / f"alone {name}", reader=reader))
        found, expected = contents(tmp_path / name), contents(tmp_path / f"alone {name}")
        assert {each for each in expected if found.get(each) != expected[each]} == set()
        assert found.keys() == expected.keys()


def test_shards_that_are_finished_are_not_written_again(tmp_path: Path) -> None:
    write_study(config(tmp_path / "s"))
    before = contents(tmp_path / "s")
    for name in ("000003.tar", "000005.done.json", "manifest.json"):
        (tmp_path / "s" / name).unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*.tar")}
    write_study(config(tmp_path / "s", workers=2))
    assert contents(tmp_path / "s") == before
    again = {path.name for path in (tmp_path / "s").glob("*.tar") if times.get(path) != path.stat().st_mtime_ns}
    assert again == {"000003.tar", "000005.tar"}


@pytest.mark.long
def test_preprocessed_recordings_have_the_same_bytes_whoever_reads_them(tmp_path: Path, cluster: str) -> None:
    (tmp_path / "in").mkdir()
    for n in range(3):
        write_recording(tmp_path / "in" / f"sub-{n + 1:02d}_raw.fif", seed=n, marked=("O2",) if n == 2 else ())
    steps = replace(EVERYTHING, autoreject=None, eyes=EyesConfig(method="ica", num_components=4))
    (tmp_path / "deaths").mkdir()
    reader = DyingRecordings(
        root=str(tmp_path / "in"),
        files="sub-{subject}_raw.fif",
        events=EventsConfig(source="annotations"),
        trials=steps,
        scratch=str(tmp_path),
        deaths=str(tmp_path / "deaths"),
        spared=os.getpid(),
    )
    fields = {"one": {}, "four": {"workers": 4}, "cluster": {"scheduler": cluster}}
    for name, where in fields.items():
        (tmp_path / "deaths" / "died").unlink(missing_ok=True)
        write_study(ShardConfig(reader=reader, output=str(tmp_path / name), samples_per_shard=16, **where))
        assert (tmp_path / "deaths" / "died").exists() == (name != "one")
    expected = contents(tmp_path / "one")
    for name in ("four", "cluster"):
        found = contents(tmp_path / name)
        assert {each for each in expected if found.get(each) != expected[each]} == set()
        assert found.keys() == expected.keys()


@dataclass(frozen=True, kw_only=True)
class DyingRecordings(MneReaderConfig):
    """The first process but ``spared`` that opens the recording of subject 03 is killed, once."""

    deaths: str
    spared: int

    def open(self) -> RecordingsSource:
        return RecordingsSource(self, DyingOpening(self))


class DyingOpening(_FilesByPattern):
    def open(self, recording: Recording, keep: Sequence[str] | None = None) -> Continuous:
        config: Any = self._config
        if recording.subject == "03" and os.getpid() != config.spared and not (mark := Path(config.deaths, "died")).exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().open(recording, keep)


@pytest.mark.long
def test_recordings_that_are_refused_are_named_by_workers_as_by_this_process(tmp_path: Path) -> None:
    eeg_CT = made.signal()
    for n in range(3):
        made.write_edf(tmp_path / f"sub-{n:02d}.edf", eeg_CT + n)
    made.write_edf(tmp_path / "sub-05.edf", eeg_CT + 2)  # a copy, and one of other channels: the first of them is named
    made.write_edf(tmp_path / "sub-06.edf", eeg_CT[:2], ch_names=made.CH_NAMES[:2])
    with working(2), pytest.raises(StudyError, match=r"sub-05\.edf: holds the signal of .*sub-02\.edf"):
        mne_reader(tmp_path).open()


def mne_reader(root: Path) -> MneReaderConfig:
    window = CuttingConfig(band_hz=None, tmin=-0.1, tmax=0.4)
    return MneReaderConfig(root=str(root), files="sub-{subject}.edf", events=EventsConfig(source="annotations"), trials=window)


@pytest.mark.parametrize("named", [False, True])
def test_cut_trials_are_read_by_other_processes(tmp_path: Path, named: bool) -> None:
    spool = Spool(str(tmp_path) if named else None)
    trials = np.random.default_rng(0).standard_normal((9, 3, 5)).astype(np.float32)
    for part in np.split(trials, 3):
        spool.append(part)
    with working(2):
        found = list(mapped(read_row, spool, list(range(9))))
    np.testing.assert_array_equal(np.concatenate(found), trials)
    state = spool.__getstate__()
    del spool
    assert not list(tmp_path.iterdir())
    with pytest.raises(StudyError, match=r"are not seen on .* scratch"):
        Spool.__new__(Spool).__setstate__(state)


def read_row(spool: Spool, row: int) -> np.ndarray:
    return spool.read([row])
