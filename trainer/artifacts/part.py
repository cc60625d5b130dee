"""One part of a split, opened for an export, and as arrays: what the baselines are fitted on and every arm is scored on.

Shapes: N items (repetitions of a stimulus and subject averaged, or single trials of a class-level study), R repetitions,
C channels, T time points, E embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from data_prep.contract.progress import tracked
from trainer.artifacts.encoder import Encoder
from trainer.artifacts.guards import check_signal, check_unseen
from trainer.data.batch import Batch
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader

BATCH_ITEMS = 512


@dataclass(frozen=True, kw_only=True)
class PartArrays:
    """A part, prepared as for the model: selected, transformed, averaged, normalised."""

    eeg_NCT: np.ndarray
    """float32."""
    target_NE: np.ndarray
    """Embedding of each item's stimulus, float32."""
    subject_N: np.ndarray
    stimulus_N: np.ndarray
    concept_N: np.ndarray
    """Rows of the manifest's tables."""
    recording_N: np.ndarray
    """Recording of the item's first repetition."""
    n_reps_N: np.ndarray
    """Repetitions averaged in each item."""

    def __len__(self) -> int:
        return len(self.eeg_NCT)

    def where(self, chosen_N: np.ndarray) -> PartArrays:
        """The items of a mask."""
        return PartArrays(**{name: getattr(self, name)[chosen_N] for name in self.__dataclass_fields__})


def open_part(encoder: Encoder, study: str | None, split: str | None, part: str) -> Loader:
    """Loader of a part for an exported encoder, all repetitions averaged; the study must fit the encoder.

    Raises
    ------
    CommandError, StudyError
        Another montage, rate, window or unit; a part without trials.
    """
    changes = {name: value for name, value in (("study", study), ("split", split)) if value}
    config = encoder.export.data_config(**changes, repetitions="mean")
    index = StudyIndex.open(config.study)
    loader = Loader(index, config, part, seed=0)
    check_signal(encoder, loader)
    check_unseen(encoder.export, loader)
    return loader


def collect(loader: Loader) -> PartArrays:
    """The whole part of ``loader`` in memory, in the study's order."""
    table = loader.index.table
    first_row = np.searchsorted(table.sample, np.arange(len(loader.index.samples)))
    columns: dict[str, list[np.ndarray]] = {name: [] for name in PartArrays.__dataclass_fields__}
    for counts, batch in _batches(loader, f"batches of {loader.part} read"):
        columns["eeg_NCT"].append(batch.eeg_BCT.numpy())
        columns["target_NE"].append(batch.target_BE.numpy())
        for name in ("subject", "stimulus", "concept"):
            columns[f"{name}_N"].append(getattr(batch, f"{name}_B").numpy())
        columns["recording_N"].append(table.recording[first_row[batch.sample_B.numpy()]])
        columns["n_reps_N"].append(counts)
    return PartArrays(**{name: np.concatenate(values) for name, values in columns.items()})


def repetitions(loader: Loader, subject: int | None = None) -> Iterator[np.ndarray]:
    """Single repetitions of each sample that has several, prepared like the averages: (R, C, T) a sample."""
    kept: list[np.ndarray] = []
    sample = -1
    for host in loader.sequential(BATCH_ITEMS, single_trials=True):
        batch = loader.prepare(host, "cpu")
        for number, person, eeg_CT in zip(batch.sample_B.tolist(), batch.subject_B.tolist(), batch.eeg_BCT.numpy(), strict=True):
            if subject is not None and person != subject:
                continue
            if number != sample and kept:
                yield np.stack(kept)
                kept = []
            sample = number
            kept.append(eeg_CT)
    if kept:
        yield np.stack(kept)


def embed(loader: Loader, embed_batch: Callable[[Batch], torch.Tensor], device: torch.device, *, single_trials: bool = False) -> np.ndarray:
    """Model embeddings of a part, in the order of :func:`collect`: float32 (N, P).

    With ``single_trials`` every repetition is embedded and the embeddings of an item are averaged, instead of its EEG.
    """
    found, samples = [], []
    total = None if single_trials else -(-loader.num_samples // BATCH_ITEMS)
    hosts = loader.sequential(BATCH_ITEMS, single_trials=single_trials)
    for host in tracked(hosts, f"batches of {loader.part} embedded", total):
        batch = loader.prepare(host, device)
        found.append(embed_batch(batch).float().cpu().numpy())
        samples.append(host.sample_B.numpy())
    z_NP = np.concatenate(found)
    if not single_trials:
        return z_NP
    sample_N = np.concatenate(samples)
    starts = np.flatnonzero(np.r_[True, np.diff(sample_N) != 0])
    mean_NP: np.ndarray = np.add.reduceat(z_NP, starts, axis=0) / np.diff(np.r_[starts, len(z_NP)])[:, None]
    return mean_NP


def _batches(loader: Loader, title: str) -> Iterator[tuple[np.ndarray, Batch]]:
    total = -(-loader.num_samples // BATCH_ITEMS)
    for host in tracked(loader.sequential(BATCH_ITEMS), title, total):
        yield host.counts_B.numpy(), loader.prepare(host, "cpu")
