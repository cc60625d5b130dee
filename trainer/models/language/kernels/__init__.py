"""What makes LoRA of a large language model fast without further packages; every function computes exactly what it replaces."""

from trainer.models.language.kernels.attention import agrees, packing, use_packed_attention, variable_length_attention
from trainer.models.language.kernels.head import has_plain_head, supervised_loss
from trainer.models.language.kernels.layers import compile_layers, fuse_norms
from trainer.models.language.kernels.lora import fuse_lora

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
