"""``python -m data_prep embed``: one more image embedding for a study that is sharded already."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.contract import cli, schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_json
from data_prep.contract.lock import alone
from data_prep.contract.manifest import Manifest, read_manifest, write_manifest
from data_prep.embed.base import EmbeddingConfig, full_name
from data_prep.embed.running import PartDone, Running, using
from data_prep.embed.study_captions import captions_of
from data_prep.embed.table import check_table, write_table
from data_prep.studies.base import StudyFacts
from data_prep.studies.stimulus_images import images_below


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Add an embedding of the images, or of the captions, to a sharded study; the EEG is not rewritten."""

    study: str
    """Folder of the study."""
    name: str
    """Name of the new embedding: lower-case letters, digits and ``_``. Where several layers are wanted, each is ``NAME_LAYER``."""
    embedding: EmbeddingConfig
    """What embeds the images."""
    image_root: str | None = None
    """Folder that the manifest's image names are relative to; not needed for imported features and texts."""
    class_images: dict[str, str] | None = None
    """Class-level studies: a file pattern inside ``image_root`` for every class, such as ``face: faces/*.jpg``."""
    cache: str | None = None
    """Folder where rows are kept by what the images hold, for the next run or study; ``off`` keeps none.
    None: ``EEGVISION_EMBED_CACHE``, or ``~/.cache/eegvision/embeddings``."""
    processes: int = 1
    """Processes that share the images, each with a copy of the network; 0: one for each GPU that is visible."""
    part: str | None = None
    """``0/4``: compute the first of four shares into the cache and make no table, so that hosts or jobs divide the work; run once more
    without it for the table. ``auto``: the rank and number of ranks that ``torchrun``, ``deepspeed`` or SLURM give."""

    def __post_init__(self) -> None:
        schema.check_embedding_name(self.name)
        for output in self.embedding.outputs:
            schema.check_embedding_name(full_name(self.name, output))
        if self.processes < 0:
            raise ValueError(f"processes is {self.processes}, expected 1 or more, or 0 for one a GPU")
        if self.part is not None and self.part != "auto":
            parse_part(self.part)
        if self.part is not None and self.cache == "off":
            raise ValueError("part is computed into the cache, and cache is off: expected a folder")


def parse_part(text: str) -> tuple[int, int]:
    """``0/4`` as (0, 4).

    Raises
    ------
    ValueError
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 0 <= int(match[1]) < int(match[2]):
        raise ValueError(f"part is {text!r}, expected I/N with I from 0 to N - 1, or auto")
    return int(match[1]), int(match[2])


def _part(config: EmbedConfig) -> tuple[int, int] | None:
    if config.part != "auto":
        return None if config.part is None else parse_part(config.part)
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and world in os.environ:
            return parse_part(f"{os.environ[rank]}/{os.environ[world]}")
    raise StudyError("part: auto, but neither RANK and WORLD_SIZE nor SLURM_PROCID and SLURM_NTASKS are set: expected I/N")


def facts_of(manifest: Manifest, image_root: Path | None, patterns: Mapping[str, str] | None) -> StudyFacts:
    """The facts that an embedding needs, from a manifest; see :class:`EmbedConfig`."""
    signal, tables = manifest.signal, manifest.tables
    class_images = None
    if manifest.class_level and image_root is not None:
        if patterns is None or set(patterns) != set(tables.concepts):
            raise StudyError(f"class_images names {sorted(patterns or {})}, expected a file pattern for each of {tables.concepts}")
        for name, pattern in patterns.items():
            if pattern.startswith("/") or ".." in Path(pattern).parts:
                raise StudyError(f"class_images.{name} is {pattern!r}, expected a pattern inside image_root")
        class_images = {number: images_below(image_root, patterns[name]) for number, name in enumerate(tables.concepts)}
    return StudyFacts(
        stimulus_level=manifest.stimulus_level, unit=signal.unit, sfreq=signal.sfreq, tmin=signal.tmin,
        n_times=signal.n_times, ch_names=signal.ch_names, subjects=tables.subjects, stimuli=tables.stimuli,
        concepts=tables.concepts, sessions=tables.sessions, recordings=tables.recordings,
        image_root=image_root, class_images=class_images,
    )  # fmt: skip


def run(config: EmbedConfig) -> None:
    """Write ``embeddings/NAME.npy`` and ``NAME.json`` for each table, then the manifest with its new fingerprint."""
    root = Path(config.study)
    names = {output: full_name(config.name, output) for output in config.embedding.outputs}
    manifest = _without(names.values(), read_manifest(root), root)
    image_root = Path(config.image_root) if config.image_root else None
    facts = facts_of(manifest, image_root, config.class_images)
    if config.embedding.reads_captions:
        facts = replace(facts, captions=captions_of(root))
    with using(Running(cache=config.cache, processes=config.processes, part=_part(config))):
        try:
            found = config.embedding.compute_all(facts)
        except PartDone as done:
            print(f"{root}: {done}")
            return
    tables = {names[o]: (check_table(t, f"embedding {names[o]!r}", len(facts.stimuli)), says) for o, (t, says) in found.items()}
    key = sha256_json(cli.to_plain(config.embedding, EmbeddingConfig))
    with alone(root):
        # Read again: hours may have passed, and others may have added theirs.
        present = _without(names.values(), read_manifest(root), root)
        if present.tables.stimuli != manifest.tables.stimuli:
            raise StudyError(f"{root}: was replaced by a study of other stimuli while {config.name!r} was computed: embed again")
        for name, (table, provenance) in tables.items():
            present = present.with_embedding(name, write_table(root, name, table, provenance, key=key))
        write_manifest(root, present)
    for name, (table, _) in tables.items():
        print(f"{root}: embedding {name!r} added, {table.shape[0]} stimuli of {table.shape[1]} dimensions")


def _without(names: Iterable[str], manifest: Manifest, root: Path) -> Manifest:
    for name in names:
        if name in manifest.embeddings:
            raise StudyError(f"{root}: already has an embedding {name!r}: choose another name, studies are never changed in place")
    return manifest
