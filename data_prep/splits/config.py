"""What a split is asked to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data_prep.contract import schema
from data_prep.contract.seed import check_seed

_UNSEEN_SUBJECTS = ("subject", "eeg-clip/by-subject")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Divide a study into train, validation and test; optionally fit a transform on the training trials."""

    study: str
    """Folder of the study."""
    policy: Literal["zero-shot", "recording", "session", "subject", "closed-set", "official", "eeg-clip/by-subject"]
    """What the test claims: unseen concepts, unseen recordings, unseen sessions, unseen subjects, or new images of known concepts;
    ``official``: what the data's makers chose, from ``file``; ``eeg-clip/by-subject``: a share of the subjects, on images seen."""
    name: str = ""
    """Name of the split, ``splits/NAME.json``; empty: the policy's. Folds are called ``NAME-00``, ``NAME-01``, ..."""
    seed: int = 0
    """Chooses what is held out where it is not named."""
    subjects: list[str] | None = None
    """Only these subjects; None: all."""
    folds: bool = False
    """``recording``, ``session`` and ``subject``: write one split for every recording (session, subject), each the test once."""
    test_recordings: list[str] | None = None
    """``recording``: labels of the test recordings; None: the last recording of every subject."""
    test_sessions: list[str] | None = None
    """``session``: labels of the test sessions, of every subject that has them; None: the last session of every subject."""
    test_subjects: list[str] | None = None
    """``subject``: labels of the test subjects; None: the last subject."""
    num_test_concepts: int | None = None
    """``zero-shot``: hold out this many concepts; None: the images that the source itself calls its test part."""
    test_share: float = 0.1
    """``closed-set``: share of each concept's images in the test part (at least one); ``eeg-clip/by-subject``: share of the subjects."""
    num_validation_concepts: int | None = None
    """``zero-shot``, and ``subject`` with unseen stimuli: training concepts to hold out; None: a tenth, at most 200; 0: no
    validation part."""
    num_validation_recordings: int = 1
    """``recording``: recordings of every test subject to hold out; 0: no validation part."""
    num_validation_sessions: int = 1
    """``session``: sessions of every test subject to hold out; 0: no validation part."""
    num_validation_subjects: int = 1
    """``subject``: subjects to hold out; 0: no validation part."""
    validation_share: float = 0.1
    """``closed-set``, ``eeg-clip/by-subject``: as ``test_share``, for the validation part (at least one); 0: no validation part."""
    file: str | None = None
    """``official``: the published split, ``.pth`` or JSON, ``{"splits": [{"train": [...], "val": [...], "test": [...]}]}``."""
    split_number: int = 0
    """``official``: which of the file's splits."""
    unseen_stimuli: bool | None = None
    """``subject``: whether test images are unseen, too, as in published leave-one-subject-out results; None: yes where the
    source has a test part."""
    clean_baseline: tuple[Literal["train", "validation", "test"], ...] = ()
    """Parts that take only trials before whose onset no other stimulus was shown (in THINGS-EEG2 the first of each sequence of 20);
    the study must know which those are."""
    transform: Literal["none", "zscore", "mvnn", "euclidean"] = "none"
    """Fit on the training trials, into ``transforms/NAME.npz``: by subject and session scaling, or whitening of the noise (multivariate
    noise normalisation); or Euclidean alignment, after which the mean covariance of each subject's trials is the identity."""
    alignment_by: Literal["subject", "session"] = "subject"
    """``euclidean``: one matrix a subject, or one a subject and session (where electrodes were placed anew)."""
    alignment_unseen: Literal["refuse", "own_trials"] = "refuse"
    """``euclidean``: what to do with a subject (or session) without training trials: ``refuse``, or fit on their own unlabelled trials,
    test trials among them; scores are then transductive, and the audit says so."""
    overwrite: bool = False
    """Replace a split of this name that differs; runs made with the old one can then no longer be resumed."""

    def __post_init__(self) -> None:
        schema.check_split_name(self.split_name)
        check_seed(self.seed)
        for name in ("test_share", "validation_share"):
            value = getattr(self, name)
            if not 0 <= value < 1 or (name == "test_share" and value == 0):
                raise ValueError(f"{name} is {value}, expected a share below 1")
        if (self.file is not None) != (self.policy == "official"):
            raise ValueError(f"policy is {self.policy!r} and file {self.file!r}: expected a file with policy 'official', and only there")
        for name in (
            "num_test_concepts", "num_validation_concepts", "num_validation_recordings", "num_validation_sessions",
            "num_validation_subjects", "split_number",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}, expected 0 or more")
        if len(set(self.clean_baseline)) != len(self.clean_baseline) or set(self.clean_baseline) - set(schema.PARTS):
            raise ValueError(f"clean_baseline is {list(self.clean_baseline)}, expected some of {schema.PARTS}, each once")
        if self.folds and self.policy not in ("recording", "session", "subject"):
            raise ValueError(f"folds is true with policy {self.policy!r}, expected policy 'recording', 'session' or 'subject'")
        if self.folds and (self.test_recordings or self.test_sessions or self.test_subjects):
            raise ValueError("folds is true and test_recordings, test_sessions or test_subjects are given, expected one of the two")
        owners = {"test_recordings": "recording", "test_sessions": "session", "test_subjects": "subject", "num_test_concepts": "zero-shot"}
        for name, policy in owners.items():
            if getattr(self, name) and self.policy != policy:
                raise ValueError(f"{name} is given with policy {self.policy!r}, expected policy {policy!r}")
        if self.transform != "euclidean" and (self.alignment_by, self.alignment_unseen) != ("subject", "refuse"):
            raise ValueError(f"alignment_by or alignment_unseen is given with transform {self.transform!r}, expected transform 'euclidean'")
        if self.transform == "euclidean" and self.policy in _UNSEEN_SUBJECTS and self.alignment_unseen == "refuse":
            raise ValueError(
                f"transform is 'euclidean' with policy {self.policy!r}: a test subject has no training trials, expected alignment_unseen: "
                "own_trials, which fits on their own unlabelled trials and is transductive, or transform 'none'"
            )
        if self.transform not in ("none", "euclidean") and self.policy in _UNSEEN_SUBJECTS:
            raise ValueError(
                f"transform is {self.transform!r} with policy {self.policy!r}: it is fitted by subject and session, and a test subject has "
                "no training trials, expected 'none'"
            )

    @property
    def split_name(self) -> str:
        """Name of the split: the one given, or the policy's."""
        return self.name or self.policy.replace("/", "-")
