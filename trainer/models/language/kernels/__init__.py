"""What makes LoRA of a large language model fast; see :mod:`trainer.models.language.kernels.attention`."""

from trainer.models.language.kernels.attention import (
    agrees,
    compile_layers,
    fuse_lora,
    fuse_norms,
    has_plain_head,
    packing,
    supervised_loss,
    use_packed_attention,
    variable_length_attention,
)

__all__ = [
    "agrees",
    "compile_layers",
    "fuse_lora",
    "fuse_norms",
    "has_plain_head",
    "packing",
    "supervised_loss",
    "use_packed_attention",
    "variable_length_attention",
]
