"""What a loop needs of a task, and what a task need not say for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from data_prep.contract.terminal import Terminal
from data_prep.contract.version import code_version
from trainer.data import random
from trainer.data.augment import AugmentConfig, augment
from trainer.data.batch import Batch, HostBatch
from trainer.data.loader import Loader
from trainer.data.trials import trials_of
from trainer.distributed.world import World
from trainer.training.config import RunConfig
from trainer.training.lineage import Lineage, Origin


class Batches(Protocol):
    """An endless iterator that is closed at the end; what it gives has ``item_B``, and ``fault``, a sentence where no model may see it."""

    def __next__(self) -> Any: ...

    def close(self) -> None: ...


class Task(Protocol):
    """What a loop needs of a task; a task names its losses and scores itself."""

    study: dict[str, str]
    """``fingerprint``, ``trials_hash``, ``split_hash``, ...: identity of the data."""
    num_items: int
    """Items of a data pass."""
    score_name: str | None
    """The validation score that picks the best weights, higher is better; None: nothing is validated."""
    notes: list[tuple[str, dict[str, Any]]]
    """Kind and facts of events to be written at the start; see :class:`BaseTask`, which has these defaults."""
    started_from: tuple[Origin, ...]
    """Trainings whose weights this one began with; the loop keeps them in checkpoints."""
    partitioned_dtype: torch.dtype | None
    """Dtype of a pretrained model that ZeRO 3 cuts up while it is loaded; None: there is none."""
    frozen_elsewhere: bool
    """Frozen parameters can be had from where they came: they go neither into checkpoints nor to ``export``."""

    def check_start(self) -> None:
        """On rank 0, before a new run (not a resumed one) writes anything: refuse what it cannot start from."""
        ...

    def start(self, model: nn.Module) -> None:
        """On all ranks, with a new run's fresh model: bring weights from elsewhere, where the config says so."""
        ...

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Optimiser of the trainable parameters; a group's ``lr_factor`` multiplies the learning rate."""
        ...

    def build_model(self) -> nn.Module:
        """A new model with weights from torch's current seed."""
        ...

    def batches(self, start: int) -> Batches:
        """This rank's host batches of the stream, from item ``start`` on."""
        ...

    def settle(self) -> None:
        """Wait until what this rank has read is known to be what was written; refuse it otherwise."""
        ...

    def prepare(self, host: Any, step: int) -> Sequence[Any]:
        """Host batch of optimizer step ``step`` (from 0) to device batches, augmented; equally many on all ranks."""
        ...

    def fault_of(self, host: Any) -> str:
        """What of the inputs that :meth:`prepare` makes of a host batch is not finite, in a sentence; empty: nothing."""
        ...

    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        """Named losses of one of them, whose mean over ranks and batches is the global one; ``loss`` is what is minimised."""
        ...

    def constrain(self, model: nn.Module) -> None:
        """After every optimizer step: bring parameters that have bounds back to them, in the optimizer's copies, too."""
        ...

    def validate(self, model: Any) -> dict[str, float]:
        """Scores, equal on all ranks; never sees test data."""
        ...

    def export(self, weights: dict[str, Tensor], output: Path, step: int) -> None:
        """Write the model where no launcher is needed to load it."""
        ...


