"""A channel-mixing matrix for each subject, for data in which subjects' topographies differ.

B: rows, S: subjects, C: channels, T: time points.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data_prep.contract.errors import UserError


class SubjectLayer(nn.Module):
    """y = (I + M[subject]) x over channels, M starting at zero; an unknown subject (-1) gets the subjects' mean matrix."""

    def __init__(self, num_subjects: int, n_chans: int) -> None:
        super().__init__()
        if num_subjects < 1:
            raise UserError(f"model.subject_layer: linear with {num_subjects} subjects, expected at least 1")
        self.mixing_SCC = nn.Parameter(torch.zeros(num_subjects, n_chans, n_chans))

    def forward(self, eeg_BCT: Tensor, subject_B: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T). Ids are checked where a study is opened; here other ones end in an IndexError, on a GPU in an assertion
        of the device."""
        with_mean_SCC = torch.cat([self.mixing_SCC.mean(0, keepdim=True), self.mixing_SCC])
        # Selected by counts from 0: an index would take -2 for the last subject, and a look at the ids would wait for the device.
        return eeg_BCT + torch.bmm(with_mean_SCC.index_select(0, subject_B + 1), eeg_BCT)
