"""Reader of EEGCVPR40, the 40 ImageNet classes of Spampinato et al. (2017), in the layout of Thought2Text.

::

    data/block/eeg_55_95_std.pth                 all trials of six subjects, 128 channels, 1 kHz; also eeg_5_95_std, eeg_14_70_std
    data/images/n02951358/n02951358_31190.JPEG   photograph, beside it ..._sketch.JPEG and ..._caption.txt

A trial is kept where it has 450 to 600 time points, and of it the points 20 to 460. Samples are ordered by subject and image. All images of
a class were shown one after the other: a subject's trials of one class are one recording here, so that the audit of a split whose parts
share them says block design (Li et al. 2021). ``trial`` is the place in the file's ``dataset``, by which the published splits name trials
(``split --policy official``).

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Stimulus
from data_prep.contract.words import listed
from data_prep.studies import trials
from data_prep.studies.base import ReaderConfig, SamplePlan, StudyFacts, hash_files
from data_prep.studies.eegcvpr40_files import FileTrial, image_path, read_caption, read_trials
from data_prep.studies.imagenet_names import NAMES
from data_prep.studies.trial_units import TrialUnit, measured_unit
from data_prep.studies.trials import TrialsConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Eegcvpr40ReaderConfig(ReaderConfig):
    """EEGCVPR40 (``eeg_55_95_std.pth`` and its like)."""

    path: str
    """The ``.pth`` file of trials."""
    images: str | None = None
    """Folder of ``WNID/NAME.JPEG``; None: there are no images to embed, and no captions."""
    image: Literal["photo", "sketch"] = "photo"
    """Which picture of an image is embedded: the photograph, or ``NAME_sketch.JPEG``, as Thought2Text trains on."""
    images_missing: Literal["refuse", "drop"] = "refuse"
    """What to do with trials whose picture is not there: refuse the study, or leave them out, counted."""
    captions: Literal["none", "refuse", "allow"] = "none"
    """``NAME_caption.txt`` beside the images: not read; read, and a missing one refused; or a missing one allowed."""
    subjects: tuple[int, ...] | None = None
    """Numbers of subjects to read; None: all."""
    unit: TrialUnit | None = None
    """Of the numbers in the file; None: measured, and refused where they are no z-scores, since nothing then tells volts from
    microvolts."""
    sfreq: float = 1000.0
    """Sampling rate in Hz; the file does not say it."""
    n_chans: int = 128
    """Channels; arrays of another number, or transposed ones, are refused."""
    ch_names: tuple[str, ...] | None = None
    """Names of the channels, which the file does not say; None: ``E001`` to ``E128``."""
    lengths: tuple[int, int] = (450, 600)
    """Fewest and most time points of a trial that is kept."""
    crop: tuple[int, int] = (20, 460)
    """Time points of a trial that are kept, from the onset: ``[start, stop)``."""
    one_block_a_class: bool = True
    """Whether a subject saw all images of a class in one block, as published; false: which trials share a recording is not known."""
    concept_names: dict[str, str] | None = None
    """Synset -> name of the concept; None: ImageNet's names, and the synset itself where it is not one of the 40."""
    trials: TrialsConfig = field(default_factory=TrialsConfig)
    """Channels, window, resampling and baseline, after ``crop``."""

    def __post_init__(self) -> None:
        for name in ("lengths", "crop"):
            start, stop = getattr(self, name)
            if not 0 <= start <= stop or (name == "crop" and start == stop):
                raise ValueError(f"{name} is {start}..{stop}, expected the first below the second, from 0")
        if self.ch_names is not None and (len(self.ch_names) != self.n_chans or len(set(self.ch_names)) != self.n_chans):
            raise ValueError(
                f"ch_names has {len(self.ch_names)} names ({len(set(self.ch_names))} differ), expected n_chans = {self.n_chans}"
            )
        if not self.sfreq > 0 or self.n_chans < 1:
            raise ValueError(f"sfreq is {self.sfreq} and n_chans {self.n_chans}, expected both above 0")
        if self.captions != "none" and self.images is None:
            raise ValueError("captions are asked for and images is null, expected the folder in which both lie")
        if self.subjects is not None and (not self.subjects or len(set(self.subjects)) != len(self.subjects)):
            raise ValueError(f"subjects is {list(self.subjects)}, expected at least one number, each once")

    def open(self) -> Eegcvpr40Source:
        """Read the file but for its EEG, of which some trials are measured."""
        return Eegcvpr40Source(self)


