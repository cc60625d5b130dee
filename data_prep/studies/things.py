"""Reader of the THINGS-EEG2 preprocessed folder, as published and as the simulator writes it.

::

    ROOT/
      sub-01/preprocessed_eeg_training.npy   dict preprocessed_eeg_data (stimuli, repetitions, channels, times), ch_names, times
      sub-01/preprocessed_eeg_test.npy       the same for the test images
      image_metadata.npy                     dict train_img_concepts, train_img_files, test_img_concepts, test_img_files
      images/training_images/00001_aardvark/aardvark_01b.jpg ...
      captions.json, study.json              optional: captions; what the simulator says about its study

The dict is a pickle, inside an object array (17 channels, 100 Hz) or plain (63 channels, 250 Hz); both go through the
restricted loader. Row i of an array belongs to image i of the metadata, and so to that image's concept: nothing is counted
on. Repetitions come shuffled over sessions, which are lost: ``unknown``.

Shapes in names: N stimuli, R repetitions, C channels, T time points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract.progress import tracked
from data_prep.contract.manifest import Stimulus
from data_prep.contract.files import read_json
from data_prep.contract import safe_load, schema
from data_prep.studies import trials
from data_prep.studies.captions import read_captions
from data_prep.studies.image_names import inside
from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.studies.base import ReaderConfig, SamplePlan, StudyFacts, hash_files
from data_prep.studies.trials import TrialsConfig

PARTS = {"training": "train", "test": "test"}
"""Part of the study and its prefix in ``image_metadata.npy``."""


@dataclass(frozen=True, kw_only=True)
class BareArrays:
    """What ``.npy`` files hold that are only a 4-D array, without the dict that says it."""

    sfreq: float
    """Sampling rate in Hz."""
    tmin: float
    """Seconds from onset to the first time point."""
    ch_names: tuple[str, ...]
    """Channels in order."""


@dataclass(frozen=True, kw_only=True)
class ThingsReaderConfig(ReaderConfig):
    """A study in the THINGS-EEG2 preprocessed folder format."""

    root: str
    """Folder that holds ``sub-XX`` folders and ``image_metadata.npy`` (or ``image_set/image_metadata.npy``)."""
    subjects: tuple[str, ...] | None = None
    """Labels such as ``01``; None: every ``sub-XX`` folder, in order."""
    unit: str | None = None
    """``zscore`` or ``microvolts``; None: what ``study.json`` says, else ``zscore`` as in the published files."""
    expect_sfreq: float | None = None
    """Refuse files whose ``times`` have another sampling rate (Hz); None takes what they have."""
    image_root: str | None = None
    """Folder with ``training_images`` and ``test_images``; None: ``ROOT/images``, else ``ROOT/image_set``."""
    require_images: bool = True
    """Refuse a study of which an image is missing. False: for imported embeddings, which need no image."""
    captions: str | None = None
    """JSON file of captions; None: ``ROOT/captions.json`` where there is one."""
    captions_missing: Literal["refuse", "allow"] = "refuse"
    """Images for which the file has no caption: ``refuse``, or ``allow`` them to have none (counted in the manifest)."""
    trials: TrialsConfig = field(default_factory=TrialsConfig)
    """Window, channels, resampling and baseline to apply to the trials."""
    bare: BareArrays | None = None
    """Facts of files that are 4-D arrays without the dict; None: such files are refused."""

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
class _Header:
    shape: tuple[int, ...]
    facts: trials.TrialFacts


class ThingsSource:
    """An opened folder; arrays stay in their files, trials come as float32."""

    def __init__(self, config: ThingsReaderConfig) -> None:
        self.config = config
        self.root = Path(config.root)
        if not self.root.is_dir():
            raise StudyError(f"{self.root}: no such folder, expected a THINGS-EEG2 preprocessed study")
        self._loaded: tuple[Path, tuple[int, int] | None, np.ndarray] | None = None
        self._files: list[Path] = []
        side = self._side_file()
        subjects = self._subjects()
        self._stimuli, concepts, image_root = self._metadata()
        headers = self._headers(subjects)
        self._trial_facts = next(iter(headers.values())).facts
        try:
            after = trials.facts_after(config.trials, self._trial_facts)
        except ValueError as error:
            raise StudyError(f"trials: {error}") from error
        positions = side.get("positions") or {}
        self.facts = StudyFacts(
            stimulus_level="image",
            unit=config.unit or side.get("unit", "zscore"),
            sfreq=after.sfreq,
            tmin=after.tmin,
            n_times=after.n_times,
            ch_names=list(after.ch_names),
            positions=[positions[name] for name in after.ch_names] if set(after.ch_names) <= positions.keys() else None,
            subjects=subjects,
            stimuli=self._stimuli,
            concepts=concepts,
            sessions=[schema.UNKNOWN],
            recordings=[schema.UNKNOWN],
            captions=self._captions(),
            image_root=image_root,
            preprocessing=self._preprocessing(side),
        )
        self._first = {part: next((i for i, s in enumerate(self._stimuli) if s.part == part), 0) for part in PARTS}
        self.samples: Sequence[SamplePlan] = [
            _plan(subjects[number], number, stimulus, headers[number, str(self._stimuli[stimulus].part)].shape[1])
            for number in range(len(subjects))
            for stimulus in range(len(self._stimuli))
        ]
        self.source_hash = hash_files(self._files, self.root)

    def eeg(self, i: int) -> np.ndarray:
        """EEG of ``samples[i]``: float32 (n_reps, n_chans, n_times)."""
        plan = self.samples[i]
        part = str(self._stimuli[plan.stimulus].part)
        path = self._file(self.facts.subjects[plan.subject], part)
        if self._loaded is None or self._loaded[0] != path:
            self._loaded = None  # the old array goes before the new one comes
            self._loaded = path, _state(path), self._read(path)[0]
        if _state(path) != self._loaded[1]:  # the array is mapped: other content would come in the middle of a study
            raise StudyError(f"{path}: changed while it was read, expected the file that was opened: shard the study anew")
        eeg_RCT = np.ascontiguousarray(self._loaded[2][plan.stimulus - self._first[part]], dtype=np.float32)
        return trials.apply(self.config.trials, eeg_RCT, self._trial_facts)

    # ------------------------------------------------------------------------------------------------ what there is

    def _side_file(self) -> dict[str, Any]:
        path = self.root / "study.json"
        if not path.is_file():
            return {}
        side = read_json(path)
        if not isinstance(side, dict) or side.get("unit", "zscore") not in schema.UNITS:
            raise StudyError(f"{path}: expected an object whose unit is one of {schema.UNITS}")
        self._files.append(path)
        return side

    def _subjects(self) -> list[str]:
        found = sorted(p.name[4:] for p in self.root.glob("sub-*") if p.is_dir())
        wanted = list(self.config.subjects) if self.config.subjects is not None else found
        missing = [label for label in wanted if label not in found]
        if missing or not wanted:
            raise StudyError(f"{self.root}: has no sub-{missing[0] if missing else 'XX'} folder; it has {listed(found)}")
        return wanted

    def _file(self, subject: str, part: str) -> Path:
        return self.root / f"sub-{subject}" / f"preprocessed_eeg_{part}.npy"

    def _metadata(self) -> tuple[list[Stimulus], list[str], Path | None]:
        candidates = [self.root / "image_metadata.npy", self.root / "image_set" / "image_metadata.npy"]
        path = next((c for c in candidates if c.is_file()), candidates[0])
        keys = tuple(f"{prefix}_img_{what}" for prefix in PARTS.values() for what in ("concepts", "files"))
        metadata = safe_load.load_mapping(path, keys)
        self._files.append(path)
        stimuli: list[Stimulus] = []
        concepts: dict[str, int] = {}  # test concepts come after the training ones; a name in both is one concept
        for part, prefix in PARTS.items():
            keys = (f"{prefix}_img_concepts", f"{prefix}_img_files")
            folders, files = (safe_load.texts(metadata[key], path, key) for key in keys)
            if len(folders) != len(files):
                raise StudyError(f"{path}: {len(files)} {prefix}_img_files and {len(folders)} {prefix}_img_concepts: expected as many")
            for folder, file in zip(folders, files, strict=True):
                name = re.sub(r"^\d+_", "", folder)
                image = f"{part}_images/{folder}/{file}"
                inside(self.root, image)
                stimuli.append(Stimulus(id=image, concept=concepts.setdefault(name, len(concepts)), image=image, part=part))
        if len({s.id for s in stimuli}) != len(stimuli):
            raise StudyError(f"{path}: names an image twice")
        return stimuli, list(concepts), self._image_root(stimuli)

    def _image_root(self, stimuli: list[Stimulus]) -> Path | None:
        config = self.config
        choices = [Path(config.image_root)] if config.image_root else [self.root / "images", self.root / "image_set"]
        root = next((c for c in choices if (c / "training_images").is_dir() or (c / "test_images").is_dir()), None)
        if not config.require_images:
            return root
        base = root or choices[0]
        missing = [path for path in (base / str(s.image) for s in stimuli) if not path.is_file()]
        if missing:
            raise StudyError(f"{missing[0]}: no such image ({len(missing)} of {len(stimuli)} are missing); with imported embeddings set "
                             "require_images: false")  # fmt: skip
        return base

    def _captions(self) -> list[list[str]] | None:
        path = Path(self.config.captions) if self.config.captions else self.root / "captions.json"
        if not self.config.captions and not path.is_file():
            return None
        return read_captions(path, self._stimuli, self.config.captions_missing)

    def _preprocessing(self, side: dict[str, Any]) -> dict[str, Any]:
        facts: dict[str, Any] = {"source": "things-eeg2", "trials": {k: v for k, v in vars(self.config.trials).items() if v is not None}}
        if side.get("simulated"):
            facts["simulated"] = side
            ceiling = self.root / "ceiling.json"
            if ceiling.is_file():
                facts["ceiling"] = read_json(ceiling)
        else:
            facts["note"] = "published files look whitened with training and test covariance together: see the audit"
        return facts

    # ------------------------------------------------------------------------------------------------- the arrays

    def _headers(self, subjects: list[str]) -> dict[tuple[int, str], _Header]:
        """Read every array once for its shape and facts, and check that all tell the same."""
        headers: dict[tuple[int, str], _Header] = {}
        first: tuple[Path, trials.TrialFacts] | None = None
        for number, subject in enumerate(tracked(subjects, "subjects read")):
            for part in PARTS:
                count = sum(s.part == part for s in self._stimuli)
                path = self._file(subject, part)
                if count == 0 and not path.is_file():
                    continue
                eeg_NRCT, facts = self._read(path)
                if len(eeg_NRCT) != count:
                    raise StudyError(f"{path}: {len(eeg_NRCT)} stimuli, image_metadata.npy lists {count} {part} images: expected as many")
                if first is None:
                    first = path, facts
                elif facts != first[1]:
                    raise StudyError(f"{path}: {_say(facts)}, {first[0]} has {_say(first[1])}: expected the same in a study")
                headers[number, part] = _Header(shape=eeg_NRCT.shape, facts=facts)
                self._files.append(path)
        return headers

    def _read(self, path: Path) -> tuple[np.ndarray, trials.TrialFacts]:
        value = safe_load.load(path)
        bare = self.config.bare
        if isinstance(value, np.ndarray):
            if bare is None:
                raise StudyError(f"{path}: an array without ch_names and times: say them in the reader's field 'bare'")
            eeg_NRCT, ch_names = value, list(bare.ch_names)
            sfreq, tmin = bare.sfreq, bare.tmin
        else:
            content = safe_load.load_mapping(path, ("preprocessed_eeg_data", "ch_names", "times")) if not isinstance(value, dict) else value
            lacking = [k for k in ("preprocessed_eeg_data", "ch_names", "times") if k not in content]
            if lacking:
                raise StudyError(f"{path}: lacks {', '.join(lacking)}; it has {listed(content)}")
            eeg_NRCT = content["preprocessed_eeg_data"]
            ch_names = safe_load.texts(content["ch_names"], path, "ch_names")
            sfreq = tmin = float("nan")
        if not isinstance(eeg_NRCT, np.ndarray) or eeg_NRCT.ndim != 4 or eeg_NRCT.dtype.kind != "f":
            raise StudyError(f"{path}: EEG of shape {np.shape(eeg_NRCT)}, expected (stimuli, repetitions, channels, times) of floats")
        if eeg_NRCT.shape[2] != len(ch_names):
            raise StudyError(f"{path}: {eeg_NRCT.shape[2]} channels of EEG and {len(ch_names)} ch_names: expected as many")
        if not isinstance(value, np.ndarray):
            times = content["times"]
            if isinstance(times, (list, tuple)) and all(isinstance(each, (int, float, np.number)) for each in times):
                times = np.asarray(times, np.float64)
            if not isinstance(times, np.ndarray):
                raise StudyError(f"{path}: times are a {type(times).__name__}, expected an array of seconds")
            sfreq, tmin = _rate(times, eeg_NRCT.shape[3], path)
        expected = self.config.expect_sfreq
        if expected is not None and abs(sfreq - expected) > 1e-3 * expected:
            raise StudyError(f"{path}: sampled at {sfreq:g} Hz by its times, expect_sfreq is {expected:g} Hz: the rate comes from the file")
        facts = trials.TrialFacts(sfreq=sfreq, tmin=tmin, n_times=eeg_NRCT.shape[3], ch_names=tuple(ch_names))
        return eeg_NRCT, facts


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _rate(times_T: np.ndarray, n_times: int, path: Path) -> tuple[float, float]:
    """Sampling rate and first time point; ``times`` longer than the data describe its end (the data were cropped at the start)."""
    if times_T.ndim != 1 or times_T.dtype.kind not in "fiu" or len(times_T) < max(2, n_times):
        raise StudyError(f"{path}: {times_T.size} times for {n_times} points of EEG: expected at least as many")
    times = times_T[-n_times:].astype(np.float64)
    step = (times[-1] - times[0]) / (n_times - 1) if n_times > 1 else float(np.diff(times_T.astype(np.float64))[-1])
    if not (np.isfinite(times).all() and step > 0) or (n_times > 1 and np.abs(np.diff(times) - step).max() > 0.01 * step):
        raise StudyError(f"{path}: times are not evenly spaced seconds ({times[0]:g} to {times[-1]:g}): the sampling rate cannot be told")
    # Decimal fractions in the file's times would give 99.99999999999999.
    return round(1.0 / step, 4), round(float(times[0]), 6)


def _say(facts: trials.TrialFacts) -> str:
    return f"{len(facts.ch_names)} channels ({facts.ch_names[0]} ...), {facts.n_times} points at {facts.sfreq:g} Hz from {facts.tmin:g} s"


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
