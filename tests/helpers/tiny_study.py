"""Small studies written by the real shard writer, for tests of everything that reads shards.

EEG is a fixed linear mix of the stimulus' embedding plus noise, so that decoders have something to find.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import schema
from data_prep.contract.manifest import Stimulus
from data_prep.embed.base import EmbeddingConfig
from data_prep.shards.measuring import MeasureConfig, Refusal
from data_prep.shards.write import ShardConfig, write_study
from data_prep.studies.base import ReaderConfig, SamplePlan, StudyFacts


@dataclass(frozen=True, kw_only=True)
class TinyEmbedding(EmbeddingConfig):
    """Random unit vectors, a function of the seed and the row only."""

    dim: int = 8
    """Dimensions."""
    seed: int = 0
    """Other seeds give other vectors."""
    concept_share: float = 0.0
    """How much of an image's vector is that of its concept (0: none, 1: all)."""

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, dict[str, Any]]:
        provenance = {"model": "tiny", "layer": "random", "weights_sha256": None, "transform": None}
        return drive_table(facts, self.dim, self.seed, self.concept_share), provenance


def embedding_table(num_stimuli: int, dim: int, seed: int) -> np.ndarray:
    """float32 (num_stimuli, dim), unit rows."""
    table = np.random.RandomState(seed + 77).standard_normal((num_stimuli, dim))
    return (table / np.linalg.norm(table, axis=1, keepdims=True)).astype(np.float32)


def drive_table(facts: StudyFacts, dim: int, seed: int, concept_share: float) -> np.ndarray:
    """float32 (num_stimuli, dim): a random vector of each stimulus, mixed with one of its concept."""
    table = embedding_table(len(facts.stimuli), dim, seed)
    if not concept_share:
        return table
    shared = embedding_table(len(facts.concepts), dim, seed + 1)[[stimulus.concept for stimulus in facts.stimuli]]
    return (1 - concept_share) * table + concept_share * shared


@dataclass(frozen=True, kw_only=True)
class TinyReader(ReaderConfig):
    """``n_stimuli`` images (the last ``n_test`` of them the test part) or, at level ``class``, trials of ``n_concepts`` classes."""

    stimulus_level: str = "image"
    """``image`` or ``class``."""
    n_subjects: int = 2
    """Subjects; all see everything."""
    n_stimuli: int = 12
    """Images (level ``image``)."""
    n_test: int = 4
    """Images of the test part; each is a concept of its own."""
    images_per_concept: int = 2
    """Training images a concept."""
    n_reps: int = 4
    """Repetitions of an image; at level ``class``, trials of a class in a recording."""
    vary_reps: bool = False
    """Every third sample has one repetition fewer."""
    n_sessions: int = 2
    """Sessions a subject; repetition r lies in session r mod n_sessions, one recording each."""
    n_concepts: int = 2
    """Classes (level ``class``)."""
    n_recordings: int = 3
    """Recordings a subject (level ``class``)."""
    n_chans: int = 4
    """Channels."""
    ch_names: tuple[str, ...] = ("TP9", "AF7", "AF8", "TP10", "Oz", "Pz", "O1", "O2")
    """Names of the channels, as many as are needed."""
    positions: tuple[tuple[float, ...], ...] | None = None
    """Where they are, in metres."""
    placed: bool = False
    """Whether the electrodes' positions are known: channel c lies at (c, 0, 1) centimetres."""
    n_times: int = 20
    """Time points."""
    sfreq: float = 100.0
    """Hz."""
    dim: int = 8
    """Dimensions of the embedding that drives the EEG."""
    concept_share: float = 0.0
    """``concept_share`` of the embedding that drives the EEG, and of the embedding ``tiny``."""
    noise: float = 0.5
    """Standard deviation of the noise; the response's is 1."""
    seed: int = 0
    """Seed of responses and noise."""
    captions: bool = True
    """Two captions a stimulus."""
    uncaptioned: tuple[int, ...] = ()
    """Stimuli that have none all the same."""
    image_root: str | None = None
    """Folder of the images, where a test needs them."""
    preprocessing: dict[str, Any] = field(default_factory=lambda: {"made_by": "tiny study"})
    """What the manifest says was done to the signal."""

    def open(self) -> TinySource:
        return TinySource(self)


