"""Losses of the contrastive task: pure functions of tensors, computed in float32.

Each rank computes the loss of its own rows against the columns of all ranks. The mean of these local losses over ranks
is the loss of the global batch, and with gathers that carry gradients so is its gradient (see
``trainer.distributed.collectives``), whatever the number of ranks.

A loss of your own is one file with a :class:`LossTerm` and one line of a config, ``loss: {terms: [{class_path: my_lab.Crowding}]}``.

B: rows of this rank, G: rows of all ranks, E: embedding dimension, P: dimension of the common space, K: concepts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.contract.cli import polymorphic
from trainer.pairwise import Compared, compare, sigmoid_terms, softmax_terms

Gather = Callable[[Tensor], Tensor]
MAX_LOGIT = 1000.0
"""Beyond it, up or down, a logit scale or a bias gives all pairs the same gradient or none, and would not come back."""
_LARGE = 1 << 20
"""Elements of embeddings from which on a copy costs more than a second collective."""
BUILT_IN = ("contrastive", "mse", "cosine", "cross_entropy")
"""Losses that ``LossConfig.<name>_weight`` turns on."""


class GlobalColumns(NamedTuple):
    """What this rank's rows are compared with: the rows of all ranks, in rank order."""

    eeg_GE: Tensor
    image_GE: Tensor
    ids_G: Tensor | None
    offset: int
    """Column of this rank's first row."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A rank's rows of a batch, as a :class:`LossTerm` gets them; embeddings are float32 and carry gradients."""

    eeg_BP: Tensor
    """EEG in the common space, not normalised."""
    image_BP: Tensor
    """Images in the common space, not normalised; row b is the pair of ``eeg_BP``'s row b."""
    z_eeg_BP: Tensor
    """``eeg_BP`` with unit norm."""
    z_image_BP: Tensor
    """``image_BP`` with unit norm."""
    stimulus_B: Tensor
    """Integer ids of the stimuli."""
    concept_B: Tensor
    """Integer ids of their concepts."""
    logit_scale: Tensor
    """Reciprocal of the temperature, shape (1,), clamped; trained where ``learnable_temperature`` says so."""
    gather_rows: Gather
    """Rows of all ranks in rank order, with gradients: (B, ...) -> (G, ...). A collective: every rank must call it alike."""
    gather_ids: Gather
    """The same for integers, without gradients: (B,) -> (G,)."""
    rank: int
    """This rank's number: its rows are ``rank * B`` to ``(rank + 1) * B`` of what is gathered."""

    def columns(self, ids_B: Tensor | None = None) -> GlobalColumns:
        """Unit embeddings (and ids, where given) of all ranks: what rows are contrasted with. A collective."""
        return gather_columns(
            self.z_eeg_BP, self.z_image_BP, ids_B, gather_rows=self.gather_rows, gather_ids=self.gather_ids, rank=self.rank
        )


@polymorphic
@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """Base of losses of your own: a config whose instance is called with a batch.

    What is minimised is the mean over ranks of what they return, so the result does not depend on the number of ranks if the term is
    either the mean over this rank's rows, each seen against its pair or against gathered columns, or one and the same function of what
    is gathered, computed by all ranks. A mean over pairs of *this rank's* rows would change with the number of ranks. It must not draw
    random numbers.
    """

    weight: float = 1.0
    """Weight in the sum that is minimised."""

    def __call__(self, pairs: Pairs) -> Tensor:
        """Scalar, float32."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which losses, with which weights, are summed into the one that is minimised."""

    name: Literal["info_nce", "siglip"] = "info_nce"
    """Contrastive loss: ``info_nce`` softmax over the global batch both ways, ``siglip`` a sigmoid for every pair."""
    positives: Literal["pair", "stimulus", "concept"] = "stimulus"
    """Columns never used as a row's negatives, apart from its own pair: none, those of its stimulus, those of its concept."""
    contrastive_weight: float = 1.0
    """Weight of the contrastive loss."""
    mse_weight: float = 0.0
    """Weight of the mean squared error between EEG projection and image embedding, neither normalised."""
    cosine_weight: float = 0.0
    """Weight of 1 - cosine of the pair."""
    cross_entropy_weight: float = 0.0
    """Weight of the cross-entropy of a linear head over concepts; 0 makes no head."""
    temperature: float = 0.07
    """Initial temperature; the logit scale starts at its reciprocal."""
    learnable_temperature: bool = True
    """Whether the logit scale (and SigLIP's bias) is trained."""
    max_logit_scale: float = 100.0
    """Limit of the logit scale: brought back to it after every optimizer step, it leaves it as soon as the gradient points inwards."""
    logit_bias: float = -10.0
    """Initial bias of SigLIP's logits; InfoNCE has none."""
    terms: list[LossTerm] = field(default_factory=list)
    """Losses of your own, added to those above: ``[{class_path: my_lab.losses.Crowding, init_args: {weight: 0.1}}]``; with
    ``contrastive_weight: 0`` one of them may take the contrastive loss's place."""

    def __post_init__(self) -> None:
        if self.name not in ("info_nce", "siglip"):
            raise ValueError(f"loss.name: {self.name!r}, expected info_nce or siglip")
        if self.positives not in ("pair", "stimulus", "concept"):
            raise ValueError(f"loss.positives: {self.positives!r}, expected pair, stimulus or concept")
        weights = self.weights
        for name, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                where = f"{name}_weight" if name in BUILT_IN else f"terms: {name}: weight"
                raise ValueError(f"loss.{where}: {weight}, expected 0 or a positive number")
        if not any(weights.values()):
            raise ValueError("loss: every weight is 0, expected at least one positive weight")
        if not 0 < self.max_logit_scale <= MAX_LOGIT:
            raise ValueError(f"loss.max_logit_scale: {self.max_logit_scale}, expected a positive number, at most {MAX_LOGIT:g}")
        if not self.temperature > 0 or 1 / self.temperature > self.max_logit_scale:
            raise ValueError(f"loss.temperature: {self.temperature}, expected at least 1 / max_logit_scale = {1 / self.max_logit_scale:g}")
        if self.temperature > MAX_LOGIT:
            raise ValueError(f"loss.temperature: {self.temperature}, expected at most {MAX_LOGIT:g}: all logits would be alike")
        if not abs(self.logit_bias) <= MAX_LOGIT:
            raise ValueError(f"loss.logit_bias: {self.logit_bias}, expected -{MAX_LOGIT:g} to {MAX_LOGIT:g}")

    @property
    def named_terms(self) -> dict[str, LossTerm]:
        """``terms`` by the names they are logged under: their class's, numbered from the second of a class on."""
        named: dict[str, LossTerm] = {}
        for term in self.terms:
            name = type(term).__name__
            same = sum(type(other) is type(term) for other in named.values())
            named[f"{name}_{same + 1}" if same else name] = term
        return named

    @property
    def weights(self) -> dict[str, float]:
        """Of all losses by name, zeros included."""
        return {name: getattr(self, f"{name}_weight") for name in BUILT_IN} | {name: t.weight for name, t in self.named_terms.items()}


