"""Trials that are rejected, or mended, by limits that the data themselves give: autoreject (Jas et al. 2017).

Shape suffixes: B trials, C channels, T time points.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.contract.seed import check_seed
from data_prep.preprocess.linear import one_thread
from data_prep.preprocess.positions import info_of, places_of


@dataclass(frozen=True, kw_only=True)
class AutorejectConfig:
    """Rejection with limits fitted on all trials of a recording by cross-validation, whatever part of a split they will be in."""

    method: Literal["local", "global"] = "local"
    """``local``: a limit a channel; a trial's few bad channels are interpolated, a trial with too many is dropped. ``global``: one limit
    for all channels, trials above it are dropped."""
    num_interpolate: tuple[int, ...] = (1, 4, 8)
    """``local``: most channels that are interpolated in a trial; the best is chosen."""
    consensus: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """``local``: share of bad channels from which a trial is dropped; the best is chosen."""
    folds: int = 5
    """``local``: folds of the cross-validation."""
    seed: int = 0
    """Of the folds and of the search."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.folds < 2:
            raise ValueError(f"autoreject.folds is {self.folds}, expected at least 2")
        if not self.num_interpolate or min(self.num_interpolate) < 1:
            raise ValueError(f"autoreject.num_interpolate is {list(self.num_interpolate)}, expected whole numbers from 1")
        if not self.consensus or not all(0 < share <= 1 for share in self.consensus):
            raise ValueError(f"autoreject.consensus is {list(self.consensus)}, expected shares above 0 and up to 1")


def autoreject(
    trials_BCT: np.ndarray, ch_names: Sequence[str], sfreq: float, config: AutorejectConfig, positions: Mapping[str, Sequence[float]]
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Trials of one recording (microvolts), which of them stay, and what was found.

    Returns
    -------
    (trials, keep, found)
        float32 (B, C, T), with interpolated channels where the method is local; bool (B,).

    Raises
    ------
    UserError
        Fewer trials than folds, channels without a position, or no library.
    """
    try:
        import autoreject as library
    except ImportError as error:
        raise UserError(f"autoreject needs a library that is not here ({error}): pip install 'eeg-vision-stack[preprocess]'") from error
    import mne

    places_C3 = places_of(ch_names, positions, "autoreject") if config.method == "local" else None
    if len(trials_BCT) < 2 * config.folds:
        raise UserError(
            f"{len(trials_BCT)} trials are left, autoreject needs at least {2 * config.folds} (two a fold) in a recording: leave it out"
        )
    usable = tuple(count for count in config.num_interpolate if count < len(ch_names))
    if config.method == "local" and not usable:
        raise UserError(f"autoreject.num_interpolate is {list(config.num_interpolate)} with {len(ch_names)} channels, expected fewer")
    with one_thread(), warnings.catch_warnings(), mne.use_log_level("error"):
        warnings.simplefilter("ignore")
        mne_epochs = mne.EpochsArray(1e-6 * trials_BCT.astype(np.float64), info_of(ch_names, sfreq, places_C3), baseline=None, proj=False)
        if config.method == "global":
            limit = library.get_rejection_threshold(
                mne_epochs, random_state=config.seed % 2**32, ch_types="eeg", cv=config.folds, verbose=False
            )["eeg"]
            keep_B = (np.ptp(mne_epochs.get_data(copy=False), axis=2) <= limit).all(1)
            return trials_BCT, keep_B, {"limit_microvolts": 1e6 * float(limit)}
        fitted = library.AutoReject(
            n_interpolate=np.array(usable),
            consensus=np.array(config.consensus),
            cv=config.folds,
            random_state=config.seed % 2**32,
            n_jobs=1,
            verbose=False,
        ).fit(mne_epochs)
        done, log = fitted.transform(mne_epochs, return_log=True)
    keep_B = ~log.bad_epochs
    mended_BCT = trials_BCT.copy()
    touched_BC = (log.labels == 2) & keep_B[:, None]  # 2: bad and interpolated
    cleaned_BCT = np.empty_like(mended_BCT)
    cleaned_BCT[keep_B] = 1e6 * done.get_data(copy=False)
    mended_BCT[touched_BC] = cleaned_BCT[touched_BC]  # all others keep every bit
    limits = {name: round(1e6 * float(limit), 2) for name, limit in fitted.threshes_.items()}
    return (
        mended_BCT,
        keep_B,
        {
            "limit_microvolts": limits,
            "num_interpolate": int(fitted.n_interpolate_["eeg"]),
            "consensus": float(fitted.consensus_["eeg"]),
            "interpolated_in_trials": {name: int(n) for name, n in zip(ch_names, touched_BC.sum(0), strict=True) if n},
        },
    )
