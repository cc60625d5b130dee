"""Euclidean alignment: the mean covariance of training trials is the identity, unseen subjects are told of, what is no signal is out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.contract.audit import read_audit
from data_prep.contract.errors import StudyError
from data_prep.contract.split import Split, assign_parts
from data_prep.shards.open import StudyFolder, open_study
from data_prep.shards.write import ShardConfig, write_study
from data_prep.splits.audit import write_audit
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from tests.helpers.tiny_study import TinyEmbedding, TinyReader, TinySource
from trainer.data.batch import Transform
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader


@dataclass(frozen=True, kw_only=True)
class MixedReader(TinyReader):
    """Trials of classes, mixed by a matrix of each subject's own; on request average-referenced, or with a masked channel."""

    averaged: bool = False
    """Subtract the mean over channels."""
    masked: str | None = None
    """Channel that is zero in every recording."""

    def open(self) -> TinySource:
        return MixedSource(self)


class MixedSource(TinySource):
    """See :class:`MixedReader`."""

    def __init__(self, config: MixedReader) -> None:
        super().__init__(config)
        self.mixed = config
        if config.masked is not None:
            self.facts = replace(self.facts, masked=dict.fromkeys(range(len(self.facts.recordings)), (config.masked,)))

    def eeg(self, i: int) -> np.ndarray:
        """Mixed."""
        subject = self.samples[i].subject
        eeg_RCT = np.random.RandomState(subject).standard_normal((4, 4)) @ super().eeg(i) * 10.0 ** (subject % 2)
        if self.mixed.averaged:
            eeg_RCT = eeg_RCT - eeg_RCT.mean(1, keepdims=True)
        if self.mixed.masked is not None:
            eeg_RCT[:, self.facts.ch_names.index(self.mixed.masked)] = 0
        return np.asarray(eeg_RCT, np.float32)


def study_of(folder: Path, **fields: object) -> StudyFolder:
    reader = MixedReader(stimulus_level="class", n_subjects=3, n_recordings=3, n_reps=8, **fields)  # type: ignore[arg-type]
    write_study(ShardConfig(reader=reader, output=str(folder), embeddings={"tiny": TinyEmbedding()}))
    return open_study(folder)


def mean_covariance(study: StudyFolder, split: Split, subject: int, parts: tuple[int, ...]) -> np.ndarray:
    """Of aligned trials, as the trainer reads and applies the transform."""
    transform = Transform.read(
        study.root / "transforms" / f"{split.name}.npz", split_hash=split.hash, channels=range(4), n_chans=study.manifest.signal.n_chans
    )
    rows = np.flatnonzero(np.isin(assign_parts(split, study.table), parts) & (study.table.subject == subject))
    eeg_RCT = np.concatenate([study.eeg(i) for i in study.table.sample[rows]]).astype(np.float32)
    group = int(np.flatnonzero(transform.subject_K == subject)[0])
    aligned_RCT = transform(torch.from_numpy(eeg_RCT), torch.full((len(rows),), group)).numpy()
    return np.mean(aligned_RCT @ aligned_RCT.transpose(0, 2, 1), axis=0) / eeg_RCT.shape[2]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return study_of(tmp_path_factory.mktemp("alignment") / "study")


@pytest.mark.parametrize("by", ["subject", "session"])
def test_the_mean_covariance_of_training_trials_is_the_identity_for_each_subject(study: StudyFolder, by: str) -> None:
    config = SplitConfig(study=str(study.root), policy="recording", name=f"by-{by}", transform="euclidean", alignment_by=by)  # type: ignore[arg-type]
    split, report = write_split(config)
    for subject in range(3):
        np.testing.assert_allclose(mean_covariance(study, split, subject, (1,)), np.eye(4), atol=1e-4)
        assert abs(mean_covariance(study, split, subject, (3,)) - np.eye(4)).max() > 1e-3  # test trials were not looked at
    assert "transductive_alignment" not in {finding.kind for finding in report.findings}
    assert "alignment_by" not in split.options


