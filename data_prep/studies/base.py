"""What every study reader promises the shard writer: plain facts, a fixed order of samples, and the EEG of one sample.

A reader is a :class:`ReaderConfig` (what a user writes in YAML) whose :meth:`ReaderConfig.open` gives a
:class:`Source`. Opening reads headers and marks and decides, reproducibly, which samples there are; the EEG itself is
fetched sample by sample, so a study larger than memory can be sharded. A laboratory's own reader is a subclass named by
import path: ``reader: {class_path: my_lab.reader.MyReader, init_args: {...}}``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from data_prep.contract import cli, schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import canonical_json, sha256_file
from data_prep.contract.manifest import Stimulus


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """What holds for a whole study. The tables' positions are the ids that samples, the index and splits use."""

    stimulus_level: str
    """``image``: a sample is all repetitions of one image; ``class``: a sample is one trial, the stimulus only a class."""
    unit: str
    """``microvolts`` or ``zscore``, of what :meth:`Source.eeg` returns."""
    sfreq: float
    """Sampling rate in Hz."""
    tmin: float
    """Seconds from stimulus onset to the first time point (negative before onset)."""
    n_times: int
    """Time points a trial."""
    ch_names: list[str]
    """Channel names in the order of the EEG's channel axis."""
    positions: list[list[float]] | None = None
    """``[x, y, z]`` of every channel in metres (head coordinates), or None where unknown."""
    subjects: list[str]
    """Labels such as ``01``: letters and digits only, they stand in sample keys."""
    stimuli: list[Stimulus]
    """``Stimulus(id=str, concept=int, image=str | None, part="training" | "test" | None)``; ``image`` is relative to
    ``image_root``; ``part`` is the source's own division, used by the ``zero-shot`` split."""
    concepts: list[str]
    """Concept (class) names; stimuli point into it."""
    sessions: list[str]
    """Session labels; end with ``unknown`` if any repetition's session is lost."""
    recordings: list[str]
    """Recording labels, distinct over subjects and sessions (``sub-01_ses-01_run-03``); ``unknown`` where lost."""
    masked: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Recording (row of ``recordings``) -> channels that are zero in it, as no electrode of its device is near."""
    bridged: Mapping[int, Mapping[tuple[str, str], float]] | None = None
    """Recording -> pairs of channels that are one signal before any filter, and in which share of its trials; None: the reader has seen no
    raw signal, and the trials themselves are asked."""
    captions: list[list[str]] | None = None
    """Captions of every stimulus, or None; an empty list where a stimulus has none and the reader allows it."""
    image_root: Path | None = None
    """Folder of the images, or None where there are none. Not part of the study's identity."""
    class_images: Mapping[int, Sequence[Path]] | None = None
    """Class-level studies: concept -> its image files; an embedding of the class is the mean over them."""
    preprocessing: dict[str, Any] = field(default_factory=dict)
    """What was done to the signal, as plain values (filters, baseline, rejection, whitening of the source)."""

    def __post_init__(self) -> None:
        if self.stimulus_level not in schema.STIMULUS_LEVELS:
            raise StudyError(f"stimulus_level is {self.stimulus_level!r}, expected one of {schema.STIMULUS_LEVELS}")
        if self.unit not in schema.UNITS:
            raise StudyError(f"unit is {self.unit!r}, expected one of {schema.UNITS}")
        if not (np.isfinite(self.sfreq) and self.sfreq > 0):
            raise StudyError(f"sfreq is {self.sfreq}, expected a positive number of Hz")
        if self.n_times < 1 or not self.ch_names:
            raise StudyError(f"n_times is {self.n_times} and there are {len(self.ch_names)} channels, expected at least one of each")
        if len(set(self.ch_names)) != len(self.ch_names):
            raise StudyError(f"ch_names {self.ch_names} has a name twice")
        if self.positions is not None and len(self.positions) != len(self.ch_names):
            raise StudyError(f"positions has {len(self.positions)} rows, ch_names {len(self.ch_names)}: expected as many")
        if self.captions is not None and len(self.captions) != len(self.stimuli):
            raise StudyError(f"captions has {len(self.captions)} rows, stimuli {len(self.stimuli)}: expected as many")
        for stimulus in self.stimuli:
            if not 0 <= stimulus.concept < len(self.concepts):
                raise StudyError(f"stimulus {stimulus.id!r} has concept {stimulus.concept}, there are {len(self.concepts)} concepts")

    @property
    def n_chans(self) -> int:
        """Number of channels."""
        return len(self.ch_names)

    def masked_channels(self, recordings: Sequence[int]) -> np.ndarray | None:
        """Which channels are masked in each of these recordings, bool (recordings, channels); None where none is."""
        if not any(self.masked.get(recording) for recording in recordings):
            return None
        return np.array([[name in self.masked.get(recording, ()) for name in self.ch_names] for recording in recordings])


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """One sample before its EEG is read: who saw what, and where each repetition comes from.

    The lists have one entry a repetition.
    """

    key: str
    """:func:`schema.stimulus_sample_key` or :func:`schema.trial_sample_key`; unique in the study."""
    subject: int
    """Row of ``StudyFacts.subjects``."""
    stimulus: int
    """Row of ``StudyFacts.stimuli``."""
    n_reps: int
    """Repetitions, at least one."""
    session: list[int]
    """Rows of ``StudyFacts.sessions``."""
    recording: list[int]
    """Rows of ``StudyFacts.recordings``."""
    trial: list[int]
    """Number of the trial inside its recording, in the source's order; -1 where lost."""
    onset_seconds: list[float | None]
    """Stimulus onset from the start of the recording, None where lost."""
    quality: list[str]
    """``good``, ``railed`` (touches the amplifier's limits) or ``unknown``."""
    clean_baseline: list[bool | None] | None = None
    """Whether the time before onset holds no response to another stimulus, None where that is unknown; None: the reader does not say.
    The same for all samples of a study."""

    def __post_init__(self) -> None:
        lists = (self.session, self.recording, self.trial, self.onset_seconds, self.quality, self.clean_baseline)
        lengths = {len(each) for each in lists if each is not None}
        if self.n_reps < 1 or lengths != {self.n_reps}:
            raise StudyError(f"sample {self.key!r}: n_reps is {self.n_reps}, its lists have {sorted(lengths)} entries")


