"""Memory that a rank needs for weights, gradients and optimizer states, by ZeRO stage; pure arithmetic.

Weights that are trained, gradients and AdamW's two states are float32 (:mod:`trainer.distributed.deepspeed_config`). Stages 1 to 3 of
DeepSpeed keep besides a float32 copy of their share of the weights, which is what they update. Activations, libraries and CUDA's own
context (about half a gigabyte) come on top: they depend on the batch, not on the stage.

Of ten layers of a million parameters on two ranks of gloo, the tensors that live between backward and step have 16.0, 12.8, 12.4 and 10.4
bytes a parameter at stages 0 to 3; this says 16.0, 14.4, 12.4 and 10.8.
"""

from __future__ import annotations

from dataclasses import dataclass

from launch.doctor.facts import Model

FLOAT_BYTES = 4
STAGES = (0, 1, 2, 3)
CHECKPOINT_BYTES = 4 * FLOAT_BYTES
"""Of a parameter that is trained: weight, the copy that is updated, two states."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of one rank."""

    device: int
    host: int = 0
    """In the host's memory instead, where states are offloaded."""


def need(
    model: Model,
    *,
    stage: int,
    ranks: int,
    bucket_elements: int = 0,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
) -> Need:
    """What a rank of so many needs.

    Parameters
    ----------
    bucket_elements
        Elements that are reduced at a time in stages 1 to 3.
    offload_optimizer, offload_parameters
        See :class:`trainer.distributed.deepspeed_config.ZeroConfig`.
    """
    weights = FLOAT_BYTES * model.trained
    if stage == 0:
        return Need(device=4 * weights + model.frozen_bytes)
    share = -(-weights // ranks)
    gradients = share if stage >= 2 else weights
    states = 3 * share
    buffer = FLOAT_BYTES * min(bucket_elements, model.trained)
    held = weights + model.frozen_bytes
    if stage == 3:
        held = share + -(-model.frozen_bytes // ranks)
        buffer += FLOAT_BYTES * model.largest  # gathered whole while it computes
    on_host = (states + (share if stage >= 2 else 0) if offload_optimizer else 0) + (held if offload_parameters else 0)
    return Need(device=held + gradients + states + buffer - on_host, host=on_host)


def checkpoint_bytes(model: Model) -> int:
    """Bytes of one checkpoint, over all ranks."""
    return CHECKPOINT_BYTES * model.trained
