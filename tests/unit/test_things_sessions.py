"""Sessions of repetitions: what is recovered is what was presented, and what contradicts the files is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from data_prep.contract.errors import StudyError
from data_prep.contract.split import assign_parts
from data_prep.shards.open import open_study
from data_prep.shards.write import ShardConfig, write_study
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from data_prep.splits.transforms import fit_transform
from data_prep.studies import things_sessions
from data_prep.studies.things import ThingsReaderConfig, ThingsSource
from tests.helpers.shared_data import shared_data
from tests.helpers.things_files import (
    CH_NAMES,
    N_TIMES,
    TEST,
    TRAIN,
    eeg_of,
    official,
    ubp,
    write_dict,
    write_metadata,
    write_presentation_order,
)  # fmt: skip

SEED = 20200220


def sklearn_shuffle(items: Any, count: int | None = None) -> np.ndarray:
    from sklearn.utils import shuffle

    found: np.ndarray = shuffle(np.asarray(items), random_state=SEED, n_samples=count)
    return found


def official_study(root: Path, orders: dict[int, list[np.ndarray]], *, num_images: int = 6) -> None:
    """Trials as the official code lays them out, from presentations that are told apart by their values.

    The first point of the first channel is 100 x session + 10 x run + place in the run / 100.
    """
    rng = np.random.default_rng(0)
    write_metadata(root)
    for subject, order in orders.items():
        by_session = []
        for session, shown in enumerate(order):
            flat, run_length = shown.ravel(order="F"), int(np.prod(shown.shape[:3]))
            kept = {}
            for image in np.unique(flat[flat > 0]).tolist():
                places = sklearn_shuffle(np.flatnonzero(flat == image), 2)
                trials = rng.standard_normal((2, 4, N_TIMES))
                trials[:, 0, 0] = [100 * session + 10 * (p // run_length + 1) + p % run_length / 100 for p in places]
                kept[image] = trials
            by_session.append(kept)
        train = np.stack([np.concatenate([kept[i + 1] for kept in by_session if i + 1 in kept]) for i in range(num_images)])
        test = np.stack([rng.standard_normal((3, 20, 4, N_TIMES)) + 100 * session for session in range(4)], 1).reshape(3, 80, 4, N_TIMES)
        for part, eeg in (("training", train), ("test", test)):
            shuffled = eeg[:, sklearn_shuffle(np.arange(eeg.shape[1]))]
            write_dict(root / f"sub-{subject:02d}/preprocessed_eeg_{part}.npy", official(shuffled))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    orders = {subject: write_presentation_order(tmp_path / "order", subject, 6) for subject in (1, 2)}
    official_study(tmp_path, orders)
    return tmp_path


def opened(root: Path, **changes: Any) -> ThingsSource:
    return ThingsReaderConfig(root=str(root), require_images=False, **changes).open()


def test_every_repetition_is_of_the_session_run_and_place_that_it_was_presented_in(study: Path) -> None:
    source = opened(study, presentation_order=str(study / "order"))
    facts = source.facts
    assert facts.sessions == ["01", "02", "03", "04"]
    assert set(facts.preprocessing["sessions"]) == {"training", "test"}
    for number, plan in enumerate(source.samples):
        eeg_RCT = source.eeg(number)
        subject = facts.subjects[plan.subject]
        for rep in range(plan.n_reps):
            session = facts.sessions[plan.session[rep]]
            if plan.stimulus >= 6:
                assert round(float(eeg_RCT[rep].mean()) / 100) + 1 == int(session)
                assert facts.recordings[plan.recording[rep]] == f"sub-{subject}_ses-{session}_run-test"
                assert plan.trial[rep] == -1
                assert plan.clean_baseline is not None
                assert plan.clean_baseline[rep] is None
                continue
            run = int(facts.recordings[plan.recording[rep]].removeprefix(f"sub-{subject}_ses-{session}_run-"))
            assert float(eeg_RCT[rep, 0, 0]) == pytest.approx(100 * (int(session) - 1) + 10 * run + plan.trial[rep] / 100, abs=1e-4)
            assert plan.clean_baseline is not None
            assert plan.clean_baseline[rep] == (plan.trial[rep] % 4 == 0)


def test_without_the_order_only_the_sessions_of_test_repetitions_are_known(study: Path) -> None:
    source = opened(study)
    assert source.facts.sessions == ["01", "02", "03", "04", "unknown"]
    assert source.samples[0].session == [4] * 4
    assert source.samples[0].clean_baseline is None
    wanted = sklearn_shuffle(np.arange(80)) // 20
    assert source.samples[6].session == wanted.tolist()
    assert opened(study, repetition_order="unknown").facts.sessions == ["unknown"]


def test_splits_whitening_and_clean_baselines_know_the_sessions(study: Path) -> None:
    reader = ThingsReaderConfig(root=str(study), require_images=False, presentation_order=str(study / "order"))
    write_study(ShardConfig(reader=reader, output=str(study / "out"), eeg_dtype="float32"))
    config = SplitConfig(study=str(study / "out"), policy="zero-shot", num_validation_concepts=0, clean_baseline=("train",))
    split, _ = write_split(config)
    opened_study = open_study(study / "out")
    part = assign_parts(split, opened_study.table)
    clean = opened_study.table.clean_baseline
    assert set(clean[part == 1]) == {1}
    assert (part == 1).sum() == (clean == 1).sum() > 0
    whole, _ = write_split(SplitConfig(study=str(study / "out"), policy="zero-shot", num_validation_concepts=0, name="whole"))
    fitted = fit_transform(opened_study, whole, "mvnn")
    assert sorted(zip(fitted["subject"].tolist(), fitted["session"].tolist(), strict=True)) == [(s, k) for s in (0, 1) for k in range(4)]


@pytest.mark.parametrize(
    "change", ["repetitions", "test repetitions", "images", "missing", "other images", "shape", "no numbers", "damaged"]
)
def test_an_order_that_is_not_of_these_files_is_refused(study: Path, change: str) -> None:
    file = study / "order/stimOrder_sub-1_sess-3.mat"
    messages = {
        "repetitions": r"preprocessed_eeg_training\.npy: 3 repetitions of an image, the presentation order tells where each of 4 comes",
        "test repetitions": r"preprocessed_eeg_test\.npy: 79 to 79 repetitions of a test image, sessions are recovered for 80",
        "images": r"stimOrder_sub-1_sess-3\.mat: image \d+ is shown in neither of sessions 3 and 4",
        "missing": r"stimOrder_sub-1_sess-3\.mat: no such file",
        "other images": r"stimOrder_sub-1_sess-3\.mat: shows image 7, the study has 6 training images",
        "shape": r"stimOrder_sub-1_sess-3\.mat: stimOrder is float64 of shape \(2, 2\), expected numbers",
        "no numbers": r"stimOrder_sub-1_sess-3\.mat: stimOrder holds values that are no image numbers",
        "damaged": r"stimOrder_sub-1_sess-3\.mat: not a whole MAT file",
    }
    shown = things_sessions._read(file)
    if change == "repetitions":
        write_dict(study / "sub-01/preprocessed_eeg_training.npy", official(eeg_of(6, 3)))
    elif change == "test repetitions":
        write_dict(study / "sub-01/preprocessed_eeg_test.npy", official(eeg_of(3, 79)))
    elif change == "images":
        savemat(file, {"stimOrder": np.where(shown == shown.max(), 0, shown)})
    elif change == "missing":
        file.unlink()
    elif change == "other images":
        savemat(file, {"stimOrder": np.where(shown == shown.max(), 7, shown)})
    elif change == "shape":
        savemat(file, {"stimOrder": np.zeros((2, 2))})
    elif change == "no numbers":
        savemat(file, {"stimOrder": shown - 0.5})
    else:
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(StudyError, match=messages[change]):
        opened(study, presentation_order=str(study / "order"))


def test_sessions_that_a_file_states_must_be_those_of_the_order(tmp_path: Path) -> None:
    import torch

    orders = write_presentation_order(tmp_path / "order", 1, 6)
    known = things_sessions.training_repetitions(orders, "sequential")
    write_metadata(tmp_path)
    (tmp_path / "sub-01").mkdir()
    torch.save(ubp(eeg_of(3, 8), TEST, "test", np.tile(np.arange(8) // 2, (3, 1))), tmp_path / "sub-01/test.pt")
    torch.save(ubp(eeg_of(6, 4), TRAIN, "train", known.session_NR), tmp_path / "sub-01/train.pt")
    source = opened(tmp_path, presentation_order=str(tmp_path / "order"))
    assert source.samples[2].trial == known.trial_NR[2].tolist()
    assert source.facts.sessions == ["01", "02", "03", "04"]
    torch.save(ubp(eeg_of(6, 4), TRAIN, "train", known.session_NR[::-1]), tmp_path / "sub-01/train.pt")
    with pytest.raises(StudyError, match=r"train\.pt: repetition \d of row \d is of session \d, by .*order of \d"):
        opened(tmp_path, presentation_order=str(tmp_path / "order"))


@pytest.mark.long
@pytest.mark.parametrize("subject", range(1, 11))
def test_the_published_order_gives_the_recovered_sessions(subject: int) -> None:
    folder = shared_data() / "formats" / "THINGS-EEG2"
    presented, _ = things_sessions.read_presentation_order(folder / "stim_order", f"{subject:02d}", 16540)
    found = things_sessions.training_repetitions(presented, "official")
    wanted = np.load(folder / "recovered_training_session_of_repetition.npz")["session"][subject - 1]
    np.testing.assert_array_equal(found.session_NR + 1, wanted)
    place_NR = (found.run_NR - 1) * 20 * 56 * 3 + found.trial_NR
    for session, shown in enumerate(presented):
        rows, reps = np.nonzero(found.session_NR == session)
        np.testing.assert_array_equal(shown.ravel(order="F")[place_NR[rows, reps]], rows + 1)
    assert found.clean_NR.mean() == pytest.approx(0.05, abs=0.001)
    assert len(found.recordings("01")) == 20


def test_the_published_shuffle_gives_the_recovered_sessions_of_the_test() -> None:
    wanted = np.load(shared_data() / "formats" / "THINGS-EEG2" / "recovered_test_session_of_repetition.npy")
    np.testing.assert_array_equal(things_sessions.test_repetitions(200, "official").session_NR, np.tile(wanted, (200, 1)))


CASES = {
    "t01_times_in_ms": {"sfreq": 100.0, "tmin": -0.04},
    "t03_zero_padded_repetitions": {"n_reps": [4, 2, 2, 2, 2, 2, 4, 4]},
    "t03b_nan_padded_repetitions": {"n_reps": [4, 2, 2, 2, 2, 2, 4, 4]},
    "t03c_ragged_repetitions": {"n_reps": [2, 3, 2, 3, 2, 3, 4, 4]},
    "t04_times_longer_cropped_at_end": {"tmin": 0.06},
    "t06_channel_order": {"ch_names": list(CH_NAMES)},
    "t06b_extra_stim_channel": {"ch_names": list(CH_NAMES)},
    "t07_int16": {"n_reps": [2] * 6 + [4] * 2},
    "t07_transposed_pickle5": {"n_reps": [2] * 6 + [4] * 2},
}


@pytest.mark.parametrize("case", CASES)
def test_cases_that_went_wrong(case: str) -> None:
    source = opened(shared_data() / "cases" / case / "data")
    for name, wanted in CASES[case].items():
        found = [plan.n_reps for plan in source.samples] if name == "n_reps" else getattr(source.facts, name)
        assert found == wanted
    for number in range(len(source.samples)):
        assert np.isfinite(source.eeg(number)).all()
        assert (np.ptp(source.eeg(number), axis=2) > 0).all()
    said = source.facts.preprocessing
    for name, prefix in {"padding_left_out": ("t03_", "t03b"), "unclear": ("t04",), "times_unit": ("t01",)}.items():
        assert (name in said) == case.startswith(prefix)
    if case.startswith("t04"):
        assert opened(shared_data() / "cases" / case / "data", times_end="first").facts.tmin == -0.04
    if case.startswith("t06"):
        first, second = (source.eeg(i).std(axis=(0, 2)) for i in (0, 8))
        np.testing.assert_allclose(first, second, rtol=0.6)
