"""Ridge and encoding model against independent implementations and against what is known of simulated data."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.contract import block_sums, closed_form
from data_prep.contract.closed_form import fit_encoding_model, fit_ridge
from data_prep.contract.ranking import cosine_similarity, top_k


def _data(n, d=12, e=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * np.linspace(0.2, 2, d) + 3
    return x, x @ rng.standard_normal((d, e)) + rng.standard_normal((n, e)) + 1


@pytest.mark.parametrize("n", [60, 9])
def test_ridge_is_scikit_learns(n):
    from sklearn.linear_model import Ridge

    x, y = _data(n)
    ours = fit_ridge(x, y, alphas=[0.3])
    unit = np.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0))).mean()
    theirs = Ridge(alpha=0.3 * unit).fit(x, y)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-3, atol=1e-3)


def test_gcv_is_that_of_the_hat_matrix_and_picks_its_minimum():
    x, y = _data(40)
    xc, yc = x - x.mean(0), y - y.mean(0)
    unit = np.linalg.eigvalsh(xc.T @ xc).mean()

    def gcv(alpha):
        hat = xc @ np.linalg.solve(xc.T @ xc + alpha * unit * np.eye(12), xc.T)
        return np.square(yc - hat @ yc).sum() / (1 - (np.trace(hat) + 1) / 40) ** 2

    assert fit_ridge(x, y).alpha == min(closed_form.ALPHAS, key=gcv)


def test_many_features_are_reduced_and_still_predict(monkeypatch):
    monkeypatch.setattr(closed_form, "MAX_FEATURES", 30)
    monkeypatch.setattr(block_sums, "NUM_REDUCED", 25)
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((200, 5))
    x = latent @ rng.standard_normal((5, 60)) + 0.1 * rng.standard_normal((200, 60))
    ridge = fit_ridge(x[:150], latent[:150])
    assert np.corrcoef(ridge.predict(x[150:])[:, 0], latent[150:, 0])[0, 1] > 0.95
    model = fit_encoding_model(x[:150].reshape(150, 6, 10), latent[:150], 1, None)
    scores = model.log_likelihood(x[150:].reshape(50, 6, 10), 1, latent[150:])
    assert top_k(scores, np.arange(50), 1) > 0.9


def _encoding_data(rng, n, reps, b, root):
    z = rng.standard_normal((n, len(b)))
    return z, (z @ b)[:, None] + rng.standard_normal((n, reps, b.shape[1])) @ root


def test_encoding_model_nearly_reaches_the_bayes_decoder_for_any_number_of_repetitions():
    rng = np.random.default_rng(1)
    b, root = 0.7 * rng.standard_normal((6, 24)), rng.standard_normal((24, 24))
    z, trials = _encoding_data(rng, 600, 4, b, root)
    model = fit_encoding_model(trials.mean(1).reshape(600, 4, 6), z, 4, trials.reshape(600, 4, 4, 6))
    zt, test = _encoding_data(rng, 100, 40, b, root)
    precision = np.linalg.inv(root.T @ root)
    for n in (1, 5, 40):
        mean = test[:, :n].mean(1)
        best = mean @ precision @ (zt @ b).T - 0.5 * np.einsum("gd,de,ge->g", zt @ b, precision, zt @ b)
        ceiling = top_k(best, np.arange(100), 1)
        found = top_k(model.log_likelihood(mean.reshape(100, 4, 6), n, zt), np.arange(100), 1)
        assert found >= ceiling - 0.08, (n, found, ceiling)
    assert (model.lack_W > 0.05).sum() <= 1


def test_lack_of_fit_is_told_from_noise():
    rng = np.random.default_rng(2)
    b, hidden = rng.standard_normal((4, 20)), rng.standard_normal((2, 20))
    z = rng.standard_normal((800, 4))
    trials = (z @ b + 2 * rng.standard_normal((800, 2)) @ hidden)[:, None] + rng.standard_normal((800, 4, 20))
    model = fit_encoding_model(trials.mean(1).reshape(800, 4, 5), z, 4, (t.reshape(4, 4, 5) for t in trials))
    expected = np.sort(np.linalg.eigvalsh(4 * hidden.T @ hidden))[-2:]
    np.testing.assert_allclose(np.sort(model.lack_W)[-2:], expected, rtol=0.15)
    assert np.sort(model.lack_W)[:-2].max() < 0.02


def test_queries_with_different_repetitions_may_share_a_call():
    rng = np.random.default_rng(3)
    z, trials = _encoding_data(rng, 100, 3, rng.standard_normal((4, 12)), np.eye(12))
    mean = trials.mean(1).reshape(100, 3, 4)
    model = fit_encoding_model(mean, z, 3, trials.reshape(100, 3, 3, 4))
    both = model.log_likelihood(mean[:2], np.array([1, 3]), z)
    np.testing.assert_allclose(both[0], model.log_likelihood(mean[:1], 1, z)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(both[1], model.log_likelihood(mean[1:2], 3, z)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("x", "y", "message"), [
    (np.zeros((4, 3)), np.zeros((5, 2)), "4 rows of EEG"),
    (np.zeros((2, 3)), np.zeros((2, 2)), "at least 3"),
    (np.full((4, 3), np.nan), np.zeros((4, 2)), "not finite"),
])  # fmt: skip
def test_bad_input_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        fit_ridge(x, y)


def test_ties_take_their_mean_rank():
    assert top_k(np.zeros((4, 9)), np.arange(4), 5) == 1.0
    assert top_k(np.zeros((4, 9)), np.arange(4), 4) == 0.0
    assert top_k(cosine_similarity(np.eye(3), np.eye(3)), np.arange(3), 1) == 1.0