class DataTask:
    """What a task has that learns from a training part, by steps or in one pass: whose data they are, what it began with, what is to be
    told of its set-up."""

    loader: Loader
    """The training part."""
    study: dict[str, str]
    world: World

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, Any]]] = []
        """Kind and facts of noteworthy events of the set-up, for ``events.jsonl``; filled before the run begins."""
        self.started_from: tuple[Origin, ...] = ()
        """Trainings whose weights this one began with, oldest first: kept in checkpoints and written into exports, so that no
        evaluation calls trials unseen that an ancestor was trained on."""

    def facts(self) -> dict[str, str]:
        """What an export says of the data beside :meth:`lineage`."""
        return {name: value for name, value in self.study.items() if name not in ("fingerprint", "trials_hash", "split_hash")}

    def begin_with(self, origins: Sequence[Origin]) -> None:
        """Remember trainings that this one builds on, each once."""
        self.started_from += tuple(origin for origin in origins if origin not in self.started_from)

    def warn(self, sentences: Sequence[str]) -> None:
        """Say what a reader of the run must know, to people and in ``events.jsonl``."""
        for sentence in sentences:
            self.notes.append(("note", {"message": sentence}))
            say(self.world, sentence)

    def remember_kept(self, kept: dict[str, Any] | None) -> None:
        """Make what ``data.select.keep`` has left (:func:`trainer.tasks.keep.training_loader`) part of the identity, and tell of it."""
        if kept is None:
            return
        self.study["kept_sha256"], not_known = kept.pop("sha256"), kept.pop("not_known")
        self.begin_with(kept.pop("origins"))
        self.notes.append(("kept", kept))
        say(self.world, f"data.select.keep: {kept['kept']} of {kept['of']} training items, by the {kept['by']} of {kept['encoder']}")
        self.warn(not_known)

    def settle(self) -> None:
        """Wait until the hash of every shard that this rank has read is known; see :meth:`StudyIndex.settle`."""
        self.loader.index.settle()


class BaseTask(DataTask):
    """A task that reads a loader's stream, whose runs start from random weights and keep all of them in checkpoints."""

    config: RunConfig
    augmentation: AugmentConfig
    """Of training batches."""
    validation: Loader | None
    """The part by which the best step is chosen."""
    device: torch.device
    frozen_elsewhere = False
    partitioned_dtype: torch.dtype | None = None

    def lineage(self, step: int) -> Lineage:
        """Where the weights of ``step`` come from, for an export."""
        chosen_by = None if self.validation is None else trials_of(self.validation)
        lineage = Lineage(step=step, git_revision=code_version(), started_from=self.started_from, chosen_by=chosen_by)
        return lineage.completed_by(self.loader)

    def check_start(self) -> None:
        """On rank 0, before a new run (not a resumed one) writes anything: refuse what it cannot start from."""

    def start(self, model: nn.Module) -> None:
        """On all ranks, with a new run's fresh model: bring weights from elsewhere, where the config says so."""

    def constrain(self, model: nn.Module) -> None:
        """After every optimizer step: bring parameters that have bounds back to them, in the optimizer's copies, too."""

    def batches(self, start: int) -> Batches:
        """This rank's slices of the stream, a step's share at a time."""
        return self.loader.batches(
            start,
            global_batch_size=self.config.train.global_batch_size,
            rank=self.world.rank,
            world_size=self.world.size,
            pin=self.device.type == "cuda",
        )

    def prepared(self, host: HostBatch) -> Batch:
        """On the device: transformed, averaged over repetitions, normalised, augmented."""
        batch = self.loader.prepare(host, self.device)
        eeg_BCT = augment(
            batch.eeg_BCT,
            batch.item_B,
            batch.data_pass_B,
            seed=self.config.train.seed,
            sfreq=self.loader.sfreq,
            config=self.augmentation,
        )
        return replace(batch, eeg_BCT=eeg_BCT)

    def keys(self, batch: Batch) -> Tensor:
        """A hash for each item, of which dropout is a function: int64 (B,), on the device."""
        return random.hash_torch(self.config.train.seed, batch.data_pass_B, batch.item_B, device=self.device)

    def fault_of(self, host: HostBatch) -> str:
        """What of :meth:`prepared` is not finite, in a sentence that names the sample; empty: nothing. Waits for the device."""
        return self.loader.fault_of(self.prepared(host))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """As the config's ``optimizer`` says, one learning rate for all."""
        return self.config.optimizer.build(model)


def say(world: World, message: str) -> None:
    """One line for people, from rank 0."""
    if world.is_main:
        Terminal(stderr=True, soft_wrap=True).print(message)
