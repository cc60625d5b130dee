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
import importlib.metadata
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from data_prep.contract import cli, schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file, sha256_json, write_atomically
from data_prep.contract.lock import alone
from data_prep.contract.manifest import Embedding, Manifest, Quality, read_manifest, write_manifest
from data_prep.contract.progress import tracked
from data_prep.contract.seal import seal, write_seals
from data_prep.contract.terminal import Terminal
from data_prep.embed import table as embedding_table
from data_prep.embed.base import EmbeddingConfig
from data_prep.shards.plan import check_source, make_plan, refuse_other_plan, signal_of, tables_of
from data_prep.shards.shard import Job, finished, write_shard
from data_prep.studies import captions
from data_prep.studies.base import ReaderConfig, Source

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


def run(config: ShardConfig) -> None:
    """Write ``config.output``; print where it is and its fingerprint."""
    console = Terminal(stderr=True)
    manifest = write_study(config, console)
    rows = sum(shard.rows for shard in manifest.shards)
    console.print(
        f"{config.output}: {rows} samples, {manifest.quality.trials} trials in {len(manifest.shards)} shards, "
        f"fingerprint {manifest.fingerprint[:12]}",
        soft_wrap=True,
    )


def write_study(config: ShardConfig, console: Terminal | None = None) -> Manifest:
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
    console = console or Terminal(stderr=True, quiet=True)
    source = config.reader.open()
    check_source(source)
    root = Path(config.output)
    root.mkdir(parents=True, exist_ok=True)
    try:
        with alone(root, wait_seconds=0):
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


def _write_study(config: ShardConfig, source: Source, root: Path, console: Terminal) -> Manifest:
    for leftover in (*root.glob(".*.partial"), *root.glob("embeddings/.*.partial")):
        leftover.unlink()
    facts = source.facts
    keys = {name: _embedding_key(embedding, source) for name, embedding in config.embeddings.items()}
    plan = make_plan(
        source,
        config.reader,
        keys,
        eeg_dtype=config.eeg_dtype,
        samples_per_shard=config.samples_per_shard,
        captions=config.captions,
    )
    refuse_other_plan(root, plan)
    tables, entries = _embeddings(config, source, root, keys, console)
    # An embedding lost and computed again on another machine may differ in its last bits; then no finished shard holds it.
    plan_hash = sha256_json([plan, {name: entry.sha256 for name, entry in entries.items()}])
    job = Job(
        root=root,
        source=source,
        tables={name: table.astype("<f2") for name, table in tables.items()},
        eeg_dtype=np.dtype(schema.EEG_DTYPES[config.eeg_dtype]),
        captions=config.captions and facts.captions is not None,
        plan_hash=plan_hash,
    )
    lacking = captions.num_missing(facts.captions or []) if job.captions else 0
    if lacking:
        console.print(f"captions: {lacking} of {len(facts.stimuli)} stimuli have none", soft_wrap=True)
    starts = range(0, len(source.samples), config.samples_per_shard)
    shards, quality = [], Counter[str]()
    for number, start in enumerate(tracked(starts, "shards")):
        stop = min(start + config.samples_per_shard, len(source.samples))
        done = finished(root, number, plan_hash) or write_shard(job, number, range(start, stop))
        quality.update(done.quality)
        shards.append(done.manifest_row(number))
    manifest = Manifest(
        stimulus_level=facts.stimulus_level,
        signal=signal_of(facts, config.eeg_dtype),
        shards=shards,
        tables=tables_of(facts),
        embeddings=entries,
        tar_embeddings=list(tables),
        captions=job.captions,
        captions_missing=lacking,
        preprocessing=facts.preprocessing,
        quality=Quality(trials=sum(quality.values()), railed_trials=quality["railed"], by_label=dict(sorted(quality.items()))),
        code_version=importlib.metadata.version("eeg-vision-stack") if _installed() else "0.1.0",
    )
    write_atomically(root / "config.yaml", cli.to_yaml(config).encode())
    if entries:  # those that a killed run has left without its seal, too
        seal(root / "embeddings", [root / "embeddings" / f"{name}.json" for name in entries])
    write_seals(root, [root / "config.yaml", root / "plan.json", *sorted(root.glob("*.done.json"))])
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


# ------------------------------------------------------------------------------------------------------- embeddings


def _embedding_key(embedding: EmbeddingConfig, source: Source) -> str:
    # The images themselves are not hashed (ImageNet-sized folders); a changed image changes its size nearly always.
    facts = source.facts
    images = [(facts.image_root or Path()) / s.image for s in facts.stimuli if s.image]
    images += [path for _, paths in sorted((facts.class_images or {}).items()) for path in paths]
    sizes = [[path.name, path.stat().st_size if path.is_file() else None] for path in images]
    config = cli.to_plain(embedding, EmbeddingConfig)
    imported = [sha256_file(Path(v)) for v in config["init_args"].values() if isinstance(v, str) and Path(v).is_file()]
    return sha256_json([config, imported, asdict(tables_of(facts))["stimuli"], facts.concepts, sizes])


def _embeddings(
    config: ShardConfig, source: Source, root: Path, keys: Mapping[str, str], console: Terminal
) -> tuple[dict[str, np.ndarray], dict[str, Embedding]]:
    tables, entries = {}, {}
    for name, embedding in config.embeddings.items():
        kept = embedding_table.read_table(root, name, key=keys[name])
        if kept is None:
            array, provenance = embedding.compute(source.facts)
            array = embedding_table.check_table(array, f"embedding {name!r}", len(source.facts.stimuli))
            kept = array, embedding_table.write_table(root, name, array, provenance, key=keys[name])
        else:
            console.print(f"embedding {name}: kept from an earlier run", soft_wrap=True)
        tables[name], entries[name] = kept
    return tables, entries


# ---------------------------------------------------------------------------------------------------------- helpers


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
