"""Batches are the trials that were written: whichever part, selection, repetitions and slice of the stream are asked for."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, write_json
from data_prep.contract.manifest import read_manifest
from data_prep.contract.split import Split
from data_prep.splits import split as splits
from tests.helpers.tiny_study import write_tiny_study
from trainer.data.batch import normalise_trials
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.data.prefetch import Prefetched
from trainer.data.select import SelectConfig

SEED = 5


def write_split(root: Path, name: str, parts: dict) -> Split:
    whole = {p: parts.get(p, []) for p in schema.PARTS}
    split = Split(name=name, policy="", rows_hash=read_manifest(root).rows_hash, parts=whole)
    write_json(root / "splits" / f"{name}.json", split.plain())
    return split


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Two subjects, 12 images (4 of them test), 2 or 3 repetitions, 5 samples a shard."""
    root = write_tiny_study(tmp_path_factory.mktemp("loader") / "study", n_reps=3, vary_reps=True)
    write_split(root, "images", {"train": [{"stimulus": list(range(8))}], "test": [{"stimulus": [8, 9, 10, 11]}]})
    write_split(root, "repetitions", {"train": [{"repetition": [0, 2]}], "test": [{"repetition": [1]}]})
    return root


@pytest.fixture(scope="module")
def written(study) -> list[tuple[dict, np.ndarray]]:
    """Every sample in shard order, JSON and EEG, as Python's tarfile and numpy read them."""
    samples = []
    for path in sorted(study.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
        for name in members:
            if name.endswith(".eeg.npy"):
                samples.append((json.loads(members[name.replace(".eeg.npy", ".json")]), np.load(io.BytesIO(members[name]))))
    return samples


def loader(study: Path, part: str = "train", seed: int = SEED, select: dict | None = None, split: str = "images", **fields) -> Loader:
    config = DataConfig(study=str(study), split=split, embedding="tiny", select=SelectConfig(**(select or {})), block_shards=2, **fields)
    return Loader(StudyIndex.open(study), config, part, seed)


def mean_of(eeg: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(eeg.astype(np.float32).mean(axis=0))


def test_a_batch_holds_the_trials_ids_and_embeddings_that_were_written(study, written):
    train = loader(study)
    assert (train.num_items, train.num_samples, train.num_repetitions) == (16, 16, 2 * (6 * 3 + 2 * 2))
    batch = train.prepare(train.batch(0, 16), "cpu")
    gallery = np.load(study / "embeddings" / "tiny.npy")
    manifest = read_manifest(study)
    assert sorted(batch.item_B.tolist()) == list(range(16))
    for i in range(16):
        facts, eeg = written[int(batch.sample_B[i])]
        torch.testing.assert_close(batch.eeg_BCT[i], mean_of(eeg))
        stimulus = int(batch.stimulus_B[i])
        assert manifest.tables.stimuli[stimulus].id == facts["stimulus"]
        assert manifest.tables.subjects[int(batch.subject_B[i])] == facts["subject"]
        assert int(batch.concept_B[i]) == facts["concept"]
        assert np.array_equal(batch.target_BE[i].numpy(), gallery[stimulus])


def test_single_repetitions_as_items(study, written):
    train = loader(study, repetitions="each")
    assert train.num_items == train.num_repetitions == 44
    batch = train.prepare(train.batch(0, 44), "cpu")
    seen = {}
    for eeg, sample in zip(batch.eeg_BCT, batch.sample_B.tolist(), strict=True):
        matches = [r for r, trial in enumerate(written[sample][1]) if np.array_equal(trial.astype(np.float32), eeg.numpy())]
        assert len(matches) == 1
        seen.setdefault(sample, []).append(matches[0])
    assert all(sorted(reps) == list(range(len(written[sample][1]))) for sample, reps in seen.items())


def test_random_mean_averages_k_distinct_repetitions_drawn_anew_each_pass(study, written):
    train = loader(study, repetitions="random_mean", random_mean_k=2)
    choices: dict[int, set] = {}
    for data_pass in range(6):
        host = train.batch(data_pass * 16, (data_pass + 1) * 16)
        assert host.equal_count == 2
        batch = train.prepare(host, "cpu")
        for eeg, sample in zip(batch.eeg_BCT, batch.sample_B.tolist(), strict=True):
            trials = written[sample][1].astype(np.float32)
            pairs = [(a, b) for a in range(len(trials)) for b in range(a) if np.allclose((trials[a] + trials[b]) / 2, eeg, atol=1e-6)]
            assert len(pairs) == 1
            choices.setdefault(sample, set()).add(pairs[0])
    drawn = [len(c) for sample, c in choices.items() if len(written[sample][1]) == 3]
    assert np.mean(drawn) > 2
    again = loader(study, repetitions="random_mean", random_mean_k=2).batch(20, 25)
    assert torch.equal(again.repetitions_RCT, train.batch(0, 40).repetitions_RCT[40:50])


def test_a_part_of_a_sample_s_repetitions(study, written):
    train, test = loader(study, split="repetitions"), loader(study, "test", split="repetitions")
    assert (train.num_repetitions, test.num_repetitions) == (24 + 16, 24)
    for part, repetitions in ((train, [0, 2]), (test, [1])):
        for host in part.sequential(7):
            batch = part.prepare(host, "cpu")
            for eeg, sample in zip(batch.eeg_BCT, batch.sample_B.tolist(), strict=True):
                trials = written[sample][1]
                torch.testing.assert_close(eeg, mean_of(trials[[r for r in repetitions if r < len(trials)]]))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(start=st.integers(0, 60), length=st.integers(1, 40), cut=st.integers(0, 40), mode=st.sampled_from(["mean", "each", "random_mean"]))
def test_any_slice_of_the_stream_equals_the_same_slice_of_a_longer_one(cached_loaders, start, length, cut, mode):
    whole = cached_loaders[mode].prepare(cached_loaders[mode].batch(start, start + length), "cpu")
    cut = min(cut, length)
    parts = [
        cached_loaders[mode].prepare(cached_loaders[mode].batch(*s), "cpu") for s in ((start, start + cut), (start + cut, start + length))
    ]
    for name in ("item_B", "data_pass_B", "sample_B", "eeg_BCT", "target_BE"):
        torch.testing.assert_close(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name))


@pytest.fixture(scope="module")
def cached_loaders(study):
    return {mode: loader(study, repetitions=mode) for mode in ("mean", "each", "random_mean")}


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_ranks_and_micro_batches_together_see_the_one_stream(study, world_size):
    steps, global_batch, seen = 3, 48, {}
    reference = loader(study).order.items(16, 16 + steps * global_batch).tolist()
    for rank in range(world_size):
        with loader(study).batches(
            16, global_batch_size=global_batch, rank=rank, world_size=world_size, micro_batch_size=48 // world_size // 2
        ) as stream:
            for step in range(steps):
                seen[step, rank] = [i for _ in range(2) for i in next(stream).item_B.tolist()]
    assert [i for step in range(steps) for rank in range(world_size) for i in seen[step, rank]] == reference


def test_sequential_is_once_through_in_order_with_all_or_some_repetitions(study, written):
    test = loader(study, "test", repetitions="each")  # evaluation averages whatever training does
    hosts = list(test.sequential(3))
    assert [len(h) for h in hosts] == [3, 3, 2]
    assert torch.cat([h.item_B for h in hosts]).tolist() == list(range(8))
    first = test.prepare(next(test.sequential(8, repetitions=1)), "cpu")
    for eeg, sample in zip(first.eeg_BCT, first.sample_B.tolist(), strict=True):
        torch.testing.assert_close(eeg, mean_of(written[sample][1][:1]))
    draws = [next(test.sequential(8, repetitions=1, draw=d)).repetitions_RCT for d in range(4)]
    assert len({d.numpy().tobytes() for d in draws}) > 1
    assert torch.equal(draws[2], next(test.sequential(8, repetitions=1, draw=2)).repetitions_RCT)
    assert len(next(test.sequential(100, single_trials=True))) == test.num_repetitions
    assert test.stimuli.tolist() == [8, 9, 10, 11]
    chosen = test.prepare(test.samples_batch(np.array([5, 0])), "cpu")
    for eeg, sample in zip(chosen.eeg_BCT, (hosts[1].sample_B[2], hosts[0].sample_B[0]), strict=True):
        torch.testing.assert_close(eeg, mean_of(written[int(sample)][1]))


def test_selection_of_subjects_channels_times_repetitions_and_a_fraction(study, written):
    part = loader(study, select={"subjects": ["02"], "channels": ["TP9", "AF8"], "tmin": 0.0, "tmax": 0.1, "repetitions": 2})
    assert (part.ch_names, part.n_chans, part.n_times, part.num_items, part.num_repetitions) == (["TP9", "AF8"], 2, 11, 8, 16)
    assert part.tmin == pytest.approx(0.0)
    batch = part.prepare(part.batch(0, 8), "cpu")
    for eeg, sample in zip(batch.eeg_BCT, batch.sample_B.tolist(), strict=True):
        assert written[sample][0]["subject"] == "02"
        torch.testing.assert_close(eeg, mean_of(written[sample][1][:2])[[0, 2], 5:16])
    half, quarter = (loader(study, select={"fraction": f}) for f in (0.5, 0.25))
    samples = [set(p.batch(0, p.num_items).sample_B.tolist()) for p in (loader(study), half, quarter)]
    assert samples[0] > samples[1] > samples[2] > set()
    assert {*loader(study, seed=9, select={"fraction": 0.5}).batch(0, half.num_items).sample_B.tolist()} == samples[1]
    assert loader(study, "test", select={"fraction": 0.1, "repetitions": 1}).num_repetitions == loader(study, "test").num_repetitions
    assert loader(study, select={"concepts": ["concept1"]}).stimuli.tolist() == [2, 3]


def write_transform(study: Path, name: str, subjects: list[int], split_hash: str) -> dict[str, Any]:
    random = np.random.RandomState(0)
    pairs = [(subject, session) for subject in subjects for session in range(2)]
    arrays: dict[str, Any] = {
        "subject": np.array([p[0] for p in pairs]),
        "session": np.array([p[1] for p in pairs]),
        "matrix": random.standard_normal((len(pairs), 4, 4)).astype(np.float32),
        "mean": random.standard_normal((len(pairs), 4)).astype(np.float32),
        "split_hash": np.array(split_hash),
        "kind": np.array("mvnn"),
    }
    (study / "transforms").mkdir(exist_ok=True)
    np.savez(study / "transforms" / f"{name}.npz", **arrays)
    return arrays


def test_transform_is_applied_to_each_repetition_by_subject_and_session(study, written):
    arrays = write_transform(study, "white", [0, 1], read_json(study / "splits" / "images.json")["hash"])
    part = loader(study, transform="white", select={"channels": ["AF8", "TP9"]}, normalise="channel_demean")
    assert part.transform is not None
    assert part.transform.kind == "mvnn"
    batch = part.prepare(part.batch(0, 16), "cpu")
    assert batch.eeg_BCT.shape == (16, 2, 20)
    for eeg, sample, subject in zip(batch.eeg_BCT, batch.sample_B.tolist(), batch.subject_B.tolist(), strict=True):
        facts, trials = written[sample]
        rows = [2 * subject + int(session) - 1 for session in facts["session"]]
        out = [
            arrays["matrix"][row] @ (trial.astype(np.float32) - arrays["mean"][row][:, None])
            for row, trial in zip(rows, trials, strict=True)
        ]
        expected = np.mean(out, axis=0)[[2, 0]]
        np.testing.assert_allclose(eeg, expected - expected.mean(axis=1, keepdims=True), atol=2e-5)


def test_the_split_command_s_parts_and_transform_are_what_training_gets(copy):
    split, _ = splits.write_split(splits.SplitConfig(study=str(copy), policy="zero-shot", num_validation_concepts=1, transform="zscore"))
    parts = {part: loader(copy, part, split="zero-shot", transform="zero-shot", repetitions="each") for part in schema.PARTS}
    assert {part: p.num_samples for part, p in parts.items()} == {"train": 12, "validation": 4, "test": 8}
    assert not set(parts["train"].stimuli) & (set(parts["validation"].stimuli) | set(parts["test"].stimuli))
    assert parts["train"].split_hash == split.hash
    batch = parts["train"].prepare(next(parts["train"].sequential(1000, single_trials=True)), "cpu")
    for subject in (0, 1):
        of_subject_BCT = batch.eeg_BCT[batch.subject_B == subject]
        torch.testing.assert_close(of_subject_BCT.mean(dim=(0, 2)), torch.zeros(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(of_subject_BCT.square().mean(dim=(0, 2)), torch.ones(4), atol=1e-3, rtol=0)


def test_a_transform_that_does_not_fit_is_refused(study):
    split_hash = read_json(study / "splits" / "images.json")["hash"]
    write_transform(study, "one", [0], split_hash)
    with pytest.raises(StudyError, match="'one' has nothing for subject 02 in session 01"):
        loader(study, transform="one")
    write_transform(study, "stale", [0, 1], "0" * 64)
    with pytest.raises(StudyError, match=r"stale.npz: fitted on split 000000000000"):
        loader(study, transform="stale")
    with pytest.raises(StudyError, match=r"none.npz: no such transform; this study has one, stale"):
        loader(study, transform="none")


def test_normalisation_scales_each_item_by_itself():
    eeg = torch.randn((3, 4, 50), generator=torch.Generator().manual_seed(0)) * 20 + 7
    eeg[0, 0] = 3.3  # a constant channel stays at 0, it is not blown up
    z = normalise_trials(eeg, "channel_zscore")
    assert z[0, 0].abs().max() == 0
    torch.testing.assert_close(z[1:].mean(dim=2), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(z[1:].std(dim=2, correction=0), torch.ones(2, 4))
    whole = normalise_trials(eeg, "trial_zscore")
    torch.testing.assert_close(whole.std(dim=(1, 2), correction=0), torch.ones(3))
    torch.testing.assert_close(normalise_trials(eeg, "channel_demean") + eeg.mean(dim=2, keepdim=True), eeg)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"select": {"subjects": ["07"]}}, "data.select.subjects names 07, which the study lacks; it has 01, 02"),
        ({"select": {"channels": ["Cz"]}}, "data.select.channels names Cz"),
        ({"select": {"tmin": -1.0}}, "the window -1.0 to None s is not inside the study's -0.05 to 0.14 s"),
        ({"select": {"tmin": 0.1, "tmax": 0.0}}, "data.select.tmin 0.1 is not below tmax 0.0"),
        ({"select": {"fraction": 0.0}}, "data.select.fraction is 0.0"),
        ({"select": {"repetitions": 0}}, "data.select.repetitions is 0"),
        ({"part": "test", "select": {"concepts": ["concept0"]}}, "data.select leaves no trials in part 'test'"),
        ({"part": "validation"}, "has no part 'validation'"),
        ({"split": "other"}, "no such split; this study has images, repetitions"),
        ({"repetitions": "some"}, "data.repetitions is 'some'"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_a_sentence(study, fields, message):
    with pytest.raises(ValueError, match=message):
        loader(study, **fields)


def test_an_unknown_embedding_names_those_there_are(study):
    with pytest.raises(StudyError, match="no embedding 'clip'; this study has tiny"):
        Loader(StudyIndex.open(study), replace(loader(study).config, embedding="clip"), "train", SEED)


@pytest.fixture
def copy(study, tmp_path) -> Path:
    return Path(shutil.copytree(study, tmp_path / "study"))


def test_a_truncated_tar_is_named_before_training(copy):
    tar = copy / "000002.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(StudyError, match=r"000002.tar: \d+ bytes, expected \d+ bytes: truncated"):
        loader(copy)


def test_a_tar_that_shrinks_after_opening_is_named_by_the_batch_that_needs_it(copy):
    train = loader(copy)
    tar = copy / "000001.tar"
    tar.write_bytes(tar.read_bytes()[:1024])
    with train.batches(0, global_batch_size=16) as stream, pytest.raises(StudyError, match=r"000001.tar: 1024 bytes, expected"):
        next(stream)


def test_an_index_of_another_tar_is_named(copy):
    shutil.copy(copy / "000001.index.npy", copy / "000000.index.npy")
    with pytest.raises(StudyError, match=r"000000.index.npy: SHA-256 .* belongs to another tar"):
        loader(copy)


def test_an_altered_embedding_is_named(copy):
    np.save(copy / "embeddings" / "tiny.npy", np.zeros((12, 8), np.float32))
    with pytest.raises(StudyError, match=r"tiny.npy: SHA-256"):
        loader(copy)


def test_prefetching_raises_what_went_wrong_and_leaves_no_thread(study):
    def source():
        yield 1
        raise OSError("the disk is gone")

    with Prefetched(source()) as values:
        assert next(values) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            next(values)
        with pytest.raises(StopIteration):
            next(values)
    assert list(Prefetched(iter(range(5)), ahead=1)) == list(range(5))
    stream = loader(study).batches(0, global_batch_size=4)
    next(stream)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name == "batch prefetch"]


def test_sizes_that_do_not_divide_are_refused_at_once(study):
    with pytest.raises(ValueError, match="global_batch_size is 10, expected a multiple of the world size 4"):
        loader(study).batches(0, global_batch_size=10, world_size=4)


def test_float32_shards_and_class_level_trials(tmp_path):
    root = write_tiny_study(tmp_path / "study", stimulus_level="class", eeg_dtype="float32", n_reps=4)
    write_split(root, "runs", {"train": [{"recording": [0, 1, 3, 4]}], "test": [{"recording": [2, 5]}]})
    train = loader(root, split="runs")
    host = train.batch(0, train.num_items)
    assert host.repetitions_RCT.dtype == torch.float32
    assert train.num_items == 2 * 2 * 8
    assert sorted(set(host.concept_B.tolist())) == [0, 1]
