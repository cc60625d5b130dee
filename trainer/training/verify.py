"""``python -m trainer verify``: every hash of a run, its checkpoints and its export, or of an export alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.seal import SEALS, broken_seals, refuse_faults
from data_prep.contract.terminal import Terminal
from trainer.training.checkpoint import check_files, read_checkpoint
from trainer.training.run_folder import CHECKPOINT_NAME, RunFolder
from trainer.training.seal import MANIFEST


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check every hash of a run, or of an export."""

    folder: str
    """Folder of a run, or of an export."""


def run(config: VerifyConfig) -> int:
    """Print every fault; raise with the first of them, or say that the folder is whole."""
    root, console = Path(config.folder), Terminal(stderr=True)
    faults = verify(root)
    for folder in _folders(root):
        if not (folder / SEALS).is_file():
            console.print(f"{folder}: no hash is known of its files, which an earlier version wrote", soft_wrap=True)
    refuse_faults(root, faults, console)
    console.print(f"{root}: whole", soft_wrap=True)
    return 0


def verify(root: Path) -> list[str]:
    """All faults, one sentence each; empty if the folder is whole.

    Raises
    ------
    CommandError
        It is neither a run's nor an export's.
    """
    faults = [fault for folder in _folders(root) for fault in broken_seals(folder)]
    return faults + [fault for fault in _checkpoint_faults(RunFolder(root)) if fault.partition(": ")[0] not in "\n".join(faults)]


def _folders(root: Path) -> list[Path]:
    """Those that have seals of their own."""
    if RunFolder(root).holds_a_run():
        export = root / "export"
        return [root, export] if export.is_dir() else [root]
    if (root / "config.json").is_file():
        return [root]
    raise CommandError(f"folder: {root}: expected the folder of a run (with identity.json) or of an export (with config.json)")


def _checkpoint_faults(run: RunFolder) -> Iterator[str]:
    for path in sorted(run.checkpoints.glob("*")):
        if CHECKPOINT_NAME.match(path.name) and (path / MANIFEST).is_file():  # without it, it was never finished
            try:
                check_files(read_checkpoint(path))
            except (UserError, OSError) as error:
                yield str(error)
