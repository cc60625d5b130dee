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

from data_prep.contract import schema, signals
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Stimulus
from data_prep.contract.progress import tracked
from data_prep.measure.electrodes import bridged_pairs, raw_faults
from data_prep.studies.base import ReaderConfig, SamplePlan, StudyFacts, hash_files
from data_prep.studies.channels import check_level, levels_microvolts, refuse_what_no_electrode_gives
from data_prep.studies.continuous import MICROVOLTS, Unit
from data_prep.studies.cutting import CuttingConfig, filter_in_place, windows
from data_prep.studies.muse_files import Table, find_recordings, read_csv
from data_prep.studies.recording import Recording
from data_prep.studies.stimulus_images import check_class_images, class_images
from data_prep.studies.timestamps import check_timestamps
from data_prep.studies.whitening import RAW

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
    """Name of the marker column; None: the one column whose name begins with ``Marker``. Blank and 0 are no marker, one that is held is
    one."""
    time_column: str = "timestamps"
    """Name of the column of times: seconds, milliseconds or microseconds (measured, and said in the manifest), or dates with times."""
    unit: Unit = "microvolts"
    """Unit of the EEG columns."""
    unit_by_subject: dict[str, Unit] = field(default_factory=dict)
    """Subject (``"01"``) -> unit, where one subject's files have another."""
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
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise ValueError(f"channels is {list(self.channels)}, expected at least one name, each once")
        _ = self.cutting  # which checks its own
        for name in ("expect_sfreq", "notch_hz", "max_gap_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, expected above 0")
        if self.markers is not None and (not self.markers or 0 in self.markers):
            raise ValueError(f"markers is {self.markers}, expected at least one non-zero code (0 means no stimulus)")
        check_class_images(self.class_images)

    @property
    def cutting(self) -> CuttingConfig:
        """What is done to a recording."""
        return CuttingConfig(
            band_hz=self.band_hz,
            notch_hz=() if self.notch_hz is None else (self.notch_hz,),
            tmin=self.tmin,
            tmax=self.tmax,
            resample_hz=self.resample_hz,
            baseline_seconds=self.baseline_seconds,
            reject_microvolts=self.reject_microvolts,
        )

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
    bridged: Mapping[tuple[str, str], float]
    """Pairs of channels whose raw signal is one -> in which share of the trials."""
    railed_B: np.ndarray
    """Whether the raw signal touches the converter's limits inside the window."""
    marked: int
    incomplete: int
    flat: int
    """In which a channel of the raw signal does not move at all."""
    stuck: int
    """In which one keeps a value for a tenth of a second."""
    rejected: int
    measured_hz: float
    level: float
    """Microvolts, of the recording."""
    notes: Mapping[str, Any]
    """What was measured of the file, see :class:`data_prep.studies.muse_files.Table`."""


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
        self._keep_decoded()
        self._where: list[tuple[int, int]] = []

        counts: list[dict[str, Any]] = []
        plans: list[SamplePlan] = []
        used: list[Recording] = []
        bridged: dict[int, Mapping[tuple[str, str], float]] = {}
        for number, recording in enumerate(tracked(self._recordings, "recordings read")):
            trials = self._trials(number)
            counts.append(self._count(recording, trials))
            if not len(trials.code_B):  # An empty recording would be an empty part of a split.
                continue
            if trials.bridged:
                bridged[len(used)] = trials.bridged
            used.append(recording)
            sessions = list(dict.fromkeys(recording.session for recording in used))
            plans += [self._plan(recording, trials, i, sessions.index(recording.session), len(used) - 1) for i in range(len(trials.code_B))]
            self._where += [(number, i) for i in range(len(trials.code_B))]
        self._check_counts(counts)
        self.samples = plans
        self.source_hash = hash_files([recording.file for recording in self._recordings], Path(config.root))
        self.facts = self._facts(used, counts, bridged)
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
            **{name: lost for name, lost in (("flat", trials.flat), ("stuck", trials.stuck)) if lost},
            "rejected": trials.rejected,
            "kept": len(trials.code_B),
            "kept_by_class": by_class,
            "measured_hz": round(trials.measured_hz, 3),
            "level_microvolts": float(f"{trials.level:.3g}"),
            **({"file": dict(trials.notes)} if trials.notes else {}),
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

    def _facts(
        self, used: list[Recording], counts: list[dict[str, Any]], bridged: Mapping[int, Mapping[tuple[str, str], float]]
    ) -> StudyFacts:
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
            bridged=bridged,
            image_root=Path(config.stimuli) if config.stimuli else None,
            class_images=self._class_images(),
            preprocessing=self._preprocessing(counts),
        )

    def _preprocessing(self, counts: list[dict[str, Any]]) -> dict[str, Any]:
        config = self.config
        total: dict[str, int] = {name: sum(count[name] for count in counts) for name in ("marked", "incomplete", "rejected", "kept")}
        total |= {name: lost for name in ("flat", "stuck") if (lost := sum(count.get(name, 0) for count in counts))}
        return {
            "reader": "muse",
            "experiment": config.experiment,
            "source_hz": self.sfreq,
            "band_hz": list(config.band_hz) if config.band_hz else None,
            "notch_hz": config.notch_hz,
            "resample_hz": config.resample_hz,
            "baseline_seconds": list(config.baseline_seconds) if config.baseline_seconds else None,
            "reject_microvolts": config.reject_microvolts,
            **RAW,
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

    def _keep_decoded(self) -> None:
        # Samples come in the recordings' order, so one decoded recording at a time is enough.
        self._trials = functools.lru_cache(maxsize=2)(self._read)

    def __getstate__(self) -> dict[str, Any]:
        """For a worker, which decodes what it needs."""
        return {name: value for name, value in vars(self).items() if name != "_trials"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._keep_decoded()

    def _read(self, number: int) -> Trials:
        recording, config = self._recordings[number], self.config
        file = recording.file
        table = read_csv(file, config.channels, config.marker_column, config.time_column, self._sfreq)
        unit = config.unit_by_subject.get(recording.subject, config.unit)
        table.eeg_CT[:] *= MICROVOLTS[unit]
        measured_hz = check_timestamps(file, table.seconds_T, self._sfreq, self.config.max_gap_seconds)
        if self._sfreq is None:
            self._sfreq = float(round(measured_hz))
        level_C = levels_microvolts(table.eeg_CT, self.sfreq)
        check_level(file, float(np.median(level_C)), unit, "unit, unit_by_subject")
        refuse_what_no_electrode_gives(file, table.eeg_CT, config.channels)
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
        patterns = self.config.class_images or CLASS_IMAGES[self.config.experiment]
        return class_images(Path(self.config.stimuli), self._concepts, patterns)


def cut_recording(file: Path, table: Table, config: MuseReaderConfig, codes: Mapping[int, str], sfreq: float, measured_hz: float) -> Trials:
    """Filter a recording (in place), cut its trials and reject by peak-to-peak amplitude."""
    onsets_N = np.flatnonzero(table.marker_T)
    code_N = table.marker_T[onsets_N]
    unknown = sorted(set(code_N.tolist()) - set(codes))
    if unknown:
        raise StudyError(f"{file}: marker codes {unknown} are unknown, expected {dict(codes)} (markers)")
    try:
        raw_BCT, _ = signals.cut_trials(table.eeg_CT, onsets_N, sfreq, tmin=config.tmin, tmax=config.tmax)
        lowest_C, highest_C = table.eeg_CT.min(1).astype(np.float32), table.eeg_CT.max(1).astype(np.float32)
        raw = raw_faults(raw_BCT, sfreq, lowest_C, highest_C, RAIL_MICROVOLTS)
        bridged = {(config.channels[i], config.channels[j]): share for (i, j), share in bridged_pairs(raw_BCT).items()}
        level = float(np.median(levels_microvolts(table.eeg_CT, sfreq)))
        filter_in_place(table.eeg_CT, sfreq, [(0, table.eeg_CT.shape[1])], config.cutting)
        found = windows(table.eeg_CT, onsets_N, sfreq, config.cutting)
    except ValueError as error:
        raise StudyError(f"{file}: {error}") from error
    complete_N, dead_B = found.complete_N, raw.flat_B | raw.stuck_B
    keep_B = ~found.loud_B & ~dead_B
    return Trials(
        eeg_BCT=found.eeg_BCT[keep_B],
        code_B=code_N[complete_N][keep_B],
        number_B=np.flatnonzero(complete_N)[keep_B],
        onset_seconds_B=onsets_N[complete_N][keep_B] / sfreq,
        bridged=bridged,
        railed_B=raw.railed_B[keep_B],
        marked=len(onsets_N),
        incomplete=int((~complete_N).sum()),
        flat=int(raw.flat_B.sum()),
        stuck=int((raw.stuck_B & ~raw.flat_B).sum()),
        rejected=int((found.loud_B & ~dead_B).sum()),
        measured_hz=measured_hz,
        level=level,
        notes=table.notes,
    )
