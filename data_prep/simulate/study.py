"""``python -m data_prep simulate``: a study with a known ceiling, in the THINGS-EEG2 folder format.

From a seed to files::

    concepts -> rendered images, captions -> a frozen image encoder -> embeddings
    the embeddings' leading components (standardised over the training images) -> dipoles in a sphere -> EEG + noise
    images/ image_metadata.npy captions.json attributes.json embeddings/ sub-XX/preprocessed_eeg_{training,test}.npy study.json ceiling.json

``ceiling.json`` comes last and says what no decoder can beat, and what the two closed-form baselines reach on the same
trials. The same config gives the same bytes on the same machine.

Shapes in names: N stimuli, R repetitions, C channels, T time points, K drive components, E embedding dimensions.
"""

from __future__ import annotations

import io
import os
import pickle
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract import cli, closed_form, schema
from data_prep.contract.errors import CommandError
from data_prep.contract.files import sha256_json, write_json
from data_prep.contract.lock import alone
from data_prep.contract.manifest import Stimulus
from data_prep.contract.progress import tracked
from data_prep.contract.ranking import cosine_similarity, top_k
from data_prep.contract.seed import check_seed
from data_prep.embed import table as embedding_table
from data_prep.embed.base import EmbeddingConfig
from data_prep.embed.efficientnet_lite0 import EfficientNetLite0Config
from data_prep.simulate import ceiling, forward, images
from data_prep.studies.base import StudyFacts

