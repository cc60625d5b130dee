"""Reader of MindBigData's "ImageNet of the brain": one CSV a trial of three seconds, a row a channel.

::

    ROOT/MindBigData_Imagenet_Insight_n09835506_15262_1_20.csv
         device Insight, synset n09835506, image n09835506_15262.JPEG, its first session, session 20 of all
    AF3,4259.487179,4237.948717,...
    AF4,...   T7,...   T8,...   Pz,...

A trial is kept where every channel of the device is there once, with numbers alone, none of them constant, and long enough; what is lost is
counted by reason. Five images share a session, which is one recording.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Stimulus
from data_prep.contract.progress import tracked
from data_prep.contract.words import as_given, listed
from data_prep.studies import trials
from data_prep.studies.base import ReaderConfig, SamplePlan, StudyFacts, hash_files
from data_prep.studies.eegcvpr40_files import image_path
from data_prep.studies.imagenet_names import NAMES
from data_prep.studies.mindbigdata_signals import DEVICES, Device, numbers, scaled, usual_length
from data_prep.studies.trial_units import measured_unit
from data_prep.studies.trials import TrialsConfig

log = logging.getLogger(__name__)

_NAME = re.compile(
    r"MindBigData_Imagenet_(?P<device>[A-Za-z0-9]+)_(?P<synset>n\d+)_(?P<image>\d+)_(?P<repeat>\d+)_(?P<session>\d+)\.csv", re.IGNORECASE
)
MOST_BYTES = 2**22
"""Of a file of three seconds, which has some forty thousand."""


@dataclass(frozen=True, kw_only=True)
class MindBigDataImageNetReaderConfig(ReaderConfig):
    """MindBigData, the ImageNet of the brain (``MindBigData_Imagenet_Insight_SYNSET_IMAGE_REPEAT_SESSION.csv``)."""

    root: str
    """Folder of the CSV files."""
    images: str | None = None
    """Folder of ImageNet's photographs, ``SYNSET/SYNSET_IMAGE.JPEG``; None: there are none to embed."""
    images_missing: Literal["refuse", "drop"] = "refuse"
    """What to do with trials whose photograph is not there: refuse the study, or leave them out, counted."""
    n_times: int | None = None
    """Time points of a trial; shorter ones are dropped, longer ones cut at the end. None: the most that 95 % of the trials have."""
    concept_names: dict[str, str] | None = None
    """Synset -> name of the concept; None: ImageNet's names where they are known, else the synset."""
    trials: TrialsConfig = field(default_factory=TrialsConfig)
    """Channels, window, resampling and baseline; each channel's mean of the trial is always subtracted first."""

    def __post_init__(self) -> None:
        if self.n_times is not None and self.n_times < 1:
            raise ValueError(f"n_times is {self.n_times}, expected above 0")

    def open(self) -> MindBigDataImageNetSource:
        """Read every file once and decide which trials stay."""
        return MindBigDataImageNetSource(self)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A file that is a whole trial."""

    file: Path
    device: Device
    synset: str
    image: str
    session: int
    length: int


class MindBigDataImageNetSource:
    """An opened folder."""

    def __init__(self, config: MindBigDataImageNetReaderConfig) -> None:
        self.config, root = config, Path(config.root)
        self._counts: Counter[str] = Counter()
        found = self._whole(root)
        kept, pictures = self._with_pictures(found)
        n_times = config.n_times or usual_length([trial.length for trial in kept])
        kept = [trial for trial in kept if trial.length >= n_times]
        if not kept:
            raise StudyError(
                f"{root}: not one of {len(found)} trials has {n_times} time points (n_times), the longest has "
                f"{max(t.length for t in found)}"
            )
        self._counts["too_short"] = len(found) - self._counts["without_image"] - len(kept)
        self._counts["kept"] = len(kept)
        device = kept[0].device
        self._before = trials.TrialFacts(sfreq=device.sfreq, tmin=0.0, n_times=n_times, ch_names=device.ch_names)
        after = trials.facts_in_study(config.trials, self._before)
        _, unit, measured = measured_unit(root, lambda i: self._raw(kept[i]), len(kept), "microvolts")
        sessions = sorted({trial.session for trial in kept})
        stimuli = sorted({(trial.synset, trial.image) for trial in kept})
        synsets = sorted({synset for synset, _ in stimuli})
        names = NAMES if config.concept_names is None else config.concept_names
        groups: dict[int, list[Trial]] = defaultdict(list)
        rows = {stimulus: i for i, stimulus in enumerate(stimuli)}
        for trial in sorted(kept, key=lambda trial: (trial.session, trial.file.name)):
            groups[rows[trial.synset, trial.image]].append(trial)
        self._groups = [groups[row] for row in range(len(stimuli))]
        self.samples: Sequence[SamplePlan] = [
            SamplePlan(
                key=schema.stimulus_sample_key("01", row),
                subject=0,
                stimulus=row,
                n_reps=len(own),
                session=[sessions.index(trial.session) for trial in own],
                recording=[sessions.index(trial.session) for trial in own],
                trial=[-1] * len(own),
                onset_seconds=[None] * len(own),
                quality=[schema.UNKNOWN] * len(own),
            )
            for row, own in enumerate(self._groups)
        ]
        self.facts = StudyFacts(
            stimulus_level="image",
            unit=unit,
            sfreq=after.sfreq,
            tmin=after.tmin,
            n_times=after.n_times,
            ch_names=list(after.ch_names),
            subjects=["01"],
            stimuli=[
                Stimulus(id=f"{synset}_{image}", concept=synsets.index(synset), image=pictures.get((synset, image)), part=None)
                for synset, image in stimuli
            ],
            concepts=[names.get(synset, synset) for synset in synsets],
            sessions=[f"{session}" for session in sessions],
            recordings=[f"sub-01_ses-{session}" for session in sessions],
            image_root=Path(config.images) if config.images else None,
            preprocessing={
                "reader": "mindbigdata-imagenet",
                "device": device.name,
                "trials": {name: count for name, count in self._counts.items() if count or name == "kept"},
                "n_times": "stated" if config.n_times else "measured: the most that 95 % of the trials have",
                **measured,
                "changes": {name: value for name, value in vars(config.trials).items() if value is not None},
            },
        )
        self.source_hash = hash_files([trial.file for trial in kept], root)
        log.info("%s: %s", root, ", ".join(f"{count:,} {what}" for what, count in self._counts.items() if count))

    def eeg(self, i: int) -> np.ndarray:
        """Sample ``i``: float32 (n_reps, n_chans, n_times), microvolts."""
        return trials.apply(self.config.trials, np.stack([self._raw(trial) for trial in self._groups[i]]), self._before)

    def _raw(self, trial: Trial) -> np.ndarray:
        """float32 (C, T) in microvolts around each channel's mean."""
        rows, n_times = _rows(trial.file), self._before.n_times
        found = [own[0] for name in trial.device.ch_names if len(own := rows.get(name.casefold(), [])) == 1]
        whole = [row for row in found if row is not None and len(row) >= n_times]
        if len(whole) != len(trial.device.ch_names):
            raise StudyError(f"{trial.file}: is not what it was: the file changed while the study was read, shard it anew")
        return scaled(np.stack([row[:n_times] for row in whole]), trial.device.microvolts)

    # ------------------------------------------------------------------------------------------------ what is kept

    def _whole(self, root: Path) -> list[Trial]:
        if not root.is_dir():
            raise StudyError(f"{root}: no such folder, expected one of MindBigData_Imagenet_Insight_*.csv")
        files = sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv" and not path.name.startswith("."))
        named = [(path, match) for path in files if (match := _NAME.fullmatch(path.name))]
        if not named:
            raise StudyError(
                f"{root}: holds {listed(path.name for path in files)}, expected MindBigData_Imagenet_DEVICE_SYNSET_IMAGE_REPEAT_SESSION.csv"
            )
        self._counts.update(in_folder=len(named), other_names=len(files) - len(named))
        known = {device.name.casefold(): device for device in DEVICES.values()}
        devices = {match["device"].casefold() for _, match in named}
        if len(devices) != 1 or not devices <= known.keys():
            raise StudyError(
                f"{root}: holds files of {listed(sorted(devices))}, expected one of {listed(device.name for device in known.values())}"
            )
        device = known[devices.pop()]
        trials_found = [trial for path, match in tracked(named, "trials read") if (trial := self._trial(path, match, device)) is not None]
        if not trials_found:
            lost = ", ".join(f"{count} {reason}" for reason, count in self._counts.items() if count)
            raise StudyError(f"{root}: no whole trial, expected channels {listed(device.ch_names)} once each, all numbers: {lost}")
        return trials_found

    def _trial(self, path: Path, match: re.Match[str], device: Device) -> Trial | None:
        rows = _rows(path)
        lengths = []
        for name in device.ch_names:
            own = rows.get(name.casefold(), [])
            values = own[0] if len(own) == 1 else None
            if values is None:
                self._counts["no_numbers" if len(own) == 1 else "channel_twice" if own else "channel_missing"] += 1
                return None
            if np.ptp(values) == 0:
                self._counts["flat"] += 1
                return None
            lengths.append(len(values))
        return Trial(
            file=path,
            device=device,
            synset=match["synset"].lower(),
            image=match["image"],
            session=int(match["session"]),
            length=min(lengths),
        )

    def _with_pictures(self, found: list[Trial]) -> tuple[list[Trial], dict[tuple[str, str], str]]:
        if self.config.images is None:
            return found, {}
        root = Path(self.config.images)
        if not root.is_dir():
            raise StudyError(f"images: {root} is no folder, expected that of SYNSET/SYNSET_IMAGE.JPEG")
        wanted = sorted({(trial.synset, trial.image) for trial in found})
        pictures = {(synset, image): image_path(root, f"{synset}_{image}", "photo") for synset, image in wanted}
        missing = [f"{synset}_{image}" for (synset, image), path in pictures.items() if path is None]
        if missing and (self.config.images_missing == "refuse" or len(missing) == len(pictures)):
            raise StudyError(
                f"{root}: has no photo of {as_given(missing[0])} ({len(missing)} of {len(pictures)} are missing), expected "
                "SYNSET/SYNSET_IMAGE.JPEG; "
                "images_missing: drop leaves their trials out"
            )
        there = [trial for trial in found if pictures[trial.synset, trial.image] is not None]
        self._counts["without_image"] = len(found) - len(there)
        return there, {key: path for key, path in pictures.items() if path is not None}


def _rows(file: Path) -> dict[str, list[np.ndarray | None]]:
    """Values by channel, in lower case; None where they are no numbers."""
    if (size := file.stat().st_size) > MOST_BYTES:
        raise StudyError(f"{file}: has {size:,} bytes, expected at most {MOST_BYTES:,} of three seconds")
    found: dict[str, list[np.ndarray | None]] = defaultdict(list)
    for line in file.read_bytes().splitlines():
        name, _, values = line.partition(b",")
        if name.strip():
            found[name.decode("utf-8-sig", "replace").strip().casefold()].append(numbers(values))
    return found
