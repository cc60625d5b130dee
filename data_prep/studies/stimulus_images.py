"""Which image file a name means, and which concept it shows: by as much of its path as the name has, and never by a guess."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed, short
from data_prep.studies.image_names import image_key

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2")


def is_image(path: Path) -> bool:
    """Whether a name is an image's: its ending in either case, and no dot in front (macOS leaves ``._NAME`` beside each file)."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def _is_shown(path: Path, root: Path) -> bool:
    """Whether no folder on the way from ``root`` is hidden (``.Trash``, ``.ipynb_checkpoints``)."""
    return not any(part.startswith(".") for part in path.relative_to(root).parts)


def images_below(root: Path, pattern: str) -> list[Path]:
    """Image files below ``root`` that a pattern matches, by name; an ending that the pattern says stands for all of its spellings.

    ``faces/*.jpg`` finds ``a.jpg``, ``b.JPG`` and ``c.jpeg``; ``faces/*`` finds images of any kind, and nothing else.
    """
    wanted = _spellings(Path(pattern).suffix)
    anything = pattern if wanted is None else f"{pattern[: -len(Path(pattern).suffix)]}.*"
    return sorted(
        path
        for path in root.glob(anything)
        if path.is_file() and is_image(path) and _is_shown(path, root) and (wanted is None or path.suffix.lower() in wanted)
    )


def _spellings(ending: str) -> tuple[str, ...] | None:
    """None: no ending that is a plain one."""
    found = ending.lower()
    same = next((group for group in ((".jpg", ".jpeg"), (".tif", ".tiff")) if found in group), (found,))
    return same if found in ENDINGS else None


def class_images(root: Path, concepts: Sequence[str], patterns: Mapping[str, str]) -> dict[int, list[Path]]:
    """Images of every class below the folder of stimuli, by the class's number.

    Raises
    ------
    StudyError
        A class without a pattern or without an image.
    """
    found: dict[int, list[Path]] = {}
    for number, name in enumerate(concepts):
        if name not in patterns:
            raise StudyError(f"class_images has no pattern for class {name!r}, it has {listed(patterns)}")
        found[number] = images_below(root, patterns[name])
        if not found[number]:
            raise StudyError(f"{root}: no image of class {name!r} matches {patterns[name]!r}")
    return found


class ImageFolder:
    """Image files below a folder, found by names that may lack folders, the ending, or its case."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise StudyError(f"stimuli: {root} is no folder, expected that of the images")
        self.root = root
        files = sorted(path.relative_to(root) for path in root.rglob("*") if is_image(path) and _is_shown(path, root))
        if not files:
            raise StudyError(f"stimuli: {root} holds no image, expected files that end in {', '.join(ENDINGS)}")
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for file in files:
            self._by_stem[_folded(file.stem)].append(file.as_posix())

    def find(self, name: str, where: Path) -> str:
        """Path of the image below the folder.

        Raises
        ------
        StudyError
            None, or several: they are named.
        """
        key = tuple(map(_folded, image_key(name)))
        found = self._matching(key)
        if not found and len(key) > 1 and key[0] == _folded(self.root.resolve().name):  # stimuli/cat/1.jpg, where the folder is stimuli
            found = self._matching(key[1:])
        # An ending that the name has decides between photo.jpg and photo.png.
        exact = [file for file in found if file.casefold().endswith(name.replace("\\", "/").casefold().lstrip("./"))]
        found = exact if len(exact) == 1 else found
        if len(found) != 1:
            means = f"means {listed(found, 4)}, expected one: say its folder" if found else f"is no image below {self.root}"
            raise StudyError(f"{where}: event names {short(name)!r}, which {means}")
        if any("\ud800" <= letter <= "\udfff" for letter in found[0]):
            raise StudyError(
                f"{where}: event names {found[0]!a}, whose name is no text in UTF-8, which a study writes down: rename the file"
            )
        return found[0]

    def _matching(self, key: tuple[str, ...]) -> list[str]:
        found = self._by_stem.get(key[-1], []) if key else []
        return [file for file in found if tuple(map(_folded, image_key(file)))[-len(key) :] == key]


def _folded(part: str) -> str:
    """A name without its case, its accents as one letter each: macOS takes them apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold())


def check_class_images(patterns: Mapping[str, str] | None) -> None:
    """Refuse patterns of a class's images that lead out of the folder of stimuli.

    Raises
    ------
    ValueError
    """
    for name, pattern in (patterns or {}).items():
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ValueError(f"class_images.{name} is {pattern!r}, expected a pattern inside the stimuli folder")


def concept_of(image: str, where: Path) -> str:
    """Name of the folder that an image lies in, without a number in front (``00001_aardvark``).

    Raises
    ------
    StudyError
        It lies in no folder.
    """
    parts = image_key(image)
    if len(parts) < 2:
        raise StudyError(
            f"{where}: image {short(image)!r} lies in no folder that would name its concept: say events.concept_column, or concepts: image"
        )
    return concept_name(parts[-2])


def concept_name(folder: str) -> str:
    """``aardvark`` of ``00001_aardvark``."""
    return re.sub(r"^\d+[_-]", "", folder)
