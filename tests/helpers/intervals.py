"""Intervals of one kind of score, where the commands ask for all kinds at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.evaluate.intervals import Interval, bootstrap_class_means, bootstrap_means


def bootstrap_mean(values_Q: np.ndarray, **options: Any) -> Interval:
    """:func:`bootstrap_means` of one kind; ``options`` are its."""
    return bootstrap_means({"": values_Q}, **options)[""]


def bootstrap_class_mean(values_Q: np.ndarray, class_Q: np.ndarray, **options: Any) -> Interval:
    """:func:`bootstrap_class_means` of one kind; ``options`` are its."""
    return bootstrap_class_means({"": values_Q}, class_Q, **options)[""]
