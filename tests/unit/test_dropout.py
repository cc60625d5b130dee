"""Dropout by item: the same of an item in any batch, at random otherwise, and the same in the backward pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.data.random import hash_torch
from trainer.models.contrastive import ContrastiveModel, ContrastiveModelConfig
from trainer.models.dropout import Dropout, DropoutKeys, attend, kept_by_hash
from trainer.models.encoders import ChannelNet, CnnTransformer, EEGProject, EncoderConfig, FlatLinear, TSConv
from trainer.models.language.prefix import PrefixConfig
from trainer.training.own_draws import generators, have_moved, seed_generators

CPU = torch.device("cpu")
ROWS = 12
ENCODERS: dict[str, EncoderConfig] = {
    "tsconv": TSConv(num_filters=4, kernel_samples=5, pool_samples=6, stride_samples=3, dropout=0.5),
    "cnn_transformer": CnnTransformer(
        d_model=8, num_layers=2, num_heads=2, feedforward=16, embedding_dim=8, conv_widths=[6, 6], kernel_samples=[5, 3], dilations=[1, 1],
        pooling="cls", dropout=0.4,
    ),
    "eegproject": EEGProject(embedding_dim=8, dropout=0.5),
    "flat_linear": FlatLinear(embedding_dim=8, dropout=0.5),
    "channelnet": ChannelNet(temporal_filters=2, spatial_filters=3, kernel_samples=5, residual_blocks=1, embedding_dim=8, dropout=0.4),
}  # fmt: skip


def keys(*items: int, data_pass: int = 0, seed: int = 7) -> Tensor:
    return hash_torch(seed, torch.tensor(data_pass), torch.tensor(items))


def masks(key_R: Tensor, width: int = 4096, p: float = 0.3, name: str = "drop") -> np.ndarray:
    """What one dropout keeps of rows of ones: bool (R, width)."""
    dropout = Dropout(p)
    DropoutKeys([(name, dropout)]).set(key_R)
    return (dropout(torch.ones(len(key_R), width)) != 0).numpy()


def model(encoder: EncoderConfig) -> ContrastiveModel:
    """One whose normalisation does not join the items."""
    torch.manual_seed(1)
    config = ContrastiveModelConfig(
        encoder=encoder, norm="layer", eeg_head="residual", image_head="mlp", image_head_hidden=9, image_head_dropout=0.3, proj_dim=10
    )
    return config.build(n_chans=4, n_times=24, sfreq=100.0, num_subjects=1, embedding_dim=6).train()


@pytest.mark.parametrize("name", ENCODERS)
def test_an_item_is_the_same_in_any_cut_order_and_company(name: str) -> None:
    """Random cuts of random orders, as ranks, micro-batches, accumulation and a resumed run make them: outputs and summed gradients."""
    built, rng = model(ENCODERS[name]), np.random.default_rng(0)
    eeg, subject, image = torch.randn(ROWS, 4, 24), torch.zeros(ROWS, dtype=torch.int64), torch.randn(ROWS, 6)
    key_B, weight = keys(*range(ROWS)), torch.randn(ROWS, 10)

    def run(parts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        built.zero_grad()
        found = torch.empty(ROWS, 20)
        for part in parts:
            torch.manual_seed(int(rng.integers(1000)))  # torch's own stream has no part in it
            out = built(eeg[part], subject[part], image[part], key_B[part])
            ((out.z_eeg_BP + out.z_image_BP) * weight[part]).sum().backward()
            found[part] = torch.cat((out.eeg_BP, out.image_BP), dim=1).detach()
        return found, [p.grad.clone() for p in built.parameters() if p.grad is not None]

    expected, gradients = run([torch.arange(ROWS)])
    for _ in range(4):
        order = torch.from_numpy(rng.permutation(ROWS))
        cuts = sorted(rng.choice(np.arange(1, ROWS), size=rng.integers(1, 5), replace=False).tolist())
        found, again = run(list(order.tensor_split(cuts)))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        for mine, other in zip(again, gradients, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)
    other_pass = built(eeg, subject, image, keys(*range(ROWS), data_pass=1))
    assert ((other_pass.eeg_BP - expected[:, :10]).abs().amax(dim=1) > 1e-3).all(), "another data pass drops other elements of every item"
    before = generators(CPU)
    built(eeg, subject, image, key_B)
    assert not have_moved(before, generators(CPU)), "every dropout draws by item"
    built.eval()
    outs = [built(eeg, subject, image, k).eeg_BP for k in (None, key_B)]
    assert torch.equal(*outs)
    assert not any("dropout" in key for key in built.state_dict()), "exports and checkpoints of before fit"


@pytest.mark.parametrize("kind", ["mlp", "resampler"])
def test_a_projector_drops_by_item(kind: str) -> None:
    torch.manual_seed(0)
    projector = PrefixConfig(kind=kind, num_tokens=2, hidden=16, heads=2, dropout=0.4).build(6, 8, 0.5).train()  # type: ignore[arg-type]
    given, features, key_B = DropoutKeys(projector.named_modules()), torch.randn(8, 5, 6), keys(*range(8))
    given.set(key_B)
    whole = projector(features)
    for part in torch.arange(8).flip(0).split(3):
        given.set(key_B[part])
        torch.testing.assert_close(projector(features[part]), whole[part])


@pytest.mark.parametrize("p", [0.001, 0.05, 0.3, 0.5, 0.9])
def test_the_share_is_right_in_all_and_in_every_row_and_column(p: float) -> None:
    kept = masks(keys(*range(500)), 2000, p)
    share, rows, columns = 1 - kept.mean(), 1 - kept.mean(axis=1), 1 - kept.mean(axis=0)
    deviation = (p * (1 - p)) ** 0.5
    assert abs(share - p) < 4 * deviation / 1000
    # As in independent draws: the spread of rows and columns is the binomial's, no more and no less.
    assert rows.std() == pytest.approx(deviation / 2000**0.5, rel=0.15)
    assert columns.std() == pytest.approx(deviation / 500**0.5, rel=0.15)


def test_items_passes_seeds_modules_and_neighbours_are_independent() -> None:
    """Correlations of masks, and of products of two with a third and a fourth, are those of chance."""
    rows = [
        *masks(keys(*range(6), 10**9)),
        *masks(keys(*range(4), data_pass=1)),
        *masks(keys(*range(4), seed=8)),
        *masks(keys(*range(4)), name="other"),
    ]
    signs = np.stack([(row - row.mean()) / row.std() for row in rows])
    shifted = np.concatenate((signs, np.roll(signs, 1, axis=1), np.roll(signs, 64, axis=1)))
    chance = 1 / 4096**0.5
    pairs = [shifted[i] * shifted[j] for i, j in itertools.combinations(range(len(shifted)), 2)]
    assert max(abs(pair.mean()) for pair in pairs) < 5 * chance
    assert np.std([pair.mean() for pair in pairs]) == pytest.approx(chance, rel=0.1)
    fours = [
        float((signs[i] * signs[j] * np.roll(signs[i] * signs[j], k)).mean())
        for i, j in itertools.combinations(range(9), 2)
        for k in (1, 2, 7)
    ]
    assert np.std(fours) == pytest.approx(chance, rel=0.25)


def test_modules_of_one_model_differ_and_are_told_by_name() -> None:
    built = model(ENCODERS["cnn_transformer"])
    built(torch.randn(2, 4, 24), torch.zeros(2, dtype=torch.int64), torch.randn(2, 6), keys(0, 1))
    rows = [module.row_R for module in built.modules() if isinstance(module, Dropout)]
    assert len(rows) == 2 + 2 * 4 + 2
    assert len({int(value) for row in rows if row is not None for value in row}) == 2 * len(rows)


@pytest.mark.parametrize("again", ["backward", "checkpoint"])
def test_the_backward_pass_drops_what_the_forward_dropped(again: str) -> None:
    """Also where it computes the forward anew after another use of torch's stream."""
    dropout = Dropout(0.25).train()
    DropoutKeys([("d", dropout)]).set(keys(1, 2, 3))
    x = torch.rand(3, 50).add(1).requires_grad_()
    y = checkpoint(dropout, x, use_reentrant=False, preserve_rng_state=False) if again == "checkpoint" else dropout(x)
    torch.rand(100)
    (gradient,) = torch.autograd.grad((y * y).sum(), x)
    torch.testing.assert_close(gradient, 2 * y.detach() / 0.75)
    assert {round(value, 3) for value in (y / x).detach().flatten().tolist()} == {0.0, 1.333}


