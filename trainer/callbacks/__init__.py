"""What watches a run, one file each; importing this package makes the names of those that a config may list known to it."""

from trainer.callbacks.tensorboard import TensorBoard

__all__ = ["TensorBoard"]