class Eegcvpr40Source:
    """An opened file; trials are read from it one by one."""

    def __init__(self, config: Eegcvpr40ReaderConfig) -> None:
        self.config = config
        path = Path(config.path)
        self._file = read_trials(path, config.n_chans)
        self._counts: Counter[str] = Counter(in_file=len(self._file.trials))
        kept, pictures = self._with_pictures(self._kept())
        self._counts["kept"] = len(kept)
        self._factor, unit, measured = measured_unit(path, lambda i: self._raw(kept[i]), len(kept), config.unit)
        names = config.ch_names or tuple(f"E{c + 1:03d}" for c in range(config.n_chans))
        start, stop = config.crop
        self._before = trials.TrialFacts(sfreq=config.sfreq, tmin=start / config.sfreq, n_times=stop - start, ch_names=names)
        after = trials.facts_in_study(config.trials, self._before)
        self._tables(kept, pictures)
        self.facts = StudyFacts(
            stimulus_level="image",
            unit=unit,
            sfreq=after.sfreq,
            tmin=after.tmin,
            n_times=after.n_times,
            ch_names=list(after.ch_names),
            subjects=self._subjects,
            stimuli=self._stimuli,
            concepts=self._concepts,
            sessions=[schema.UNKNOWN],
            recordings=self._recordings,
            captions=self._captions(),
            image_root=Path(config.images) if config.images else None,
            preprocessing=self._preprocessing(measured),
        )
        self.source_hash = hash_files([path], path.parent)
        log.info("%s: %s", path, ", ".join(f"{count:,} {what}" for what, count in self._counts.items()))

    def eeg(self, i: int) -> np.ndarray:
        """Sample ``i``: float32 (n_reps, n_chans, n_times)."""
        start, stop = self.config.crop
        eeg_RCT = np.stack([self._file.eeg(trial)[:, start:stop] for trial in self._groups[i]])
        return trials.apply(self.config.trials, eeg_RCT * np.float32(self._factor), self._before)

    def _raw(self, trial: FileTrial) -> np.ndarray:
        return self._file.eeg(trial)[:, slice(*self.config.crop)]

    # ------------------------------------------------------------------------------------------------ what is kept

    def _kept(self) -> list[FileTrial]:
        config, kept = self.config, []
        have = sorted({trial.subject for trial in self._file.trials})
        if missing := [subject for subject in config.subjects or () if subject not in have]:
            raise StudyError(f"{config.path}: has no subject {missing[0]}; it has {listed(have)}")
        for trial in self._file.trials:
            length = int(trial.eeg.shape[1])
            if config.subjects is not None and trial.subject not in config.subjects:
                self._counts["of_other_subjects"] += 1
            elif not config.lengths[0] <= length <= config.lengths[1]:
                self._counts["of_other_length"] += 1
            elif length < config.crop[1]:
                self._counts["shorter_than_crop"] += 1
            else:
                kept.append(trial)
        if not kept:
            found = sorted(int(trial.eeg.shape[1]) for trial in self._file.trials)
            raise StudyError(
                f"{config.path}: none of {len(found):,} trials has {config.lengths[0]} to {config.lengths[1]} time points and at least "
                f"{config.crop[1]}, they have {found[0]} to {found[-1]}: see the reader's fields lengths and crop"
            )
        return kept

    def _with_pictures(self, kept: list[FileTrial]) -> tuple[list[FileTrial], dict[int, str]]:
        """Trials whose picture is there, and the path of each image's."""
        config = self.config
        if config.images is None:
            return kept, {}
        root = Path(config.images)
        if not root.is_dir():
            raise StudyError(f"images: {root} is no folder, expected that of WNID/NAME.JPEG")
        pictures = {image: image_path(root, self._file.images[image], config.image) for image in {trial.image for trial in kept}}
        missing = sorted(self._file.images[image] for image, path in pictures.items() if path is None)
        if missing and (config.images_missing == "refuse" or len(missing) == len(pictures)):
            raise StudyError(
                f"{root}: has no {config.image} of {missing[0]!r} ({len(missing)} of {len(pictures)} are missing), expected WNID/NAME.JPEG "
                "and WNID/NAME_sketch.JPEG; images_missing: drop leaves their trials out"
            )
        there = [trial for trial in kept if pictures[trial.image] is not None]
        if missing:
            self._counts["without_image"] = len(kept) - len(there)
        return there, {image: path for image, path in pictures.items() if path is not None}

    def _tables(self, kept: Sequence[FileTrial], pictures: dict[int, str]) -> None:
        file, config = self._file, self.config
        names = NAMES if config.concept_names is None else config.concept_names
        label_of = {trial.image: trial.label for trial in kept}
        labels, images = sorted(set(label_of.values())), sorted(label_of)
        subjects = sorted({trial.subject for trial in kept})
        self._subjects = [f"{subject:02d}" for subject in subjects]
        self._concepts = [names.get(file.labels[label], file.labels[label]) for label in labels]
        self._images = [file.images[image] for image in images]
        self._stimuli = [
            Stimulus(id=file.images[image], concept=labels.index(label_of[image]), image=pictures.get(image), part=None) for image in images
        ]
        blocks = sorted({(trial.subject, trial.label) for trial in kept})
        known = config.one_block_a_class
        self._recordings = [f"sub-{subject:02d}_block-{file.labels[label]}" for subject, label in blocks] if known else [schema.UNKNOWN]
        block_of = {block: i if known else 0 for i, block in enumerate(blocks)}
        row_of = {image: row for row, image in enumerate(images)}
        groups: dict[tuple[int, int], list[FileTrial]] = defaultdict(list)
        for trial in kept:
            groups[trial.subject, row_of[trial.image]].append(trial)
        self.samples: Sequence[SamplePlan] = [
            SamplePlan(
                key=schema.stimulus_sample_key(f"{subject:02d}", stimulus),
                subject=subjects.index(subject),
                stimulus=stimulus,
                n_reps=len(own),
                session=[0] * len(own),
                recording=[block_of[trial.subject, trial.label] for trial in own],
                trial=[trial.number for trial in own],
                onset_seconds=[None] * len(own),
                quality=[schema.UNKNOWN] * len(own),
            )
            for (subject, stimulus), own in sorted(groups.items(), key=lambda item: item[0])
        ]
        self._groups = [groups[key] for key in sorted(groups)]

    def _captions(self) -> list[list[str]] | None:
        config = self.config
        if config.captions == "none" or config.images is None:
            return None
        found = [read_caption(Path(config.images), name) for name in self._images]
        lacking = [name for name, caption in zip(self._images, found, strict=True) if caption is None]
        if lacking and (config.captions == "refuse" or len(lacking) == len(found)):
            raise StudyError(
                f"{config.images}: has no caption of {lacking[0]!r} ({len(lacking)} of {len(found)} lack one), expected "
                "WNID/NAME_caption.txt; "
                "captions: allow takes images without"
            )
        return [[] if caption is None else [caption] for caption in found]

    def _preprocessing(self, measured: dict[str, Any]) -> dict[str, Any]:
        config = self.config
        return {
            "reader": "eegcvpr40",
            "file": Path(config.path).name,
            "trials": dict(self._counts),
            "lengths": list(config.lengths),
            "crop": list(config.crop),
            "image": config.image,
            **measured,
            "images_in_file": len(self._file.images),
            "recordings": "one a subject and class: its images were shown in one block" if config.one_block_a_class else "unknown",
            "changes": {name: value for name, value in vars(config.trials).items() if value is not None},
            **({"other_keys_of_the_file": self._file.other_keys} if self._file.other_keys else {}),
        }
