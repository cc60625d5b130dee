"""Reader of the raw THINGS-EEG2 sessions: continuous recordings, cut by this project, so that what is done to them is in the config.

::

    ROOT/
      sub-01/ses-01/raw_eeg_training.npy     see :mod:`data_prep.studies.things_raw_files`
      sub-01/ses-01/raw_eeg_test.npy
      image_metadata.npy, images/            as for the trials (:mod:`data_prep.studies.things`)

Event k is image k of the metadata's part. Sessions are known, a run's end is found, and a trial's baseline is clean where the image
before it, a target too, came a second or more before. All presentations are kept: most training images have two in each of two sessions,
some three. Each run is read once, cut, and kept in a temporary file of trials until it is written.

Shape suffixes: B trials, C channels, T time points, N events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract import schema
from data_prep.contract.errors import StudyError, UserError
from data_prep.contract.manifest import Stimulus
from data_prep.contract.progress import tracked
from data_prep.contract.words import listed
from data_prep.preprocess.positions import montage_positions
from data_prep.preprocess.recording import find_bad
from data_prep.studies import things_images, things_sessions, whitening
from data_prep.studies.base import ReaderConfig, SamplePlan, StudyFacts, hash_large_files
from data_prep.studies.captions import read_captions
from data_prep.studies.channels import check_level, levels_microvolts, refuse_what_no_electrode_gives
from data_prep.studies.continuous import MICROVOLTS, Unit
from data_prep.studies.cutting import Beside, Cut, CuttingConfig, cut
from data_prep.studies.spool import Spool
from data_prep.studies.things_images import PARTS
from data_prep.studies.things_raw_files import NUM_RUNS, RUN_LENGTH, TARGET, RawFile, open_raw, run_starts

CLEAN_SECONDS = 1.0
"""Time without an image before an onset from which on its baseline counts as clean."""
_NO_TRIALS = ("recording", "level_microvolts", "held_triggers", "steps")


@dataclass(frozen=True, kw_only=True)
class ThingsRawReaderConfig(ReaderConfig):
    """Raw sessions of THINGS-EEG2."""

    root: str
    """Folder that holds ``sub-XX/ses-0N`` folders and ``image_metadata.npy`` (or ``image_set/image_metadata.npy``)."""
    metadata: str | None = None
    """``image_metadata.npy``; None: ``ROOT``'s."""
    subjects: tuple[str, ...] | None = None
    """Labels such as ``01``; None: every ``sub-XX`` folder, in order."""
    sessions: tuple[str, ...] | None = None
    """Labels such as ``01``; None: every ``ses-XX`` folder of each subject."""
    parts: tuple[Literal["training", "test"], ...] = ("training", "test")
    """Files of a session to read; a missing one is refused."""
    presentation_order: str | None = None
    """Folder of the published ``stimOrder_sub-1_sess-1.mat`` ...: training events that differ from it are refused. None: not compared."""
    unit: Unit = "volts"
    """Unit of the files' numbers; the level that they have is held against it."""
    channels: tuple[str, ...] | None = None
    """EEG channels to keep, in this order; None: all, in the first file's order."""
    montage: str | None = "standard_1005"
    """Positions of channels: one of MNE's standard montages or a file of positions; None: none, and what needs them is refused."""
    expect_sfreq: float | None = None
    """Refuse files sampled at another rate, Hz; None takes the first file's, and the others must agree."""
    trials: CuttingConfig = field(
        default_factory=lambda: CuttingConfig(band_hz=None, tmin=-0.2, tmax=0.8, baseline_seconds=(-0.2, 0.0), resample_hz=250.0)
    )
    """Filters, window, baseline and rejection; the default is the official code's but for its rate: no filter, -0.2 to 0.8 s."""
    image_root: str | None = None
    """Folder with ``training_images`` (or ``train_images``) and ``test_images``; None: ``ROOT/images``, else ``ROOT/image_set``."""
    require_images: bool = True
    """Refuse a study of which an image is missing. False: for imported embeddings, which need no image."""
    captions: str | None = None
    """JSON file of captions; None: ``ROOT/captions.json`` where there is one."""
    captions_missing: Literal["refuse", "allow"] = "refuse"
    """Images for which the file has no caption: ``refuse``, or ``allow`` them to have none (counted in the manifest)."""
    scratch: str | None = None
    """Folder for the file of cut trials, as large as the study; None: the system's folder for temporary files."""

    def __post_init__(self) -> None:
        for name in ("subjects", "sessions", "parts", "channels"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) != len(values)):
                raise ValueError(f"{name} is {list(values)}, expected at least one, each once")

    def open(self) -> ThingsRawSource:
        return ThingsRawSource(self)


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """One trial that stays."""

    session: int
    recording: int
    place: int
    onset_seconds: float
    quality: str
    clean: bool
    spool_row: int


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Events of one run, and where its signal lies."""

    label: str
    start: int
    stop: int
    events: slice


class ThingsRawSource:
    """Opened sessions (:class:`data_prep.studies.base.Source`)."""

    def __init__(self, config: ThingsRawReaderConfig) -> None:
        self.config = config
        self.root = Path(config.root)
        if not self.root.is_dir():
            raise StudyError(f"{self.root}: no such folder, expected raw THINGS-EEG2 sessions")
        metadata = things_images.find_metadata(self.root, config.metadata)
        if metadata is None:
            raise StudyError(f"{self.root / 'image_metadata.npy'}: no such file, expected the list of images")
        images = things_images.of_metadata(metadata, self.root)
        stimuli, image_root = things_images.place_images(images, self.root, config.image_root, required=config.require_images)
        self._first = {part: next((i for i, s in enumerate(stimuli) if s.part == part), 0) for part in PARTS}
        self._count = {part: len(images.of(part)) for part in PARTS}
        subjects = _folders(self.root, "sub-", config.subjects)
        self._spool = Spool(config.scratch)
        self._sfreq: float | None = None
        self._ch_names: list[str] | None = None if config.channels is None else list(config.channels)
        self._shape: tuple[float, float, int] | None = None
        self._electrodes: tuple[list[str], Mapping[str, Sequence[float]]] | None = None
        self._masked: dict[int, Sequence[str]] = {}
        self._bridged: dict[int, Mapping[tuple[str, str], float]] = {}
        self._sessions: list[str] = []
        self._recordings: list[str] = []
        self._counts: list[dict[str, Any]] = []
        self._filters: set[tuple[tuple[str, float], ...]] = set()
        self._left_out: set[str] = set()
        self._unclear: list[str] = []
        trials: dict[tuple[int, int], list[_Trial]] = defaultdict(list)
        files = [metadata]
        sources = [(n, label, *each) for n, label in enumerate(subjects) for each in self._session_files(label)]
        for number, label, session, part, file in tracked(sources, "session files read"):
            files.append(file)
            for stimulus, trial in self._read(label, session, part, file):
                trials[number, stimulus].append(trial)
        self.samples: Sequence[SamplePlan] = [_plan(subjects[s], s, i, own) for (s, i), own in sorted(trials.items())]
        self._rows = [[trial.spool_row for trial in own] for _, own in sorted(trials.items())]
        if not self.samples or self._shape is None or self._electrodes is None:
            raise StudyError(f"{self.root}: no trial stays: {self._total()}")
        sfreq, tmin, n_times = self._shape
        ch_names, places = self._electrodes
        self.facts = StudyFacts(
            stimulus_level="image",
            unit=config.trials.unit,
            sfreq=sfreq,
            tmin=tmin,
            n_times=n_times,
            ch_names=ch_names,
            positions=[list(places[name]) for name in ch_names] if set(ch_names) <= places.keys() else None,
            masked=self._masked,
            bridged=self._bridged,
            subjects=subjects,
            stimuli=stimuli,
            concepts=images.concepts,
            sessions=self._sessions,
            recordings=self._recordings,
            captions=self._captions(stimuli),
            image_root=image_root,
            preprocessing=self._preprocessing(),
        )
        self.source_hash = hash_large_files([file for file in files if file.is_relative_to(self.root)], self.root)

    def eeg(self, i: int) -> np.ndarray:
        """EEG of ``samples[i]``: float32 (n_reps, n_chans, n_times), in ``facts.unit``."""
        return self._spool.read(self._rows[i])

    # ------------------------------------------------------------------------------------------------ one file

    def _session_files(self, subject: str) -> Iterator[tuple[str, Literal["training", "test"], Path]]:
        folder = self.root / f"sub-{subject}"
        for session in _folders(folder, "ses-", self.config.sessions):
            for part in self.config.parts:
                file = folder / f"ses-{session}" / f"raw_eeg_{part}.npy"
                if not file.is_file():
                    raise StudyError(f"{file}: no such file, expected the session's {part} recording (parts, sessions)")
                yield session, part, file

    def _read(self, subject: str, session: str, part: Literal["training", "test"], file: Path) -> Iterator[tuple[int, _Trial]]:
        """Stimulus and trial of everything in a file that stays."""
        raw = open_raw(file, self._count[part])
        self._check(raw)
        assert self._ch_names is not None
        if session not in self._sessions:
            self._sessions.append(session)
        if part == "training" and self.config.presentation_order is not None:
            self._check_order(raw, subject, session)
        gap_N = np.diff(raw.point_N, prepend=-(10**9)) / raw.sfreq
        for run in self._runs(raw, subject, session, part):
            self._recordings.append(run.label)
            events = np.arange(len(raw.point_N))[run.events]
            shown = events[raw.code_N[events] != TARGET]
            eeg_CT = raw.signal(self._ch_names, run.start, run.stop, MICROVOLTS[self.config.unit])
            level = float(np.median(levels_microvolts(eeg_CT, raw.sfreq)))
            check_level(file, level, self.config.unit)
            trials = self._cut(raw, eeg_CT, raw.point_N[shown] - run.start, run.label)
            del eeg_CT  # before the next run's comes
            if trials.masked:
                self._masked[len(self._recordings) - 1] = trials.masked
            if trials.bridged:
                self._bridged[len(self._recordings) - 1] = trials.bridged
            first = self._spool.append(trials.eeg_BCT)
            for row, event in enumerate(shown[trials.onset_B].tolist()):
                yield (
                    self._first[part] + int(raw.code_N[event]) - 1,
                    _Trial(
                        session=self._sessions.index(session),
                        recording=len(self._recordings) - 1,
                        place=event - int(events[0]),
                        onset_seconds=round((int(raw.point_N[event]) - run.start) / raw.sfreq, 4),
                        quality=trials.quality_B[row],
                        clean=bool(gap_N[event] >= CLEAN_SECONDS),
                        spool_row=first + row,
                    ),
                )
            targets = len(events) - len(shown)
            counts = {
                "recording": run.label,
                "events": len(events),
                "targets": targets,
                **{k: n for k, n in trials.lost.items() if n},
                "kept": len(trials.eeg_BCT),
            }
            self._counts.append(
                counts
                | {"level_microvolts": float(f"{level:.3g}")}
                | ({"steps": trials.found} if trials.found else {})
                | ({"held_triggers": raw.held} if raw.held else {})
            )

    def _check(self, raw: RawFile) -> None:
        """Rate and channels are those of the study."""
        wanted = self.config.expect_sfreq or self._sfreq or raw.sfreq
        if abs(raw.sfreq / wanted - 1) > 1e-3:
            raise StudyError(f"{raw.file}: is sampled at {raw.sfreq:g} Hz, expected {wanted:g} Hz (expect_sfreq, or the files before)")
        self._sfreq = wanted
        have = list(raw.eeg_rows)
        if self._ch_names is None:
            self._ch_names = have
        missing = [name for name in self._ch_names if name not in have]
        more = [] if self.config.channels else [name for name in have if name not in self._ch_names]
        if missing or more:
            what = f"lacks channel {missing[0]!r}" if missing else f"has channel {more[0]!r} besides"
            raise StudyError(f"{raw.file}: {what}; it has {listed(have, 70)}: expected the same EEG channels in all files, or channels")
        self._left_out.update(raw.left_out)
        self._filters.add(tuple(raw.filters.items()))

    def _check_order(self, raw: RawFile, subject: str, session: str) -> None:
        assert self.config.presentation_order is not None
        presented, files = things_sessions.read_presentation_order(Path(self.config.presentation_order), subject, self._count["training"])
        if not session.isdecimal() or not 1 <= int(session) <= len(presented):
            raise StudyError(f"{raw.file}: session {session!r} is none of the presentation order's {len(presented)}")
        wanted = presented[int(session) - 1].ravel(order="F")
        found = np.where(raw.code_N == TARGET, 0, raw.code_N)
        if not np.array_equal(found, wanted):
            place = int((found != wanted).argmax()) if len(found) == len(wanted) else min(len(found), len(wanted))
            raise StudyError(
                f"{raw.file}: {len(found)} events, {files[int(session) - 1]} has {len(wanted)}, and from place {place} on they "
                "differ: expected "
                "the order that was presented"
            )

    def _runs(self, raw: RawFile, subject: str, session: str, part: str) -> list[_Run]:
        """Five training runs where the file has as many events as they have, else one."""
        assert self._ch_names is not None
        several = part == "training" and len(raw.point_N) == NUM_RUNS * RUN_LENGTH
        if part == "training" and not several:
            self._unclear.append(
                f"{raw.file.relative_to(self.root).as_posix()}: {len(raw.point_N)} events, five runs have {NUM_RUNS * RUN_LENGTH}: "
                "taken as one "
                "run, and filters cross the joins that there may be"
            )
        starts = run_starts(raw, self._ch_names, RUN_LENGTH) if several else [0]
        stops = [*starts[1:], raw.data_CT.shape[1]]
        name = f"sub-{subject}_ses-{session}_run-"
        length = RUN_LENGTH if several else len(raw.point_N)
        return [
            _Run(
                label=name + (f"{number + 1:02d}" if several else part),
                start=start,
                stop=stop,
                events=slice(number * length, (number + 1) * length),
            )
            for number, (start, stop) in enumerate(zip(starts, stops, strict=True))
        ]

    def _cut(self, raw: RawFile, eeg_CT: np.ndarray, points: np.ndarray, label: str) -> Cut:
        """Trials of one run around points of it; ``eeg_CT`` is overwritten."""
        config = self.config.trials
        assert self._ch_names is not None
        around = Beside(label=label, positions=self._positions(), scratch=self.config.scratch)
        try:
            bad = find_bad(eeg_CT, self._ch_names, raw.sfreq, config, around, [(0, eeg_CT.shape[1])], ())
            refuse_what_no_electrode_gives(raw.file, eeg_CT, self._ch_names, bad)
            trials = cut(eeg_CT, self._ch_names, raw.sfreq, points, config, beside=around, bad_names=bad)
        except StudyError:
            raise
        except UserError as error:
            raise StudyError(f"{raw.file}: trials: {error}") from error
        shape = (trials.sfreq, round(trials.tmin, 6), trials.eeg_BCT.shape[2])
        if self._shape not in (None, shape):
            raise StudyError(
                f"{raw.file}: trials of {shape[2]} points at {shape[0]:g} Hz from {shape[1]:g} s, those before have {self._shape}"
            )
        self._shape, self._electrodes = shape, (trials.ch_names, trials.positions)
        return trials

    def _positions(self) -> dict[str, list[float]]:
        if self.config.montage is None:
            return {}
        known = montage_positions(self.config.montage, "montage")
        return {name: list(known[name]) for name in self._ch_names or () if name in known}

    # ------------------------------------------------------------------------------------------------ all of them

    def _captions(self, stimuli: Sequence[Stimulus]) -> list[list[str]] | None:
        path = Path(self.config.captions) if self.config.captions else self.root / "captions.json"
        if not self.config.captions and not path.is_file():
            return None
        return read_captions(path, stimuli, self.config.captions_missing)

    def _total(self) -> dict[str, int]:
        names = dict.fromkeys(name for counts in self._counts for name in counts if name not in _NO_TRIALS)
        return {name: sum(counts.get(name, 0) for counts in self._counts) for name in names}

    def _preprocessing(self) -> dict[str, Any]:
        return {
            "source": "things-eeg2 raw",
            **self.config.trials.plain(),
            **({"libraries": libraries} if (libraries := self.config.trials.libraries()) else {}),
            "source_hz": self._sfreq,
            "amplifier_hz": [dict(each) for each in sorted(self._filters)],
            "sessions": "by folder",
            **({"channels_left_out": sorted(self._left_out)} if self._left_out else {}),
            **whitening.RAW,
            "trials": self._total(),
            "trials_by_recording": self._counts,
            **({"unclear": self._unclear} if self._unclear else {}),
        }


def _folders(root: Path, prefix: str, wanted: tuple[str, ...] | None) -> list[str]:
    found = sorted(path.name.removeprefix(prefix) for path in root.glob(f"{prefix}*") if path.is_dir())
    labels = found if wanted is None else list(wanted)
    missing = [label for label in labels if label not in found]
    if missing or not labels:
        raise StudyError(f"{root}: has no {prefix}{missing[0] if missing else 'XX'} folder; it has {listed(found)}")
    return labels


def _plan(label: str, subject: int, stimulus: int, own: Sequence[_Trial]) -> SamplePlan:
    return SamplePlan(
        key=schema.stimulus_sample_key(label, stimulus),
        subject=subject,
        stimulus=stimulus,
        n_reps=len(own),
        session=[trial.session for trial in own],
        recording=[trial.recording for trial in own],
        trial=[trial.place for trial in own],
        onset_seconds=[trial.onset_seconds for trial in own],
        quality=[trial.quality for trial in own],
        clean_baseline=[trial.clean for trial in own],
    )
