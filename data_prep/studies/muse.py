"""Reader of Muse headband recordings (NeuroTechX eeg-notebooks): CSV files of a few minutes, four channels, 256 Hz.

From file to trial::

    ROOT/subject1/session2/*.csv   columns: timestamps (s), TP9, AF7, AF8, TP10 (microvolts), Right AUX, Marker
        -> checks (one sentence each, naming the file)
        -> notch, band-pass                          on the continuous recording
        -> windows around non-zero markers           those that leave the recording are counted as incomplete
        -> resample, baseline                        per trial, so that an onset never moves by half a point
        -> peak-to-peak rejection                    counted, by recording, in ``facts.preprocessing["trials"]``

The files say which class was shown, never which photograph: samples are single trials and the stimulus level is
``class``; ``facts.class_images`` lists the photographs of a class for its mean embedding. Sample order: subject, session,
recording (by file name), trial.

Shape suffixes: C channels, T time points, B trials.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract.progress import tracked
from data_prep.contract.manifest import Stimulus
from data_prep.contract import schema, signals
from data_prep.contract.errors import StudyError
from data_prep.studies.base import ReaderConfig, SamplePlan, StudyFacts, hash_files
from data_prep.studies.muse_files import Recording, Table, check_timestamps, find_recordings, read_csv

log = logging.getLogger(__name__)

MARKERS: dict[str, dict[int, str]] = {"N170": {1: "house", 2: "face"}, "P300": {1: "dog", 2: "cat"}}
"""Marker code -> class shown. In P300 the cat is the rare target: its decoding reflects attention as well as content."""
CLASS_IMAGES: dict[str, dict[str, str]] = {
    "N170": {"house": "houses/*.jpg", "face": "faces/*.jpg"},
    "P300": {"dog": "nontarget*.jpg", "cat": "target*.jpg"},
}
POSITIONS = {
    "TP9": [-0.0876, -0.0176, -0.0034],
    "AF7": [-0.0564, 0.0992, 0.0251],
    "AF8": [0.0542, 0.0998, 0.0249],
    "TP10": [0.0842, -0.0188, -0.0035],
}
"""Metres in head coordinates: MNE's standard_1005 montage."""
RAIL_MICROVOLTS = 999.0
"""The converter's limits are -1000 and +999.5 µV."""


