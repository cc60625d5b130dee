"""The contrastive model: an EEG encoder and, where wanted, an image-side head, into one space of unit vectors.

B: rows, C: channels, T: time points, E: image embedding dimension, P: dimension of the common space, K: concepts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.contract.errors import UserError
from trainer.distributed.batch_norm import NormKind
from trainer.distributed.bounds import bounded_exp, clamp_parameter
from trainer.losses import MAX_LOGIT, LossConfig
from trainer.models.dropout import DropoutKeys
from trainer.models.encoders import EncoderConfig, EncoderOutput, TSConv
from trainer.models.heads import HeadKind, build_head
from trainer.models.subjects import SubjectLayer


@dataclass(frozen=True, kw_only=True)
class ContrastiveModelConfig:
    """EEG encoder, heads and the common space."""

    encoder: EncoderConfig = field(default_factory=TSConv)
    """EEG encoder: ``{class_path: TSConv, init_args: {...}}``; CnnTransformer, TSConv, EEGProject, FlatLinear, ChannelNet or a path."""
    proj_dim: int | None = None
    """Dimension of the common space; null takes the image embedding's."""
    eeg_head: HeadKind = "residual"
    """From encoder embedding to common space: ``none`` (sizes must agree), ``linear``, ``mlp``, or NICE's ``residual``."""
    eeg_head_hidden: int = 1024
    """Hidden width of an ``mlp`` EEG head."""
    eeg_head_dropout: float = 0.5
    """Dropout inside an ``mlp`` or ``residual`` EEG head."""
    image_head: HeadKind = "none"
    """From image embedding to common space, trained with the encoder: ``none`` leaves the frozen embedding as it is."""
    image_head_hidden: int = 1024
    """Hidden width of an ``mlp`` image head."""
    image_head_dropout: float = 0.0
    """Dropout inside an ``mlp`` or ``residual`` image head."""
    norm: NormKind = "batch"
    """Normalisation in convolutional encoders: ``batch`` over the global batch, ``group``, ``layer``."""
    subject_layer: Literal["none", "linear"] = "none"
    """``linear``: a channel-mixing matrix a subject before the encoder; an unknown subject (-1) gets the subjects' mean."""

    def __post_init__(self) -> None:
        for name in ("eeg_head_hidden", "image_head_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}: {getattr(self, name)}, expected at least 1")
        for name in ("eeg_head_dropout", "image_head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name}: {getattr(self, name)}, expected 0 to below 1")
        if self.proj_dim is not None and self.proj_dim < 1:
            raise ValueError(f"model.proj_dim: {self.proj_dim}, expected at least 1, or null for the image embedding's dimension")

    def build(
        self,
        *,
        n_chans: int,
        n_times: int,
        sfreq: float,
        num_subjects: int,
        embedding_dim: int,
        num_concepts: int = 0,
        positions: Sequence[Sequence[float]] | None = None,
        loss: LossConfig | None = None,
    ) -> ContrastiveModel:
        """The model for data of this shape, randomly initialised.

        Parameters
        ----------
        n_chans, n_times, sfreq
            Shape and rate (Hz) of the trials.
        num_subjects
            Rows of the study's table of subjects.
        embedding_dim
            Dimension of the image embeddings.
        num_concepts
            Rows of the study's table of concepts; used where the loss has a cross-entropy term.
        positions
            ``[x, y, z]`` of every channel in metres (head coordinates), which the encoder is given; None where the study has none.
        loss
            Gives temperature, SigLIP's bias and whether there is a concept head; needed for training only.

        Raises
        ------
        UserError
            Sizes contradict each other; both are in the message.
        """
        return ContrastiveModel(self, n_chans, n_times, sfreq, num_subjects, embedding_dim, num_concepts, positions, loss or LossConfig())


class ContrastiveOutput(NamedTuple):
    """Forward result; embeddings and scalars are float32."""

    z_eeg_BP: Tensor
    """Unit norm."""
    z_image_BP: Tensor
    """Unit norm."""
    logit_scale: Tensor
    """Shape (1,), clamped."""
    logit_bias: Tensor
    """Shape (1,); 0 for InfoNCE."""
    eeg_BP: Tensor
    """EEG projection before normalisation."""
    image_BP: Tensor
    """Image side before normalisation."""
    concept_logits_BK: Tensor | None
    """Scores of the concept head, where the loss has one."""


