"""``manifest.json`` of a checkpoint: the counters, the world it was written by, and the size and SHA-256 of every file. It is written last;
a folder without it is no checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, sha256_file, sha256_json, write_json
from data_prep.contract.records import SealedFile, check_format, from_json, to_json
from data_prep.contract.words import as_given
from trainer.training.run_folder import CHECKPOINT_NAME, RunFolder, step_of
from trainer.training.state import TrainState

FORMAT_VERSION = 1
MANIFEST, EXPORT = "manifest.json", "export"


@dataclass(frozen=True, kw_only=True)
class Seal:
    """A checkpoint's ``manifest.json``."""

    format_version: int = FORMAT_VERSION
    zero_stage: int
    world_size: int
    """Ranks that wrote it."""
    state: TrainState
    files: dict[str, SealedFile]
    """By name inside the checkpoint's folder."""
    trainable: tuple[str, ...] = ()
    """Names of the parameters that were trained."""
    sha256: str | None = None
    """Of all the rest, as canonical JSON; None: an earlier version wrote none."""

    @property
    def exported(self) -> dict[str, SealedFile]:
        """Files of the export in it, by name inside ``export/``; none where the step was not the best so far."""
        return {name.removeprefix(f"{EXPORT}/"): file for name, file in self.files.items() if name.startswith(f"{EXPORT}/")}


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Seal):
    """A sealed checkpoint on disk."""

    path: Path


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's manifest.

    Raises
    ------
    CommandError, StudyError
        It is missing or damaged, says another step than the folder's name, by which a run finds its newest and its best, or lists files
        that lie elsewhere.
    """
    manifest_file = path / MANIFEST
    manifest = read_json(manifest_file)
    check_format(manifest, FORMAT_VERSION, str(manifest_file))
    seal = from_json(Seal, manifest, str(manifest_file), written_by="a training")
    if seal.sha256 not in (None, _hash_of_the_rest(manifest)):
        raise CommandError(f"{manifest_file}: its SHA-256 does not follow from its content: altered")
    if CHECKPOINT_NAME.match(path.name) and step_of(path) != seal.state.step:
        raise CommandError(
            f"{manifest_file}: is of step {seal.state.step}, expected {step_of(path)} by its folder's name: renamed or a copy"
        )
    for name in seal.files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise CommandError(f"{manifest_file}: lists {as_given(name)}, expected files inside of {path}")
    return Checkpoint(path=path, **vars(seal))


def _hash_of_the_rest(manifest: Mapping[str, Any]) -> str:
    return sha256_json({name: value for name, value in manifest.items() if name != "sha256"})


def check_checkpoint(found: Checkpoint, *, zero_stage: int) -> None:
    """Check every file's size and hash, and that the ZeRO stage is the config's."""
    check_stage(found, zero_stage=zero_stage)
    check_files(found)


def check_stage(found: Checkpoint, *, zero_stage: int) -> None:
    """Check that the ZeRO stage is the config's."""
    if found.zero_stage != zero_stage:
        raise CommandError(
            f"{found.path}: saved with zero.stage {found.zero_stage}, the config says {zero_stage}: resume with the stage it has"
        )


def check_files(found: Checkpoint) -> None:
    """Check every file's size and hash, and that there is no other that DeepSpeed would take for a part."""
    path, manifest_file = found.path, found.path / MANIFEST
    for file in path.glob("*.pt"):
        if file.name not in found.files:
            raise CommandError(f"{file}: not a file that was saved, {manifest_file} does not list it: it came later")
    for name, sealed in found.files.items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != sealed.bytes:
            raise CommandError(f"{file}: {'no such file' if size is None else f'{size} bytes'}, expected {sealed.bytes} bytes")
        if sha256_file(file) != sealed.sha256:
            raise CommandError(f"{file}: its SHA-256 is not that of {manifest_file}: altered")


def write_seal(path: Path, seal: Seal) -> None:
    """Make the folder ``path`` a checkpoint, at once."""
    content = to_json(seal)  # once: a tracker's thread may learn the run's id meanwhile, and what is hashed has to be what is written
    write_json(path / MANIFEST, {**content, "sha256": _hash_of_the_rest(content)})


def best_of(folder: RunFolder, state: TrainState) -> Path | None:
    """Where the checkpoint of a state's best step lies; None: there is no best yet."""
    return folder.checkpoint(state.best_step) if state.best_step else None


def discard(path: Path) -> None:
    """Delete a checkpoint; killed at it, half of it does not look whole. Of one that is a link to elsewhere only the link goes."""
    if path.is_symlink():
        path.unlink()
        return
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)
