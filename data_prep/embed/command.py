"""``python -m data_prep embed``: one more image embedding for a study that is sharded already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_prep.contract import cli, schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_json
from data_prep.contract.lock import alone
from data_prep.contract.manifest import Manifest, read_manifest, write_manifest
from data_prep.embed.base import EmbeddingConfig
from data_prep.embed.table import check_table, write_table
from data_prep.studies.base import StudyFacts


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Add an image embedding to a sharded study; the EEG is not rewritten."""

    study: str
    """Folder of the study."""
    name: str
    """Name of the new embedding: lower-case letters, digits and ``_``."""
    embedding: EmbeddingConfig
    """What embeds the images."""
    image_root: str | None = None
    """Folder that the manifest's image names are relative to; not needed for imported features."""
    class_images: dict[str, str] | None = None
    """Class-level studies: a file pattern inside ``image_root`` for every class, such as ``face: faces/*.jpg``."""

    def __post_init__(self) -> None:
        schema.check_embedding_name(self.name)


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
        class_images = {number: sorted(image_root.glob(patterns[name])) for number, name in enumerate(tables.concepts)}
    return StudyFacts(
        stimulus_level=manifest.stimulus_level, unit=signal.unit, sfreq=signal.sfreq, tmin=signal.tmin,
        n_times=signal.n_times, ch_names=signal.ch_names, subjects=tables.subjects, stimuli=tables.stimuli,
        concepts=tables.concepts, sessions=tables.sessions, recordings=tables.recordings,
        image_root=image_root, class_images=class_images,
    )  # fmt: skip


def run(config: EmbedConfig) -> None:
    """Write ``embeddings/NAME.npy`` and ``NAME.json``, then the manifest with its new fingerprint."""
    root = Path(config.study)
    manifest = _without(config.name, read_manifest(root), root)
    image_root = Path(config.image_root) if config.image_root else None
    table, provenance = config.embedding.compute(facts_of(manifest, image_root, config.class_images))
    table = check_table(table, f"embedding {config.name!r}", len(manifest.tables.stimuli))
    key = sha256_json(cli.to_plain(config.embedding, EmbeddingConfig))
    with alone(root):
        # Read again: hours may have passed, and others may have added theirs.
        present = _without(config.name, read_manifest(root), root)
        if present.tables.stimuli != manifest.tables.stimuli:
            raise StudyError(f"{root}: was replaced by a study of other stimuli while {config.name!r} was computed: embed again")
        entry = write_table(root, config.name, table, provenance, key=key)
        write_manifest(root, present.with_embedding(config.name, entry))
    print(f"{root}: embedding {config.name!r} added, {table.shape[0]} stimuli of {table.shape[1]} dimensions")


def _without(name: str, manifest: Manifest, root: Path) -> Manifest:
    if name in manifest.embeddings:
        raise StudyError(f"{root}: already has an embedding {name!r}: choose another name, studies are never changed in place")
    return manifest