@dataclass(frozen=True, kw_only=True)
class MuseReaderConfig(ReaderConfig):
    """Muse recordings of one experiment."""

    root: str
    """Folder that holds ``subject*/session*/*.csv``, such as ``eeg/N170``."""
    stimuli: str | None = None
    """Folder of the photographs (``stimuli/face_house``, ``stimuli/cats_dogs``); None: no image embeddings."""
    experiment: Literal["N170", "P300"] = "N170"
    """Chooses ``markers`` and ``class_images`` where those are None: N170 houses and faces, P300 dogs and cats (rare)."""
    markers: dict[int, str] | None = None
    """Class of every marker code, in the order in which classes are numbered; None: the experiment's."""
    class_images: dict[str, str] | None = None
    """Glob of every class's photographs below ``stimuli``; None: the experiment's."""
    marker_column: str | None = None
    """Name of the marker column; None: the one column whose name begins with ``Marker``."""
    subjects: tuple[str, ...] | None = None
    """Subjects to read, as numbered by their folders (``"1"`` or ``"01"``); None reads all."""
    channels: tuple[str, ...] = ("TP9", "AF7", "AF8", "TP10")
    """Columns that hold EEG, in microvolts, in this order."""
    expect_sfreq: float | None = 256.0
    """Nominal sampling rate in Hz; files whose timestamps contradict it by more than 1 % are refused. None takes the first
    file's measured rate, rounded to whole Hz, and the other files must agree."""
    max_gap_seconds: float = 0.25
    """Longest step between neighbouring timestamps. Bluetooth packets of 12 points arrive with jitter (±60 ms is usual); a
    longer step means lost data, across which a filter would smear."""
    band_hz: tuple[float | None, float | None] | None = (1.0, 30.0)
    """Pass band of a zero-phase Butterworth filter of order 4, Hz; an edge may be null; null: no filter."""
    notch_hz: float | None = None
    """Line frequency to remove, Hz; None: none (50 and 60 Hz lie outside the default band)."""
    tmin: float = -0.2
    """Trial start in seconds from onset; the nearest time point is taken (-0.19922 s at 256 Hz)."""
    tmax: float = 0.8
    """Trial end in seconds from onset, exclusive."""
    baseline_seconds: tuple[float, float] | None = (-0.2, 0.0)
    """Window whose mean is subtracted from every channel, seconds from onset; None: none."""
    reject_microvolts: float | None = 100.0
    """Drop trials in which a channel's largest minus smallest value exceeds this, after filters; None keeps all. Blinks
    reach hundreds."""
    resample_hz: float | None = None
    """New sampling rate in Hz; None keeps the files'."""

    def __post_init__(self) -> None:
        self._check_channels()
        self._check_window()
        self._check_positive()
        self._check_classes()

    def _check_channels(self) -> None:
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise ValueError(f"channels is {list(self.channels)}, expected at least one name, each once")

    def _check_window(self) -> None:
        if self.tmin >= self.tmax:
            raise ValueError(f"tmin is {self.tmin} s and tmax {self.tmax} s, expected tmin below tmax")
        if self.baseline_seconds is not None:
            start, stop = self.baseline_seconds
            if not self.tmin <= start < stop <= self.tmax:
                raise ValueError(f"baseline_seconds is {start}..{stop} s, expected a window inside tmin..tmax = {self.tmin}..{self.tmax} s")

    def _check_positive(self) -> None:
        for name in ("reject_microvolts", "resample_hz", "expect_sfreq", "notch_hz", "max_gap_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, expected above 0")

    def _check_classes(self) -> None:
        if self.markers is not None and (not self.markers or 0 in self.markers):
            raise ValueError(f"markers is {self.markers}, expected at least one non-zero code (0 means no stimulus)")
        for name, pattern in (self.class_images or {}).items():
            if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
                raise ValueError(f"class_images.{name} is {pattern!r}, expected a pattern inside the stimuli folder")

    def open(self) -> MuseSource:
        """Read every recording once and decide which trials stay."""
        return MuseSource(self)


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The trials of one recording that stay, and how many did not."""

    eeg_BCT: np.ndarray
    """float32 microvolts."""
    code_B: np.ndarray
    """Marker code."""
    number_B: np.ndarray
    """Place among all onsets of the recording, rejected ones included."""
    onset_seconds_B: np.ndarray
    railed_B: np.ndarray
    """Whether the raw signal touches the converter's limits inside the window."""
    marked: int
    incomplete: int
    rejected: int
    measured_hz: float


