"""What a source was whitened on: whether the trials of a test part had a say in it decides what a score on them shows."""

from __future__ import annotations

from typing import Literal

WhitenedOn = Literal["test_and_training", "training", "none", "unknown"]
"""Trials on which the noise covariance of a source was estimated, by the source's own division."""
_SAW_TEST = {"test_and_training": "yes", "training": "no", "none": "no", "unknown": "unknown"}


def whitening_facts(whitened_on: WhitenedOn, how: str) -> dict[str, str]:
    """As the manifest has it: ``whitening_saw_test`` speaks of the source's own test part, ``whitened_on`` serves other splits."""
    return {"whitening_saw_test": _SAW_TEST[whitened_on], "whitened_on": whitened_on, "whitening": how}


RAW = whitening_facts("none", "none: cut from continuous recordings")
OFFICIAL = whitening_facts(
    "test_and_training",
    "test_and_training, by layout: the official code whitens by session with the mean of the test and the training covariance",
)
NOT_SAID = whitening_facts("unknown", "unknown: the files do not say it")
