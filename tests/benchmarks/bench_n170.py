"""Faces against houses from single trials of a real Muse recording: the project's own encoder beside LDA, in one launch.

Study: N170, subject 1, six recordings; every recording is the test once (leave one recording out). Shards, splits, trainer
(DeepSpeed engine, contrastive loss against the two class-mean image embeddings, positives by concept), export and loader are
those of the project. The score of a trial is its similarity to the face embedding minus that to the house embedding.

The model is chosen in inner folds: for test recording t every other recording i is left out once, too, and the candidate
with the best mean AUC over the i is trained on all five for three seeds. A training set without {t, i} serves both "i is
validation for t" and "t is validation for i", so 15 training sets a candidate are enough; neither choice sees its own test.
LDA chooses its shrinkage in the same inner folds, on the very same trials. Width, dropout, learning rate, weight decay and
steps are chosen so; kernel and pooling lengths are fixed by the ERP's time scale, and were seen to do on these recordings, so
the number says that the stack reaches LDA on real EEG, not how the recipe would do on a new person.

The control permutes labels within recordings before sharding, trains the chosen models on that study, and scores true
labels: it must find nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import logging
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from scipy import stats

from data_prep.contract.files import write_json
from data_prep.embed.base import EmbeddingConfig
from data_prep.embed.efficientnet_lite0 import EfficientNetLite0Config
from data_prep.embed.imported import ImportedConfig
from data_prep.shards.write import ShardConfig, write_study
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from data_prep.studies.base import ReaderConfig, SamplePlan, Source
from data_prep.studies.muse import MuseReaderConfig
from tests.benchmarks.report import main, row
from trainer import metrics
from trainer.evaluate.lda import SHRINKAGES, lda_scores
from trainer.models.encoders import EncoderConfig, TSConv

EMBEDDING = "efficientnet_lite0"
SEEDS = (0, 1, 2)
MARGIN = 0.015
"""The encoder may lie this far below LDA."""
BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A candidate of the inner folds: everything of the training that is chosen."""

    encoder: EncoderConfig
    lr: float
    weight_decay: float
    steps: int


def _tsconv(num_filters: int, dropout: float) -> TSConv:
    # 110 ms kernels and 62 ms pooling every 31 ms: an ERP component lasts about 50 ms, and the band ends at 30 Hz.
    return TSConv(num_filters=num_filters, kernel_samples=28, pool_samples=16, stride_samples=8, dropout=dropout)


ENCODERS: dict[str, EncoderConfig] = {
    "tsconv 8 filters, dropout 0.7": _tsconv(8, 0.7),
    "tsconv 16 filters, dropout 0.5": _tsconv(16, 0.5),
}
CANDIDATES = {
    f"{name}, lr {lr:g}, weight decay {decay:g}, {steps} steps": Recipe(encoder=encoder, lr=lr, weight_decay=decay, steps=steps)
    for name, encoder in ENCODERS.items()
    for lr, decay, steps in ((5e-4, 0.05, 240), (1e-3, 0.5, 240), (2e-3, 0.5, 120))
}


@dataclass(frozen=True, kw_only=True)
class ShuffledLabels(ReaderConfig):
    """Another reader's study with stimuli permuted among the trials of each recording."""

    reader: ReaderConfig
    """The study."""
    seed: int = 0
    """Of the permutation."""

    def open(self) -> Source:
        """The same trials in the same order, other labels."""
        source = self.reader.open()
        rng = np.random.default_rng(self.seed)
        recording = np.array([sample.recording[0] for sample in source.samples])
        stimulus = np.array([sample.stimulus for sample in source.samples])
        for number in np.unique(recording):
            rows = np.flatnonzero(recording == number)
            stimulus[rows] = stimulus[rng.permutation(rows)]
        plans = [dataclasses.replace(sample, stimulus=int(s)) for sample, s in zip(source.samples, stimulus, strict=True)]
        return _Relabelled(source, plans)


