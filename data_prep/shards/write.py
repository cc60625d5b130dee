"""From a reader to a study on disk: ``python -m data_prep shard``.

The reader says which samples there are (:mod:`data_prep.studies.base`); a few trials of each part and the images are measured
(:mod:`data_prep.shards.measurement`), so that what would be refused at the end is refused at once; embeddings are computed once, or
kept from an interrupted run; then each shard is written in five renames: tar, index, trials, what was measured and, last,
``NNNNNN.done.json`` with the hashes of the other four. A shard without its ``done.json`` does not count, so a run may be killed at any
moment and started again: finished shards stay, the others are written, and the bytes are those of an uninterrupted run. The plan's
hash (facts, source files, config, samples) keeps shards of two plans out of one folder. ``manifest.json`` comes last.
"""

from __future__ import annotations

import contextlib
import errno
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import cli, schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file, sha256_json, write_atomically
from data_prep.contract.manifest import Embedding, Manifest, Quality, read_manifest, write_manifest
from data_prep.contract.progress import tracked
from data_prep.contract.seal import seal, write_seals
from data_prep.contract.terminal import Terminal
from data_prep.contract.urls import is_url, refuse_url
from data_prep.contract.version import code_version
from data_prep.embed import table as embedding_table
from data_prep.embed.base import EmbeddingConfig, full_name
from data_prep.embed.weights import folder_hash
from data_prep.shards import findings
from data_prep.shards.captioned_source import with_captions
from data_prep.shards.destination import Destination, LocalDestination, destination
from data_prep.shards.measurement import Beforehand, find_twins, measure_beforehand, report, where
from data_prep.shards.measuring import MeasureConfig
from data_prep.shards.plan import check_source, make_plan, refuse_other_plan, signal_of, tables_of
from data_prep.shards.remote import RemoteFolder
from data_prep.shards.shard import MEASURED, Done, Job, finished, read_measured, shard_file, write_shard, write_shards
from data_prep.studies import captions
from data_prep.studies.base import ReaderConfig, Source
from data_prep.studies.caption_sources import CaptionsConfig
from data_prep.workers import mapped, most_at_once, other_hosts_may_work, others_work, working
from data_prep.workers.dask_cluster import SlurmConfig

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """Write one study as shards. Run it again after an interruption: finished shards are kept."""

    reader: ReaderConfig
    """Where the trials come from: ``class_path`` of a reader and its ``init_args``."""
    output: str
    """Folder of the study, made if absent; it may hold shards of this very plan only. Or a URL that fsspec writes to, such as
    ``s3://bucket/study``: shards are sent as they are finished, and never all lie on this machine."""
    staging: str | None = None
    """With a URL: folder of this machine with room for some shards, deleted in the end. None: one in the present folder."""
    read_back: bool = True
    """With a URL: read again what was sent and compare its SHA-256; false compares its size alone."""
    embeddings: dict[str, EmbeddingConfig] = field(default_factory=dict)
    """Name -> frozen image encoder or imported feature file; copied into the tars in this order. More can be added later
    by ``embed`` without rewriting EEG."""
    samples_per_shard: int = 256
    """Samples a tar; shards are the unit of shuffling, verification and download (100 MB to 1 GB each is a good size)."""
    eeg_dtype: str = "float16"
    """``float16``, or ``float32`` where float16 would round more than 1 % of a channel's standard deviation."""
    captions: bool = True
    """Write captions, where there are any, as ``.txt`` members."""
    captions_from: CaptionsConfig | None = None
    """Captions in the place of the reader's: a file, a template, or a captioning model. None: the reader's."""
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    """What of the data is measured and may be unusual; ``check`` says what would be refused."""
    workers: int = 1
    """Processes of this machine that read recordings and write shards; 1: this one alone. The bytes are the same."""
    scheduler: str | None = None
    """A cluster instead: address of a Dask scheduler (``tls://host:8786``), its file, or ``slurm``. Its workers must see the source, the
    output and the reader's ``scratch`` under the same names."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """Jobs to ask SLURM for."""

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard is {self.samples_per_shard}, expected at least 1")
        if self.eeg_dtype not in schema.EEG_DTYPES:
            raise ValueError(f"eeg_dtype is {self.eeg_dtype!r}, expected one of {sorted(schema.EEG_DTYPES)}")
        if not self.output:
            raise ValueError("output is empty, expected a folder")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}, expected at least 1")
        if self.workers > 1 and self.scheduler is not None:
            raise ValueError(f"workers is {self.workers} and scheduler {self.scheduler!r}: expected one of the two")
        names = [full_name(name, output) for name, embedding in self.embeddings.items() for output in embedding.outputs]
        for name in names:
            schema.check_embedding_name(name)
        if len(set(names)) != len(names):
            raise ValueError(f"embeddings would be called {', '.join(sorted(names))}, expected each name once")


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
    with working(config.workers, config.scheduler, config.slurm):
        return _open_and_write(config, console)


def _open_and_write(config: ShardConfig, console: Terminal) -> Manifest:
    refuse_url(where(config.reader))
    if is_url(config.output):
        RemoteFolder(config.output).sizes()  # recordings may take hours: nobody waits for those to learn of a missing bucket
    source, made = with_captions(config.reader.open(), config.captions_from if config.captions else None)
    check_source(source)
    before = measure_beforehand(source, config.measure)
    findings.refuse(before.findings, config.measure.allow, where(config.reader))
    with destination(config.output, config.staging, read_back=config.read_back) as place:
        try:
            manifest = _write_study(config, source, made, before, place, console)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            done = len(list(place.root.glob("*.done.json")))
            total = -(-len(source.samples) // config.samples_per_shard)
            left = sum(_bytes_by_shard(config, source)[done:])
            raise StudyError(
                f"{place.root}: no space left on the disk: {done} of {total} shards are finished and kept, about {left} "
                "bytes are still needed: free them and run the same command again"
            ) from error
        place.publish()
    return manifest


def _write_study(
    config: ShardConfig, source: Source, made: Mapping[str, Any], before: Beforehand, place: Destination, console: Terminal
) -> Manifest:
    code, root = code_version(), place.root
    _sweep(root)
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
    if config.measure.drop:  # named where it is asked for alone, so that a plan of before it is still the same
        plan["measure"] = sha256_json(sorted(config.measure.drop))
    refuse_other_plan(root, plan)
    place.begin(max(_bytes_by_shard(config, source)), most_at_once() + 2, console)  # ... one that waits, and one that is being sent
    tables, entries = _embeddings(config, source, root, keys, console)
    # An embedding lost and computed again on another machine may differ in its last bits; then no finished shard holds it.
    plan_hash = sha256_json([plan, {name: entry.sha256 for name, entry in entries.items()}])
    job = Job(
        root=root,
        source=source,
        tables={name: table.astype("<f2") for name, table in tables.items()},
        eeg_dtype=np.dtype(schema.EEG_DTYPES[config.eeg_dtype]),
        captions=config.captions and facts.captions is not None,
        clean_baseline=source.samples[0].clean_baseline is not None,
        plan_hash=plan_hash,
        measure=config.measure,
        twins=find_twins(source, config.measure),
    )
    lacking = captions.num_missing(facts.captions or []) if job.captions else 0
    if lacking:
        console.print(f"captions: {lacking} of {len(facts.stimuli)} stimuli have none", soft_wrap=True)
    shards, quality, lost = [], Counter[str](), Counter[str]()
    for number, done in enumerate(_write_shards(job, place, len(source.samples), config.samples_per_shard)):
        quality.update(done.quality)
        lost.update(done.lost)
        if done.rows:
            shards.append(done.manifest_row(number))
    found = report(source, before, read_measured(root, shards), lost)
    findings.refuse(found.findings, config.measure.allow, where(config.reader))
    for each in found.findings:
        if each.level != "info":
            console.print(f"{each.level}: {each.message}", soft_wrap=True)
    manifest = Manifest(
        stimulus_level=facts.stimulus_level,
        signal=signal_of(facts, config.eeg_dtype),
        shards=shards,
        tables=tables_of(facts),
        embeddings=entries,
        tar_embeddings=list(tables),
        captions=job.captions,
        captions_missing=lacking,
        captions_source=made if job.captions else {},
        masked={facts.recordings[row]: list(names) for row, names in facts.masked.items()},
        clean_baseline=job.clean_baseline,
        preprocessing=facts.preprocessing,
        quality=Quality(trials=sum(quality.values()), railed_trials=quality["railed"], by_label=dict(sorted(quality.items()))),
        measured=found.plain(),
        code_version=code,
    )
    # Who computed is no matter of the study's: its bytes are the same.
    same = replace(config, workers=1, scheduler=None, slurm=SlurmConfig(), staging=None, read_back=True)
    write_atomically(root / "config.yaml", cli.to_yaml(same).encode())
    if entries:  # those that a killed run has left without its seal, too
        seal(root / "embeddings", [root / "embeddings" / f"{name}.json" for name in entries])
    marks = [*sorted(root.glob("*.done.json")), *(shard_file(root, shard.name, MEASURED) for shard in shards)]
    write_seals(root, [root / "config.yaml", root / "plan.json", *marks])
    written = _manifest_with_later_embeddings(root, manifest)
    write_manifest(root, written)
    return read_manifest(root)


def _write_shards(job: Job, place: Destination, num_samples: int, samples_per_shard: int) -> Iterator[Done]:
    """The marks of all shards, in order; those that are finished are not written again."""
    starts = range(0, num_samples, samples_per_shard)
    kept = {n: done for n in range(len(starts)) if (done := finished(job.root, n, job.plan_hash, place.elsewhere)) is not None}
    todo = [(n, range(start, min(start + samples_per_shard, num_samples))) for n, start in enumerate(starts) if n not in kept]
    # A staging folder has no room for one more that waits for the disk.
    elsewhere = others_work() or not isinstance(place, LocalDestination)
    written = mapped(_write_numbered, job, todo) if elsewhere else write_shards(job, todo)
    for number in tracked(range(len(starts)), "shards"):
        done = kept[number] if number in kept else next(written)
        if number not in kept and other_hosts_may_work() and finished(job.root, number, job.plan_hash) != done:
            raise StudyError(
                f"{job.root}: a worker wrote shard {number} where it is not seen here: output must be a folder that all hosts share"
            )
        place.take(number, done)
        yield done
    _sweep(job.root)  # what workers that died have left


def _sweep(root: Path) -> None:
    for leftover in (*root.glob(".*.partial"), *root.glob("embeddings/.*.partial")):
        leftover.unlink(missing_ok=True)


def _write_numbered(job: Job, piece: tuple[int, range]) -> Done:
    return write_shard(job, *piece)


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
    imported = [sha256 for value in config["init_args"].values() for sha256 in _contents(value)]
    return sha256_json([config, imported, asdict(tables_of(facts))["stimuli"], facts.concepts, sizes])


def _contents(value: Any) -> list[str]:
    """Hashes of the files, and of the weights in folders, that a config's field names, at any depth."""
    if isinstance(value, Mapping):
        return [sha256 for inner in value.values() for sha256 in _contents(inner)]
    path = Path(value.removeprefix("local-dir:")) if isinstance(value, str) and value else None
    if path is not None and path.is_dir() and any(path.glob("*.*")):
        with contextlib.suppress(StudyError):  # a folder of something else
            return [folder_hash(path)]
    return [sha256_file(path)] if path is not None and path.is_file() else []


