"""``python -m trainer verify``: every hash of a run, its checkpoints, export, captions and reports, or of one of these folders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import CommandError, StudyError, UserError
from data_prep.contract.seal import SEALS, broken_seals, read_seals, refuse_faults, unsealed
from data_prep.contract.terminal import Terminal
from data_prep.contract.words import listed
from trainer.training.checkpoint import check_files, read_checkpoint
from trainer.training.run_folder import CHECKPOINT_NAME, RunFolder
from trainer.training.seal import MANIFEST


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check every hash of a run, an export, captions or reports."""

    folder: str
    """Folder of a run, of an export, or what ``generate`` or an evaluation wrote."""


def run(config: VerifyConfig) -> int:
    """Print every fault; raise with the first of them, or say that the folder is whole, as far as its lists can tell."""
    root, console = Path(config.folder), Terminal(stderr=True)
    faults = verify(root)
    unknown = [said for folder in _folders(root) for said in _unknown(folder)]
    for said in unknown:
        console.print(said, soft_wrap=True)
    refuse_faults(root, faults, console)
    console.print(f"{root}: {'whole as far as hashes are known' if unknown else 'whole'}", soft_wrap=True)
    return 0


def verify(root: Path) -> list[str]:
    """All faults, one sentence each; empty if the folder is whole.

    Raises
    ------
    CommandError
        It is none of those.
    """
    faults = [str(fault) for folder in _folders(root) for fault in broken_seals(folder)]
    return faults + [fault for fault in _checkpoint_faults(RunFolder(root)) if fault.partition(": ")[0] not in "\n".join(faults)]


def _unknown(folder: Path) -> Iterator[str]:
    """What cannot be told of a folder: one sentence each."""
    if not (folder / SEALS).is_file():
        yield f"{folder}: no hash is known of its files: an earlier version wrote them, or its {SEALS} was lost"
        return
    with contextlib.suppress(StudyError):  # a damaged list is a fault
        if not read_seals(folder).guarded:
            yield f"{folder / SEALS}: of an earlier version, whose lists do not show whether lines of them are missing"
        going_on = RunFolder(folder).holds_a_run() and not RunFolder(folder).completed.is_file()
        if not going_on and (names := unsealed(folder)):
            yield f"{folder}: no hash is known of {listed(names, 4)}: {SEALS} does not list them"


def _folders(root: Path) -> list[Path]:
    """Those that have seals of their own, or should."""
    if RunFolder(root).holds_a_run():
        # What a checkpoint holds is in its manifest, and what was set aside is of no use to any later command.
        own = [path.parent for path in sorted(root.rglob(SEALS)) if path.relative_to(root).parts[0] not in ("checkpoints", "undone")]
        return sorted({root, *([root / "export"] if (root / "export").is_dir() else []), *own})
    if (root / "config.json").is_file() or ((root / SEALS).is_file() and not (root / MANIFEST).is_file()):
        return sorted({root, *(path.parent for path in root.rglob(SEALS))})
    expected = f"the folder of a run (with identity.json), an export (with config.json), or reports or captions (with {SEALS})"
    raise CommandError(f"folder: {root}: expected {expected}")


def _checkpoint_faults(run: RunFolder) -> Iterator[str]:
    for path in sorted(run.checkpoints.glob("*")):
        if CHECKPOINT_NAME.match(path.name) and (path / MANIFEST).is_file():  # without it, it was never finished
            try:
                check_files(read_checkpoint(path))
            except (UserError, OSError) as error:
                yield str(error)
    for name in ("latest", "best"):
        try:
            if (pointed := run.pointed(name)) is not None and not (pointed / MANIFEST).is_file():
                yield f"{run.path / name}: names {pointed.name}, which is no finished checkpoint here"
        except UserError as error:
            yield str(error)
