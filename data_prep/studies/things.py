"""Reader of THINGS-EEG2 trials that were cut and saved by image: as published, as others pass them on, as the simulator writes them.

::

    ROOT/
      sub-01/preprocessed_eeg_training.npy   or train.pt, train.npy: see :mod:`data_prep.studies.things_files`
      sub-01/preprocessed_eeg_test.npy       the same for the test images
      image_metadata.npy                     dict train_img_concepts, train_img_files, test_img_concepts, test_img_files
      images/training_images/00001_aardvark/aardvark_01b.jpg ...
      captions.json, study.json              optional: captions; what the simulator says about its study

Opening reads headers. Row i of an array belongs to image i of the metadata, and so to that image's concept: nothing is counted on.
Sessions of repetitions are recovered where the files allow it (:mod:`data_prep.studies.things_sessions`). Asking for the samples looks at
every repetition once, to leave padding out; trials are read a block of images at a time.

Shapes in names: N stimuli, R repetitions, C channels, T time points.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract import safe_load, schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json
from data_prep.contract.progress import tracked
from data_prep.contract.words import listed
from data_prep.studies import things_images, trials
from data_prep.studies.base import ReaderConfig, SamplePlan, StudyFacts, hash_large_files
from data_prep.studies.captions import read_captions
from data_prep.studies.channels import recognised
from data_prep.studies.laid_trials import FileState, refuse_changed, state_of
from data_prep.studies.things_files import FILES, BareArrays, Layout, Part, PartFile, layout_of, open_part
from data_prep.studies.things_images import PARTS, Images
from data_prep.studies.things_origin import Origins, find_origins
from data_prep.studies.things_rows import Padding, find_padding
from data_prep.studies.things_times import TimesConfig, TimesUnit
from data_prep.studies.trials import TrialFacts, TrialsConfig
from data_prep.studies.whitening import NOT_SAID, OFFICIAL, WhitenedOn, whitening_facts

__all__ = ["BareArrays", "ThingsReaderConfig", "ThingsSource"]

"""Whitening of a source -> whether its matrices saw the test trials."""


@dataclass(frozen=True, kw_only=True)
class ThingsReaderConfig(ReaderConfig):
    """A study of THINGS-EEG2 trials by image."""

    root: str
    """Folder that holds ``sub-XX`` folders and ``image_metadata.npy`` (or ``image_set/image_metadata.npy``)."""
    layout: Layout | None = None
    """``official``: ``preprocessed_eeg_training.npy``; ``ubp``: ``train.pt``; ``samga``: ``train.npy``; None: the one that is there."""
    metadata: str | None = None
    """``image_metadata.npy``; None: ``ROOT``'s, or, where there is none and the layout says images itself (``ubp``), the files' own."""
    subjects: tuple[str, ...] | None = None
    """Labels such as ``01``; None: every ``sub-XX`` folder, in order."""
    unit: str | None = None
    """``zscore`` or ``microvolts``; None: what ``study.json`` says, else ``zscore`` as in the published files."""
    expect_sfreq: float | None = None
    """Refuse files whose ``times`` have another sampling rate (Hz); None takes what they have."""
    times_unit: TimesUnit | None = None
    """Unit of the files' ``times``; None: the one that gives a rate and a length that trials have."""
    times_end: Literal["first", "last"] | None = None
    """Which of ``times`` belong to the data where there are more of them than points: the ``first`` or the ``last``; None: the last, as in
    the published files of 300 times for 250 points, and the manifest says so."""
    presentation_order: str | None = None
    """Folder of the published ``stimOrder_sub-1_sess-1.mat`` ...: gives the session, run and place of every training repetition and
    which have a clean baseline. None: only what the files tell (sessions of test repetitions)."""
    repetition_order: Literal["official", "sequential", "unknown"] | None = None
    """How files list the repetitions of an image: ``official``: shuffled with the official code's seed; ``sequential``: session after
    session; None: ``official`` in its layout, ``sequential`` in ``ubp``'s, else ``unknown``."""
    whitening: WhitenedOn | None = None
    """What the noise covariance of the files was estimated on that they were whitened with; None: by layout, ``test_and_training`` for
    the published 17 channels at 100 Hz (the official code takes the mean of both), ``training`` for ``ubp``, else ``unknown``."""
    image_root: str | None = None
    """Folder with ``training_images`` (or ``train_images``) and ``test_images``; None: ``ROOT/images``, else ``ROOT/image_set``."""
    require_images: bool = True
    """Refuse a study of which an image is missing. False: for imported embeddings, which need no image."""
    captions: str | None = None
    """JSON file of captions; None: ``ROOT/captions.json`` where there is one."""
    captions_missing: Literal["refuse", "allow"] = "refuse"
    """Images for which the file has no caption: ``refuse``, or ``allow`` them to have none (counted in the manifest)."""
    trials: TrialsConfig = field(default_factory=TrialsConfig)
    """Window, channels, resampling and baseline to apply to the trials."""
    bare: BareArrays | None = None
    """Facts of files that do not say them: arrays without the dict; None: such files are refused."""

    def __post_init__(self) -> None:
        if self.unit is not None and self.unit not in schema.UNITS:
            raise ValueError(f"unit is {self.unit!r}, expected one of {schema.UNITS} or none")
        if self.captions_missing not in ("refuse", "allow"):
            raise ValueError(f"captions_missing is {self.captions_missing!r}, expected refuse or allow")
        if self.subjects is not None and (not self.subjects or len(set(self.subjects)) != len(self.subjects)):
            raise ValueError(f"subjects is {list(self.subjects)}, expected at least one label, each once")

    def open(self) -> ThingsSource:
        return ThingsSource(self)


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A file of trials, and what will be done to them."""

    part: PartFile
    trials: TrialsConfig
    state: FileState | None


class ThingsSource:
    """An opened folder; arrays stay in their files, trials come as float32."""

    def __init__(self, config: ThingsReaderConfig) -> None:
        self.config = config
        self.root = Path(config.root)
        if not self.root.is_dir():
            raise StudyError(f"{self.root}: no such folder, expected a THINGS-EEG2 preprocessed study")
        side = self._side_file()
        subjects = self._subjects()
        self._layout = layout_of(self.root / f"sub-{subjects[0]}", config.layout)
        self._files = [self.root / "study.json"] if side else []
        self._opened: dict[tuple[int, str], _Opened] = {}
        self._last: PartFile | None = None
        self._checked: set[Path] = set()
        images, self._after, notes = self._open_files(subjects)
        self._stimuli, image_root = things_images.place_images(
            images, self.root, config.image_root, required=config.require_images
        )  # an image's name is its id, wherever its file lies
        self._origins = self._find_origins(subjects, simulated=bool(side.get("simulated")))
        self._files += [path for path in [*images.files, *self._origins.files] if path.is_relative_to(self.root)]
        positions = side.get("positions") or {}
        ch_names = list(self._after.ch_names)
        self.facts = StudyFacts(
            stimulus_level="image",
            unit=config.unit or side.get("unit", "zscore"),
            sfreq=self._after.sfreq,
            tmin=self._after.tmin,
            n_times=self._after.n_times,
            ch_names=ch_names,
            positions=[positions[name] for name in ch_names] if set(ch_names) <= positions.keys() else None,
            subjects=subjects,
            stimuli=self._stimuli,
            concepts=images.concepts,
            sessions=self._origins.sessions,
            recordings=self._origins.recordings,
            captions=self._captions(),
            image_root=image_root,
            preprocessing=self._preprocessing(side, notes),
        )
        self._first = {part: next((i for i, s in enumerate(self._stimuli) if s.part == part), 0) for part in PARTS}
        self.source_hash = hash_large_files(self._files, self.root)

    @functools.cached_property
    def samples(self) -> Sequence[SamplePlan]:
        """All repetitions of an image that a subject has, padding left out; what was left out is put into ``facts.preprocessing``."""
        plans: list[SamplePlan] = []
        self._kept: list[np.ndarray] = []
        found: dict[str, dict[str, int]] = {}
        paddings: dict[tuple[int, str], Padding] = {}
        for key, opened in tracked(list(self._opened.items()), "files looked at for padding"):
            _refuse_changed(opened)
            paddings[key] = find_padding(opened.part.rows)
            if paddings[key].counts:
                found[opened.part.file.relative_to(self.root).as_posix()] = paddings[key].counts
        for subject, label in enumerate(self.facts.subjects):
            for number, stimulus in enumerate(self._stimuli):
                part = str(stimulus.part)
                row = number - self._first[part]
                kept_R = paddings[subject, part].of(row, self._opened[subject, part].part.rows.n_reps[row])
                if len(kept_R):
                    plans.append(self._origins.plan(label, subject, number, part, row, kept_R))
                    self._kept.append(kept_R)
        if found:
            self.facts.preprocessing["padding_left_out"] = found
        return plans

    def eeg(self, i: int) -> np.ndarray:
        """EEG of ``samples[i]``: float32 (n_reps, n_chans, n_times)."""
        plan = self.samples[i]
        part = str(self._stimuli[plan.stimulus].part)
        opened = self._opened[plan.subject, part]
        path = opened.part.file
        if self._last is not None and self._last is not opened.part:
            self._last.rows.give_back()
        self._last = opened.part
        _refuse_changed(opened)
        if path not in self._checked:
            safe_load.check_content(path)
            self._checked.add(path)
        eeg_RCT = opened.part.rows.row(plan.stimulus - self._first[part])[self._kept[i]].astype(np.float32)
        return trials.apply(opened.trials, eeg_RCT, opened.part.facts)

    # ------------------------------------------------------------------------------------------------ what there is

    def _side_file(self) -> dict[str, Any]:
        path = self.root / "study.json"
        if not path.is_file():
            return {}
        side = read_json(path)
        if not isinstance(side, dict) or side.get("unit", "zscore") not in schema.UNITS:
            raise StudyError(f"{path}: expected an object whose unit is one of {schema.UNITS}")
        return side

    def _subjects(self) -> list[str]:
        found = sorted(p.name[4:] for p in self.root.glob("sub-*") if p.is_dir())
        wanted = list(self.config.subjects) if self.config.subjects is not None else found
        missing = [label for label in wanted if label not in found]
        if missing or not wanted:
            raise StudyError(f"{self.root}: has no sub-{missing[0] if missing else 'XX'} folder; it has {listed(found)}")
        return wanted

    def _open_files(self, subjects: Sequence[str]) -> tuple[Images, TrialFacts, dict[str, Any]]:
        """Open every file by its headers, and check that all tell the same."""
        config = self.config
        metadata = things_images.find_metadata(self.root, config.metadata)
        times = TimesConfig(unit=config.times_unit, end=config.times_end, expect_sfreq=config.expect_sfreq)
        images = None if metadata is None else things_images.of_metadata(metadata, self.root)
        parts: dict[tuple[int, Part], PartFile] = {}
        for number, subject in enumerate(tracked(subjects, "subjects opened")):
            for part, name in FILES[self._layout].items():
                path = self.root / f"sub-{subject}" / name
                if not path.is_file() and images is not None and not images.of(part):
                    continue
                parts[number, part] = open_part(path, config.bare, times, labelled=True)
        where = metadata or parts[0, "training"].file
        if images is None:
            images = self._images_of_labels(parts)
        for (_, part), found in parts.items():
            self._check_rows(found, images, part, where)
        after, notes = self._align(parts)
        return images, after, notes

    def _images_of_labels(self, parts: dict[tuple[int, Part], PartFile]) -> Images:
        names: dict[str, tuple[Path, Sequence[str]]] = {
            part: (found.file, found.labels.images) for (n, part), found in parts.items() if n == 0 and found.labels and found.labels.images
        }
        lacking = next((found.file for (n, part), found in parts.items() if n == 0 and part not in names), None)
        if lacking is not None or not names:
            raise StudyError(
                f"{self.root / 'image_metadata.npy'}: no such file, and {lacking} does not name the images of its rows: expected "
                "one of them"
            )
        return things_images.of_labels(names, self.root)

    def _check_rows(self, found: PartFile, images: Images, part: Part, where: Path) -> None:
        wanted = images.of(part)
        if len(found.rows.n_reps) != len(wanted):
            raise StudyError(
                f"{found.file}: {len(found.rows.n_reps)} stimuli, {where.name} lists {len(wanted)} {part} images: expected as many"
            )
        if found.images_each is not None:
            things_images.check_concept_axis(found.file, found.images_each, wanted, where)
        if found.labels is not None and found.labels.images is not None:
            things_images.check_labels(found.file, found.labels.images, wanted, where)

    def _align(self, parts: dict[tuple[int, Part], PartFile]) -> tuple[TrialFacts, dict[str, Any]]:
        """Give every file the changes after which all have the same channels, rate and window."""
        config = self.config.trials
        first = next(iter(parts.values()))
        channels = config.channels or tuple(name for name in first.facts.ch_names if recognised(name) is None)
        notes: dict[str, Any] = {}
        left_out: set[str] = set()
        reordered: list[str] = []
        after: TrialFacts | None = None
        for (number, part), found in parts.items():
            have = found.facts.ch_names
            name = found.file.relative_to(self.root).as_posix()
            extra = [each for each in have if each not in channels]
            missing = [each for each in channels if each not in have]
            strange = [] if config.channels else [each for each in extra if recognised(each) is None]
            if missing or strange:
                lacks = f"lacks channel {missing[0]!r}" if missing else f"has channel {strange[0]!r} besides"
                raise StudyError(
                    f"{found.file}: {lacks}, {first.file} has {listed(channels, 70)}: expected the same channels, or trials.channels"
                )
            left_out.update(extra if not config.channels else [])
            if not config.channels and tuple(each for each in have if each in channels) != channels:
                reordered.append(name)
            own = config if have == channels else replace(config, channels=channels)
            own_after = trials.facts_in_study(own, found.facts, found.file)
            if after is None:
                after = own_after
            elif own_after != after:
                raise StudyError(f"{found.file}: {_say(own_after)}, {first.file} has {_say(after)}: expected the same in a study")
            for kind, sentence in found.notes.items():
                notes.setdefault(kind, f"{name}: {sentence}")
            self._opened[number, part] = _Opened(part=found, trials=own, state=state_of(found.file))
            self._files.append(found.file)
        assert after is not None
        if left_out:
            notes["channels_left_out"] = sorted(left_out)
        if reordered:
            notes["channels_reordered"] = reordered
        return after, notes

    def _find_origins(self, subjects: list[str], *, simulated: bool) -> Origins:
        config = self.config
        order: str | None = config.repetition_order
        if order is None:
            order = {"official": "unknown" if simulated else "official", "ubp": "sequential", "samga": "unknown"}[self._layout]
        return find_origins(
            {key: opened.part for key, opened in self._opened.items()},
            subjects,
            None if order == "unknown" else order,  # type: ignore[arg-type]
            None if config.presentation_order is None else Path(config.presentation_order),
        )

    def _captions(self) -> list[list[str]] | None:
        path = Path(self.config.captions) if self.config.captions else self.root / "captions.json"
        if not self.config.captions and not path.is_file():
            return None
        return read_captions(path, self._stimuli, self.config.captions_missing)

    def _preprocessing(self, side: dict[str, Any], notes: dict[str, Any]) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "source": "things-eeg2",
            "layout": self._layout,
            "trials": {k: v for k, v in vars(self.config.trials).items() if v is not None},
            "sessions": self._origins.said,
        }
        if side.get("simulated"):
            facts["simulated"] = side
            ceiling = self.root / "ceiling.json"
            if ceiling.is_file():
                facts["ceiling"] = read_json(ceiling)
        facts |= self._whitening(simulated=bool(side.get("simulated")))
        unclear = notes.pop("unclear", None)
        return facts | notes | ({"unclear": [unclear]} if unclear else {})

    def _whitening(self, *, simulated: bool) -> dict[str, str]:
        """Whether the test trials had a part in the source's whitening, and how that is known."""
        if self.config.whitening is not None:
            return whitening_facts(self.config.whitening, f"{self.config.whitening}, by config")
        if simulated:
            return whitening_facts("none", "none: simulated")
        names = next(iter(self._opened.values())).part.facts
        official = (
            self._layout == "official"
            and names.sfreq == 100.0
            and len(names.ch_names) == 17
            and all(name[0] in "OP" for name in names.ch_names)
        )
        if official and (self.config.unit or "zscore") == "zscore":
            return OFFICIAL
        if self._layout == "ubp":
            return whitening_facts("training", "training, by layout: the code that writes it takes the training covariance")
        return NOT_SAID


def _refuse_changed(opened: _Opened) -> None:
    refuse_changed(opened.part.file, state_of(opened.part.file), opened.state)  # the array is mapped


def _say(facts: TrialFacts) -> str:
    return f"{len(facts.ch_names)} channels ({facts.ch_names[0]} ...), {facts.n_times} points at {facts.sfreq:g} Hz from {facts.tmin:g} s"