@dataclass(eq=False)
class MuseSource:
    """An opened Muse study (:class:`data_prep.studies.base.Source`)."""

    config: MuseReaderConfig
    facts: StudyFacts = field(init=False)
    samples: Sequence[SamplePlan] = field(init=False)
    source_hash: str = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self._recordings = find_recordings(Path(config.root), config.subjects)
        self._subjects = list(dict.fromkeys(recording.subject for recording in self._recordings))
        self._codes = config.markers or MARKERS[config.experiment]
        self._concepts = list(dict.fromkeys(self._codes.values()))
        self._sfreq = config.expect_sfreq
        # Samples come in the recordings' order, so one decoded recording at a time is enough.
        self._trials = functools.lru_cache(maxsize=2)(self._read)
        self._where: list[tuple[int, int]] = []

        counts: list[dict[str, Any]] = []
        plans: list[SamplePlan] = []
        used: list[Recording] = []
        for number, recording in enumerate(tracked(self._recordings, "recordings read")):
            trials = self._trials(number)
            counts.append(self._count(recording, trials))
            if not len(trials.code_B):  # An empty recording would be an empty part of a split.
                continue
            used.append(recording)
            sessions = list(dict.fromkeys(recording.session for recording in used))
            plans += [self._plan(recording, trials, i, sessions.index(recording.session), len(used) - 1) for i in range(len(trials.code_B))]
            self._where += [(number, i) for i in range(len(trials.code_B))]
        self._check_counts(counts)
        self.samples = plans
        self.source_hash = hash_files([recording.file for recording in self._recordings], Path(config.root))
        self.facts = self._facts(used, counts)
        total = self.facts.preprocessing["trials"]
        log.info(
            "%s: %d of %d trials kept, %d exceed %s µV, %d leave their recording",
            *(config.root, total["kept"], total["marked"], total["rejected"], config.reject_microvolts, total["incomplete"]),
        )

    def _count(self, recording: Recording, trials: Trials) -> dict[str, Any]:
        by_class = {name: sum(self._codes[int(code)] == name for code in trials.code_B) for name in self._concepts}
        return {
            "recording": recording.label,
            "marked": trials.marked,
            "incomplete": trials.incomplete,
            "rejected": trials.rejected,
            "kept": len(trials.code_B),
            "kept_by_class": by_class,
            "measured_hz": round(trials.measured_hz, 3),
        }

    def _plan(self, recording: Recording, trials: Trials, i: int, session: int, number: int) -> SamplePlan:
        trial = int(trials.number_B[i])
        return SamplePlan(
            key=schema.trial_sample_key(recording.subject, recording.session, recording.run, trial),
            subject=self._subjects.index(recording.subject),
            stimulus=self._concepts.index(self._codes[int(trials.code_B[i])]),
            n_reps=1,
            session=[session],
            recording=[number],
            trial=[trial],
            onset_seconds=[round(float(trials.onset_seconds_B[i]), 4)],
            quality=["railed" if trials.railed_B[i] else "good"],
        )

    def _facts(self, used: list[Recording], counts: list[dict[str, Any]]) -> StudyFacts:
        config = self.config
        return StudyFacts(
            stimulus_level="class",
            unit="microvolts",
            sfreq=config.resample_hz or self.sfreq,
            tmin=round(config.tmin * self.sfreq) / self.sfreq,
            n_times=self._trials(len(self._recordings) - 1).eeg_BCT.shape[-1],
            ch_names=list(config.channels),
            positions=[POSITIONS[name] for name in config.channels] if set(config.channels) <= POSITIONS.keys() else None,
            subjects=self._subjects,
            stimuli=[Stimulus(id=name, concept=i, image=None, part=None) for i, name in enumerate(self._concepts)],
            concepts=self._concepts,
            sessions=list(dict.fromkeys(recording.session for recording in used)),
            recordings=[recording.label for recording in used],
            image_root=Path(config.stimuli) if config.stimuli else None,
            class_images=self._class_images(),
            preprocessing=self._preprocessing(counts),
        )

    def _preprocessing(self, counts: list[dict[str, Any]]) -> dict[str, Any]:
        config = self.config
        total: dict[str, int] = {name: sum(count[name] for count in counts) for name in ("marked", "incomplete", "rejected", "kept")}
        return {
            "reader": "muse",
            "experiment": config.experiment,
            "source_hz": self.sfreq,
            "band_hz": list(config.band_hz) if config.band_hz else None,
            "notch_hz": config.notch_hz,
            "resample_hz": config.resample_hz,
            "baseline_seconds": list(config.baseline_seconds) if config.baseline_seconds else None,
            "reject_microvolts": config.reject_microvolts,
            "trials": total | {"railed": sum("railed" in plan.quality for plan in self.samples)},
            "trials_by_recording": counts,
        }

    @property
    def sfreq(self) -> float:
        """Nominal rate of the files in Hz."""
        assert self._sfreq is not None
        return self._sfreq

    def eeg(self, i: int) -> np.ndarray:
        """Sample ``i``: float32 (1, n_chans, n_times), microvolts."""
        recording, trial = self._where[i]
        eeg_1CT: np.ndarray = self._trials(recording).eeg_BCT[trial][None]
        return eeg_1CT

    def _read(self, number: int) -> Trials:
        file = self._recordings[number].file
        table = read_csv(file, self.config.channels, self.config.marker_column)
        measured_hz = check_timestamps(file, table.seconds_T, self._sfreq, self.config.max_gap_seconds)
        if self._sfreq is None:
            self._sfreq = float(round(measured_hz))
        return cut_recording(file, table, self.config, self._codes, self.sfreq, measured_hz)

    def _check_counts(self, counts: list[dict[str, Any]]) -> None:
        root, limit = self.config.root, self.config.reject_microvolts
        for subject in self._subjects:
            own = [c for c in counts if c["recording"].startswith(f"sub-{subject}_")]
            marked, rejected, kept = (sum(c[name] for c in own) for name in ("marked", "rejected", "kept"))
            if not kept:
                raise StudyError(
                    f"{root}: subject {subject} has no trial left: {rejected} of {marked} exceed reject_microvolts = {limit} and "
                    f"{marked - rejected} leave their recording; raise the limit or leave the subject out with subjects"
                )
            if kept < marked / 2:
                log.warning("%s: subject %s keeps %d of %d trials (%d exceed %s µV)", root, subject, kept, marked, rejected, limit)

    def _class_images(self) -> Mapping[int, list[Path]] | None:
        if self.config.stimuli is None:
            return None
        folder = Path(self.config.stimuli)
        patterns = self.config.class_images or CLASS_IMAGES[self.config.experiment]
        images: dict[int, list[Path]] = {}
        for number, name in enumerate(self._concepts):
            if name not in patterns:
                raise StudyError(f"class_images has no pattern for class {name!r}, it has {sorted(patterns)}")
            images[number] = sorted(path for path in folder.glob(patterns[name]) if path.is_file())
            if not images[number]:
                raise StudyError(f"{folder}: no image of class {name!r} matches {patterns[name]!r}")
        return images


