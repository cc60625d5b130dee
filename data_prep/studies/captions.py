"""Captions of stimuli from a file: JSON, matched to the stimuli by image name, never by position alone.

``{"training_images/00001_aardvark/aardvark_01b.jpg": ["an aardvark ...", ...], ...}`` or a list in the order of the
stimuli, whose length must fit. A caption is one line; runs of white space become one space. A stimulus without captions (no
entry, or an empty one) is refused, or on request gets none: then its ``.txt`` member is empty, and the manifest counts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json
from data_prep.contract.manifest import Stimulus
from data_prep.studies.name_match import StimulusNames, label_of

Missing = Literal["refuse", "allow"]
"""What to do with stimuli without captions."""


def read_captions(path: Path, stimuli: Sequence[Stimulus], missing: Missing = "refuse") -> list[list[str]]:
    """Captions of every stimulus, at least one each; with ``missing: allow`` none where the file has none.

    Raises
    ------
    StudyError
        One sentence: the file, and the stimulus without caption or the entry that is not text.
    """
    value = read_json(path)
    if isinstance(value, list):
        if len(value) != len(stimuli):
            raise StudyError(
                f"{path}: {len(value)} entries for {len(stimuli)} stimuli: expected one a stimulus, or a JSON object by image name"
            )
        return [_lines(entry, path, row, missing) for row, entry in enumerate(value)]
    if not isinstance(value, dict):
        raise StudyError(f"{path}: holds a {type(value).__name__}, expected an object from image name to captions, or a list")
    names = list(value)
    rows = StimulusNames(stimuli).rows(names, path, "caption")
    captions = []
    for stimulus, row in zip(stimuli, rows, strict=True):
        if missing == "refuse" and row is None:
            lacking = f"{path}: has no caption for {label_of(stimulus)!r}: expected one for each of {len(stimuli)} stimuli"
            raise StudyError(f"{lacking}, or captions_missing: allow")
        name = None if row is None else names[row]
        captions.append([] if name is None else _lines(value[name], path, name, missing))
    return captions


def num_missing(captions: Sequence[Sequence[str]]) -> int:
    """Stimuli that have no caption."""
    return sum(not lines for lines in captions)


def _lines(entry: Any, path: Path, where: object, missing: Missing) -> list[str]:
    texts = [entry] if isinstance(entry, str) else entry
    if missing == "allow" and isinstance(texts, list) and all(isinstance(text, str) and not text.strip() for text in texts):
        return []
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise StudyError(f"{path}: entry {where!r} is not a caption or a list of captions")
    return [" ".join(text.split()) for text in texts]