class _Relabelled:
    """A source with other sample plans."""

    def __init__(self, source: Source, samples: list[SamplePlan]) -> None:
        self.facts, self.samples, self.source_hash, self.eeg = source.facts, samples, source.source_hash, source.eeg


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run and what it is scored on."""

    study: Path
    """Study to train on."""
    truth: Path
    """Study whose test part is scored: the same trials with true labels."""
    held_out: tuple[int, ...]
    """Recordings that are not trained on."""
    candidate: str
    seed: int
    run: Path


# ------------------------------------------------------------------------------------------------------------- study


def data_folder() -> Path:
    """``muse_visual`` of the shared data."""
    root = Path(os.environ.get("SHARED_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data").resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"real data not found at {root}: set SHARED_DATA")
    return root / "muse_visual"


def write_studies(folder: Path) -> tuple[Path, list[Path], list[str]]:
    """The study, one with shuffled labels a seed, all with their splits; and the labels of the recordings."""
    muse = data_folder()
    reader = MuseReaderConfig(root=str(muse / "eeg/N170"), stimuli=str(muse / "stimuli/face_house"), subjects=("1",))
    study = folder / "n170"
    manifest = write_study(ShardConfig(reader=reader, output=str(study), embeddings={EMBEDDING: EfficientNetLite0Config()}))
    imported: dict[str, EmbeddingConfig] = {EMBEDDING: ImportedConfig(path=str(study / "embeddings" / f"{EMBEDDING}.npy"))}
    controls = [folder / f"shuffled-{seed}" for seed in SEEDS]
    for seed, control in zip(SEEDS, controls, strict=True):
        write_study(ShardConfig(reader=ShuffledLabels(reader=reader, seed=seed), output=str(control), embeddings=imported))
    recordings = manifest.tables.recordings
    numbers = range(len(recordings))
    for held_out in [(n,) for n in numbers] + list(itertools.combinations(numbers, 2)):
        for path in [study, *controls] if len(held_out) == 1 else [study]:
            options: dict[str, Any] = {"test_recordings": [recordings[n] for n in held_out], "num_validation_recordings": 0}
            write_split(SplitConfig(study=str(path), policy="recording", name=split_name(held_out), **options))
    return study, controls, recordings


def split_name(held_out: tuple[int, ...]) -> str:
    """``without-0-3``."""
    return "-".join(["without", *map(str, held_out)])


# ---------------------------------------------------------------------------------------------------------- training


def train_and_score(job: Job) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Train one encoder through :func:`trainer.run.contrastive`; scores and true classes of every recording held out."""
    import torch

    from trainer.artifacts.encoder import load_encoder
    from trainer.artifacts.part import collect, embed
    from trainer.data.config import DataConfig
    from trainer.data.index import StudyIndex
    from trainer.data.loader import Loader
    from trainer.run import contrastive as train
    from trainer.tasks.contrastive.config import ContrastiveConfig

    logging.disable(logging.WARNING)
    config = ContrastiveConfig(**training(job))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = train(config)
    if status:
        raise RuntimeError(f"training ended with status {status}: {job}")
    encoder = load_encoder(job.run / "export")
    data = DataConfig(study=str(job.truth), split=split_name(job.held_out), embedding=EMBEDDING)
    loader = Loader(StudyIndex.open(job.truth), data, "test", seed=0)
    part = collect(loader)
    image_KP = encoder.embed_image(loader.gallery)
    score_N = embed(loader, encoder.embed_batch, torch.device("cpu")) @ (image_KP[1] - image_KP[0])
    shutil.rmtree(job.run)
    return {n: (score_N[part.recording_N == n], part.concept_N[part.recording_N == n]) for n in job.held_out}


def training(job: Job) -> dict[str, Any]:
    """Fields of the run's ContrastiveConfig."""
    from trainer.data.config import DataConfig
    from trainer.losses import LossConfig
    from trainer.models.contrastive import ContrastiveModelConfig
    from trainer.training.config import CheckpointConfig, TrainConfig
    from trainer.training.optimizer import OptimizerConfig
    from trainer.training.tracking import MlflowConfig

    recipe = CANDIDATES[job.candidate]
    return {
        "run": str(job.run),
        "data": DataConfig(study=str(job.study), split=split_name(job.held_out), embedding=EMBEDDING),
        "model": ContrastiveModelConfig(encoder=recipe.encoder, eeg_head="linear"),
        "loss": LossConfig(positives="concept"),
        "optimizer": OptimizerConfig(lr=recipe.lr, weight_decay=recipe.weight_decay),
        "train": TrainConfig(
            steps=recipe.steps,
            global_batch_size=BATCH,
            validate_every_steps=0,
            log_every_steps=recipe.steps,
            seed=job.seed,
            device="cpu",
            threads=1,
        ),
        "checkpoint": CheckpointConfig(every_steps=0, keep_last=1),
        "mlflow": MlflowConfig(enabled=False),
    }


def run_jobs(jobs: list[Job], title: str) -> list[dict[int, tuple[np.ndarray, np.ndarray]]]:
    """All jobs, one process a core, each with one thread; results in the order of the jobs."""
    workers = min(len(os.sched_getaffinity(0)), 8, len(jobs))
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    found: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    with (
        ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_worker) as pool,
        Progress(*columns) as progress,
    ):
        task = progress.add_task(title, total=len(jobs))
        numbers = {pool.submit(train_and_score, job): number for number, job in enumerate(jobs)}
        for future in as_completed(numbers):
            found[numbers[future]] = future.result()
            progress.advance(task)
    return [found[number] for number in range(len(jobs))]


def _prepare_worker() -> None:
    os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


# ------------------------------------------------------------------------------------------------------------ scores


def auc(score_N: np.ndarray, concept_N: np.ndarray) -> float:
    """AUC of class 1, faces."""
    return metrics.auc(score_N, concept_N == 1)