def cut_recording(file: Path, table: Table, config: MuseReaderConfig, codes: Mapping[int, str], sfreq: float, measured_hz: float) -> Trials:
    """Filter a recording, cut its trials and reject by peak-to-peak amplitude."""
    onsets_N = np.flatnonzero(table.marker_T)
    code_N = table.marker_T[onsets_N]
    unknown = sorted(set(code_N.tolist()) - set(codes))
    if unknown:
        raise StudyError(f"{file}: marker codes {unknown} are unknown, expected {dict(codes)} (markers)")
    try:
        eeg_CT = table.eeg_CT
        if config.notch_hz is not None:
            eeg_CT = signals.notch(eeg_CT, sfreq, notch_hz=config.notch_hz)
        if config.band_hz is not None:
            eeg_CT = signals.band_pass(eeg_CT, sfreq, low_hz=config.band_hz[0], high_hz=config.band_hz[1])
        eeg_BCT, complete_N = signals.cut_trials(eeg_CT, onsets_N, sfreq, tmin=config.tmin, tmax=config.tmax)
        raw_BCT, _ = signals.cut_trials(table.eeg_CT, onsets_N, sfreq, tmin=config.tmin, tmax=config.tmax)
        tmin, rate = round(config.tmin * sfreq) / sfreq, config.resample_hz or sfreq
        eeg_BCT = signals.resample(eeg_BCT, sfreq, rate)
        if config.baseline_seconds is not None:
            eeg_BCT = signals.baseline_correct(eeg_BCT, tmin=tmin, sfreq=rate, baseline_seconds=config.baseline_seconds)
    except ValueError as error:
        raise StudyError(f"{file}: {error}") from error
    keep_B: np.ndarray = np.ones(len(eeg_BCT), bool)
    if config.reject_microvolts is not None:
        keep_B &= np.all(signals.peak_to_peak(eeg_BCT) <= config.reject_microvolts, axis=1)
    return Trials(
        eeg_BCT=eeg_BCT[keep_B],
        code_B=code_N[complete_N][keep_B],
        number_B=np.flatnonzero(complete_N)[keep_B],
        onset_seconds_B=onsets_N[complete_N][keep_B] / sfreq,
        railed_B=(np.abs(raw_BCT).max((1, 2)) >= RAIL_MICROVOLTS)[keep_B] if len(raw_BCT) else np.zeros(0, bool),
        marked=len(onsets_N),
        incomplete=int((~complete_N).sum()),
        rejected=int((~keep_B).sum()),
        measured_hz=measured_hz,
    )
