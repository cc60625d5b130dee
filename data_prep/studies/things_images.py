"""Which image each row of THINGS-EEG2 files shows: ``image_metadata.npy``, or what the files themselves say; and where the images lie.

An image is called as the published metadata call it (``training_images/00001_aardvark/aardvark_01b.jpg``), whatever folder a copy of the
pictures lies in, so that two layouts of one data set have the same stimuli.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Stimulus
from data_prep.studies.image_names import image_key, inside

_SIMPLE = re.compile(r"[^/\\\0]*[^/\\\0.][^/\\\0]*")
"""Names that cannot lead anywhere but into their folder."""
PARTS: Mapping[str, str] = {"training": "train", "test": "test"}
"""Part of the study and its prefix in ``image_metadata.npy``."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """What was shown: training images, then test images, in the order of the files' rows."""

    stimuli: list[Stimulus]
    concepts: list[str]
    """Test concepts come after the training ones; a name in both is one concept."""
    files: list[Path]
    """That were read for it."""

    def of(self, part: str) -> list[Stimulus]:
        """Images of a part."""
        return [stimulus for stimulus in self.stimuli if stimulus.part == part]


def find_metadata(root: Path, stated: str | None) -> Path | None:
    """``image_metadata.npy``, where the study has it.

    Raises
    ------
    StudyError
        A stated file is not there.
    """
    choices = [Path(stated)] if stated else [root / "image_metadata.npy", root / "image_set" / "image_metadata.npy"]
    found = next((path for path in choices if path.is_file()), None)
    if stated and found is None:
        raise StudyError(f"{stated}: no such file, expected image_metadata.npy")
    return found


def of_metadata(path: Path, root: Path) -> Images:
    """Images as ``image_metadata.npy`` lists them."""
    keys = tuple(f"{prefix}_img_{what}" for prefix in PARTS.values() for what in ("concepts", "files"))
    metadata = safe_load.load_mapping(path, keys)
    rows: list[tuple[str, str, str]] = []
    for part, prefix in PARTS.items():
        folders, files = (safe_load.texts(metadata[f"{prefix}_img_{what}"], path, f"{prefix}_img_{what}") for what in ("concepts", "files"))
        if len(folders) != len(files):
            raise StudyError(f"{path}: {len(files)} {prefix}_img_files and {len(folders)} {prefix}_img_concepts: expected as many")
        rows += [(part, folder, file) for folder, file in zip(folders, files, strict=True)]
    return _images(path, root, rows)


def of_labels(names: Mapping[str, tuple[Path, Sequence[str]]], root: Path) -> Images:
    """Images as trial files name them; ``names``: part -> its file and the image of each row."""
    rows: list[tuple[str, str, str]] = []
    first = next(iter(names.values()))[0]
    for part in PARTS:
        path, images = names.get(part, (first, ()))
        for image in images:
            pieces = image.split("/")
            if len(pieces) < 2:
                raise StudyError(
                    f"{path}: img {image!r} lies in no folder that would name its concept: give the study's image_metadata.npy"
                )
            rows.append((part, pieces[-2], pieces[-1]))
    return _images(first, root, rows)


def _images(path: Path, root: Path, rows: Sequence[tuple[str, str, str]]) -> Images:
    stimuli: list[Stimulus] = []
    concepts: dict[str, int] = {}
    for part, folder, file in rows:
        name = re.sub(r"^\d+_", "", folder)
        image = f"{part}_images/{folder}/{file}"
        if not (_SIMPLE.fullmatch(folder) and _SIMPLE.fullmatch(file)):
            try:
                inside(root, image)
            except StudyError as error:
                raise StudyError(f"{path}: {error}") from error
        stimuli.append(Stimulus(id=image, concept=concepts.setdefault(name, len(concepts)), image=image, part=part))
    if len({s.id for s in stimuli}) != len(stimuli):
        raise StudyError(f"{path}: names an image twice")
    return Images(stimuli=stimuli, concepts=list(concepts), files=[path])


def check_labels(path: Path, names: Sequence[str], stimuli: Sequence[Stimulus], where: Path) -> None:
    """Refuse rows that a file says are other images than ``stimuli`` (from ``where``); endings and outer folders may differ."""
    for row, (name, stimulus) in enumerate(zip(names, stimuli, strict=True)):
        ours, theirs = image_key(stimulus.id)[-2:], image_key(name)[-2:]
        common = min(len(ours), len(theirs))
        if not common or ours[-common:] != theirs[-common:]:
            raise StudyError(
                f"{path}: row {row} has img {name!r}, {where.name} lists {stimulus.id!r} there: expected the same order of images"
            )


def check_concept_axis(path: Path, images_each: int, stimuli: Sequence[Stimulus], where: Path) -> None:
    """Refuse an axis of images of each concept that the list of images contradicts."""
    for start in range(0, len(stimuli), images_each):
        group = {stimulus.concept for stimulus in stimuli[start : start + images_each]}
        if len(group) > 1:
            raise StudyError(
                f"{path}: {images_each} images a concept, but {where.name} lists images of {len(group)} concepts in rows {start} to "
                f"{start + images_each - 1}: expected one"
            )


def place_images(images: Images, root: Path, stated: str | None, *, required: bool) -> tuple[list[Stimulus], Path | None]:
    """Stimuli with their files below a folder, and that folder.

    Raises
    ------
    StudyError
        An image is missing and images are ``required``.
    """
    choices = (
        [Path(stated)] if stated else [root / "images", root / "image_set", root / "Image_set_Resize", root.parent / "Image_set_Resize"]
    )
    names = {part: (f"{part}_images", f"{prefix}_images") for part, prefix in PARTS.items()}
    base = next((c for c in choices if any((c / name).is_dir() for both in names.values() for name in both)), None)
    folders = {part: next((name for name in both if base and (base / name).is_dir()), both[0]) for part, both in names.items()}
    stimuli = [replace(s, image=s.id.replace(f"{s.part}_images/", f"{folders[str(s.part)]}/", 1)) for s in images.stimuli]
    if not required:
        return stimuli, base
    looked_in = base or choices[0]
    missing = [path for path in (looked_in / str(s.image) for s in stimuli) if not path.is_file()]
    if missing:
        raise StudyError(f"{missing[0]}: no such image ({len(missing)} of {len(stimuli)} are missing); with imported embeddings set "
                         "require_images: false")  # fmt: skip
    return stimuli, looked_in