def gather_columns(
    eeg_BE: Tensor, image_BE: Tensor, ids_B: Tensor | None, *, gather_rows: Gather, gather_ids: Gather, rank: int
) -> GlobalColumns:
    """Columns of all ranks; ``gather_rows`` must carry gradients, and all ranks must bring equally many rows.

    One gather for both embeddings of a small batch, where its latency is its cost; two of a large one, which would otherwise be copied.
    """
    width = eeg_BE.shape[1]
    if eeg_BE.numel() < _LARGE:
        both = gather_rows(torch.cat([eeg_BE, image_BE], dim=1))
        eeg_GE, image_GE = both[:, :width], both[:, width:]
    else:
        eeg_GE, image_GE = gather_rows(eeg_BE), gather_rows(image_BE)
    return GlobalColumns(eeg_GE, image_GE, None if ids_B is None else gather_ids(ids_B), rank * len(eeg_BE))


def info_nce(eeg_BE: Tensor, image_BE: Tensor, columns: GlobalColumns, logit_scale: Tensor, ids_B: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE of this rank's rows against all columns, both ways; its mean over ranks is the global loss.

    Parameters
    ----------
    eeg_BE, image_BE
        Unit-norm embeddings of this rank's pairs.
    columns
        Embeddings and ids of all ranks.
    logit_scale
        Shape (1,), already clamped.
    ids_B
        Positive ids (stimulus or concept); columns with a row's id other than its own pair leave its denominator. None
        keeps every other column as a negative.

    Returns
    -------
    Scalar, float32.
    """
    with torch.autocast(eeg_BE.device.type, enabled=False):
        how = Compared(softmax_terms, 0.5 / len(eeg_BE), columns.offset, ids_B, columns.ids_G)
        directions = ((eeg_BE.float(), columns.image_GE.float()), (image_BE.float(), columns.eeg_GE.float()))
        return compare(how, directions, logit_scale.float())


def siglip(eeg_BE: Tensor, columns: GlobalColumns, logit_scale: Tensor, logit_bias: Tensor, ids_B: Tensor | None = None) -> Tensor:
    """Sigmoid loss over all pairs (Zhai et al. 2023) of this rank's EEG rows; its mean over ranks is the global loss.

    Shapes as for :func:`info_nce`; ``logit_bias`` is (1,). Excluded columns count neither as positive nor as negative.
    """
    with torch.autocast(eeg_BE.device.type, enabled=False):
        how = Compared(sigmoid_terms, 1 / len(eeg_BE), columns.offset, ids_B, columns.ids_G)
        return compare(how, ((eeg_BE.float(), columns.image_GE.float()),), logit_scale.float(), logit_bias.float())


def mse(prediction_BE: Tensor, target_BE: Tensor) -> Tensor:
    """Mean squared error over rows and dimensions: scalar float32."""
    return F.mse_loss(prediction_BE.float(), target_BE.float())


def cosine(prediction_BE: Tensor, target_BE: Tensor) -> Tensor:
    """Mean of 1 - cosine of the rows: scalar float32."""
    return 1 - F.cosine_similarity(prediction_BE.float(), target_BE.float(), dim=1).mean()


def cross_entropy(logits_BK: Tensor, concept_B: Tensor) -> Tensor:
    """Cross-entropy over concepts, mean over rows: scalar float32."""
    return F.cross_entropy(logits_BK.float(), concept_B.long())


def positive_ids(positives: str, stimulus_B: Tensor, concept_B: Tensor) -> Tensor | None:
    """The ids that :func:`info_nce` masks by, for ``LossConfig.positives``."""
    return {"pair": None, "stimulus": stimulus_B, "concept": concept_B}[positives]


def weighted_sum(terms: dict[str, Tensor], config: LossConfig) -> dict[str, Tensor]:
    """``terms`` with ``loss``, their sum with the config's weights, in front."""
    weighted = [config.weights[name] * term for name, term in terms.items()]
    return {"loss": torch.stack(weighted).sum(), **terms}
