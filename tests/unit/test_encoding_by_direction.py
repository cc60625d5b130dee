"""The encoding model by direction: against plain loops over rows, whatever the order and the cut of the sums, and against the model of one
penalty on data of which the truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_prep.contract.closed_form import EncodingModel, fit_encoding_model
from data_prep.contract.errors import UserError
from data_prep.contract.noise_covariance import within_covariance
from data_prep.contract.ranking import top_k
from trainer.models.encoding import by_direction
from trainer.models.encoding.by_direction import PENALTIES, fit_by_direction
from trainer.models.encoding.moments import GroupedMoments, Moments, folds_of

E, D, C = 24, 60, 6


class Data:
    """Simulated: an embedding with a mean and a falling spectrum drives EEG with coloured noise; a part of the drive is not in the
    embedding."""

    def __init__(self, n: int, n_reps: np.ndarray | int, seed: int = 0, *, hidden: float = 0.3) -> None:
        truth, draw = np.random.default_rng(99), np.random.default_rng(seed)
        gain_ED = truth.standard_normal((E, D)) * np.linspace(1.5, 0.05, D)[truth.permutation(D)]
        root_DD = truth.standard_normal((D, D)) / np.sqrt(D) + np.eye(D)
        spectrum_E = np.linspace(1, 0.2, E)
        self.embedding = draw.standard_normal((n, E)) * spectrum_E + 2
        other_ND = draw.standard_normal((n, 4)) @ truth.standard_normal((4, D)) * hidden
        self.n_reps = np.broadcast_to(n_reps, (n,)).astype(np.int64)
        clean_ND = 0.05 * (self.embedding - 2) @ gain_ED + other_ND + 5
        trials = [clean + draw.standard_normal((r, D)) @ root_DD for clean, r in zip(clean_ND, self.n_reps, strict=True)]
        self.repetitions = [each.reshape(len(each), C, -1) for each in trials]
        self.eeg = np.array([each.mean(0) for each in trials], np.float32)
        self.fold = folds_of(np.arange(n))

    def moments(self, rows: Any = slice(None)) -> GroupedMoments:
        return GroupedMoments.of(self.embedding[rows], self.eeg[rows], self.fold[rows], self.n_reps[rows])

    def noise(self) -> tuple[np.ndarray, int]:
        return within_covariance(self.repetitions, D, None)


def scores(model: EncodingModel, data: Data) -> np.ndarray:
    return model.log_likelihood(data.eeg.reshape(len(data.eeg), C, -1), data.n_reps, data.embedding)


def accuracy(model: EncodingModel, data: Data) -> float:
    return float(top_k(scores(model, data), np.arange(len(data.eeg)), 1))


def test_sums_of_any_order_and_cut_give_the_same_model() -> None:
    data, test = Data(300, np.arange(300) % 3 + 1), Data(40, 4, seed=1)
    expected = scores(fit_by_direction(data.moments(), *data.noise()), test)
    order = np.random.default_rng(5).permutation(300)
    for pieces in (2, 4, 37):
        parts = [data.moments(rows) for rows in np.array_split(order, pieces)]
        found = scores(fit_by_direction(sum(parts[1:], parts[0]), *data.noise()), test)
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()  # queries and means are float32
        assert (found.argmax(1) == expected.argmax(1)).all()


def test_moments_are_those_of_the_rows() -> None:
    data = Data(50, 2)
    mean_E, mean_D = data.embedding.mean(0), data.eeg.mean(0, dtype=np.float64)
    basis = np.random.default_rng(0).standard_normal((D, 7))
    e, y = data.embedding - mean_E, (data.eeg - mean_D) @ basis
    found = Moments.of(data.embedding, data.eeg).about(mean_E, mean_D).projected(basis)
    np.testing.assert_allclose(found.sum_EE, e.T @ e, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.sum_ED, e.T @ y, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(found.sum_DD, y.T @ y, rtol=1e-6, atol=1e-4)
    assert found.count == 50


def test_each_response_has_the_penalty_of_its_own_cross_validation() -> None:
    data = Data(80, 3)
    x, y = data.embedding - data.embedding.mean(0), data.eeg - data.eeg.mean(0)
    unit = np.linalg.eigvalsh(x.T @ x).sum() / len(x)

    def weights(column: int) -> np.ndarray:
        def gcv(penalty: float) -> float:
            hat = x @ np.linalg.solve(x.T @ x + penalty * unit * np.eye(E), x.T)
            return float(np.square(y[:, column] - hat @ y[:, column]).sum() / (1 - (np.trace(hat) + 1) / len(x)) ** 2)

        return np.linalg.solve(x.T @ x + min(PENALTIES, key=gcv) * unit * np.eye(E), x.T @ y[:, column])

    found = by_direction._ridge(data.moments().total(), PENALTIES)
    for column in range(0, D, 11):
        np.testing.assert_allclose(found[:, column], weights(column), rtol=1e-4, atol=1e-6)


def test_residuals_out_of_fold_are_those_of_a_loop() -> None:
    data = Data(90, 2)
    folds = by_direction._Folds.fit(data.moments(), PENALTIES, {2: 1.0})
    for fold in range(5):
        own = data.fold == fold
        weights = by_direction._ridge(data.moments(~own).total(), PENALTIES)
        predicted = data.eeg[~own].mean(0) + (data.embedding[own] - data.embedding[~own].mean(0)) @ weights
        left = data.eeg[own] - predicted
        np.testing.assert_allclose(folds.left[fold], left.T @ left, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("n_reps", [1, 4, 16])
def test_it_beats_one_penalty_where_directions_differ(n_reps: int) -> None:
    data, test = Data(1500, 4), Data(200, n_reps, seed=1)
    eeg_NCT = data.eeg.reshape(len(data.eeg), C, -1)
    one = accuracy(fit_encoding_model(eeg_NCT, data.embedding, 4, data.repetitions), test)
    by = accuracy(fit_by_direction(data.moments(), *data.noise()), test)
    assert by >= one
    assert by > 0.02


def test_it_learns_from_single_trials() -> None:
    data, test = Data(1500, 1), Data(100, 8, seed=1)
    assert accuracy(fit_by_direction(data.moments(), np.zeros((D, D)), 0), test) > 0.2


def test_rows_count_by_what_their_repetitions_say(monkeypatch: pytest.MonkeyPatch) -> None:
    data, test = Data(600, np.where(np.arange(600) % 6 == 0, 100, 1), hidden=0), Data(300, 8, seed=1, hidden=0)
    weighted = accuracy(fit_by_direction(data.moments(), *data.noise()), test)
    monkeypatch.setattr(by_direction, "_weights", lambda moments, lack: {n: 1.0 for _, n in moments.groups})
    assert weighted > accuracy(fit_by_direction(data.moments(), *data.noise()), test) + 0.05


def test_signal_that_is_not_there_is_not_found() -> None:
    data, test = Data(400, 3), Data(200, 3, seed=1)
    data.embedding = np.random.default_rng(3).permutation(data.embedding)
    assert accuracy(fit_by_direction(data.moments(), *data.noise()), test) < 0.05


def test_folds_hold_whole_groups_and_do_not_depend_on_the_rows_beside() -> None:
    group = np.array([7, 3, 7, 9, 3, 11, 12, 20])
    fold = folds_of(group)
    assert {len(set(fold[group == each])) for each in group} == {1}
    order = np.array([3, 1, 0, 7, 6, 5, 4, 2])
    assert (folds_of(group[order]) == fold[order]).all()
    assert set(folds_of(np.arange(50)).tolist()) == set(range(5))


def test_what_cannot_be_fitted_is_said() -> None:
    data = Data(30, 2)
    with pytest.raises(UserError, match=r"6 rows in \d folds: expected at least 10 in 2"):
        fit_by_direction(data.moments(slice(0, 6)), *data.noise())
    data.fold[:] = 0
    with pytest.raises(UserError, match="30 rows in 1 folds"):
        fit_by_direction(data.moments(), *data.noise())
    data.eeg[3, 4] = np.nan
    with pytest.raises(UserError, match="not finite"):
        data.moments()
    with pytest.raises(UserError, match=r"expected \(n, e\) with as many rows"):
        GroupedMoments.of(data.embedding[1:], data.eeg, data.fold, data.n_reps)