def choose(study: Path, num_recordings: int, folder: Path) -> tuple[list[str], dict[str, float]]:
    """The best candidate by inner folds for every test recording; and every candidate's mean inner AUC."""
    pairs = list(itertools.combinations(range(num_recordings), 2))
    keys = [(name, pair) for name in CANDIDATES for pair in pairs]
    jobs = [
        Job(study=study, truth=study, held_out=pair, candidate=name, seed=0, run=folder / f"inner-{number}")
        for number, (name, pair) in enumerate(keys)
    ]
    inner: dict[str, np.ndarray] = {name: np.full((num_recordings, num_recordings), np.nan) for name in CANDIDATES}
    for (name, (a, b)), found in zip(keys, run_jobs(jobs, "inner folds"), strict=True):
        inner[name][a, b], inner[name][b, a] = auc(*found[b]), auc(*found[a])  # [test recording, validation recording]
    mean = {name: np.nanmean(table, axis=1) for name, table in inner.items()}
    chosen = [max(CANDIDATES, key=lambda name: mean[name][test]) for test in range(num_recordings)]
    return chosen, {name: float(values.mean()) for name, values in mean.items()}


def lda_aucs(study: Path, num_recordings: int) -> tuple[np.ndarray, np.ndarray]:
    """AUC of every recording by LDA with shrinkage from inner folds, and with automatic shrinkage, on the shards' trials."""
    from trainer.artifacts.part import collect
    from trainer.data.config import DataConfig
    from trainer.data.index import StudyIndex
    from trainer.data.loader import Loader

    found = np.empty((2, num_recordings))
    index = StudyIndex.open(study)
    for test in range(num_recordings):
        data = DataConfig(study=str(study), split=split_name((test,)), embedding=EMBEDDING)
        fit, held = (collect(Loader(index, data, part, seed=0)) for part in ("train", "test"))
        for number, shrinkages in enumerate((SHRINKAGES, None)):
            scores = lda_scores(fit.eeg_NCT, fit.concept_N, fit.recording_N, held.eeg_NCT, shrinkages=shrinkages)
            found[number, test] = auc(scores.scores_B, held.concept_N)
    return found[0], found[1]


def half_width(auc_N: np.ndarray) -> float:
    """Half the 95 % t-interval of a mean."""
    return float(stats.t.ppf(0.975, len(auc_N) - 1) * auc_N.std(ddof=1) / np.sqrt(len(auc_N)))


def run(folder: Path) -> list[dict[str, Any]]:
    """Rows of the benchmark; everything is written under ``folder``."""
    study, controls, recordings = write_studies(folder)
    tests = range(len(recordings))
    lda, automatic = lda_aucs(study, len(recordings))
    chosen, inner = choose(study, len(recordings), folder)
    final = [
        Job(study=study, truth=study, held_out=(t,), candidate=chosen[t], seed=seed, run=folder / f"final-{t}-{seed}")
        for t in tests
        for seed in SEEDS
    ]
    shuffled = [
        dataclasses.replace(job, study=controls[SEEDS.index(job.seed)], run=folder / f"control-{job.held_out[0]}-{job.seed}")
        for job in final
    ]
    found = run_jobs(final + shuffled, "folds x seeds, and control")
    all_aucs = np.array([auc(*scores[job.held_out[0]]) for job, scores in zip(final + shuffled, found, strict=True)])
    model = all_aucs[: len(final)].reshape(len(recordings), len(SEEDS))
    control = all_aucs[len(final) :]
    write_json(folder / "n170.json", {"chosen": chosen, "inner": inner, "model": model.tolist(), "lda": lda.tolist()})
    for t in tests:
        seeds = ", ".join(f"{value:.3f}" for value in model[t])
        print(f"{recordings[t]}: {chosen[t]}: AUC {seeds}; LDA {lda[t]:.3f}, automatic shrinkage {automatic[t]:.3f}")
    for name, value in inner.items():
        print(f"inner folds: {name}: AUC {value:.3f}")
    target = float(lda.mean()) - MARGIN
    return [
        row("N170: mean AUC, 6 folds x 3 seeds", model.mean(), "AUC", target, model.mean() >= target, "LDA, inner folds", lda.mean()),
        row("N170: worst of the seeds' mean AUCs", model.mean(0).min(), "AUC", None, None, "LDA, automatic", automatic.mean()),
        row(
            *("N170: encoder minus LDA, mean over recordings", (model.mean(1) - lda).mean(), "AUC", None, None),
            *("half of its 95 % interval", half_width(model.mean(1) - lda)),
        ),
        row(
            *("N170: mean AUC with shuffled labels, 0.5 within its interval", control.mean(), "AUC", 0.5),
            *(abs(control.mean() - 0.5) <= half_width(control), "half of its 95 % interval", half_width(control)),
        ),
    ]


if __name__ == "__main__":
    sys.exit(main(run))