def test_whole_maps_are_dropped_together_and_by_item() -> None:
    dropout, x = Dropout(0.5, whole_maps=True), torch.ones(6, 40, 3, 5)
    given = DropoutKeys([("d", dropout)])
    given.set(keys(*range(6)))
    y = dropout(x)
    assert torch.equal(y.amax(dim=(2, 3)), y.amin(dim=(2, 3)))
    assert y.unique().tolist() == [0.0, 2.0]
    given.set(keys(4))
    assert torch.equal(dropout(x[4:5]), y[4:5])


@pytest.mark.parametrize("given", [None, keys(0, 1, 2)])
def test_without_keys_or_for_other_rows_it_draws_as_torch_does_and_that_is_seen(given: Tensor | None) -> None:
    dropout, x = Dropout(0.5), torch.ones(2, 1000)
    DropoutKeys([("d", dropout)]).set(given)
    before = generators(CPU)
    first, second = dropout(x), dropout(x)
    assert have_moved(before, generators(CPU))
    assert not torch.equal(first, second)
    assert float(first.mean()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("draw", "own"),
    [
        (lambda x: nn.Dropout(0.5)(x), True),
        (lambda x: nn.Dropout2d(0.5)(x[None, ..., None]), True),
        (lambda x: F.dropout(x, 0.5), True),
        (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5), True),
        (lambda x: F.rrelu(-x, training=True), True),
        (lambda x: x + torch.randn_like(x), True),
        (lambda x: nn.MultiheadAttention(4, 2, dropout=0.5)(x, x, x), True),
        (lambda x: nn.Dropout(0.5).eval()(x), False),
        (lambda x: x.softmax(-1), False),
        (lambda x: torch.rand(3, generator=torch.Generator().manual_seed(0)), False),
    ],
)
def test_any_draw_from_torchs_own_stream_is_seen(draw: Callable[[Tensor], object], own: bool) -> None:
    x = torch.ones(6, 4)
    nn.Linear(1, 1)
    before = generators(CPU)
    draw(x)
    assert have_moved(before, generators(CPU)) == own