class TinySource:
    """See :class:`TinyReader`."""

    def __init__(self, config: TinyReader) -> None:
        self.config = config
        self.source_hash = hashlib.sha256(repr(config).encode()).hexdigest()
        subjects = [f"{s + 1:02d}" for s in range(config.n_subjects)]
        image = config.stimulus_level == "image"
        num_train = config.n_stimuli - config.n_test
        num_train_concepts = -(-num_train // config.images_per_concept)
        if image:
            concepts = [f"concept{c}" for c in range(num_train_concepts + config.n_test)]
            stimuli = [
                Stimulus(id=f"train/{i:04d}", concept=i // config.images_per_concept, image=f"train/{i:04d}.jpg", part="training")
                for i in range(num_train)
            ] + [
                Stimulus(id=f"test/{i:04d}", concept=num_train_concepts + i, image=f"test/{i:04d}.jpg", part="test")
                for i in range(config.n_test)
            ]
        else:
            concepts = [f"class{c}" for c in range(config.n_concepts)]
            stimuli = [Stimulus(id=name, concept=c, image=None, part=None) for c, name in enumerate(concepts)]
        num_recordings = config.n_sessions if image else config.n_recordings
        places = [(s, r) for s in subjects for r in range(num_recordings)]
        self.facts = StudyFacts(
            stimulus_level=config.stimulus_level,
            unit="microvolts",
            sfreq=config.sfreq,
            tmin=-0.05,
            n_times=config.n_times,
            ch_names=list(config.ch_names[: config.n_chans]),
            positions=_positions(config),
            subjects=subjects,
            stimuli=stimuli,
            concepts=concepts,
            sessions=[f"{r + 1:02d}" for r in range(num_recordings)] if image else ["01"],
            recordings=[f"sub-{s}_run-{r + 1:02d}" for s, r in places],
            captions=_captions(config, stimuli) if config.captions else None,
            image_root=Path(config.image_root) if config.image_root else None,
            preprocessing=dict(config.preprocessing),
        )
        self.samples = self._image_samples() if image else self._trial_samples()
        random = np.random.RandomState(config.seed)
        self._drive = drive_table(self.facts, config.dim, 0, config.concept_share)
        self._mixing = random.standard_normal((config.n_subjects, config.dim, config.n_chans, config.n_times))

    def _image_samples(self) -> list[SamplePlan]:
        config, samples = self.config, []
        for subject, label in enumerate(self.facts.subjects):
            for stimulus in range(len(self.facts.stimuli)):
                n_reps = config.n_reps - int(config.vary_reps and stimulus % 3 == 2)
                session = [r % config.n_sessions for r in range(n_reps)]
                samples.append(
                    SamplePlan(
                        key=schema.stimulus_sample_key(label, stimulus),
                        subject=subject,
                        stimulus=stimulus,
                        n_reps=n_reps,
                        session=session,
                        recording=[subject * config.n_sessions + s for s in session],
                        trial=[stimulus * config.n_reps + r for r in range(n_reps)],
                        onset_seconds=[None] * n_reps,
                        quality=["good"] * n_reps,
                    )
                )
        return samples

    def _trial_samples(self) -> list[SamplePlan]:
        config, samples = self.config, []
        for subject, label in enumerate(self.facts.subjects):
            for recording in range(config.n_recordings):
                for trial in range(config.n_reps * config.n_concepts):
                    samples.append(
                        SamplePlan(
                            key=schema.trial_sample_key(label, "01", f"{recording + 1:02d}", trial),
                            subject=subject,
                            stimulus=(trial * 7 + trial // config.n_concepts) % config.n_concepts,
                            n_reps=1,
                            session=[0],
                            recording=[subject * config.n_recordings + recording],
                            trial=[trial],
                            onset_seconds=[1.5 * trial],
                            quality=["railed" if trial == 1 else "good"],
                        )
                    )
        return samples

    def eeg(self, i: int) -> np.ndarray:
        plan, config = self.samples[i], self.config
        random = np.random.RandomState((config.seed * 1_000_003 + i) % 2**32)
        response = np.tensordot(self._drive[plan.stimulus], self._mixing[plan.subject], axes=1)
        noise = config.noise * random.standard_normal((plan.n_reps, config.n_chans, config.n_times))
        return (response + noise).astype(np.float32)


def _positions(config: TinyReader) -> list[list[float]] | None:
    if config.positions is not None:
        return [list(place) for place in config.positions]
    return [[0.01 * c, 0.0, 0.01] for c in range(config.n_chans)] if config.placed else None


def _captions(config: TinyReader, stimuli: list[Stimulus]) -> list[list[str]]:
    return [
        [] if number in config.uncaptioned else [f"a picture of {stimulus.id}", "a second caption"]
        for number, stimulus in enumerate(stimuli)
    ]


def write_tiny_study(
    folder: Path | str,
    *,
    samples_per_shard: int = 5,
    eeg_dtype: str = "float16",
    embeddings: dict[str, EmbeddingConfig] | None = None,
    allow: tuple[Refusal, ...] = (),
    **reader: Any,
) -> Path:
    """Write a study into ``folder`` and return it; other keywords are fields of :class:`TinyReader`.

    It has the embedding ``tiny`` (``dim`` dimensions) unless others are given, and no splits: ``splits.write_split`` makes them.
    """
    config = TinyReader(**reader)
    write_study(
        ShardConfig(
            reader=config,
            output=str(folder),
            embeddings={"tiny": TinyEmbedding(dim=config.dim, concept_share=config.concept_share)} if embeddings is None else embeddings,
            samples_per_shard=samples_per_shard,
            eeg_dtype=eeg_dtype,
            measure=MeasureConfig(allow=allow),
        )
    )
    return Path(folder)
