"""A split's transform by labels, so that an export needs no study.

B: trials, R: repetitions, C: channels, T: time points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_prep.contract.arrays import read_archive
from data_prep.contract.errors import UserError
from data_prep.contract.manifest import Tables
from trainer.data.batch import Transform


@dataclass(frozen=True, kw_only=True)
class FittedTransform:
    """A split's transform by labels, so that it needs no study: see :class:`trainer.data.batch.Transform`."""

    transform: Transform
    labels: list[tuple[str, str]]
    """(subject, session) of each row of the transform's table."""

    @classmethod
    def read(cls, path: Path, device: torch.device) -> FittedTransform:
        """Read an export's ``transform.npz``."""
        arrays = read_archive(path, ("subject", "session", "matrix", "mean", "kind"))
        rows = np.arange(len(arrays["subject"]))
        table = Transform(
            kind=str(arrays["kind"]),
            subject_K=rows,
            session_K=rows,
            matrix_KOI=torch.from_numpy(arrays["matrix"].astype(np.float32)),
            mean_KI=torch.from_numpy(arrays["mean"].astype(np.float32)),
        )
        labels = list(zip(arrays["subject"].tolist(), arrays["session"].tolist(), strict=True))
        return cls(transform=table.to(device), labels=labels)

    def __call__(self, eeg_BRCT: Tensor, subjects: Sequence[str | None], sessions: Sequence[str | None]) -> Tensor:
        """Transform all repetitions of each trial by the row of its labels."""
        group_B = torch.tensor([self._row(*pair) for pair in zip(subjects, sessions, strict=True)], device=eeg_BRCT.device)
        repetitions = eeg_BRCT.shape[1]
        eeg_RCT = self.transform(eeg_BRCT.flatten(0, 1), group_B.repeat_interleave(repetitions))
        return eeg_RCT.reshape(-1, repetitions, *eeg_RCT.shape[1:])

    def _row(self, subject: str | None, session: str | None) -> int:
        rows = [n for n, (u, s) in enumerate(self.labels) if subject in (None, u) and session in (None, s)]
        if len(rows) != 1:
            have = ", ".join(f"{u}/{s}" for u, s in self.labels[:8]) + (", …" if len(self.labels) > 8 else "")
            raise UserError(f"subject {subject!r}, session {session!r}: expected one that the transform was fitted on, of {have}")
        return rows[0]


def write_transform(path: Path, fitted: Transform, tables: Tables) -> None:
    """Write a transform by labels, as :meth:`FittedTransform.read` reads it."""
    with path.open("wb") as file:
        np.savez(
            file,
            subject=np.array([tables.subjects[i] for i in fitted.subject_K]),
            session=np.array([tables.sessions[i] for i in fitted.session_K]),
            matrix=fitted.matrix_KOI.numpy(),
            mean=fitted.mean_KI.numpy(),
            kind=np.array(fitted.kind),
        )
