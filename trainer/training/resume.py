"""From which checkpoint a run goes on."""

from __future__ import annotations

from pathlib import Path

from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.words import listed
from trainer.training.run_folder import CHECKPOINT_NAME, RunFolder
from trainer.training.seal import MANIFEST, check_files, read_checkpoint


def find(folder: RunFolder, resume: str) -> Path | None:
    """Folder of the checkpoint to continue from, or None for a new run.

    Parameters
    ----------
    folder
        The run folder.
    resume
        Empty: a new run, refused where one is already; ``latest`` or ``best`` of this folder, refused where there is none; ``auto``:
        ``latest`` if there is one, else new; otherwise the path of a checkpoint or of another run folder.
    """
    folder.refuse_what_is_no_run()
    if not resume:
        if folder.holds_a_run():
            raise CommandError(f"run: {folder.path} already holds a run; continue it with --resume latest, or choose another folder")
        return None
    if resume in ("latest", "best", "auto"):
        # Without a run it is of a start that was killed while it brought a checkpoint from elsewhere.
        name = "best" if resume == "best" else "latest"
        pointed = folder.pointed(name) if folder.holds_a_run() else None
        if pointed is not None and resume != "auto" and not pointed.is_dir():
            other = "" if name == "latest" else "--resume latest continues from the last one, "
            raise CommandError(
                f"resume: {resume}: {folder.path / name} names {pointed.name}, which is not in {folder.checkpoints} any more; "
                f"{other}--resume auto from the newest that is whole"
            )
        if pointed is None and resume != "auto":
            why = "; --resume auto starts anew in that case" if resume == "latest" else " that was the best of its validations"
            raise CommandError(f"resume: {resume}, but {folder.path} has no checkpoint{why}")
        return pointed
    path = Path(resume)
    if not (path / MANIFEST).is_file():
        path = RunFolder(path).pointed("latest") or path
    if not (path / MANIFEST).is_file() or not CHECKPOINT_NAME.match(path.name):
        raise CommandError(
            f"resume: {resume}: expected a finished checkpoint (step-NNNNNNNN with manifest.json) or a run folder that has one"
        )
    return path


def newest_whole(folder: RunFolder, latest: Path) -> tuple[Path, list[str]]:
    """The newest checkpoint up to ``latest`` whose every file is what was written, and what is wrong with those that are passed over.

    Raises
    ------
    CommandError
        None is whole.
    """
    names = {latest.name} | {path.name for path in folder.checkpoints.glob("step-*") if CHECKPOINT_NAME.match(path.name)}
    damaged: list[str] = []
    for name in sorted((name for name in names if name <= latest.name), reverse=True):
        try:
            check_files(read_checkpoint(folder.checkpoints / name))
        except UserError as error:
            damaged.append(str(error))
            continue
        return folder.checkpoints / name, damaged
    raise CommandError(f"{folder.path}: none of its {len(damaged)} checkpoints is whole: {listed(damaged, 2)}")
