"""A batch in host memory as it leaves the shards, and the same batch ready for a model on its device.

The host only gathers bytes (:class:`HostBatch`, still float16 and single repetitions). :func:`prepare` does the
arithmetic where it is cheap: cast to float32, apply what was fitted on the split's training rows, average an item's
repetitions, normalise.

Shapes: R repetitions in the batch, B items, C channels, T time points, E embedding; K (subject, session) pairs of a
transform, I channels in, O channels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from data_prep.contract.arrays import read_archive
from data_prep.contract.errors import StudyError, UserError

Normalise = Literal["none", "channel_demean", "channel_zscore", "trial_zscore"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HostBatch:
    """Items as gathered, on the CPU. Repetitions of one item are neighbours, items in stream order; ids are int64."""

    repetitions_RCT: torch.Tensor
    """Stored dtype (float16 or float32). With a transform all stored channels, else the selected ones."""
    counts_B: torch.Tensor
    """Repetitions of each item."""
    group_R: torch.Tensor
    """Row of each repetition in the transform's table; -1 without a transform."""
    item_B: torch.Tensor
    """Number of the item in its part of the split: 0 ... num_items - 1."""
    data_pass_B: torch.Tensor
    sample_B: torch.Tensor
    """Number of the item's sample in the study."""
    subject_B: torch.Tensor
    """Rows of the manifest's tables, as are stimulus and concept."""
    stimulus_B: torch.Tensor
    concept_B: torch.Tensor
    embedding_BE: torch.Tensor
    """float32, of the item's stimulus."""
    equal_count: int
    """Repetitions of every item, or 0 if they differ."""
    fault: str = ""
    """What of it no model may see, in a sentence that names the sample; empty: nothing."""

    def __len__(self) -> int:
        return len(self.item_B)

    def pin(self) -> HostBatch:
        """The same batch in page-locked memory, from which a copy to a GPU runs beside the computation."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        pinned: dict[str, Any] = {name: value.pin_memory() for name, value in values.items() if isinstance(value, torch.Tensor)}
        return replace(self, **pinned)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What a task computes on; all on one device. Ids are int64."""

    eeg_BCT: torch.Tensor
    """float32, repetitions averaged."""
    target_BE: torch.Tensor
    """float32: embedding of the item's stimulus as it is in the gallery (not normalised)."""
    subject_B: torch.Tensor
    stimulus_B: torch.Tensor
    concept_B: torch.Tensor
    item_B: torch.Tensor
    data_pass_B: torch.Tensor
    sample_B: torch.Tensor

    def __len__(self) -> int:
        return len(self.item_B)

    def cut(self, parts: int) -> list[Batch]:
        """The same rows, in order, in so many batches of equal length."""
        columns = {f.name: getattr(self, f.name).chunk(parts) for f in fields(self)}
        return [Batch(**{name: values[part] for name, values in columns.items()}) for part in range(parts)]


@dataclass(frozen=True, kw_only=True)
class Transform:
    """What was fitted on a split's training rows: ``y = matrix @ (x - mean)`` by (subject, session)."""

    kind: str
    subject_K: np.ndarray
    session_K: np.ndarray
    """int64: rows of the manifest's tables."""
    matrix_KOI: torch.Tensor
    """float32."""
    mean_KI: torch.Tensor
    """float32."""

    @classmethod
    def read(cls, path: Path, *, split_hash: str, channels: Sequence[int], n_chans: int) -> Transform:
        """Read ``transforms/NAME.npz``; its outputs are the channels with the numbers ``channels``.

        Raises
        ------
        StudyError
            If it is missing, was fitted on another split or for other channels.
        """
        if not path.is_file():
            have = ", ".join(sorted(p.stem for p in path.parent.glob("*.npz"))) or "none"
            raise StudyError(f"{path}: no such transform; this study has {have}")
        arrays = read_archive(path, ("subject", "session", "matrix", "mean", "split_hash", "kind"))
        if str(arrays["split_hash"]) != split_hash:
            raise StudyError(f"{path}: fitted on split {str(arrays['split_hash'])[:12]}…, expected {split_hash[:12]}…: fit it again")
        shape = (len(arrays["subject"]), n_chans, n_chans)
        if arrays["matrix"].shape != shape or arrays["mean"].shape != shape[:2] or arrays["session"].shape != shape[:1]:
            raise StudyError(f"{path}: matrix {arrays['matrix'].shape} and mean {arrays['mean'].shape}, expected {shape}")
        if any(arrays[name].dtype.kind not in "iuf" for name in ("subject", "session", "matrix", "mean")):
            raise StudyError(f"{path}: holds arrays that are not numbers, expected numbers")
        for name in ("matrix", "mean"):
            finite = np.abs(arrays[name]) <= np.finfo(np.float32).max
            if not finite.all():
                raise StudyError(f"{path}: {name} of row {int(np.argwhere(~finite)[0][0])} is not finite, expected numbers: fit it again")
        silent_KO = np.abs(arrays["matrix"]).max(axis=2) < np.finfo(np.float32).tiny
        if silent_KO.any():
            row, channel = (int(place) for place in np.argwhere(silent_KO)[0])
            raise StudyError(f"{path}: matrix of row {row} makes channel {channel} 0, expected a transform of it: fit it again")
        return cls(
            kind=str(arrays["kind"]),
            subject_K=arrays["subject"].astype(np.int64),
            session_K=arrays["session"].astype(np.int64),
            matrix_KOI=torch.from_numpy(np.ascontiguousarray(arrays["matrix"][:, list(channels)], np.float32)),
            mean_KI=torch.from_numpy(np.ascontiguousarray(arrays["mean"], np.float32)),
        )

    def to(self, device: torch.device | str) -> Transform:
        """The same transform with its arrays on ``device``."""
        return Transform(
            kind=self.kind,
            subject_K=self.subject_K,
            session_K=self.session_K,
            matrix_KOI=self.matrix_KOI.to(device),
            mean_KI=self.mean_KI.to(device),
        )

    def __call__(self, eeg_RIT: torch.Tensor, group_R: torch.Tensor) -> torch.Tensor:
        """Transform each repetition by the row ``group_R`` of the table: float32 (R, O, T)."""
        centred_RIT = eeg_RIT - self.mean_KI.index_select(0, group_R).unsqueeze(2)
        return torch.bmm(self.matrix_KOI.index_select(0, group_R), centred_RIT)


