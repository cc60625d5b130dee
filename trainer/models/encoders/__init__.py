"""EEG encoders, one file each; importing this package makes their names known to configs."""

from trainer.models.encoders.base import Encoder, EncoderConfig, EncoderOutput
from trainer.models.encoders.tsconv import TSConv

__all__ = ["Encoder", "EncoderConfig", "EncoderOutput", "TSConv"]
