"""Reader of EEG-CLIP's folder: THINGS-EEG2 arrays without a table of images, and the images by folder.

::

    ROOT/eeg/sub-01/preprocessed_eeg_training.npy            (rows, repetitions, channels, times), bare or in the published dict
    ROOT/images/training_images/00001_aardvark/*.jpg         as many images in every concept's folder
    ROOT/eeg/sub-01/preprocessed_eeg_test.npy, ROOT/images/test_images    where there are any

Nothing in the folder says which row is which image, so the published order is taken: images by folder and name, row i belongs to image i,
and
so to concept i // images of a concept. That holds where the counts agree, and is refused where they do not. EEG-CLIP's own code pairs row i
with concept i, which is right for the first row alone; the manifest says how many of its pairs were right.

Shapes in names: N rows, R repetitions, C channels, T time points.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract import safe_load, schema
from data_prep.contract.errors import StudyError
from data_prep.contract.file_rows import FileRows
from data_prep.contract.manifest import Stimulus
from data_prep.contract.progress import tracked
from data_prep.contract.words import listed
from data_prep.studies import trials
from data_prep.studies.base import ReaderConfig, SamplePlan, StudyFacts, hash_files
from data_prep.studies.stimulus_images import is_image
from data_prep.studies.things_times import TimesConfig, TimesUnit, measure_times
from data_prep.studies.trial_units import TrialUnit, measured_unit
from data_prep.studies.trials import TrialsConfig
from data_prep.studies.whitening import NOT_SAID, OFFICIAL

PARTS = ("training", "test")
PUBLISHED_TIMES, PUBLISHED_HZ, PUBLISHED_TMIN = 100, 100.0, -0.2
"""Of THINGS-EEG2's preprocessed arrays."""
PUBLISHED_CHANNELS = (
    "Pz", "P3", "P7", "O1", "Oz", "O2", "P4", "P8", "P1", "P5", "PO7", "PO3", "POz", "PO4", "PO8", "P6", "P2",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EegClipReaderConfig(ReaderConfig):
    """EEG by subject and images by concept, as EEG-CLIP lays out THINGS-EEG2."""

    root: str
    """Folder that holds ``eeg/sub-XX`` and ``images/training_images``."""
    subjects: tuple[str, ...] | None = None
    """Labels such as ``01``; None: every ``sub-XX`` folder, in order."""
    images_per_concept: int | None = None
    """Rows of every concept of the training part; None: as many as its folder has images. Stated, it must agree with the folders."""
    sfreq: float | None = None
    """Sampling rate in Hz of arrays without ``times``; None: 100 Hz for 100 time points, as published; others are refused."""
    tmin: float | None = None
    """Seconds from onset to the first time point of arrays without ``times``; None: -0.2 with the published rate."""
    ch_names: tuple[str, ...] | None = None
    """Channels of arrays without ``ch_names``; None: the published 17, or ``E001`` and so on where there are others."""
    times_unit: TimesUnit | None = None
    """Unit of the ``times`` of published dicts; None: measured."""
    times_end: Literal["first", "last"] | None = None
    """Which of ``times`` belong to the data where there are more of them; None: the last, and the manifest says so."""
    unit: TrialUnit | None = None
    """Of the numbers; None: measured, and refused where they are no z-scores."""
    trials: TrialsConfig = field(default_factory=TrialsConfig)
    """Window, channels, resampling and baseline to apply to the trials."""

    def __post_init__(self) -> None:
        if self.subjects is not None and (not self.subjects or len(set(self.subjects)) != len(self.subjects)):
            raise ValueError(f"subjects is {list(self.subjects)}, expected at least one label, each once")
        if self.ch_names is not None and (not self.ch_names or len(set(self.ch_names)) != len(self.ch_names)):
            raise ValueError(f"ch_names is {list(self.ch_names)}, expected at least one name, each once")
        if self.sfreq is not None and not self.sfreq > 0:
            raise ValueError(f"sfreq is {self.sfreq}, expected above 0")
        if (self.sfreq is None) != (self.tmin is None):
            raise ValueError(f"sfreq is {self.sfreq} and tmin {self.tmin}, expected both or neither")
        if self.images_per_concept is not None and self.images_per_concept < 1:
            raise ValueError(f"images_per_concept is {self.images_per_concept}, expected at least 1")

    def open(self) -> EegClipSource:
        """Read the headers of the arrays and list the images."""
        return EegClipSource(self)


class EegClipSource:
    """An opened folder; arrays stay in their files."""

    def __init__(self, config: EegClipReaderConfig) -> None:
        self.config, root = config, Path(config.root)
        for folder in (root / "eeg", root / "images" / "training_images"):
            if not folder.is_dir():
                raise StudyError(f"{folder}: no such folder, expected EEG-CLIP's eeg/sub-XX and images/training_images below {root}")
        subjects = _subjects(root / "eeg", config.subjects)
        self._files: dict[tuple[int, str], Path] = {}
        self._rows: tuple[Path, FileRows] | None = None
        self._before: trials.TrialFacts | None = None
        self._factor: float = 1.0
        self._parts: list[str] = []
        self._first: dict[str, int] = {}
        shapes = self._headers(root, subjects)
        assert self._before is not None
        stimuli, self._first, pairing = self._stimuli(root, shapes)
        after = trials.facts_in_study(config.trials, self._before)
        self.samples: Sequence[SamplePlan] = [
            _plan(label, subject, first + row, shapes[subject, part][1])
            for subject, label in enumerate(subjects)
            for part, first in self._first.items()
            for row in range(shapes[subject, part][0])
        ]
        self._parts = [str(stimulus.part) for stimulus, _ in stimuli]
        count = len(self.samples)
        self._factor, unit, measured = measured_unit(root / "eeg", lambda i: self._raw(i)[0], count, config.unit)
        concepts = list(dict.fromkeys(concept for _, concept in stimuli))
        number = {concept: i for i, concept in enumerate(concepts)}
        self.facts = StudyFacts(
            stimulus_level="image",
            unit=unit,
            sfreq=after.sfreq,
            tmin=after.tmin,
            n_times=after.n_times,
            ch_names=list(after.ch_names),
            subjects=subjects,
            stimuli=[Stimulus(id=s.id, concept=number[concept], image=s.image, part=s.part) for s, concept in stimuli],
            concepts=concepts,
            sessions=[schema.UNKNOWN],
            recordings=[schema.UNKNOWN],
            image_root=root / "images",
            preprocessing={
                "reader": "eeg-clip",
                **pairing,
                **self._assumed,
                **measured,
                **(OFFICIAL if unit == "zscore" and self._is_published() else NOT_SAID),
                "changes": {name: value for name, value in vars(config.trials).items() if value is not None},
            },
        )
        self.source_hash = hash_files(self._files.values(), root)

    def _is_published(self) -> bool:
        """Whether the arrays have the shape that THINGS-EEG2's official code gives them."""
        found = self._before
        return found is not None and (found.sfreq, found.n_times, found.ch_names) == (PUBLISHED_HZ, PUBLISHED_TIMES, PUBLISHED_CHANNELS)

    def eeg(self, i: int) -> np.ndarray:
        """Sample ``i``: float32 (n_reps, n_chans, n_times)."""
        assert self._before is not None
        eeg_RCT: np.ndarray = self._raw(i) * np.float32(self._factor)
        return trials.apply(self.config.trials, eeg_RCT, self._before)

    def _raw(self, i: int) -> np.ndarray:
        """float32 (R, C, T), as it stands in the file."""
        plan = self.samples[i]
        part = self._parts[plan.stimulus]
        path = self._files[plan.subject, part]
        if self._rows is None or self._rows[0] != path:
            self._rows = None  # the old array goes before the new one comes
            self._rows = path, FileRows(_array(path)[0])
        return np.asarray(self._rows[1][plan.stimulus - self._first[part]], np.float32)

    # ----------------------------------------------------------------------------------------------- what there is

    def _headers(self, root: Path, subjects: Sequence[str]) -> dict[tuple[int, str], tuple[int, ...]]:
        shapes: dict[tuple[int, str], tuple[int, ...]] = {}
        for subject, label in enumerate(tracked(subjects, "subjects read")):
            found = _arrays_of(root / "eeg" / f"sub-{label}")
            for part in [each for each in PARTS if each in found]:
                path = found[part]
                eeg_NRCT, said = _array(path)
                facts = self._facts_of(path, eeg_NRCT.shape, said)
                if self._before is None:
                    self._before = facts
                elif facts != self._before:
                    raise StudyError(
                        f"{path}: {_say(facts)}, {next(iter(self._files.values()))} {_say(self._before)}: expected the same in a study"
                    )
                self._files[subject, part] = path
                shapes[subject, part] = eeg_NRCT.shape
            lacking = {part for _, part in shapes} - {part for part in PARTS if (subject, part) in shapes}
            if lacking or set(found) - {part for number, part in shapes if number == 0}:
                raise StudyError(
                    f"{root / 'eeg' / f'sub-{label}'}: has {listed(found)}, sub-{subjects[0]} "
                    f"{listed(p for n, p in shapes if n == 0)}: expected the same"
                )
        return shapes

    def _facts_of(self, path: Path, shape: tuple[int, ...], said: dict[str, Any]) -> trials.TrialFacts:
        config = self.config
        n_chans, n_times = shape[2:]
        names = said.get("ch_names") or config.ch_names
        self._assumed: dict[str, Any] = {}
        if names is None:
            if n_chans > n_times:
                raise StudyError(f"{path}: {shape}, more channels than time points: transposed? ch_names says how many channels there are")
            published = n_chans == len(PUBLISHED_CHANNELS)
            names = PUBLISHED_CHANNELS if published else tuple(f"E{c + 1:03d}" for c in range(n_chans))
            self._assumed["ch_names"] = "assumed: THINGS-EEG2's, in the published order" if published else "not known"
        if len(names) != n_chans:
            transposed = ": it is transposed" if n_times == len(names) else ""
            raise StudyError(f"{path}: shape {shape}, expected (rows, repetitions, {len(names)} channels, time points){transposed}")
        if "times" in said:
            times = measure_times(path, said["times"], n_times, TimesConfig(unit=config.times_unit, end=config.times_end))
            sfreq, tmin = times.sfreq, times.tmin
            self._assumed.update(times.notes)
        elif config.sfreq is not None and config.tmin is not None:
            sfreq, tmin = config.sfreq, config.tmin
        elif n_times == PUBLISHED_TIMES:
            sfreq, tmin = PUBLISHED_HZ, PUBLISHED_TMIN
            self._assumed["sfreq"] = "assumed: 100 Hz from -0.2 s, as THINGS-EEG2's 100 time points have"
        else:
            raise StudyError(
                f"{path}: {n_times} time points and no times, so no rate: say sfreq and tmin of the reader (100 points are taken as "
                "published)"
            )
        return trials.TrialFacts(sfreq=sfreq, tmin=tmin, n_times=n_times, ch_names=tuple(names))

    def _stimuli(
        self, root: Path, shapes: dict[tuple[int, str], tuple[int, ...]]
    ) -> tuple[list[tuple[Stimulus, str]], dict[str, int], dict[str, Any]]:
        """Images with their concepts, the first of each part, and what the manifest says of the pairing."""
        stimuli: list[tuple[Stimulus, str]] = []
        first: dict[str, int] = {}
        notes: dict[str, Any] = {"pairing": "row i belongs to image i of the folders in order: counts agree, names cannot tell"}
        for part in [each for each in PARTS if any(p == each for _, p in shapes)]:
            stated = self.config.images_per_concept if part == "training" else None
            folders, count = _concepts(root / "images" / f"{part}_images", stated)
            for (subject, each), shape in shapes.items():
                if each == part and shape[0] != len(folders) * count:
                    raise StudyError(
                        f"{self._files[subject, part]}: {shape[0]} rows, {root / 'images' / f'{part}_images'} has {len(folders)} "
                        f"concepts of {count} "
                        f"images: expected {len(folders) * count} rows, since row i belongs to image i"
                    )
            first[part] = len(stimuli)
            stimuli += [
                (Stimulus(id=image, concept=0, image=image, part=part), concept)
                for concept, files in folders.items()
                for image in (file.relative_to(root / "images").as_posix() for file in files)
            ]
            notes[f"{part}_images_of_a_concept"] = count
            if part == "training":
                right = sum(row // count == row for row in range(len(folders)))
                notes["pairs_of_eeg_clip_itself"] = {"row_i_with_concept_i": len(folders), "right": right}
        return stimuli, first, notes


def _subjects(root: Path, wanted: Sequence[str] | None) -> list[str]:
    found = sorted(path.name[4:] for path in root.glob("sub-*") if path.is_dir())
    chosen = found if wanted is None else list(wanted)
    missing = [label for label in chosen if label not in found]
    if missing or not chosen:
        raise StudyError(f"{root}: has no sub-{missing[0] if missing else 'XX'} folder; it has {listed(found)}")
    return chosen


def _arrays_of(folder: Path) -> dict[str, Path]:
    """The arrays of a subject by part; a single one whose name says no part is the training part."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".npy" and not path.name.startswith("."))
    found: dict[str, list[Path]] = {part: [path for path in files if part in path.stem.lower()] for part in PARTS}
    if len(files) == 1 and not any(found.values()):
        found["training"] = files
    for part, own in found.items():
        if len(own) > 1 or (part == "training" and not own):
            raise StudyError(
                f"{folder}: holds {listed(path.name for path in files)}, expected one {part} array (preprocessed_eeg_{part}.npy)"
            )
    return {part: own[0] for part, own in found.items() if own}


def _array(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The array, in its file, and ``ch_names`` and ``times`` where it says them."""
    value = safe_load.load(path, headers_only=True)
    said: dict[str, Any] = {}
    if isinstance(value, dict):
        if "preprocessed_eeg_data" not in value:
            raise StudyError(f"{path}: lacks preprocessed_eeg_data; it has {listed(value)}")
        said = {"ch_names": tuple(safe_load.texts(value["ch_names"], path, "ch_names"))} if "ch_names" in value else {}
        said |= {"times": value["times"]} if "times" in value else {}
        value = value["preprocessed_eeg_data"]
    if not isinstance(value, np.ndarray) or value.ndim != 4 or value.dtype.kind not in "fiu" or 0 in value.shape:
        found = f"an array of shape {value.shape} and dtype {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise StudyError(f"{path}: holds {found}, expected numbers (rows, repetitions, channels, time points)")
    return value, said


def _concepts(root: Path, stated: int | None) -> tuple[dict[str, list[Path]], int]:
    """Images of every concept in order, and how many each has."""
    if not root.is_dir():
        raise StudyError(f"{root}: no such folder, expected a folder of images for every concept")
    folders = {
        folder.name: sorted(filter(is_image, folder.iterdir()))
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name[0] != "."
    }
    if not folders:
        raise StudyError(f"{root}: holds no folder, expected one of images for every concept")
    usual = stated or Counter(len(files) for files in folders.values()).most_common(1)[0][0]
    other = [name for name, files in folders.items() if len(files) != usual]
    if other or usual == 0:
        name = (other or list(folders))[0]
        why = "images_per_concept" if stated else f"{len(folders) - len(other)} other concepts"
        raise StudyError(
            f"{root / name}: has {len(folders[name])} images, expected {usual or 'some'} as {why}: rows are paired with images by "
            "count alone"
        )
    plain = {name: re.sub(r"^\d+_", "", name) for name in folders}
    twice = {name for name, count in Counter(plain.values()).items() if count > 1}
    return {name if plain[name] in twice else plain[name]: files for name, files in folders.items()}, usual


def _say(facts: trials.TrialFacts) -> str:
    return (
        f"has {len(facts.ch_names)} channels ({facts.ch_names[0]} ...), {facts.n_times} points at {facts.sfreq:g} Hz from {facts.tmin:g} s"
    )


def _plan(label: str, subject: int, stimulus: int, n_reps: int) -> SamplePlan:
    return SamplePlan(
        key=schema.stimulus_sample_key(label, stimulus),
        subject=subject,
        stimulus=stimulus,
        n_reps=n_reps,
        session=[0] * n_reps,
        recording=[0] * n_reps,
        trial=[-1] * n_reps,
        onset_seconds=[None] * n_reps,
        quality=[schema.UNKNOWN] * n_reps,
    )
