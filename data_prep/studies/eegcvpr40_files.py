"""Files of EEGCVPR40 as Thought2Text has them: the trials of a ``.pth``, and what lies beside an image.

::

    {"dataset": [{"eeg": (128, about 500), "image": row of images, "label": row of labels, "subject": 1 to 6}, ...],
     "labels": ["n02106662", ...], "images": ["n02951358_31190", ...]}
    images/n02951358/n02951358_31190.JPEG, ..._sketch.JPEG, ..._caption.txt

Nothing in a file is executed, and the EEG stays in it until it is asked for. Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
from data_prep.contract.file_rows import FileRows
from data_prep.contract.limits import limits, too_much
from data_prep.contract.words import as_given, listed, short
from data_prep.studies.stimulus_images import is_image

KEYS = ("eeg", "image", "label", "subject")
_NAME = re.compile(r"(n\d+)_[A-Za-z0-9-]+")


@dataclass(frozen=True, kw_only=True)
class FileTrial:
    """One entry of ``dataset``."""

    number: int
    """Its place in the list."""
    eeg: np.ndarray
    """(C, T), in the file where it is not small."""
    image: int
    label: int
    subject: int


@dataclass(frozen=True, kw_only=True)
class TrialFile:
    """All that a ``.pth`` holds."""

    path: Path
    trials: list[FileTrial]
    labels: list[str]
    images: list[str]
    other_keys: list[str]

    def eeg(self, trial: FileTrial) -> np.ndarray:
        """float32 (C, T).

        Raises
        ------
        StudyError
            Numbers of another kind, values that are not finite.
        """
        where = f"{self.path}: dataset[{trial.number}]"
        found = np.array(trial.eeg)
        FileRows(trial.eeg).give_back()
        if found.dtype.kind not in "fiu":
            raise StudyError(f"{where} has an eeg of {found.dtype}, expected numbers")
        eeg_CT = np.asarray(found, np.float32)
        if not np.isfinite(eeg_CT).all():
            raise StudyError(
                f"{where} has {int((~np.isfinite(eeg_CT)).sum())} values that are not finite numbers, expected a number everywhere"
            )
        return eeg_CT


def read_trials(path: Path, n_chans: int) -> TrialFile:
    """The trials of a file, their EEG unread.

    Raises
    ------
    StudyError
        One sentence: a key that is not there, an index that is out of range, an image whose name contradicts its label, an array that
        is not (``n_chans``, time points).
    """
    content = safe_load.load(path, headers_only=True)
    safe_load.check_content(path)
    if not isinstance(content, Mapping):
        raise StudyError(f"{path}: holds a {type(content).__name__}, expected a dict with dataset, labels and images")
    lacking = [key for key in ("dataset", "labels", "images") if key not in content]
    if lacking:
        raise StudyError(f"{path}: lacks {', '.join(lacking)}; it has {listed(content)}")
    entries = content["dataset"]
    if not isinstance(entries, (list, tuple)) or not entries:
        raise StudyError(
            f"{path}: dataset is {'empty' if entries in ([], ()) else f'a {type(entries).__name__}'}, expected a list of trials"
        )
    labels, images = (_names(content[key], path, key) for key in ("labels", "images"))
    for name in images:
        if not _NAME.fullmatch(name):
            raise StudyError(f"{path}: images has {as_given(name)}, expected names such as 'n02951358_31190'")
    trials = [_trial(entry, number, path, n_chans) for number, entry in enumerate(entries)]
    found = TrialFile(
        path=path,
        trials=trials,
        labels=labels,
        images=images,
        other_keys=sorted(map(str, content.keys() - {"dataset", "labels", "images"})),
    )
    for trial in trials:
        _check(found, trial)
    return found


def _names(value: Any, path: Path, key: str) -> list[str]:
    names = safe_load.texts(value, path, key)
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise StudyError(f"{path}: {key} has {as_given(repeated)} twice, expected names that differ")
    return names


def _trial(entry: Any, number: int, path: Path, n_chans: int) -> FileTrial:
    where = f"{path}: dataset[{number}]"
    if not isinstance(entry, Mapping):
        raise StudyError(f"{where} is a {type(entry).__name__}, expected a dict with {', '.join(KEYS)}")
    lacking = [key for key in KEYS if key not in entry]
    if lacking:
        raise StudyError(f"{where} lacks {', '.join(lacking)}; it has {listed(entry)}")
    eeg = entry["eeg"]
    if not isinstance(eeg, np.ndarray) or len(eeg.shape) != 2:
        shape = tuple(eeg.shape) if isinstance(eeg, np.ndarray) else None
        raise StudyError(
            f"{where} has an eeg of {f'shape {shape}' if shape is not None else type(eeg).__name__}, expected ({n_chans} channels, "
            "time points)"
        )
    if eeg.shape[0] != n_chans:
        transposed = ": it is transposed" if eeg.shape[1] == n_chans else ""
        raise StudyError(f"{where} has an eeg of shape {tuple(eeg.shape)}, expected ({n_chans} channels, time points){transposed}")
    return FileTrial(number=number, eeg=eeg, **{key: _whole(entry[key], f"{where}: {key}") for key in KEYS[1:]})


def _whole(value: Any, where: str) -> int:
    """A whole number, also as a tensor or an array of one."""
    found = value
    if isinstance(found, np.ndarray) and found.size == 1:
        found = found.reshape(())[()]
    if isinstance(found, (bool, np.bool_)) or not isinstance(found, (int, np.integer, float, np.floating)) or found != int(found):
        raise StudyError(f"{where} is {as_given(str(short(value)))}, expected a whole number")
    return int(found)


def _check(file: TrialFile, trial: FileTrial) -> None:
    where = f"{file.path}: dataset[{trial.number}]"
    for key, index, names in (("image", trial.image, file.images), ("label", trial.label, file.labels)):
        if not 0 <= index < len(names):
            raise StudyError(f"{where} has {key} {index}, expected 0 to {len(names) - 1}: {key}s has {len(names)} names")
    if trial.subject < 0:
        raise StudyError(f"{where} has subject {trial.subject}, expected 0 or more")
    image, label = file.images[trial.image], file.labels[trial.label]
    if image.partition("_")[0] != label:
        raise StudyError(f"{where} has label {trial.label}, which is {label!r}, and image {image!r}: expected an image of that class")


def image_path(root: Path, name: str, kind: str) -> str | None:
    """Path below ``root`` of the photograph or sketch of an image; None: it is not there. Endings match in any spelling and case."""
    folder = root / name.partition("_")[0]
    stem = name if kind == "photo" else f"{name}_sketch"
    usual = folder / f"{stem}.JPEG"
    found = [usual] if usual.is_file() else sorted(path for path in folder.glob(f"{stem}.*") if is_image(path))
    return found[0].relative_to(root).as_posix() if found else None


def read_caption(root: Path, name: str) -> str | None:
    """First line of ``NAME_caption.txt``, without the marks of a language model's ends; None: no such file, or an empty one.

    Raises
    ------
    StudyError
        It is no text, or longer than a caption can be.
    """
    file = root / name.partition("_")[0] / f"{name}_caption.txt"
    if not file.is_file():
        return None
    if (size := file.stat().st_size) > limits().json_bytes:
        raise too_much(file, f"{size:,} bytes of caption", "json_bytes")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudyError(f"{file}: is no UTF-8 text ({error.reason} at byte {error.start}), expected a caption") from error
    lines: Sequence[str] = [" ".join(re.sub(r"</?s>", " ", line).split()) for line in text.splitlines()]
    return next((line for line in lines if line), None)
