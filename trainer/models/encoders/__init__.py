"""EEG encoders, one file each; importing this package makes their names known to configs."""

from trainer.models.encoders.base import Encoder, EncoderConfig, EncoderOutput
from trainer.models.encoders.channelnet import ChannelNet
from trainer.models.encoders.cnn_transformer import CnnTransformer
from trainer.models.encoders.eegproject import EEGProject
from trainer.models.encoders.flat_linear import FlatLinear
from trainer.models.encoders.tsconv import TSConv

__all__ = ["ChannelNet", "CnnTransformer", "EEGProject", "Encoder", "EncoderConfig", "EncoderOutput", "FlatLinear", "TSConv"]
