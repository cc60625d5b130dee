"""A step whose rows are compared with each other, though they do not fit into one forward: accumulation without approximation.

Summing the gradients of parts of a contrastive batch would leave out what rows of different parts say about each other (23 to 44 % of
the gradient). So, after GradCache (Gao et al. 2021): the chunks are embedded without gradient; the loss of all embeddings gives the
gradient of each; the chunks are embedded again, each backward from its part of that gradient; gradients of parameters are exchanged
once. Loss and gradient are those of one forward of the whole batch, to rounding. In memory are the activations of one chunk, and the
embeddings of all.

A chunk is the same function each time: dropout by item is, what draws from torch's stream is given the stream's state of the first
time, and batch normalisation has the statistics of the whole batch (:mod:`trainer.distributed.chunked_norm`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from data_prep.contract.errors import CommandError
from trainer.distributed.chunked_norm import ChunkedStatistics
from trainer.distributed.collectives import sum_across
from trainer.distributed.one_reduction import reduced_once
from trainer.distributed.precision import LossScale
from trainer.training.own_draws import generators, set_generators

_SAME = 1e-2
"""Embeddings of a chunk, embedded again, differ by a smaller share of their length: by rounding, at most that of half precision."""


@runtime_checkable
class Comparing(Protocol):
    """A task whose loss compares the rows of a step with each other, so that it is one of all batches of a step together."""

    def embed(self, model: Any, batch: Any) -> Any:
        """A named tuple of tensors (or None) for the rows of a batch: all that the loss needs of the model."""
        ...

    def compare(self, outputs: Sequence[Any], batches: Sequence[Any]) -> dict[str, Tensor]:
        """Named losses of this rank's rows, of what :meth:`embed` gave for each of its batches; ``loss`` is what is minimised."""
        ...


class JoinedStep:
    """Losses and gradients of steps that come in several batches.

    Parameters
    ----------
    engine
        DeepSpeed's, made for one backward pass a step.
    scale
        Its loss scale.

    Raises
    ------
    CommandError
        A module normalises each forward by itself.
    """

    def __init__(self, engine: Any, task: Comparing, scale: LossScale, device: torch.device) -> None:
        refuse_lone_statistics(engine.module)
        self.engine, self.task, self.scale, self.device = engine, task, scale, device
        self.replays = False
        """Whether a step has shown that forwards can be repeated."""

    def backward(self, batches: Sequence[Any], *, spoil: float = 1.0) -> dict[str, Tensor]:
        """Losses of this rank's rows, detached; their gradients are left for ``scale.step``. ``spoil`` multiplies the loss. A collective.

        Raises
        ------
        CommandError
            A second forward of the same rows gave something else, on whatever rank.
        """
        statistics = ChunkedStatistics(self.engine.module)
        with statistics.used():
            chunks = _Chunks(self.task, batches, statistics, self.device)
            with torch.no_grad():
                outputs = list(chunks.embedded(self.engine.module))
                while statistics.learn():
                    outputs = list(chunks.embedded(self.engine.module))
            leaves = [type(out)._make(_leaf(value) for value in out) for out in outputs]
            losses = self.task.compare(leaves, batches)
            (losses["loss"] * spoil).backward()  # type: ignore[no-untyped-call]
            for place in statistics.places():
                with statistics.probed(place) as sums:
                    for out, leaf in zip(chunks.embedded(self.engine.module), leaves, strict=True):
                        sums.append(_gradient(pulled(out, leaf) * self.scale.scale, statistics.probe()))
            differs = torch.zeros(1, device=self.device)
            with reduced_once(self.engine):
                for out, leaf in zip(chunks.embedded(self.engine), leaves, strict=True):
                    differs += 0 if self.replays else _differs(out, leaf)
                    self.scale.backward(pulled(out, leaf))
        self._check_replay(differs)
        return {name: value.detach() for name, value in losses.items()}

    def _check_replay(self, differs: Tensor) -> None:
        if self.replays:
            return
        if float(sum_across(differs)):
            raise CommandError(
                "train.accumulation: above 1, but a second forward of the same rows gave other embeddings: expected a model that depends "
                "on nothing but its weights, its input and random numbers of torch, or accumulation 1"
            )
        self.replays = True


class _Chunks:
    """The batches of a step, to be embedded several times."""

    def __init__(self, task: Comparing, batches: Sequence[Any], statistics: ChunkedStatistics, device: torch.device) -> None:
        self.task, self.batches, self.statistics, self.device = task, batches, statistics, device
        self.draws: list[list[Tensor]] = []
        """States of torch's generators before the first forward of each."""

    def embedded(self, model: Any) -> Iterator[Any]:
        """Outputs, one after the other: what is not kept of them is gone before the next."""
        for number, batch in enumerate(self.batches):
            if number < len(self.draws):
                set_generators(self.draws[number], self.device)
            else:
                self.draws.append(generators(self.device))
            self.statistics.begin_chunk()
            yield self.task.embed(model, batch)


def pulled(out: Sequence[Tensor | None], leaf: Sequence[Tensor | None]) -> Tensor:
    """A scalar whose gradient with respect to outputs is that which ``leaf`` has."""
    pairs = [(value, at.grad) for value, at in zip(out, leaf, strict=True) if value is not None and at is not None and value.requires_grad]
    return torch.stack([(value * grad).sum() for value, grad in pairs if grad is not None]).sum()


def _leaf(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().requires_grad_(value.is_floating_point())


def _gradient(scalar: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    grads = torch.autograd.grad(scalar, inputs, allow_unused=True)
    return torch.stack([torch.zeros_like(x) if grad is None else grad for x, grad in zip(inputs, grads, strict=True)])


@torch.no_grad()
def _differs(out: Sequence[Tensor | None], leaf: Sequence[Tensor | None]) -> Tensor:
    pairs = [(value.float(), at.float()) for value, at in zip(out, leaf, strict=True) if value is not None and at is not None]
    return torch.stack([((value - at).norm() > _SAME * at.norm()).float() for value, at in pairs]).sum()


def refuse_lone_statistics(module: nn.Module) -> None:
    """Refuse torch's own batch normalisation, which would give each chunk statistics of its own."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise CommandError(
                f"train.accumulation: above 1, but {name!r} of the model is a {type(part).__name__}, which normalises each forward by "
                "itself: expected trainer.distributed.batch_norm.GlobalBatchNorm or a GroupNorm in its place, or accumulation 1"
            )
