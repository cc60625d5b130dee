"""Aligning EEG with image embeddings: the task that the loop trains.

A step's path: loader slices -> :func:`trainer.data.batch.prepare` on the device -> augmentation -> model ->
gather over ranks -> losses of this rank's rows against all columns.

B: rows of this rank, P: dimension of the common space, Q: validation queries, S: validation stimuli.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.contract.errors import UserError
from data_prep.contract.ranking import cosine_similarity, ranks_among
from trainer import metrics
from trainer.artifacts.encoder import known_subjects
from trainer.artifacts.encoder_export import write_export
from trainer.data.batch import Batch, HostBatch
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.distributed import collectives
from trainer.distributed.precision import Precision, autocast
from trainer.distributed.world import World
from trainer.models.contrastive import ContrastiveModel, ContrastiveOutput, joined
from trainer.tasks.contrastive.config import ContrastiveConfig
from trainer.tasks.contrastive.initial_weights import InitialWeights, sentence
from trainer.tasks.contrastive.objective import contrastive_terms
from trainer.tasks.keep import training_loader
from trainer.tasks.sizes import Column, check_contrast, check_sizes, check_targets
from trainer.training.task import BaseTask, say

_NO_HEAD, _NOT_FINITE = -1, -2


class ContrastiveTask(BaseTask):
    """See :class:`trainer.training.task.Task`."""

    config: ContrastiveConfig

    def __init__(self, config: ContrastiveConfig, world: World, device: torch.device) -> None:
        super().__init__()
        self.config, self.world, self.device, self.augmentation = config, world, device, config.augment
        self.index = StudyIndex.open(Path(config.data.study), verify=config.data.verify)
        self.split = self.index.split(config.data.split)
        self.loader, kept = training_loader(self.index, config.data, config.train.seed, device)
        self.num_items = self.loader.num_items
        self.class_level = self.index.manifest.class_level
        self.validation: Loader | None = None
        self.score_name: str | None = None
        self.names_concepts = False
        if self.split.has("validation"):
            self.validation = Loader(self.index, config.data.unfiltered(), "validation", seed=config.train.seed)
            self.names_concepts = self._can_name_concepts(self.validation)
            self.score_name = "concept_accuracy" if self.names_concepts else "mrr"
            if self.class_level:
                self.score_name = "balanced_accuracy" if self.names_concepts or len(self.validation.stimuli) != 2 else "auc"
        self._check_sizes()
        self.trained_S = torch.zeros(self.loader.num_subjects, dtype=torch.bool, device=device)
        self.trained_S[torch.from_numpy(self.loader.subjects.astype(np.int64))] = True
        self.study = self.loader.identity
        self.remember_kept(kept)

    def _check_sizes(self) -> None:
        loss, batch_size = self.config.loss, self.config.train.global_batch_size
        contrasted: Column = "concept" if loss.positives == "concept" else "stimulus"
        aligned = bool(loss.contrastive_weight or loss.mse_weight or loss.cosine_weight)
        learnt: dict[Column, bool] = {"stimulus": aligned, "concept": bool(loss.cross_entropy_weight)}
        learnt[contrasted] |= bool(loss.contrastive_weight)
        self.warn(
            check_sizes(
                self.config,
                self.world,
                self.loader,
                self.validation,
                learnt=[column for column, wanted in learnt.items() if wanted],
                scored="concept" if self.names_concepts or self.class_level else "stimulus",
            )
        )
        if aligned:
            check_targets(self.loader)
        if loss.contrastive_weight:
            self.warn(check_contrast(self.loader, batch_size, contrasted))

    def check_start(self) -> None:
        """What ``init_from`` would bring into this run's model, if anything."""
        if self.config.init_from:
            model = self.build_model()
            assert isinstance(model, Autocast)
            initial = InitialWeights(self.config.init_from, self.loader, self.config.model)
            facts = initial.compare(model.model)
            self.notes.append(("init", facts))
            say(self.world, sentence(facts))
            self.warn(initial.not_known)

    def start(self, model: nn.Module) -> None:
        """Bring the weights of ``init_from``."""
        if self.config.init_from:
            assert isinstance(model, Autocast)
            initial = InitialWeights(self.config.init_from, self.loader, self.config.model)
            initial.copy_into(model.model)
            self.constrain(model)
            self.begin_with(initial.origins)

    def build_model(self) -> nn.Module:
        """The contrastive model in the autocast of the run's precision."""
        model = self.config.model.build(
            n_chans=self.loader.n_chans,
            n_times=self.loader.n_times,
            sfreq=self.loader.sfreq,
            num_subjects=self.loader.num_subjects,
            embedding_dim=self.loader.embedding_dim,
            num_concepts=len(self.index.manifest.tables.concepts),
            positions=self.loader.positions,
            loss=self.config.loss,
        )
        return Autocast(model, self.config.train.precision, self.device)

    def prepare(self, host: HostBatch, step: int) -> list[Batch]:
        """On the device, transformed, averaged over repetitions, augmented; cut into as many parts as a step has forwards."""
        return self.prepared(host).cut(self.config.train.forwards(self.world.size))

    def losses(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Losses of this rank's rows where they are one batch."""
        return self.compare([self.embed(model, batch)], [batch])

    def embed(self, model: Any, batch: Batch) -> ContrastiveOutput:
        """Both sides of a batch of pairs in the common space."""
        out: ContrastiveOutput = model(batch.eeg_BCT, batch.subject_B, batch.target_BE, self.keys(batch))
        return out

    def compare(self, outputs: Sequence[ContrastiveOutput], batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Losses of this rank's rows, ``loss`` first, then its terms and the temperature's reciprocal."""
        out = joined(outputs)
        terms = contrastive_terms(
            out,
            torch.cat([batch.stimulus_B for batch in batches]),
            torch.cat([batch.concept_B for batch in batches]),
            self.config.loss,
            gather_rows=collectives.gather_rows,
            gather_ids=collectives.gather_ids,
            rank=self.world.rank,
        )
        return terms | {"logit_scale": out.logit_scale.detach().squeeze()}

    def constrain(self, model: nn.Module) -> None:
        """The logit scale has a limit."""
        assert isinstance(model, Autocast)
        model.model.constrain()

    def validate(self, model: Any) -> dict[str, float]:
        """Retrieval among the validation part's own stimuli, or AUC and balanced accuracy in a class-level study.

        Where nothing is contrasted and there is a concept head: how often it names the concept.
        """
        score = naming_scores if self.names_concepts else class_scores if self.class_level else retrieval_scores
        scores = score(self._embed_validation(model))
        # Rank 0's numbers for all: ranks on other hardware might round differently, and then part ways.
        values = collectives.gather_ids(torch.tensor([list(scores.values())], device=self.device))[0].tolist()
        return dict(zip(scores, values, strict=True))

    @torch.no_grad()
    def _embed_validation(self, model: Any) -> Embedded:
        """All ranks embed contiguous slices of equal length (ZeRO 3 needs equally many forwards) and gather them.

        A query is a sample, all its repetitions averaged, as in a test; in a class-level study that is a single trial.
        """
        assert self.validation is not None
        num_samples, batch_size = self.validation.num_samples, self.config.train.validation_batch_size
        share = -(-num_samples // self.world.size)
        mine = (self.world.rank * share + np.arange(share)) % num_samples
        parts = []
        for first in range(0, share, batch_size):
            batch = self.validation.prepare(self.validation.samples_batch(mine[first : first + batch_size]), self.device)
            out: ContrastiveOutput = model(batch.eeg_BCT, known_subjects(batch.subject_B, self.trained_S), batch.target_BE)
            named_B = torch.full_like(batch.concept_B, _NO_HEAD) if out.concept_logits_BK is None else _named(out.concept_logits_BK)
            parts.append((out.z_eeg_BP, out.z_image_BP, batch.stimulus_B, batch.concept_B, named_B))
        gathered = [collectives.gather_ids(torch.cat(column))[:num_samples].cpu().numpy() for column in zip(*parts, strict=True)]
        return Embedded(*gathered)

    def _can_name_concepts(self, validation: Loader) -> bool:
        loss = self.config.loss
        if loss.contrastive_weight or not loss.cross_entropy_weight:
            return False
        new = np.setdiff1d(validation.concepts, self.loader.concepts)
        if not len(new):
            return True
        first = self.index.manifest.tables.concepts[int(new[0])]
        message = (
            f"{len(new)} of {len(validation.concepts)} validation concepts were never trained (first {first!r}): no concept head can name "
            "them, so the run is scored by the rank of the image; a closed-set split validates on trained concepts"
        )
        self.notes.append(("note", {"message": message}))
        say(self.world, message)
        return False

    def export(self, weights: dict[str, Tensor], output: Path, step: int) -> None:
        """Write the encoder with all that is needed to apply it to a trial."""
        write_export(
            output,
            weights={name.removeprefix("model."): value for name, value in weights.items()},
            model=self.config.model,
            loss=self.config.loss,
            loader=self.loader,
            lineage=self.lineage(step),
            facts=self.facts(),
        )


class Autocast(nn.Module):
    """A model in the autocast of a precision; it must be inside what DeepSpeed wraps, whose engine switches off one around it."""

    def __init__(self, model: ContrastiveModel, precision: Precision, device: torch.device) -> None:
        super().__init__()
        self.model, self.precision, self.device_type = model, precision, device

    def forward(self, *arguments: Tensor) -> ContrastiveOutput:
        """As the model's."""
        with autocast(self.precision, self.device_type):
            out: ContrastiveOutput = self.model(*arguments)
        return out


def _named(logits_BK: Tensor) -> Tensor:
    """int64 (B,): the concept of the highest score. ``argmax`` alone names the first that is NaN, which may be the right one."""
    return torch.where(logits_BK.isfinite().all(dim=1), logits_BK.argmax(dim=1), _NOT_FINITE)


class Embedded(NamedTuple):
    """A part's embeddings in the common space, in the order of its items."""

    eeg_QP: np.ndarray
    image_QP: np.ndarray
    stimulus_Q: np.ndarray
    concept_Q: np.ndarray
    named_Q: np.ndarray
    """Concept that the concept head names; :data:`_NO_HEAD` without a head, :data:`_NOT_FINITE` where its scores are no numbers."""


def naming_scores(found: Embedded) -> dict[str, float]:
    """How often the concept head names a trial's concept, over all trials and as the mean over concepts.

    Raises
    ------
    UserError
        It names none, since its scores are not finite; on all ranks alike.
    """
    if (bad_Q := found.named_Q == _NOT_FINITE).any():
        raise UserError(f"the concept scores of {int(bad_Q.sum())} of {len(bad_Q)} trials are not finite, expected numbers")
    return {
        "concept_accuracy": float((found.named_Q == found.concept_Q).mean()),
        "balanced_accuracy": metrics.balanced_accuracy(found.named_Q, found.concept_Q),
    }


def retrieval_scores(found: Embedded) -> dict[str, float]:
    """Each query among the part's own distinct stimuli: top-1, top-5 and mean reciprocal rank, the least noisy of the three."""
    stimulus_S, first = np.unique(found.stimulus_Q, return_index=True)
    ranks_Q = ranks_among(found.eeg_QP, found.image_QP[first], found.stimulus_Q, stimulus_S)
    return {
        "top1": float(metrics.recall_at(ranks_Q, 1).mean()),
        "top5": float(metrics.recall_at(ranks_Q, 5).mean()),
        "mrr": float(metrics.reciprocal_rank(ranks_Q).mean()),
    }


def class_scores(found: Embedded) -> dict[str, float]:
    """Balanced accuracy of the nearest class and, with two classes, the AUC of the difference of similarities."""
    concept_S, first = np.unique(found.concept_Q, return_index=True)
    scores_QS = cosine_similarity(found.eeg_QP, found.image_QP[first])
    scores = {"balanced_accuracy": metrics.balanced_accuracy(concept_S[scores_QS.argmax(axis=1)], found.concept_Q)}
    if len(concept_S) == 2:
        scores["auc"] = metrics.auc(scores_QS[:, 1] - scores_QS[:, 0], found.concept_Q == concept_S[1])
    return scores
