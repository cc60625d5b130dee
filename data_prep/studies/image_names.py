"""Names of image files in metadata, features and captions: kept inside their folder, and compared whatever their folder and ending."""

from __future__ import annotations

from pathlib import Path

from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Stimulus
from data_prep.contract.words import short


def inside(root: Path, relative: str) -> Path:
    """``root / relative``, refused if it leaves ``root``: names come from files that others wrote."""
    try:
        path = (root / relative).resolve()
    except (ValueError, OSError) as error:  # a zero byte, links in a circle
        raise StudyError(f"{short(relative)!r}: no name that a file can have ({error})") from error
    if not path.is_relative_to(root.resolve()):
        raise StudyError(f"{relative!r} lies outside {root}: expected a name inside the study's folder")
    return path


def image_key(name: str) -> tuple[str, ...]:
    """Folders and stem of an image's name: file endings differ between copies of a data set."""
    path = Path(name.replace("\\", "/"))
    parts = (path.with_suffix("") if path.name else path).parts
    return tuple(part for part in parts if part not in (".", "/"))


def same_image(name: str, stimulus: Stimulus) -> bool:
    """Whether ``name`` names the stimulus' image; folders are compared as far as both have them."""
    ours, theirs = image_key(stimulus.image or stimulus.id), image_key(name)
    common = min(len(ours), len(theirs))
    return common > 0 and ours[-common:] == theirs[-common:]
