"""A contrastive step in several forwards is the step of one forward: losses, gradients, running statistics, whatever the model draws."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_prep.contract.errors import CommandError
from trainer.data import random
from trainer.data.batch import Batch
from trainer.distributed.batch_norm import GlobalBatchNorm
from trainer.distributed.precision import LossScale
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModelConfig, ContrastiveOutput, joined
from trainer.models.encoders import ChannelNet, CnnTransformer, EncoderConfig, TSConv
from trainer.tasks.contrastive.objective import contrastive_terms
from trainer.training.joined import JoinedStep

ROWS, N_CHANS, N_TIMES, WIDTH = 24, 6, 60, 10
CPU = torch.device("cpu")
ENCODERS: dict[str, EncoderConfig] = {
    "TSConv": TSConv(num_filters=8, kernel_samples=9, pool_samples=12, stride_samples=4, dropout=0.5),
    "CnnTransformer": CnnTransformer(
        d_model=16, num_layers=1, num_heads=2, feedforward=24, embedding_dim=12, conv_widths=[8, 8], kernel_samples=[5, 3], dilations=[1, 2]
    ),
    "ChannelNet": ChannelNet(
        temporal_filters=2, kernel_samples=5, dilations=[1, 2], spatial_filters=3, spatial_layers=2, residual_blocks=1, embedding_dim=12
    ),
}
LOSS = LossConfig(mse_weight=0.3, cross_entropy_weight=0.5)


class Engine:
    """What a step needs of DeepSpeed's engine, where there is one rank and nothing is partitioned."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.reductions = module, 0

    def __call__(self, *arguments: Any) -> Any:
        return self.module(*arguments)

    def zero_optimization(self) -> bool:
        return False

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        yield

    def allreduce_gradients(self) -> None:
        self.reductions += 1

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]


class Contrast:
    """The contrastive task's two halves."""

    def embed(self, model: Any, batch: Batch) -> ContrastiveOutput:
        out: ContrastiveOutput = model(batch.eeg_BCT, batch.subject_B, batch.target_BE, random.hash_torch(5, batch.item_B))
        return out

    def compare(self, outputs: list[ContrastiveOutput], batches: list[Batch]) -> dict[str, Tensor]:
        columns = [torch.cat([getattr(batch, name) for batch in batches]) for name in ("stimulus_B", "concept_B")]
        return contrastive_terms(joined(outputs), *columns, LOSS, gather_rows=lambda x: x, gather_ids=lambda x: x, rank=0)


def make_model(encoder: str, norm: str) -> nn.Module:
    torch.manual_seed(1)
    config = ContrastiveModelConfig(encoder=ENCODERS[encoder], norm=norm, image_head="mlp", image_head_hidden=8, image_head_dropout=0.3)  # type: ignore[arg-type]
    return config.build(n_chans=N_CHANS, n_times=N_TIMES, sfreq=100.0, num_subjects=2, embedding_dim=WIDTH, num_concepts=5, loss=LOSS)


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    item_B, stimulus_B = torch.arange(ROWS), torch.randint(0, 10, (ROWS,), generator=generator)
    return Batch(
        eeg_BCT=torch.randn(ROWS, N_CHANS, N_TIMES, generator=generator) + torch.linspace(-1, 1, ROWS)[:, None, None],  # chunks differ
        target_BE=torch.randn(10, WIDTH, generator=generator)[stimulus_B],
        subject_B=item_B % 2,
        stimulus_B=stimulus_B,
        concept_B=stimulus_B // 2,
        item_B=item_B,
        data_pass_B=torch.zeros_like(item_B),
        sample_B=item_B,
    )