TMIN_SECONDS, DURATION_SECONDS = -0.2, 1.0
BLOCK_STIMULI = 256
JPEG_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """Simulate a study: images, embeddings, EEG with a known forward model, and its ceiling."""

    output: str
    """Folder of the study; must not hold a finished one."""
    num_train_concepts: int = 1654
    """Training concepts; 1654 x 10 images is the size of THINGS-EEG2."""
    images_per_concept: int = 10
    """Training images of each concept."""
    num_test_concepts: int = 200
    """Test concepts, none of them in training, one image each: the gallery."""
    subjects: int = 1
    """Simulated people; they differ in topography, latency and strength."""
    train_repetitions: int = 4
    """Trials of each training image and subject."""
    test_repetitions: int = 80
    """Trials of each test image and subject."""
    montage: Literal[17, 63] = 17
    """17 occipito-parietal channels, or all 63; the potentials are against the average of all 63."""
    sfreq: Literal[100, 250] = 100
    """Sampling rate in Hz; a trial lasts from -0.2 to 0.8 s."""
    drive: Literal["linear"] = "linear"
    """``linear``: leading components of the image embedding drive the dipoles linearly."""
    num_drives: int = 64
    """How many leading components drive the EEG."""
    drive_decay: float = 0.5
    """The response to component k (from 1) is as large as ``k ** -drive_decay``."""
    signal_information: float = 4.8
    """How far apart the images' responses lie: mean squared change by image in standard deviations of single-trial noise, for a
    subject of average strength recorded with 17 channels at 100 Hz and the default noise, whatever this study's own are."""
    noise_microvolts: float = 10.0
    """RMS of the coloured noise of a single trial: the noise level."""
    floor_microvolts: float = 2.0
    """Standard deviation of the white sensor noise of a single trial."""
    seed: int = 0
    """Everything random follows from it."""
    image_size: int = 224
    """Side of the rendered images in pixels."""
    embedding: EmbeddingConfig = field(default_factory=EfficientNetLite0Config)
    """Frozen image encoder whose embedding drives the EEG."""
    embedding_name: str = "efficientnet_lite0"
    """Name of the embedding's files in the study's ``embeddings`` folder."""
    ceiling_draws: int = 50
    """Monte Carlo averages of every test image behind each number of the ceiling."""
    baselines: bool = True
    """Fit ridge and the encoding model on the trials and write what they reach into ``ceiling.json``."""

    def __post_init__(self) -> None:
        schema.check_embedding_name(self.embedding_name)
        check_seed(self.seed)
        for name, least in (
            ("num_train_concepts", 2), ("images_per_concept", 1), ("num_test_concepts", 2), ("subjects", 1), ("train_repetitions", 1),
            ("test_repetitions", 1), ("num_drives", 1), ("image_size", 32), ("ceiling_draws", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")
        for name in ("signal_information", "noise_microvolts", "floor_microvolts"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}, expected a positive number")
        if self.num_train_concepts + self.num_test_concepts > images.NUM_CONCEPTS:
            raise ValueError(
                f"num_train_concepts + num_test_concepts is {self.num_train_concepts + self.num_test_concepts}, "
                f"expected at most {images.NUM_CONCEPTS}: no more can be drawn"
            )
        num_images = self.num_train_concepts * self.images_per_concept
        if num_images < 2 * self.num_drives:
            raise ValueError(f"num_drives is {self.num_drives} with {num_images} training images, expected at most half as many")

    @property
    def n_times(self) -> int:
        """Time points a trial."""
        return round(DURATION_SECONDS * self.sfreq)


def run(config: SimulateConfig) -> None:
    """Make the study and print what it can show."""
    root = Path(config.output)
    root.mkdir(parents=True, exist_ok=True)
    with alone(root, wait_seconds=0):
        _run(config, root)


def _run(config: SimulateConfig, root: Path) -> None:
    if (root / "ceiling.json").is_file():
        raise CommandError(f"{root}: holds a finished study already: choose another output, or delete it")
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal clock
        seconds[stage] = round(time.perf_counter() - clock, 2)
        clock = time.perf_counter()

    facts = write_images(config, root)
    lap("render")
    table_NE, provenance = config.embedding.compute(facts)
    names = [stimulus.image for stimulus in facts.stimuli]
    key = sha256_json([cli.to_plain(config.embedding, EmbeddingConfig), names])
    entry = embedding_table.write_table(root, config.embedding_name, table_NE, provenance, key=key)
    # The names of the rows let an importer check the alignment.
    write_json(root / "embeddings" / f"{config.embedding_name}.json", {"key": key, "entry": entry.plain(), "names": names})
    lap("embed")
    results = write_eeg(config, root, table_NE)
    lap("eeg_and_baselines")
    write_json(root / "ceiling.json", results)
    _print(root, results, seconds)


# ----------------------------------------------------------------------------------------------------------- images


def write_images(config: SimulateConfig, root: Path) -> StudyFacts:
    """Images, ``image_metadata.npy``, ``captions.json``, ``attributes.json``; returns the facts that an embedding needs."""
    train, test = images.draw_concepts(config.num_train_concepts, config.num_test_concepts, config.seed)
    jobs: list[tuple[str, images.Concept, tuple[int, ...]]] = []
    stimuli: list[Stimulus] = []
    for part, concepts, count, stream in (("training", train, config.images_per_concept, 2), ("test", test, 1, 3)):
        for number, concept in enumerate(concepts):
            folder = f"{number + 1:05d}_{concept.name}"
            for i in range(count):
                image = f"{part}_images/{folder}/{concept.name}_{i + 1:02d}.jpg"
                jobs.append((image, concept, (config.seed, stream, number, i)))
                stimuli.append(Stimulus(id=image, concept=number + (len(train) if part == "test" else 0), image=image, part=part))
            (root / "images" / f"{part}_images" / folder).mkdir(parents=True, exist_ok=True)

    def draw(job: tuple[str, images.Concept, tuple[int, ...]]) -> list[str]:
        name, concept, seeds = job
        picture, captions = images.render(concept, config.image_size, np.random.default_rng(seeds))
        picture.save(root / "images" / name, quality=JPEG_QUALITY)
        return captions

    with ThreadPoolExecutor(2) as pool:
        captions = list(tracked(pool.map(draw, jobs), "images rendered", len(jobs)))
    metadata: dict[str, list[str]] = {}
    for part, prefix in (("training", "train"), ("test", "test")):
        paths = [Path(s.id) for s in stimuli if s.part == part]
        metadata[f"{prefix}_img_concepts"] = [path.parent.name for path in paths]
        metadata[f"{prefix}_img_files"] = [path.name for path in paths]
    _write_dict(root / "image_metadata.npy", metadata, plain_pickle=False)
    write_json(root / "attributes.json", images.attributes())
    write_json(root / "captions.json", {job[0]: lines for job, lines in zip(jobs, captions, strict=True)})
    return StudyFacts(
        stimulus_level="image", unit="microvolts", sfreq=config.sfreq, tmin=TMIN_SECONDS, n_times=config.n_times,
        ch_names=list(forward.MONTAGES[config.montage]), subjects=_labels(config), stimuli=stimuli,
        concepts=[c.name for c in train + test], sessions=[schema.UNKNOWN], recordings=[schema.UNKNOWN], image_root=root / "images",
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- EEG


def write_eeg(config: SimulateConfig, root: Path, table_NE: np.ndarray) -> dict[str, Any]:
    """``sub-XX`` folders and ``study.json``; returns the content of ``ceiling.json``.

    Parameters
    ----------
    table_NE
        Embeddings of the training images, then of the test images.
    """
    num_train = config.num_train_concepts * config.images_per_concept
    train_NE, test_NE = table_NE[:num_train], table_NE[num_train:]
    drive_NK, components_EK, mean_E = closed_form.leading_components(train_NE, config.num_drives)
    test_drive_NK = ((test_NE - mean_E) @ components_EK).astype(np.float32)
    noise = forward.make_noise(
        montage=config.montage, sfreq=config.sfreq, n_times=config.n_times, seed=config.seed,
        microvolts=config.noise_microvolts, floor_microvolts=config.floor_microvolts,
    )  # fmt: skip
    people = forward.make_subjects(
        config.subjects, num_drives=drive_NK.shape[1], decay=config.drive_decay, montage=config.montage, sfreq=config.sfreq,
        tmin=TMIN_SECONDS, n_times=config.n_times, information=config.signal_information, seed=config.seed,
    )  # fmt: skip
    positions = forward.electrode_positions(config.montage).round(6).tolist()
    by_subject: dict[str, Any] = {}
    for number, label in enumerate(tracked(_labels(config), "subjects simulated")):
        person = people[number]
        test_RNG = np.random.default_rng([config.seed, 13, number])
        train_NRCT = _trials(person, noise, drive_NK, config.train_repetitions, np.random.default_rng([config.seed, 12, number]))
        test_NRCT = _trials(person, noise, test_drive_NK, config.test_repetitions, test_RNG)
        for part, eeg_NRCT in (("training", train_NRCT), ("test", test_NRCT)):
            content = {
                "preprocessed_eeg_data": eeg_NRCT,
                "ch_names": list(forward.MONTAGES[config.montage]),
                "times": forward.times_of(config.sfreq, TMIN_SECONDS, config.n_times).round(6),
            }
            # As published: the 63-channel files are plain pickles, the 17-channel ones object arrays.
            _write_dict(root / f"sub-{label}" / f"preprocessed_eeg_{part}.npy", content, plain_pickle=config.montage == 63)
        signal_NCT = np.tensordot(test_drive_NK, person.response_KCT, 1) + person.evoked_CT
        by_subject[label] = _what_is_possible(config, signal_NCT, noise, train_NRCT, test_NRCT, train_NE, test_NE, number)
    write_json(root / "study.json", {
        "simulated": True, "unit": "microvolts", "seed": config.seed,
        "config": {k: v for k, v in cli.to_plain(config).items() if k != "output"},
        "positions": dict(zip(forward.MONTAGES[config.montage], positions, strict=True)),
    })  # fmt: skip
    return {
        "simulated": True,
        "drive": config.drive,
        "bound_only": False,
        "gallery": config.num_test_concepts,
        "repetitions": config.test_repetitions,
        "chance": {"top1": round(1 / config.num_test_concepts, 5), "top5": round(min(1.0, 5 / config.num_test_concepts), 5)},
        "mean": _mean_over(list(by_subject.values())),
        "subjects": by_subject,
    }


def _trials(person: forward.Subject, noise: forward.Noise, drive_NK: np.ndarray, repetitions: int, rng: np.random.Generator) -> np.ndarray:
    """Single trials in microvolts, float32 (n, reps, chans, times)."""
    n_chans, n_times = person.evoked_CT.shape
    eeg_NRCT = np.empty((len(drive_NK), repetitions, n_chans, n_times), np.float32)
    for start in range(0, len(drive_NK), BLOCK_STIMULI):
        block = eeg_NRCT[start : start + BLOCK_STIMULI]
        signal_NCT = np.tensordot(drive_NK[start : start + BLOCK_STIMULI], person.response_KCT.astype(np.float32), 1)
        signal_NCT += person.evoked_CT.astype(np.float32)
        for r in range(repetitions):
            block[:, r] = signal_NCT + noise.draw(len(block), rng)
    return eeg_NRCT


def _what_is_possible(
    config: SimulateConfig, signal_NCT: np.ndarray, noise: forward.Noise, train_NRCT: np.ndarray, test_NRCT: np.ndarray,
    train_NE: np.ndarray, test_NE: np.ndarray, number: int,
) -> dict[str, Any]:  # fmt: skip
    """The ceiling by Monte Carlo, and the known decoder, ridge and encoding model on these very trials."""
    own = np.arange(len(test_NE))
    counts = tuple(sorted({n for n in ceiling.REPETITIONS if n < config.test_repetitions} | {config.test_repetitions}))
    train_mean, test_mean = train_NRCT.mean(1), test_NRCT.mean(1)

    def tops(scores: np.ndarray) -> dict[str, float]:
        return {"top1": round(top_k(scores, own, 1), 4), "top5": round(top_k(scores, own, 5), 4)}

    possible: dict[str, Any] = {
        "ceiling": ceiling.identification_ceiling(
            signal_NCT, noise, repetitions=counts, draws=config.ceiling_draws, seed=config.seed * 1000 + number
        ),
        "known_model_same_trials": tops(ceiling.oracle_scores(test_mean, signal_NCT, noise)),
    }
    if not config.baselines:
        return possible
    ridge = closed_form.fit_ridge(train_mean, train_NE)

    def repetitions() -> Iterator[np.ndarray]:
        for start in range(0, len(train_NRCT), BLOCK_STIMULI):
            yield train_NRCT[start : start + BLOCK_STIMULI]

    encoding = closed_form.fit_encoding_model(train_mean, train_NE, config.train_repetitions, repetitions())
    possible["ridge"] = tops(cosine_similarity(ridge.predict(test_mean), test_NE))
    possible["encoding"] = tops(encoding.log_likelihood(test_mean, config.test_repetitions, test_NE))
    return possible


def _mean_over(subjects: list[dict[str, Any]]) -> dict[str, Any]:
    def mean(rows: list[dict[str, float]]) -> dict[str, float]:
        return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in ("top1", "top5")}

    rows = [
        {"repetitions": subjects[0]["ceiling"][i]["repetitions"], **mean([s["ceiling"][i] for s in subjects])}
        for i in range(len(subjects[0]["ceiling"]))
    ]
    return {"ceiling": rows, **{name: mean([s[name] for s in subjects]) for name in subjects[0] if name != "ceiling"}}


# ------------------------------------------------------------------------------------------------------------ files


def _labels(config: SimulateConfig) -> list[str]:
    return [f"{number + 1:02d}" for number in range(config.subjects)]


def _write_dict(path: Path, content: dict[str, Any], *, plain_pickle: bool) -> None:
    """A dict as the published files hold it; streamed, since a large array should not be in memory three times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with io.BufferedWriter(os.fdopen(handle, "wb", buffering=0)) as file:
            if plain_pickle:
                pickle.dump(content, file, protocol=4)
            else:
                np.save(file, np.array(content, dtype=object))  # a pickle inside: the published format
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _print(root: Path, results: dict[str, Any], seconds: dict[str, float]) -> None:
    from rich.table import Table

    from data_prep.contract.terminal import Terminal

    mean = results["mean"]
    table = Table(title=f"Simulated study {root}: {results['gallery']} test images, {results['repetitions']} repetitions averaged")
    for column in ("", "top-1", "top-5"):
        table.add_column(column)
    rows = [("chance", results["chance"])]
    rows += [(label, mean[name]) for name, label in (("ridge", "ridge"), ("encoding", "encoding model")) if name in mean]
    rows += [(f"ceiling, {row['repetitions']} averaged", row) for row in mean["ceiling"]]
    for name, row in rows:
        table.add_row(name, f"{row['top1']:.3f}", f"{row['top5']:.3f}")
    console = Terminal()
    console.print(table)
    console.print("seconds: " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()))
