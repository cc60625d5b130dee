"""From a reader to a study on disk: ``python -m data_prep shard``.

The reader says which samples there are (:mod:`data_prep.studies.base`); embeddings are computed once, or kept from an
interrupted run; then each shard is written in four renames: tar, index, trials and, last, ``NNNNNN.done.json`` with the
hashes of the other three. A shard without its ``done.json`` does not count, so a run may be killed at any moment and
started again: finished shards stay, the others are written, and the bytes are those of an uninterrupted run. The plan's
hash (facts, source files, config, samples) keeps shards of two plans out of one folder. ``manifest.json`` comes last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from data_prep.contract import cli, schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import canonical_json, fsync_folder, read_json, sha256_file, sha256_json, write_atomically, write_json
from data_prep.contract.manifest import Embedding, Manifest, Quality, Shard, Signal, Tables, read_manifest, write_manifest
from data_prep.contract.progress import tracked
from data_prep.embed import table as embedding_table
from data_prep.embed.base import EmbeddingConfig
from data_prep.shards import ustar
from data_prep.studies import captions
from data_prep.studies.base import ReaderConfig, SamplePlan, Source, StudyFacts

MAX_ROUNDING = 0.01
"""Largest rounding error (root mean square) of a channel as a fraction of its standard deviation within trials."""
KINDS = ("tar", "index", "trials")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """Write one study as shards. Run it again after an interruption: finished shards are kept."""

    reader: ReaderConfig
    """Where the trials come from: ``class_path`` of a reader and its ``init_args``."""
    output: str
    """Folder of the study, made if absent; it may hold shards of this very plan only."""
    embeddings: dict[str, EmbeddingConfig] = field(default_factory=dict)
    """Name -> frozen image encoder or imported feature file; copied into the tars in this order. More can be added later
    by ``embed`` without rewriting EEG."""
    samples_per_shard: int = 256
    """Samples a tar; shards are the unit of shuffling, verification and download (100 MB to 1 GB each is a good size)."""
    eeg_dtype: str = "float16"
    """``float16``, or ``float32`` where float16 would round more than 1 % of a channel's standard deviation."""
    captions: bool = True
    """Write the reader's captions, where it has any, as ``.txt`` members."""

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard is {self.samples_per_shard}, expected at least 1")
        if self.eeg_dtype not in schema.EEG_DTYPES:
            raise ValueError(f"eeg_dtype is {self.eeg_dtype!r}, expected one of {sorted(schema.EEG_DTYPES)}")
        if not self.output:
            raise ValueError("output is empty, expected a folder")
        for name in self.embeddings:
            schema.check_embedding_name(name)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What writing a shard needs; arrays in ``tables`` are float16 (n_stimuli, dim), by embedding name."""

    root: Path
    source: Source
    tables: dict[str, np.ndarray]
    eeg_dtype: np.dtype
    captions: bool
    plan_hash: str


def run(config: ShardConfig) -> None:
    """Write ``config.output``; print where it is and its fingerprint."""
    console = Console(stderr=True)
    manifest = write_study(config, console)
    rows = sum(shard.rows for shard in manifest.shards)
    console.print(
        f"{config.output}: {rows} samples, {manifest.quality.trials} trials in {len(manifest.shards)} shards, "
        f"fingerprint {manifest.fingerprint[:12]}",
        highlight=False,
        soft_wrap=True,
    )


def write_study(config: ShardConfig, console: Console | None = None) -> Manifest:
    """Write or finish a study folder.

    Returns
    -------
    Manifest
        As read back.

    Raises
    ------
    StudyError
        The source breaks the contract, the folder belongs to another plan or process, or the disk is full.
    """
    console = console or Console(stderr=True, quiet=True)
    source = config.reader.open()
    _check_source(source)
    root = Path(config.output)
    root.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(root):
            return _write_study(config, source, root, console)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        done = len(list(root.glob("*.done.json")))
        total = -(-len(source.samples) // config.samples_per_shard)
        raise StudyError(
            f"{root}: no space left on the disk: {done} of {total} shards are finished and kept, about {_bytes_left(config, source, done)} "
            "bytes are still needed: free them and run the same command again"
        ) from error


def _write_study(config: ShardConfig, source: Source, root: Path, console: Console) -> Manifest:
    for leftover in (*root.glob(".*.partial"), *root.glob("embeddings/.*.partial")):
        leftover.unlink()
    facts = source.facts
    keys = {name: _embedding_key(embedding, source) for name, embedding in config.embeddings.items()}
    plan = _plan(config, source, keys)
    _refuse_other_plan(root, plan)
    tables, entries = _embeddings(config, source, root, keys, console)
    # An embedding lost and computed again on another machine may differ in its last bits; then no finished shard holds it.
    plan_hash = sha256_json([plan, {name: entry.sha256 for name, entry in entries.items()}])
    job = _Job(
        root=root,
        source=source,
        tables={name: table.astype("<f2") for name, table in tables.items()},
        eeg_dtype=np.dtype(schema.EEG_DTYPES[config.eeg_dtype]),
        captions=config.captions and facts.captions is not None,
        plan_hash=plan_hash,
    )
    lacking = captions.num_missing(facts.captions or []) if job.captions else 0
    if lacking:
        console.print(f"captions: {lacking} of {len(facts.stimuli)} stimuli have none", highlight=False, soft_wrap=True)
    starts = range(0, len(source.samples), config.samples_per_shard)
    shards, quality = [], Counter[str]()
    for number, start in enumerate(tracked(starts, "shards")):
        stop = min(start + config.samples_per_shard, len(source.samples))
        done = _finished(root, number, plan_hash) or _write_shard(job, number, range(start, stop))
        quality.update(done["quality"])
        shards.append(_manifest_row(number, done))
    manifest = Manifest(
        stimulus_level=facts.stimulus_level,
        signal=_signal(facts, config.eeg_dtype),
        shards=shards,
        tables=_tables(facts),
        embeddings=entries,
        tar_embeddings=list(tables),
        captions=job.captions,
        captions_missing=lacking,
        preprocessing=facts.preprocessing,
        quality=Quality(trials=sum(quality.values()), railed_trials=quality["railed"], by_label=dict(sorted(quality.items()))),
        code_version=importlib.metadata.version("eeg-vision-stack") if _installed() else "0.1.0",
    )
    write_atomically(root / "config.yaml", cli.to_yaml(config).encode())
    written = _manifest_with_later_embeddings(root, manifest)
    write_manifest(root, written)
    return read_manifest(root)


def _manifest_with_later_embeddings(root: Path, manifest: Manifest) -> Manifest:
    # `embed` may have added tables after sharding; running `shard` once more must not forget them.
    with contextlib.suppress(StudyError):
        before = read_manifest(root)
        if before.rows_hash == manifest.rows_hash:
            return replace(manifest, embeddings={**before.embeddings, **manifest.embeddings})
    return manifest


# ------------------------------------------------------------------------------------------------------------- plan


def _check_source(source: Source) -> None:
    facts = source.facts
    if not source.samples:
        raise StudyError("the reader found no samples: expected at least one trial")
    for name in ("subjects", "concepts", "sessions", "recordings"):
        _refuse_repeats(name, getattr(facts, name))
    _refuse_repeats("stimulus ids", [stimulus.id for stimulus in facts.stimuli])
    _refuse_repeats("sample keys", [sample.key for sample in source.samples])
    limits = {"session": len(facts.sessions), "recording": len(facts.recordings)}
    for sample in source.samples:
        for name, limit in limits.items():
            if not 0 <= min(getattr(sample, name)) <= max(getattr(sample, name)) < limit:
                raise StudyError(f"sample {sample.key!r}: a {name} id is outside 0..{limit - 1}")
        if not (0 <= sample.subject < len(facts.subjects) and 0 <= sample.stimulus < len(facts.stimuli)):
            raise StudyError(f"sample {sample.key!r}: subject {sample.subject} or stimulus {sample.stimulus} is not in the reader's tables")


def _refuse_repeats(what: str, values: Sequence[str]) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise StudyError(f"the reader gives {what} that are not unique: {repeated[0]!r} comes twice")


def _tables(facts: StudyFacts) -> Tables:
    labels = {name: list(getattr(facts, name)) for name in ("subjects", "concepts", "sessions", "recordings")}
    return Tables(**labels, stimuli=list(facts.stimuli))


def _signal(facts: StudyFacts, eeg_dtype: str) -> Signal:
    names = ("unit", "sfreq", "tmin", "n_times", "n_chans", "ch_names", "positions")
    return Signal(**{name: getattr(facts, name) for name in names}, dtype=eeg_dtype)


def _plan(config: ShardConfig, source: Source, embedding_keys: Mapping[str, str]) -> dict[str, str]:
    facts = source.facts
    signal, tables = asdict(_signal(facts, "")), asdict(_tables(facts))
    samples = [{name: getattr(sample, name) for name in SamplePlan.__dataclass_fields__} for sample in source.samples]
    return {
        "schema": str(schema.SCHEMA_VERSION),
        "facts": sha256_json([facts.stimulus_level, signal, tables, facts.captions, facts.preprocessing]),
        "source files": source.source_hash,
        "reader": sha256_json(cli.to_plain(config.reader, ReaderConfig)),
        "eeg_dtype": config.eeg_dtype,
        "samples_per_shard": str(config.samples_per_shard),
        "captions": str(config.captions),
        "embeddings": sha256_json(list(embedding_keys.items())),
        "samples": sha256_json(samples),
    }


def _refuse_other_plan(root: Path, plan: dict[str, str]) -> None:
    path = root / "plan.json"
    finished = [*sorted(root.glob("*.done.json")), *root.glob("manifest.json")]
    if path.is_file() and finished:
        other = read_json(path)
        differing = [name for name in plan if not isinstance(other, dict) or other.get(name) != plan[name]]
        if differing:
            raise StudyError(
                f"{root}: holds shards of another plan (other {', '.join(differing)}): choose another output, or delete this folder"
            )
    elif foreign := [*finished, *([] if path.is_file() else sorted(root.glob("*.tar")))]:
        raise StudyError(f"{root}: holds {foreign[0].name} but no plan.json: expected an empty folder or shards of the same plan")
    write_json(path, plan)


# ------------------------------------------------------------------------------------------------------- embeddings


def _embedding_key(embedding: EmbeddingConfig, source: Source) -> str:
    # The images themselves are not hashed (ImageNet-sized folders); a changed image changes its size nearly always.
    facts = source.facts
    images = [(facts.image_root or Path()) / s.image for s in facts.stimuli if s.image]
    images += [path for _, paths in sorted((facts.class_images or {}).items()) for path in paths]
    sizes = [[path.name, path.stat().st_size if path.is_file() else None] for path in images]
    config = cli.to_plain(embedding, EmbeddingConfig)
    imported = [sha256_file(Path(v)) for v in config["init_args"].values() if isinstance(v, str) and Path(v).is_file()]
    return sha256_json([config, imported, asdict(_tables(facts))["stimuli"], facts.concepts, sizes])


def _embeddings(
    config: ShardConfig, source: Source, root: Path, keys: Mapping[str, str], console: Console
) -> tuple[dict[str, np.ndarray], dict[str, Embedding]]:
    tables, entries = {}, {}
    for name, embedding in config.embeddings.items():
        kept = embedding_table.read_table(root, name, key=keys[name])
        if kept is None:
            array, provenance = embedding.compute(source.facts)
            array = embedding_table.check_table(array, f"embedding {name!r}", len(source.facts.stimuli))
            kept = array, embedding_table.write_table(root, name, array, provenance, key=keys[name])
        else:
            console.print(f"embedding {name}: kept from an earlier run", highlight=False, soft_wrap=True)
        tables[name], entries[name] = kept
    return tables, entries


# ------------------------------------------------------------------------------------------------------- one shard


def _finished(root: Path, number: int, plan_hash: str) -> dict[str, Any] | None:
    name = schema.shard_name(number)
    if not (root / f"{name}.done.json").is_file():
        return None
    done = read_json(root / f"{name}.done.json")
    for kind in KINDS:
        path, facts = _shard_file(root, name, kind), done["files"][kind]
        if not path.is_file() or path.stat().st_size != facts["bytes"] or sha256_file(path) != facts["sha256"]:
            return None
    return done if done["plan_hash"] == plan_hash else None


def _shard_file(root: Path, name: str, kind: str) -> Path:
    return root / (f"{name}.tar" if kind == "tar" else f"{name}.{kind}.npy")


def _write_shard(job: _Job, number: int, samples: range) -> dict[str, Any]:
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
    fsync_folder(job.root)
    files = {"tar": {"bytes": size, "sha256": digest.hexdigest()}}
    for kind, table in (("index", index), ("trials", np.array(trials, schema.TRIALS_DTYPE))):
        data = ustar.npy_bytes(table)
        write_atomically(_shard_file(job.root, name, kind), data)
        files[kind] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    done = {
        "plan_hash": job.plan_hash,
        "rows": len(index),
        "repetitions": len(trials),
        "files": files,
        "quality": dict(sorted(quality.items())),
    }
    write_json(job.root / f"{name}.done.json", done)
    return done


def _members(job: _Job, i: int) -> Iterator[tuple[str, str, bytes, bytes]]:
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


def cast_eeg(eeg_RCT: np.ndarray, dtype: np.dtype, plan: SamplePlan, facts: StudyFacts) -> np.ndarray:
    """EEG of one sample in the study's dtype, refused where the cast would lose what matters.

    Parameters
    ----------
    eeg_RCT
        (n_reps, n_chans, n_times) in ``facts.unit``.

    Raises
    ------
    StudyError
        Wrong shape, values not finite (before or after the cast), a constant channel, or a rounding error above
        :data:`MAX_ROUNDING` of a channel's standard deviation within trials.
    """
    expected = (plan.n_reps, facts.n_chans, facts.n_times)
    if eeg_RCT.shape != expected:
        raise StudyError(f"sample {plan.key}: EEG has shape {eeg_RCT.shape}, expected {expected} (n_reps, n_chans, n_times)")
    eeg = np.asarray(eeg_RCT, dtype=np.float64)
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(eeg_RCT, dtype=dtype)
    bad_C = ~np.isfinite(cast).all(axis=(0, 2))
    if bad_C.any():
        name = facts.ch_names[int(bad_C.argmax())]
        kind = f"values beyond the range of {dtype.name}" if np.isfinite(eeg).all() else "values that are not finite"
        raise StudyError(f"sample {plan.key}: channel {name} has {kind}, expected finite {facts.unit}")
    within = eeg - eeg.mean(axis=2, keepdims=True)
    std_C = np.sqrt((within**2).mean(axis=(0, 2)))
    constant_C = np.ptp(eeg, axis=(0, 2)) == 0
    if constant_C.any():
        name = facts.ch_names[int(constant_C.argmax())]
        raise StudyError(f"sample {plan.key}: channel {name} is constant, expected a signal: drop the channel or the trial")
    error_C = np.sqrt(((cast - eeg) ** 2).mean(axis=(0, 2)))
    coarse_C = error_C > MAX_ROUNDING * std_C
    if coarse_C.any():
        worst = int(coarse_C.argmax())
        share = error_C[worst] / std_C[worst] if std_C[worst] else np.inf
        raise StudyError(
            f"sample {plan.key}: rounding channel {facts.ch_names[worst]} to {dtype.name} loses {share:.1%} of its standard deviation, "
            f"expected at most {MAX_ROUNDING:.0%}: high-pass first, or write eeg_dtype float32"
        )
    return cast


# ---------------------------------------------------------------------------------------------------------- helpers


def _manifest_row(number: int, done: Mapping[str, Any]) -> Shard:
    files = {f"{kind}_{fact}": done["files"][kind][fact] for kind in KINDS for fact in ("bytes", "sha256")}
    return Shard(name=schema.shard_name(number), rows=done["rows"], repetitions=done["repetitions"], **files)


def _bytes_left(config: ShardConfig, source: Source, done: int) -> int:
    repetitions = sum(sample.n_reps for sample in source.samples[done * config.samples_per_shard :])
    trial_bytes = source.facts.n_chans * source.facts.n_times * np.dtype(schema.EEG_DTYPES[config.eeg_dtype]).itemsize
    return repetitions * trial_bytes + 4096 * (len(source.samples) - done * config.samples_per_shard)


def _installed() -> bool:
    try:
        importlib.metadata.version("eeg-vision-stack")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    # The lock is on the folder itself, so it leaves no file behind and a killed process holds nothing.
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StudyError(f"{root}: another process is writing this study: expected to be alone") from error
        yield
    finally:
        os.close(handle)