@pytest.mark.long
def test_it_is_compiled_without_a_break_to_the_same_bits() -> None:
    dropout = Dropout(0.3)
    DropoutKeys([("d", dropout)]).set(keys(*range(5)))
    x = torch.randn(5, 30_000)
    assert torch.equal(torch.compile(dropout, fullgraph=True, backend="aot_eager")(x), dropout(x))
    row_R = torch.arange(5, dtype=torch.int32)
    assert torch.equal(kept_by_hash(row_R, 70_000, 0.3)[:, :10], kept_by_hash(row_R, 10, 0.3)), "in chunks or in one piece"


def test_attention_with_dropout_is_attention_whose_weights_are_dropped() -> None:
    query, key, value = torch.randn(3, 2, 5, 4), torch.randn(3, 2, 7, 4), torch.randn(3, 2, 7, 4)
    dropout = Dropout(0.4)
    DropoutKeys([("d", dropout)]).set(keys(0, 1, 2))
    weights = (query @ key.transpose(-2, -1) / 2).softmax(-1)
    torch.testing.assert_close(attend(query, key, value, dropout), (weights * dropout.mask(weights) / 0.6) @ value)
    torch.testing.assert_close(attend(query, key, value, dropout.eval()), F.scaled_dot_product_attention(query, key, value))


def test_what_draws_from_torchs_own_stream_draws_by_the_seed() -> None:
    torch.manual_seed(2**40 + 7)
    expected = torch.rand(5)
    seed_generators(2**40 + 7, CPU)
    assert torch.equal(torch.rand(5), expected)