def test_an_unseen_subject_is_refused_or_said_to_be_transductive(study: StudyFolder) -> None:
    with pytest.raises(ValueError, match="a test subject has no training trials, expected alignment_unseen: own_trials"):
        SplitConfig(study=str(study.root), policy="subject", transform="euclidean")
    config = SplitConfig(study=str(study.root), policy="subject", name="across", transform="euclidean", alignment_unseen="own_trials")
    split, report = write_split(config)
    for subject in range(3):
        np.testing.assert_allclose(mean_covariance(study, split, subject, (1, 2, 3)), np.eye(4), atol=1e-4)
    for found in (report, write_audit(study, split), read_audit(study.root, "across")):
        assert found is not None
        (finding,) = [finding for finding in found.findings if finding.kind == "transductive_alignment"]
        assert finding.level == "caution"
        assert "subject 02, 03 is fitted on their own unlabelled trials, 48 of them test trials" in finding.message
        assert found.verdict != "sound"


def test_a_session_without_training_trials_takes_its_subjects_matrix_or_is_refused(tmp_path: Path) -> None:
    reader = MixedReader(n_subjects=2, n_sessions=2, n_reps=4)
    write_study(ShardConfig(reader=reader, output=str(tmp_path / "s")))
    common = {"study": str(tmp_path / "s"), "policy": "recording", "num_validation_recordings": 0, "transform": "euclidean"}
    split, _ = write_split(SplitConfig(**common, name="subjects"))  # type: ignore[arg-type]
    with np.load(tmp_path / "s" / "transforms" / "subjects.npz") as arrays:
        assert arrays["session"].tolist() == [0, 1, 0, 1]
        np.testing.assert_array_equal(arrays["matrix"][0], arrays["matrix"][1])
        assert not arrays["transductive"].any()
    with pytest.raises(StudyError, match="subject 01 session 02 has no training trials, expected some: alignment is fitted on training"):
        write_split(SplitConfig(**common, name="sessions", alignment_by="session"))  # type: ignore[arg-type]
    assert split.has("test")


def test_a_direction_without_signal_is_left_out_and_a_masked_channel_stays_zero(tmp_path: Path) -> None:
    averaged = study_of(tmp_path / "averaged", averaged=True)
    split, _ = write_split(SplitConfig(study=str(averaged.root), policy="recording", name="a", transform="euclidean"))
    covariance = mean_covariance(averaged, split, 0, (1,))
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance), [0, 1, 1, 1], atol=1e-3)
    with np.load(averaged.root / "transforms" / "a.npz") as arrays:
        assert np.abs(arrays["matrix"]).max() < 100
    masked = study_of(tmp_path / "masked", masked="AF7")
    assert masked.manifest.masked["sub-01_run-01"] == ["AF7"]
    for transform in ("euclidean", "zscore"):
        split, _ = write_split(SplitConfig(study=str(masked.root), policy="recording", name=transform, transform=transform))  # type: ignore[arg-type]
        covariance = mean_covariance(masked, split, 1, (1,))
        assert (covariance[1] == 0).all()
        np.testing.assert_allclose(np.diag(covariance)[[0, 2, 3]], 1, atol=0.05)


def test_the_loader_applies_it_to_subjects_that_were_never_trained_on(study: StudyFolder) -> None:
    config = SplitConfig(study=str(study.root), policy="subject", name="loaded", transform="euclidean", alignment_unseen="own_trials")
    write_split(config)
    data = DataConfig(study=str(study.root), split="loaded", transform="loaded", embedding="tiny", repetitions="each")
    loader = Loader(StudyIndex.open(study.root), data, "test", seed=0)
    eeg_BCT = loader.prepare(loader.batch(0, 48), "cpu").eeg_BCT.numpy()
    covariance = np.mean(eeg_BCT @ eeg_BCT.transpose(0, 2, 1), axis=0) / eeg_BCT.shape[2]
    np.testing.assert_allclose(covariance, np.eye(4), atol=1e-4)
