"""Which stimulus a name means that somebody wrote beside features or captions: by as much of its path as it has, and never by a guess.

Names differ in what they keep of a path, in slashes, in case, in how accents are composed (NFC, NFD) and in a number before a folder's name
(``00001_aardvark``). Each is taken at the strictest reading at which it means a stimulus at all. A name that means several is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Stimulus
from data_prep.contract.words import listed, short
from data_prep.studies.image_names import image_key

Key = tuple[str, ...]


def composed(text: str) -> str:
    """``text`` with accents composed (NFC), as most systems write names."""
    return unicodedata.normalize("NFC", text)


def _exact(key: Key) -> Key:
    return tuple(map(composed, key))


def _folded(key: Key) -> Key:
    return tuple(part.casefold() for part in _exact(key))


def _unnumbered(key: Key) -> Key:
    *folders, stem = _folded(key)
    return (*(re.sub(r"^\d+[_-]", "", folder) for folder in folders), stem)


READINGS: tuple[Callable[[Key], Key], ...] = (_exact, _folded, _unnumbered)
"""From strict to lenient."""


def label_of(stimulus: Stimulus) -> str:
    """What a stimulus is called: its image, or its id."""
    return stimulus.image or stimulus.id


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a name means."""

    stimuli: tuple[int, ...]
    """Rows of the stimuli that fit equally well; empty: none."""
    reading: int
    """Position in :data:`READINGS`."""


class StimulusNames:
    """Stimuli by their names."""

    def __init__(self, stimuli: Sequence[Stimulus]) -> None:
        self._labels = [label_of(stimulus) for stimulus in stimuli]
        self._keys = [[reading(image_key(label) or ("",)) for label in self._labels] for reading in READINGS]
        self._by_stem: list[dict[str, list[int]]] = []
        for keys in self._keys:
            table: dict[str, list[int]] = defaultdict(list)
            for row, key in enumerate(keys):
                table[key[-1]].append(row)
            self._by_stem.append(table)

    def meaning(self, name: str) -> Meaning:
        """The stimuli that ``name`` means, at the strictest reading at which there is one."""
        own = image_key(name)
        for number, reading in enumerate(READINGS) if own else ():
            key = reading(own)
            common = {row: n for row in self._by_stem[number].get(key[-1], ()) if (n := _common(key, self._keys[number][row]))}
            if common:
                most = max(common.values())
                best = [row for row, n in common.items() if n == most]
                whole = [row for row in best if self._keys[number][row] == key]
                return Meaning(stimuli=tuple(self._of_its_ending(name, whole or best)), reading=number)
        return Meaning(stimuli=(), reading=len(READINGS))

    def rows(self, names: Sequence[str], where: object, what: str) -> list[int | None]:
        """For every stimulus the row of ``names`` that means it, or None; names that mean no stimulus are passed over.

        Raises
        ------
        StudyError
            A name that means several stimuli, or several names that mean one.
        """
        claims: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, name in enumerate(names):
            found = self.meaning(name)
            if len(found.stimuli) > 1:
                fits = listed((self._labels[s] for s in found.stimuli), 3)
                raise StudyError(
                    f"{where}: {what} {short(name)!r} fits {len(found.stimuli)} images ({fits}), expected one: give names with "
                    "their folders"
                )
            for stimulus in found.stimuli:
                claims[stimulus].append((found.reading, row))
        rows: list[int | None] = []
        for stimulus, label in enumerate(self._labels):
            readings = [reading for reading, _ in claims[stimulus]]
            best = [row for reading, row in claims[stimulus] if reading == min(readings)]
            if len(best) > 1:
                raise StudyError(f"{where}: {len(best)} rows are named {label!r}: expected exactly one a stimulus")
            rows.append(best[0] if best else None)
        return rows

    def _of_its_ending(self, name: str, rows: list[int]) -> list[int]:
        """Of ``photo.jpg`` and ``photo.png``, the one whose ending the name has."""
        ending = PurePosixPath(name.replace("\\", "/")).suffix.casefold()
        same = [row for row in rows if PurePosixPath(self._labels[row]).suffix.casefold() == ending]
        return same if len(rows) > 1 and len(same) == 1 else rows


def _common(ours: Key, theirs: Key) -> int:
    """Parts in common, 0 unless they agree as far as both have folders."""
    common = min(len(ours), len(theirs))
    return common if ours[-common:] == theirs[-common:] else 0
