"""One shard: tar, index, trials, what was measured and, last, the mark with the hashes of the other four."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from data_prep.contract import schema
from data_prep.contract.arrays import read_array
from data_prep.contract.errors import StudyError
from data_prep.contract.files import canonical_json, fsync, write_atomically
from data_prep.contract.manifest import Shard
from data_prep.contract.records import SealedFile, read_record, write_record
from data_prep.measure.trials import MEASURED_DTYPE, STORED_DTYPE, measure_samples
from data_prep.shards import ustar
from data_prep.shards.cast import cast_eeg
from data_prep.shards.hashed_file import HashedFile
from data_prep.shards.measuring import MeasureConfig, Trials, keep_trials
from data_prep.studies.base import SamplePlan, Source, StudyFacts

KINDS = ("tar", "index", "trials")
MEASURED = "measured"
"""``NNNNNN.measured.npy``: one row a repetition, :data:`data_prep.measure.trials.STORED_DTYPE`; for the audit, no reader needs it."""
_TOGETHER_BYTES = 2**20
"""EEG of samples that are measured together."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What writing a shard needs; arrays in ``tables`` are float16 (n_stimuli, dim), by embedding name."""

    root: Path
    source: Source
    tables: dict[str, np.ndarray]
    eeg_dtype: np.dtype
    captions: bool
    clean_baseline: bool
    plan_hash: str
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    twins: Mapping[int, Collection[int]] = field(default_factory=dict)
    """Sample -> repetitions to leave out, since other trials hold their signal."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """``NNNNNN.done.json``: the mark without which a shard does not count."""

    plan_hash: str
    rows: int
    repetitions: int
    files: Mapping[str, SealedFile]
    """By kind: ``tar``, ``index``, ``trials``, ``measured``; none where no trial of its samples stayed."""
    quality: Mapping[str, int]
    """Trials by label."""
    lost: Mapping[str, int] = field(default_factory=dict)
    """Repetitions that did not stay, by reason; see :class:`data_prep.shards.measuring.Trials`."""

    def manifest_row(self, number: int) -> Shard:
        """The shard as the manifest has it."""
        facts = {f"{kind}_{name}": value for kind in KINDS for name, value in vars(self.files[kind]).items()}
        return Shard(name=schema.shard_name(number), rows=self.rows, repetitions=self.repetitions, **facts)


def read_done(path: Path) -> Done:
    """A shard's mark.

    Raises
    ------
    StudyError, CommandError
        It is missing or damaged; the message names the field.
    """
    done = read_record(path, Done, written_by="shard")
    if done.rows and not {*KINDS} <= {*done.files} <= {*KINDS, MEASURED}:
        raise StudyError(f"{path}: files are {', '.join(done.files) or 'none'}, expected {', '.join(KINDS)}")
    return done


def finished(root: Path, number: int, plan_hash: str, elsewhere: Mapping[str, int] = MappingProxyType({})) -> Done | None:
    """The mark of a shard of this plan that is whole; None: it is to be written.

    ``elsewhere``: bytes of files that were sent away, by name.
    """
    name = schema.shard_name(number)
    path = root / f"{name}.done.json"
    if not path.is_file():
        return None
    done = read_done(path)
    # One of an earlier version was not measured.
    whole = MEASURED in done.files or not done.rows
    for kind, sealed in done.files.items():
        file = shard_file(root, name, kind)
        whole = whole and (sealed.is_that_of(file) or elsewhere.get(file.name) == sealed.bytes)
    return done if whole and done.plan_hash == plan_hash else None


def shard_file(root: Path, name: str, kind: str) -> Path:
    """File of a shard by kind."""
    return root / (f"{name}.tar" if kind == "tar" else f"{name}.{kind}.npy")


def write_shard(job: Job, number: int, samples: range) -> Done:
    """Write shard ``number`` of the samples with these numbers, its mark last."""
    return fill_shard(job, number, samples).finish()


def write_shards(job: Job, pieces: Iterable[tuple[int, range]]) -> Iterator[Done]:
    """:func:`write_shard` of each, which waits for the disk while the next is read and measured."""
    filled: FilledShard | None = None
    waited: Future[Done] | None = None
    with ThreadPoolExecutor(1, "finish") as thread:
        try:
            for piece in pieces:
                filled = fill_shard(job, *piece)
                if waited is not None:
                    yield waited.result()
                waited, filled = thread.submit(filled.finish), None
        except BaseException:
            if filled is not None:
                filled.discard()
            if waited is not None:
                waited.exception()  # it was whole before the next was begun, and stays
            raise
        if waited is not None:
            yield waited.result()


@dataclass(frozen=True, kw_only=True)
class FilledShard:
    """A shard whose tar is written under another name, and what stands beside it; it is finished or discarded."""

    job: Job
    number: int
    file: HashedFile
    index: list[tuple[int, ...]]
    trials: list[tuple[int, ...]]
    measured: list[np.ndarray]
    quality: Counter[str]
    lost: Counter[str]

    def finish(self) -> Done:
        """Put all of it in its place, the mark last."""
        root, name = self.job.root, schema.shard_name(self.number)
        try:
            sealed = self.file.finish()
            self.file.path.chmod(0o644)
            if self.index:
                os.replace(self.file.path, shard_file(root, name, "tar"))
        finally:
            self.discard()
        fsync(root)
        files = {"tar": sealed} if self.index else {}
        tables = {
            "index": np.array(self.index, schema.index_dtype(list(self.job.tables), captions=self.job.captions)),
            "trials": np.array(self.trials, schema.trials_dtype(clean_baseline=self.job.clean_baseline)),
            MEASURED: np.concatenate(self.measured).view(STORED_DTYPE),
        }
        for kind, table in tables.items() if self.index else ():
            data = ustar.npy_bytes(table)
            write_atomically(shard_file(root, name, kind), data)
            files[kind] = SealedFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        done = Done(
            plan_hash=self.job.plan_hash,
            rows=len(self.index),
            repetitions=len(self.trials),
            files=files,
            quality=dict(sorted(self.quality.items())),
            lost=dict(sorted(self.lost.items())),
        )
        write_record(root / f"{name}.done.json", done)
        return done

    def discard(self) -> None:
        """Close the tar; one that is not in its place is deleted."""
        self.file.close()
        self.file.path.unlink(missing_ok=True)


def fill_shard(job: Job, number: int, samples: range) -> FilledShard:
    """Write the tar of shard ``number`` under a name of its own."""
    name = schema.shard_name(number)
    # A stale mark beside a new tar would be believed after a crash between the renames.
    (job.root / f"{name}.done.json").unlink(missing_ok=True)
    # A name of its own: a worker that was given up may still be writing.
    file = HashedFile(job.root / f".{name}.tar.{os.getpid()}-{secrets.token_hex(4)}.partial")
    filled = FilledShard(
        job=job, number=number, file=file, index=[], trials=[], measured=[np.zeros(0, MEASURED_DTYPE)], quality=Counter(), lost=Counter()
    )
    try:
        for kept in read_samples(job.source, samples, job.measure, job.twins):
            filled.lost.update(kept.lost)
            if (plan := kept.plan) is None:
                continue
            filled.trials.extend(schema.trial_rows(len(filled.index), plan.session, plan.recording, plan.clean_baseline))
            entry: list[int] = []
            for suffix, header, content in _members(job, kept, plan):
                length = len(header) + len(content)
                entry += [file.bytes + ustar.BLOCK_BYTES + len(header), len(content)]
                file.append([ustar.member_header(f"{plan.key}.{suffix}", length) + header, content, ustar.padding(length)])
            stimulus = job.source.facts.stimuli[plan.stimulus]
            filled.index.append((*entry, plan.n_reps, plan.subject, plan.stimulus, stimulus.concept))
            filled.quality.update(plan.quality)
            filled.measured.append(kept.rows)
        file.append([ustar.END])
    except BaseException:
        filled.discard()
        raise
    return filled


def read_measured(root: Path, shards: Sequence[Shard]) -> np.ndarray:
    """What was measured of every repetition of a study: :data:`data_prep.measure.trials.MEASURED_DTYPE`.

    Raises
    ------
    StudyError
        A file is missing or damaged.
    """
    tables = [read_array(shard_file(root, shard.name, MEASURED), STORED_DTYPE).view(MEASURED_DTYPE) for shard in shards]
    return np.concatenate([np.zeros(0, MEASURED_DTYPE), *tables])


def read_trials(source: Source, i: int, measure: MeasureConfig, twins: Mapping[int, Collection[int]]) -> Trials:
    """Sample ``i``, measured: what is stored of it.

    Raises
    ------
    StudyError
        The reader gives an array of another shape than it said.
    """
    return next(read_samples(source, [i], measure, twins))


def read_samples(source: Source, samples: Iterable[int], measure: MeasureConfig, twins: Mapping[int, Collection[int]]) -> Iterator[Trials]:
    """:func:`read_trials` of each; small ones are measured together."""
    waiting: dict[int, np.ndarray] = {}
    waiting_bytes = 0

    def measured() -> Iterator[Trials]:
        masked = [source.facts.masked_channels(source.samples[i].recording) for i in waiting]
        for (i, eeg_RCT), found in zip(waiting.items(), measure_samples(list(waiting.values()), list(waiting), masked), strict=True):
            yield keep_trials(source.samples[i], eeg_RCT, found, measure, twins.get(i, ()))
        waiting.clear()

    for i in samples:
        try:
            eeg_RCT = _eeg(source, i)
        except Exception:
            yield from measured()  # what comes first is refused first
            raise
        waiting_bytes += eeg_RCT.nbytes
        if waiting_bytes > _TOGETHER_BYTES:
            yield from measured()
            waiting_bytes = eeg_RCT.nbytes
        # What is part of a larger array would keep all of that in memory.
        waiting[i] = eeg_RCT if eeg_RCT.base is None or waiting_bytes > _TOGETHER_BYTES else np.array(eeg_RCT)
    yield from measured()


def _eeg(source: Source, i: int) -> np.ndarray:
    plan, facts = source.samples[i], source.facts
    eeg_RCT = source.eeg(i)
    expected = (plan.n_reps, facts.n_chans, facts.n_times)
    if eeg_RCT.shape != expected:
        raise StudyError(f"sample {plan.key}: EEG has shape {eeg_RCT.shape}, expected {expected} (n_reps, n_chans, n_times)")
    return eeg_RCT


def _members(job: Job, kept: Trials, plan: SamplePlan) -> Iterator[tuple[str, bytes, bytes | memoryview]]:
    """Tar suffix, npy header (empty for text) and content of one sample, in the order of the index."""
    facts = job.source.facts
    eeg = cast_eeg(kept, plan, job.eeg_dtype, facts)
    yield "eeg.npy", ustar.npy_header(eeg), eeg.data.cast("B")
    for name, table in job.tables.items():
        yield f"{name}.npy", ustar.npy_header(table[plan.stimulus]), table[plan.stimulus].tobytes()
    if job.captions:
        lines = (facts.captions or [])[plan.stimulus]
        yield "txt", b"", "\n".join(" ".join(line.split()) for line in lines).encode()
    yield "json", b"", canonical_json(describe(plan, facts))


def describe(plan: SamplePlan, facts: StudyFacts) -> dict[str, Any]:
    """What ``KEY.json`` says: who, what and, one entry a repetition, when; ``unknown`` where the source has lost it."""
    stimulus = facts.stimuli[plan.stimulus]
    clean = plan.clean_baseline
    return {
        "subject": facts.subjects[plan.subject],
        "stimulus": stimulus.id,
        "concept": stimulus.concept,
        "concept_name": facts.concepts[stimulus.concept],
        "image": stimulus.image,
        "session": [facts.sessions[s] for s in plan.session],
        "recording": [facts.recordings[r] for r in plan.recording],
        "trial": [t if t >= 0 else schema.UNKNOWN for t in plan.trial],
        "onset_seconds": [schema.UNKNOWN if t is None else t for t in plan.onset_seconds],
        "quality": plan.quality,
        **({} if clean is None else {"clean_baseline": [schema.UNKNOWN if each is None else each for each in clean]}),
    }