class Source(Protocol):
    """An opened study."""

    @property
    def facts(self) -> StudyFacts:
        """What holds for the whole study."""
        ...

    @property
    def samples(self) -> Sequence[SamplePlan]:
        """In the order in which they are written: the same for the same files and config. Ids are plain ``int``."""
        ...

    @property
    def source_hash(self) -> str:
        """Hash of the source files (see :func:`hash_files`); part of a shard folder's plan."""
        ...

    def eeg(self, i: int) -> np.ndarray:
        """EEG of ``samples[i]``: float32 (n_reps, n_chans, n_times) in ``facts.unit``. It stays as it is while the next is read."""
        ...


@cli.polymorphic
@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """Base of all readers: which study, from where. A subclass adds fields and :meth:`open`."""

    def open(self) -> Source:
        """Read headers and marks, decide on the samples.

        Raises
        ------
        StudyError
            One sentence naming the file, what was found and what was expected.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to open a study")


def common_folder(root: Path, files: Iterable[Path]) -> Path:
    """Folder that holds all files, which are resolved: ``root``, or one above it where tables lie beside it."""
    folder, files = root.resolve(), list(files)
    while not all(file.is_relative_to(folder) for file in files):
        folder = folder.parent
    return folder


def hash_files(files: Iterable[Path], root: Path, known: Mapping[Path, str] = MappingProxyType({})) -> str:
    """Hash of relative names and contents of source files, independent of their order and of where they lie.

    ``known`` are SHA-256 of those that were read whole.
    """
    entries = {file.relative_to(root).as_posix(): known.get(file) or sha256_file(file) for file in files}
    return hashlib.sha256(canonical_json(entries)).hexdigest()


_WHOLE_BYTES = 2**26
_PIECES, _PIECE_BYTES = 256, 2**16


def hash_large_files(files: Iterable[Path], root: Path) -> str:
    """:func:`hash_files`, but of a file of 64 MiB or more its size and 256 evenly spaced pieces of 64 KiB, the first and the last among
    them.

    For files that are too large to be read twice: other preprocessing, another subject or another order change every piece. A reader
    that uses it refuses a file whose size or time changes while it is read.
    """
    entries = {
        file.relative_to(root).as_posix(): _sampled(file) if file.stat().st_size >= _WHOLE_BYTES else sha256_file(file) for file in files
    }
    return hashlib.sha256(canonical_json(entries)).hexdigest()


def _sampled(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(f"{size} bytes, {_PIECES} pieces of {_PIECE_BYTES}:".encode())
    with file.open("rb", buffering=0) as handle:
        for piece in range(_PIECES):
            handle.seek(piece * (size - _PIECE_BYTES) // (_PIECES - 1))
            digest.update(handle.read(_PIECE_BYTES))
    return digest.hexdigest()