@torch.no_grad()
def prepare(
    host: HostBatch,
    device: torch.device | str,
    *,
    transform: Transform | None = None,
    normalise: Normalise = "none",
    non_blocking: bool = True,
) -> Batch:
    """Move a batch to ``device`` and do its arithmetic there: cast, transform, average repetitions, normalise.

    Parameters
    ----------
    transform
        On ``device`` (see :meth:`Transform.to`), for the (subject, session) numbers in ``host.group_R``.
    normalise
        See :func:`normalise_trials`; of the average.
    non_blocking
        Do not wait for the copy: harmless on the CPU, useful from pinned memory to a GPU.
    """

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, non_blocking=non_blocking)

    eeg_RCT = move(host.repetitions_RCT).to(torch.float32)
    if transform is not None:
        eeg_RCT = transform(eeg_RCT, move(host.group_R))
    eeg_BCT = average_repetitions(eeg_RCT, move(host.counts_B), host.equal_count)
    return Batch(
        eeg_BCT=normalise_trials(eeg_BCT, normalise),
        target_BE=move(host.embedding_BE),
        subject_B=move(host.subject_B),
        stimulus_B=move(host.stimulus_B),
        concept_B=move(host.concept_B),
        item_B=move(host.item_B),
        data_pass_B=move(host.data_pass_B),
        sample_B=move(host.sample_B),
    )


def average_repetitions(eeg_RCT: torch.Tensor, counts_B: torch.Tensor, equal_count: int) -> torch.Tensor:
    """Mean over each item's repetitions, which are neighbours: (B, C, T). ``equal_count`` 0 means that counts differ."""
    if equal_count == 1:
        return eeg_RCT.contiguous()
    if equal_count:
        return eeg_RCT.reshape(-1, equal_count, *eeg_RCT.shape[1:]).mean(dim=1)
    segment_R = torch.repeat_interleave(counts_B, output_size=len(eeg_RCT))
    sum_BCT = eeg_RCT.new_zeros((len(counts_B), *eeg_RCT.shape[1:])).index_add_(0, segment_R, eeg_RCT)
    return sum_BCT / counts_B.view(-1, 1, 1)


def normalise_trials(eeg_BCT: torch.Tensor, normalise: Normalise) -> torch.Tensor:
    """Scale each item by itself: nothing of the study is fitted, so the same holds for a single trial in service.

    ``channel_demean`` subtracts each channel's mean over time; ``channel_zscore`` also divides by its standard deviation;
    ``trial_zscore`` does so with one mean and deviation for all channels, which keeps the topography. A constant channel
    becomes 0.
    """
    if normalise == "none":
        return eeg_BCT
    if normalise not in ("channel_demean", "channel_zscore", "trial_zscore"):
        raise UserError(f"normalise is {normalise!r}, expected none, channel_demean, channel_zscore or trial_zscore")
    over = (1, 2) if normalise == "trial_zscore" else (2,)
    centred_BCT = eeg_BCT - eeg_BCT.mean(dim=over, keepdim=True)
    if normalise == "channel_demean":
        return centred_BCT
    deviation = centred_BCT.square().mean(dim=over, keepdim=True).sqrt()
    # The mean of a constant rounds: what is left is below this floor and must not be blown up to unit variance.
    floor = eeg_BCT.abs().amax(dim=over, keepdim=True) * 1e-5 + torch.finfo(torch.float32).tiny
    # Asked this way round, NaN stays NaN instead of becoming the 0 of a constant channel.
    return torch.where(deviation <= floor, torch.zeros_like(centred_BCT), centred_BCT / deviation.clamp_min(floor))
