"""Whether a step draws from torch's own streams of random numbers, which ranks and micro-batches cut differently.

Every draw moves a generator, whoever makes it and by whatever function.
"""

from __future__ import annotations

import torch
from torch import Tensor

SENTENCE = (
    "the model, or a term of its loss, draws random numbers of torch's own (as torch.nn.Dropout does): a resumed run has the same losses "
    "on as many ranks with the same micro-batches, not on others; trainer.models.dropout.Dropout draws by item"
)


def generators(device: torch.device) -> list[Tensor]:
    """States of the generators of host and device; they are kept on the host, so that nobody waits for the device."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def set_generators(states: list[Tensor], device: torch.device) -> None:
    """Bring back what :func:`generators` has seen, so that the same is drawn again."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])


def seed_generators(seed: int, device: torch.device) -> None:
    """``torch.manual_seed`` of host and device alone: that function also remembers, with a stack of its caller, what devices that are not
    there would be seeded with, which takes milliseconds."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def have_moved(before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether there was a draw between two calls of :func:`generators`."""
    return any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