def whole_step(model: nn.Module) -> Tensor:
    batch = make_batch()
    loss = Contrast().compare([Contrast().embed(model, batch)], [batch])["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def step_in(model: nn.Module, chunks: int) -> tuple[Tensor, Engine]:
    engine = Engine(model)
    losses = JoinedStep(engine, Contrast(), LossScale(engine, "fp32"), CPU).backward(make_batch().cut(chunks))
    return losses["loss"], engine


def assert_same_step(model: nn.Module, wanted: nn.Module) -> None:
    """Gradients and buffers; an error counts against the whole gradient, since some parts are nothing but rounding."""
    gradients = [{name: p.grad for name, p in each.named_parameters() if p.grad is not None} for each in (model, wanted)]
    assert gradients[0].keys() == gradients[1].keys()
    length = torch.stack([grad.norm() for grad in gradients[1].values()]).norm()
    for name, grad in gradients[1].items():
        assert (gradients[0][name] - grad).norm() < 1e-5 * min(length, max(grad.norm(), 1e-2 * length)), name
    for (name, found), (_, expected) in zip(model.named_buffers(), wanted.named_buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("chunks", [2, 4])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_chunks_are_one_batch(encoder: str, norm: str, chunks: int) -> None:
    model, wanted = make_model(encoder, norm), make_model(encoder, norm)
    expected = whole_step(wanted)
    loss, engine = step_in(model, chunks)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert engine.reductions == 1
    assert_same_step(model, wanted)


class Held:
    """What autograd keeps for a backward pass, and the most of it at a time."""

    def __init__(self) -> None:
        self.elements, self.most = 0, 0

    def pack(self, tensor: Tensor) -> tuple[Tensor, object]:
        self.elements += tensor.numel()
        self.most = max(self.most, self.elements)
        kept = _Kept()
        weakref.finalize(kept, self._free, tensor.numel())
        return tensor, kept

    def _free(self, elements: int) -> None:
        self.elements -= elements


class _Kept:
    """As long as there is one, a tensor is kept."""


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_activations_of_one_chunk_are_kept_at_a_time(norm: str) -> None:
    most = []
    for chunks in (1, 4):
        held = Held()
        with torch.autograd.graph.saved_tensors_hooks(held.pack, lambda packed: packed[0]):
            model = make_model("CnnTransformer", norm)
            whole_step(model) if chunks == 1 else step_in(model, chunks)
        most.append(held.most)
    assert most[1] < 0.5 * most[0], "a quarter, and the parameters"


def test_summing_the_gradients_of_chunks_would_be_something_else() -> None:
    model, wanted = make_model("TSConv", "batch"), make_model("TSConv", "batch")
    whole_step(wanted)
    for batch in make_batch().cut(4):
        (Contrast().compare([Contrast().embed(model, batch)], [batch])["loss"] / 4).backward()
    with pytest.raises(AssertionError):
        assert_same_step(model, wanted)


class Shared(nn.Module):
    """One normalisation twice in a forward, with a way around it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second, self.norm = nn.Linear(5, 5), nn.Linear(5, 5), GlobalBatchNorm(5)
        self.noise = 0.0

    def forward(self, x_BF: Tensor) -> Tensor:
        y_BF = self.norm(self.first(x_BF)).tanh() + x_BF
        y_BF = y_BF + self.norm(self.second(y_BF))
        return y_BF + self.noise * torch.randn(())


class Spread:
    """A loss of all rows together."""

    def embed(self, model: Any, batch: Tensor) -> Any:
        return ContrastiveOutput(model(batch), *[None] * 6)  # type: ignore[arg-type]

    def compare(self, outputs: list[ContrastiveOutput], batches: list[Tensor]) -> dict[str, Tensor]:
        z_BF = torch.cat([out.z_eeg_BP for out in outputs])
        return {"loss": (z_BF @ z_BF.T).tanh().mean()}


def spread_step(model: nn.Module, chunks: int) -> float:
    engine, x_BF = Engine(model), torch.randn(12, 5, generator=torch.Generator().manual_seed(6))
    return float(JoinedStep(engine, Spread(), LossScale(engine, "fp32"), CPU).backward(x_BF.chunk(chunks))["loss"])


def test_a_normalisation_used_twice_has_the_statistics_of_each_use() -> None:
    model, wanted = Shared(), Shared()
    assert spread_step(model, 3) == pytest.approx(spread_step(wanted, 1), rel=1e-5)
    assert_same_step(model, wanted)


def test_torchs_own_random_numbers_are_drawn_again() -> None:
    model = Shared()
    model.noise = 1.0
    torch.manual_seed(8)
    loss = spread_step(model, 3)
    following = torch.rand(())
    torch.manual_seed(8)
    assert spread_step(model, 3) == loss
    torch.manual_seed(8)
    torch.randn(3)
    assert following == torch.rand(()), "three draws, as in one forward of each"


class Forgetful(Shared):
    """Another function at every call."""

    calls = 0

    def forward(self, x_BF: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x_BF) * self.calls


class Lone(Shared):
    """Statistics of each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.lone = nn.BatchNorm1d(5)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Forgetful(), "a second forward of the same rows gave other embeddings"),
        (Lone(), "'lone' of the model is a BatchNorm1d, which normalises each forward by itself"),
    ],
)
def test_what_cannot_be_exact_is_refused(model: nn.Module, says: str) -> None:
    with pytest.raises(CommandError, match=says):
        spread_step(model, 2)


def test_a_spoiled_step_has_no_gradient_that_is_a_number() -> None:
    model = make_model("TSConv", "batch")
    engine, batch = Engine(model), make_batch()
    step = JoinedStep(engine, Contrast(), LossScale(engine, "fp32"), CPU)
    broken = replace(batch, eeg_BCT=batch.eeg_BCT.index_fill(0, torch.tensor([3]), torch.nan))
    losses = step.backward(broken.cut(2))
    assert losses["loss"].isnan()
    assert any(p.grad is not None and not p.grad.isfinite().all() for p in model.parameters())