def joined(outputs: Sequence[ContrastiveOutput]) -> ContrastiveOutput:
    """Outputs of batches of one optimizer step as that of all their rows."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    logits = [out.concept_logits_BK for out in outputs if out.concept_logits_BK is not None]
    return ContrastiveOutput(
        z_eeg_BP=torch.cat([out.z_eeg_BP for out in outputs]),
        z_image_BP=torch.cat([out.z_image_BP for out in outputs]),
        logit_scale=first.logit_scale,
        logit_bias=first.logit_bias,
        eeg_BP=torch.cat([out.eeg_BP for out in outputs]),
        image_BP=torch.cat([out.image_BP for out in outputs]),
        concept_logits_BK=torch.cat(logits) if logits else None,
    )


class ContrastiveModel(nn.Module):
    """EEG and image embeddings into one space; see :class:`ContrastiveModelConfig`."""

    def __init__(
        self,
        config: ContrastiveModelConfig,
        n_chans: int,
        n_times: int,
        sfreq: float,
        num_subjects: int,
        embedding_dim: int,
        num_concepts: int,
        positions: Sequence[Sequence[float]] | None,
        loss: LossConfig,
    ) -> None:
        super().__init__()
        proj_dim = config.proj_dim or embedding_dim
        if config.image_head == "none" and proj_dim != embedding_dim:
            raise UserError(
                f"model.proj_dim: {proj_dim}, but model.image_head is none and the image embedding has {embedding_dim} dimensions: "
                "leave proj_dim null or choose image_head linear or mlp"
            )
        self.n_chans, self.n_times, self.proj_dim = n_chans, n_times, proj_dim
        # A fact of the data, not a weight: exports keep it in config.json.
        self.positions_C3: Tensor | None
        self.register_buffer("positions_C3", _positions(positions, n_chans), persistent=False)
        self.subjects = SubjectLayer(num_subjects, n_chans) if config.subject_layer == "linear" else None
        self.encoder = config.encoder.build(n_chans=n_chans, n_times=n_times, sfreq=sfreq, num_subjects=num_subjects, norm=config.norm)
        self.eeg_head = build_head(
            config.eeg_head, self.encoder.embedding_dim, proj_dim, config.eeg_head_hidden, config.eeg_head_dropout, field="model.eeg_head"
        )
        self.image_head = build_head(
            config.image_head, embedding_dim, proj_dim, config.image_head_hidden, config.image_head_dropout, field="model.image_head"
        )
        self.concept_head = None
        if loss.cross_entropy_weight:
            if num_concepts < 2:
                raise UserError(f"loss.cross_entropy_weight: {loss.cross_entropy_weight} with {num_concepts} concepts, expected at least 2")
            self.concept_head = nn.Linear(proj_dim, num_concepts)
        self.max_logit_scale = loss.max_logit_scale
        # Shape (1,): DeepSpeed cannot partition a parameter without dimensions.
        self.log_logit_scale = nn.Parameter(torch.tensor([math.log(1 / loss.temperature)]), requires_grad=loss.learnable_temperature)
        self.logit_bias = None
        if loss.name == "siglip":
            self.logit_bias = nn.Parameter(torch.tensor([loss.logit_bias]), requires_grad=loss.learnable_temperature)
        self._dropout_keys = DropoutKeys(self.named_modules())

    def forward(self, eeg_BCT: Tensor, subject_B: Tensor, target_BE: Tensor, key_B: Tensor | None = None) -> ContrastiveOutput:
        """Both sides of a batch of pairs.

        Parameters
        ----------
        eeg_BCT
            Normalised EEG.
        subject_B
            Subject ids, int64, -1 unknown.
        target_BE
            Frozen image embeddings.
        key_B
            A hash for each item, int64, of which dropout is a function; None: it draws from torch's stream.
        """
        self._dropout_keys.set(key_B)
        eeg_BP = self.eeg_head(self.encode(eeg_BCT, subject_B).embedding_BE).float()
        image_BP = self.image_head(target_BE).float()
        with torch.autocast(eeg_BCT.device.type, enabled=False):
            scale = bounded_exp(self.log_logit_scale.float(), self.max_logit_scale)
            bias = torch.zeros_like(scale) if self.logit_bias is None else self.logit_bias.float()
        concept_logits_BK = None if self.concept_head is None else self.concept_head(eeg_BP)
        return ContrastiveOutput(_unit(eeg_BP), _unit(image_BP), scale, bias, eeg_BP, image_BP, concept_logits_BK)

    def constrain(self) -> None:
        """Bring the logit scale back to its limit, and scale and bias to where a gradient leads back from: after every optimizer step, and
        after weights came from elsewhere."""
        clamp_parameter(self.log_logit_scale, math.log(self.max_logit_scale), -math.log(MAX_LOGIT))
        if self.logit_bias is not None:
            clamp_parameter(self.logit_bias, MAX_LOGIT, -MAX_LOGIT)

    def encode(self, eeg_BCT: Tensor, subject_B: Tensor) -> EncoderOutput:
        """Tokens and embedding of the encoder itself, before the head."""
        if eeg_BCT.shape[1:] != (self.n_chans, self.n_times):
            raise UserError(
                f"EEG has {eeg_BCT.shape[1]} channels x {eeg_BCT.shape[2]} time points, the model wants {self.n_chans} x {self.n_times}"
            )
        if self.subjects is not None:
            eeg_BCT = self.subjects(eeg_BCT, subject_B)
        encoded: EncoderOutput = self.encoder(eeg_BCT, subject_B, self.positions_C3)
        return encoded

    def embed_eeg(self, eeg_BCT: Tensor, subject_B: Tensor) -> Tensor:
        """EEG in the common space: (B, P) float32, unit norm."""
        return _unit(self.eeg_head(self.encode(eeg_BCT, subject_B).embedding_BE).float())

    def name_concepts(self, eeg_BCT: Tensor, subject_B: Tensor) -> Tensor:
        """Scores of the concept head, which must be there: (B, K) float32."""
        assert self.concept_head is not None, "built without a concept head"
        logits_BK: Tensor = self.concept_head(self.eeg_head(self.encode(eeg_BCT, subject_B).embedding_BE).float())
        return logits_BK.float()

    def embed_image(self, target_BE: Tensor) -> Tensor:
        """Image embeddings in the common space: (B, P) float32, unit norm."""
        return _unit(self.image_head(target_BE).float())


def _positions(positions: Sequence[Sequence[float]] | None, n_chans: int) -> Tensor | None:
    if positions is None:
        return None
    if len(positions) != n_chans or any(len(place) != 3 for place in positions):
        raise UserError(
            f"positions: {len(positions)} rows of {sorted({len(p) for p in positions})} numbers, expected {n_chans} of [x, y, z]"
        )
    return torch.tensor(positions, dtype=torch.float32)


def _unit(x_BP: Tensor) -> Tensor:
    return F.normalize(x_BP, dim=-1)
