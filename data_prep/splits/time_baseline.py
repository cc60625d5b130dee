"""How much of a label the time of its trial gives away: nearest training trial in the same recording, nothing else.

Shape suffixes: N trials.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ALPHA = 1e-3
"""A probability below which agreement is not chance."""
_EXCESS = 0.1
"""Share of what is left above chance from which it matters."""


@dataclass(frozen=True, kw_only=True)
class TimeBaseline:
    """What :func:`time_baseline` found."""

    accuracy: float
    """Share of test trials whose label is that of the training trial nearest in time."""
    chance: float
    """The same, expected of labels in random order in each recording."""
    trials: int
    """Test trials that have a training trial in their recording."""
    p: float
    """Probability of as many agreements by chance."""

    @property
    def tells(self) -> bool:
        """Whether time tells labels."""
        return self.p < _ALPHA and self.accuracy - self.chance > _EXCESS * (1 - self.chance)


def time_baseline(
    recording_N: np.ndarray, time_N: np.ndarray, label_N: np.ndarray, train_N: np.ndarray, test_N: np.ndarray
) -> TimeBaseline | None:
    """Predict every test trial's label from time alone; None where no test trial shares a recording with training.

    Parameters
    ----------
    recording_N, time_N, label_N
        Recording, time or place in it, and label of each trial.
    train_N, test_N
        Which are trained on, which tested: bool.
    """
    agree, expected, trials = 0.0, 0.0, 0
    for recording in np.unique(recording_N[test_N]).tolist():
        here = recording_N == recording
        train, test = np.flatnonzero(here & train_N), np.flatnonzero(here & test_N)
        if not len(train):
            continue
        order = train[np.argsort(time_N[train], kind="stable")]
        at = np.searchsorted(time_N[order], time_N[test])
        before, after = np.clip(at - 1, 0, len(order) - 1), np.clip(at, 0, len(order) - 1)
        gap_before, gap_after = np.abs(time_N[test] - time_N[order[before]]), np.abs(time_N[order[after]] - time_N[test])
        hits_before, hits_after = label_N[order[before]] == label_N[test], label_N[order[after]] == label_N[test]
        # Both neighbours as near: each counts half.
        agree += float(
            np.where(
                gap_before < gap_after, hits_before, np.where(gap_after < gap_before, hits_after, (hits_before * 1.0 + hits_after) / 2)
            ).sum()
        )
        labels = np.unique(label_N[train])
        share = {label: float((label_N[train] == label).mean()) for label in labels.tolist()}
        expected += sum(share.get(label, 0.0) for label in label_N[test].tolist())
        trials += len(test)
    if not trials:
        return None
    from scipy import stats  # slow to import

    chance = expected / trials
    p = float(stats.binom.sf(np.floor(agree) - 1, trials, chance)) if chance < 1 else 1.0
    return TimeBaseline(accuracy=agree / trials, chance=chance, trials=trials, p=p)