def _embeddings(
    config: ShardConfig, source: Source, root: Path, keys: Mapping[str, str], console: Terminal
) -> tuple[dict[str, np.ndarray], dict[str, Embedding]]:
    tables, entries = {}, {}
    for name, embedding in config.embeddings.items():
        names = {output: full_name(name, output) for output in embedding.outputs}
        kept = {each: embedding_table.read_table(root, each, key=keys[name]) for each in names.values()}
        if None in kept.values():
            for output, (array, provenance) in embedding.compute_all(source.facts).items():
                each = names[output]
                array = embedding_table.check_table(array, f"embedding {each!r}", len(source.facts.stimuli))
                kept[each] = array, embedding_table.write_table(root, each, array, provenance, key=keys[name])
        else:
            console.print(f"embedding {name}: kept from an earlier run", soft_wrap=True)
        for each, found in kept.items():
            assert found is not None
            tables[each], entries[each] = found
    return tables, entries


# ---------------------------------------------------------------------------------------------------------- helpers


def _bytes_by_shard(config: ShardConfig, source: Source) -> list[int]:
    """About how many each will have."""
    trial_bytes = source.facts.n_chans * source.facts.n_times * np.dtype(schema.EEG_DTYPES[config.eeg_dtype]).itemsize
    starts = range(0, len(source.samples), config.samples_per_shard)
    return [
        sum(sample.n_reps * trial_bytes + 4096 for sample in source.samples[start : start + config.samples_per_shard]) for start in starts
    ]
