"""The contrastive losses a block of rows at a time: the whole matrix's value and gradients, without ever holding it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainer import losses, pairwise
from trainer.losses import GlobalColumns

ROWS, WIDTH = 48, 12


def embeddings(rows: int = ROWS, width: int = WIDTH) -> tuple[Tensor, Tensor, Tensor]:
    """Leaves of unit norm, and stimulus ids with repeats."""
    generator = torch.Generator().manual_seed(3)
    eeg, image = (F.normalize(torch.randn(rows, width, generator=generator), dim=1).requires_grad_() for _ in range(2))
    return eeg, image, torch.randint(0, rows // 2, (rows,), generator=generator)


def whole_info_nce(eeg: Tensor, image: Tensor, ids: Tensor | None, scale: Tensor) -> Tensor:
    """With one matrix of all logits."""
    logits, pair = scale * (eeg @ image.T), torch.arange(len(eeg))
    if ids is not None:
        logits = logits.masked_fill((ids[:, None] == ids) & ~torch.eye(len(eeg), dtype=torch.bool), -torch.inf)
    return (F.cross_entropy(logits, pair) + F.cross_entropy(logits.T, pair)) / 2


def whole_siglip(eeg: Tensor, image: Tensor, ids: Tensor | None, scale: Tensor, bias: Tensor) -> Tensor:
    """With one matrix of all logits."""
    pairs = torch.eye(len(eeg), dtype=torch.bool)
    terms = -F.logsigmoid(torch.where(pairs, 1.0, -1.0) * (scale * (eeg @ image.T) + bias))
    if ids is not None:
        terms = terms.masked_fill((ids[:, None] == ids) & ~pairs, 0.0)
    return terms.sum() / len(eeg)


def gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in _grads(loss, leaves)]


def _grads(loss: Tensor, leaves: tuple[Tensor, ...]) -> Any:
    return zip(leaves, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True)


@pytest.mark.parametrize("block_elements", [1, ROWS * 5, 1 << 24])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", ["info_nce", "siglip"])
def test_blocks_of_any_size_give_the_whole_matrixs_loss_and_gradients(
    monkeypatch: pytest.MonkeyPatch, name: str, masked: bool, block_elements: int
) -> None:
    monkeypatch.setattr(pairwise, "BLOCK_ELEMENTS", block_elements)
    eeg, image, ids = embeddings()
    scale, bias = torch.tensor([20.0], requires_grad=True), torch.tensor([-3.0], requires_grad=True)
    own = ids if masked else None
    columns = GlobalColumns(eeg, image, own, 0)
    if name == "info_nce":
        found, wanted = losses.info_nce(eeg, image, columns, scale, own), whole_info_nce(eeg, image, own, scale)
    else:
        found, wanted = losses.siglip(eeg, columns, scale, bias, own), whole_siglip(eeg, image, own, scale, bias)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
    for ours, theirs in zip(gradients(found * 3, eeg, image, scale, bias), gradients(wanted * 3, eeg, image, scale, bias), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


class Largest(TorchDispatchMode):
    """The most elements that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.elements = max(self.elements, out.numel() if isinstance(out, Tensor) else 0)
        return out


@pytest.mark.parametrize("name", ["info_nce", "siglip"])
def test_no_tensor_is_larger_than_a_block_or_the_embeddings(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(pairwise, "BLOCK_ELEMENTS", 1 << 14)
    eeg, image, ids = embeddings(2048, 8)
    columns, scale = GlobalColumns(eeg, image, ids, 0), torch.tensor([20.0])
    with Largest() as largest:
        loss = losses.siglip(eeg, columns, scale, -scale, ids) if name == "siglip" else losses.info_nce(eeg, image, columns, scale, ids)
        loss.backward()
    assert largest.elements <= 1 << 14


def test_a_loss_of_numbers_that_are_none_is_none() -> None:
    eeg, image, ids = embeddings()
    broken = eeg.detach().clone()
    broken[5, 2] = torch.nan
    broken.requires_grad_()
    loss = losses.info_nce(broken, image, GlobalColumns(broken, image, ids, 0), torch.tensor([20.0]), ids)
    loss.backward()
    assert loss.isnan()
    assert broken.grad is not None
    assert broken.grad.isnan().any()
