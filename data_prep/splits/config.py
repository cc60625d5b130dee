"""What a split is asked to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data_prep.contract import schema
from data_prep.contract.seed import check_seed


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Divide a study into train, validation and test; optionally fit a transform on the training trials."""

    study: str
    """Folder of the study."""
    policy: Literal["zero-shot", "recording", "subject", "closed-set"]
    """What the test claims: unseen concepts, unseen recordings, unseen subjects, or new images of known concepts."""
    name: str = ""
    """Name of the split, ``splits/NAME.json``; empty: the policy's. Folds are called ``NAME-00``, ``NAME-01``, ..."""
    seed: int = 0
    """Chooses what is held out where it is not named."""
    subjects: list[str] | None = None
    """Only these subjects; None: all."""
    folds: bool = False
    """``recording`` and ``subject``: write one split for every recording (subject), each the test once."""
    test_recordings: list[str] | None = None
    """``recording``: labels of the test recordings; None: the last recording of every subject."""
    test_subjects: list[str] | None = None
    """``subject``: labels of the test subjects; None: the last subject."""
    num_test_concepts: int | None = None
    """``zero-shot``: hold out this many concepts; None: the images that the source itself calls its test part."""
    test_share: float = 0.1
    """``closed-set``: share of each concept's images in the test part (at least one)."""
    num_validation_concepts: int | None = None
    """``zero-shot``, and ``subject`` with unseen stimuli: training concepts to hold out; None: a tenth, at most 200; 0: no
    validation part."""
    num_validation_recordings: int = 1
    """``recording``: recordings of every test subject to hold out; 0: no validation part."""
    num_validation_subjects: int = 1
    """``subject``: subjects to hold out; 0: no validation part."""
    validation_share: float = 0.1
    """``closed-set``: share of each concept's images in the validation part (at least one); 0: no validation part."""
    unseen_stimuli: bool | None = None
    """``subject``: whether test images are unseen, too, as in published leave-one-subject-out results; None: yes where the
    source has a test part."""
    transform: Literal["none", "zscore", "mvnn"] = "none"
    """Fit by subject and session on the training trials, into ``transforms/NAME.npz``: scaling, or whitening of the noise
    (multivariate noise normalisation)."""
    overwrite: bool = False
    """Replace a split of this name that differs; runs made with the old one can then no longer be resumed."""

    def __post_init__(self) -> None:
        schema.check_split_name(self.name or self.policy)
        check_seed(self.seed)
        for name in ("test_share", "validation_share"):
            value = getattr(self, name)
            if not 0 <= value < 1 or (name == "test_share" and value == 0):
                raise ValueError(f"{name} is {value}, expected a share below 1")
        for name in ("num_test_concepts", "num_validation_concepts", "num_validation_recordings", "num_validation_subjects"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}, expected 0 or more")
        if self.folds and self.policy not in ("recording", "subject"):
            raise ValueError(f"folds is true with policy {self.policy!r}, expected policy 'recording' or 'subject'")
        if self.folds and (self.test_recordings or self.test_subjects):
            raise ValueError("folds is true and test_recordings or test_subjects are given, expected one of the two")
        for name, policy in (("test_recordings", "recording"), ("test_subjects", "subject"), ("num_test_concepts", "zero-shot")):
            if getattr(self, name) and self.policy != policy:
                raise ValueError(f"{name} is given with policy {self.policy!r}, expected policy {policy!r}")
        if self.transform != "none" and self.policy == "subject":
            raise ValueError(
                f"transform is {self.transform!r} with policy 'subject': it is fitted by subject and session, and a test subject has no "
                "training trials, expected 'none'"
            )
