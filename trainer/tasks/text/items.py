"""Items with their prompts and captions, and the micro-batches of token rows that they are cut into.

B: items, C: channels, T: time points, E: image embedding dimension, P: common space of EEG and images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trainer.models.language.prompt import Prompt, Prompter
from trainer.models.language.rows import TextRows, build_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class TextItems:
    """What is shown of items, what the model is told, and what it is to say; tensors on the device."""

    eeg_BCT: Tensor
    subject_B: Tensor
    """Rows of the encoder's own table of subjects, -1 unknown."""
    target_BE: Tensor
    image_B: Tensor
    """bool: items that take their image."""
    noise_BP: Tensor | None = None
    """Added to their image."""
    key_B: Tensor | None = None
    """Hash of each item, int64, for dropout; None where nothing is dropped."""
    prompts: list[Prompt]
    targets: list[list[int]]
    """Token ids of the captions, with the end token."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt and caption, without the prefix."""
        return [len(p.before) + len(p.after) + len(t) for p, t in zip(self.prompts, self.targets, strict=True)]

    def take(self, chosen: Sequence[int]) -> TextItems:
        """Those of these numbers, in their order."""
        number = torch.tensor(chosen).to(self.eeg_BCT.device, non_blocking=True)
        return replace(
            self,
            eeg_BCT=self.eeg_BCT[number],
            subject_B=self.subject_B[number],
            target_BE=self.target_BE[number],
            image_B=self.image_B[number],
            noise_BP=None if self.noise_BP is None else self.noise_BP[number],
            key_B=None if self.key_B is None else self.key_B[number],
            prompts=[self.prompts[i] for i in chosen],
            targets=[self.targets[i] for i in chosen],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TextBatch:
    """A micro-batch on its device: items as token rows."""

    rows: TextRows
    eeg_BCT: Tensor
    subject_B: Tensor
    target_BE: Tensor
    image_B: Tensor
    noise_BP: Tensor | None
    key_B: Tensor | None
    weight: Tensor
    """What a sum over this micro-batch's tokens is multiplied with, such that the mean over ranks and micro-batches is the mean over the
    step's tokens: ``ranks * accumulation / tokens of the step``."""
    num_tokens: int
    """Tokens that are read: prompts, prefixes and captions, without padding."""

    def __len__(self) -> int:
        return len(self.subject_B)


def text_batch(items: TextItems, prompter: Prompter, *, weight: Tensor, pack_length: int | None) -> TextBatch:
    """Items as rows of tokens; see :func:`build_rows` for ``pack_length``.

    Raises
    ------
    CommandError
        A prompt with its caption is longer than the model's context.
    """
    for prompt, target in zip(items.prompts, items.targets, strict=True):
        prompter.check(prompt, target)
    rows = build_rows(items.prompts, items.targets, prompter.num_prefix, pack_length=pack_length)
    return TextBatch(
        rows=rows.to(items.eeg_BCT.device),
        eeg_BCT=items.eeg_BCT,
        subject_B=items.subject_B,
        target_BE=items.target_BE,
        image_B=items.image_B,
        noise_BP=items.noise_BP,
        key_B=items.key_B,
        weight=weight,
        num_tokens=sum(items.lengths) + len(items) * (prompter.num_prefix - 1),  # a caption's last token is only predicted
    )


def evenly_spread(total: int, most: int) -> np.ndarray:
    """Numbers below ``total``, at most ``most`` of them (0: all), evenly spread: int64."""
    count = min(most or total, total)
    return np.arange(count) * total // count
