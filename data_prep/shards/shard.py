"""One shard: tar, index, trials and, last, the mark with the hashes of the other three."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import canonical_json, fsync, write_atomically
from data_prep.contract.manifest import Shard
from data_prep.contract.records import SealedFile, read_record, write_record
from data_prep.shards import ustar
from data_prep.shards.cast import cast_eeg
from data_prep.studies.base import SamplePlan, Source, StudyFacts

KINDS = ("tar", "index", "trials")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What writing a shard needs; arrays in ``tables`` are float16 (n_stimuli, dim), by embedding name."""

    root: Path
    source: Source
    tables: dict[str, np.ndarray]
    eeg_dtype: np.dtype
    captions: bool
    plan_hash: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """``NNNNNN.done.json``: the mark without which a shard does not count."""

    plan_hash: str
    rows: int
    repetitions: int
    files: Mapping[str, SealedFile]
    """By kind: ``tar``, ``index``, ``trials``."""
    quality: Mapping[str, int]
    """Trials by label."""

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
    if {*done.files} != {*KINDS}:
        raise StudyError(f"{path}: files are {', '.join(done.files) or 'none'}, expected {', '.join(KINDS)}")
    return done


def finished(root: Path, number: int, plan_hash: str) -> Done | None:
    """The mark of a shard of this plan that is whole; None: it is to be written."""
    name = schema.shard_name(number)
    path = root / f"{name}.done.json"
    if not path.is_file():
        return None
    done = read_done(path)
    whole = all(sealed.is_that_of(_shard_file(root, name, kind)) for kind, sealed in done.files.items())
    return done if whole and done.plan_hash == plan_hash else None


def _shard_file(root: Path, name: str, kind: str) -> Path:
    return root / (f"{name}.tar" if kind == "tar" else f"{name}.{kind}.npy")


def write_shard(job: Job, number: int, samples: range) -> Done:
    """Write shard ``number`` of the samples with these numbers, its mark last."""
    name = schema.shard_name(number)
    # A stale mark beside a new tar would be believed after a crash between the renames.
    (job.root / f"{name}.done.json").unlink(missing_ok=True)
    partial = job.root / f".{name}.tar.partial"
    index = np.zeros(len(samples), schema.index_dtype(list(job.tables), captions=job.captions))
    trials: list[tuple[int, int, int]] = []
    quality = Counter[str]()
    digest, size = hashlib.sha256(), 0
    try:
        with partial.open("wb") as file:
            for row, i in enumerate(samples):
                plan = job.source.samples[i]
                for member, suffix, header, content in _members(job, i):
                    length = len(header) + len(content)
                    block = b"".join((ustar.member_header(f"{plan.key}.{suffix}", length), header, content, ustar.padding(length)))
                    index[row][f"{member}_offset"] = size + ustar.BLOCK_BYTES + len(header)
                    index[row][f"{member}_bytes"] = len(content)
                    file.write(block)
                    digest.update(block)
                    size += len(block)
                stimulus = job.source.facts.stimuli[plan.stimulus]
                for column, value in zip(
                    ("n_reps", "subject", "stimulus", "concept"),
                    (plan.n_reps, plan.subject, plan.stimulus, stimulus.concept),
                    strict=True,
                ):
                    index[row][column] = value
                trials += [(row, s, r) for s, r in zip(plan.session, plan.recording, strict=True)]
                quality.update(plan.quality)
            file.write(ustar.END)
            digest.update(ustar.END)
            size += len(ustar.END)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        os.replace(partial, job.root / f"{name}.tar")
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    fsync(job.root)
    files = {"tar": SealedFile(bytes=size, sha256=digest.hexdigest())}
    for kind, table in (("index", index), ("trials", np.array(trials, schema.TRIALS_DTYPE))):
        data = ustar.npy_bytes(table)
        write_atomically(_shard_file(job.root, name, kind), data)
        files[kind] = SealedFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    done = Done(plan_hash=job.plan_hash, rows=len(index), repetitions=len(trials), files=files, quality=dict(sorted(quality.items())))
    write_record(job.root / f"{name}.done.json", done)
    return done


def _members(job: Job, i: int) -> Iterator[tuple[str, str, bytes, bytes]]:
    """Member name, tar suffix, npy header (empty for text) and content of one sample, in the order of the index."""
    plan, facts = job.source.samples[i], job.source.facts
    eeg = cast_eeg(job.source.eeg(i), job.eeg_dtype, plan, facts)
    yield "eeg", "eeg.npy", ustar.npy_header(eeg), eeg.tobytes()
    for name, table in job.tables.items():
        yield name, f"{name}.npy", ustar.npy_header(table[plan.stimulus]), table[plan.stimulus].tobytes()
    if job.captions:
        lines = (facts.captions or [])[plan.stimulus]
        yield "txt", "txt", b"", "\n".join(" ".join(line.split()) for line in lines).encode()
    yield "json", "json", b"", canonical_json(describe(plan, facts))


def describe(plan: SamplePlan, facts: StudyFacts) -> dict[str, Any]:
    """What ``KEY.json`` says: who, what and, one entry a repetition, when; ``unknown`` where the source has lost it."""
    stimulus = facts.stimuli[plan.stimulus]
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
    }
