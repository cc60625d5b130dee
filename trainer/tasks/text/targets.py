"""Captions as the token ids that are to be said.

B: items of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from data_prep.contract.errors import CommandError
from trainer.data.captions import StudyCaptions
from trainer.models.language.prompt import Prompt, Prompter
from trainer.tasks.text.config import StageConfig


class CaptionTargets:
    """Token ids of stimuli's captions; what is too long for the model is found here, before training.

    Parameters
    ----------
    stimuli
        Those of all parts that are used.
    prompt
        The longest that any of them gets.

    Raises
    ------
    CommandError
        A caption with this prompt is longer than the model's context, or than ``stage.pack_length``.
    """

    def __init__(self, captions: StudyCaptions, stimuli: Iterable[int], prompter: Prompter, prompt: Prompt, stage: StageConfig) -> None:
        self.stage = stage
        self.by_stimulus: dict[int, list[list[int]]] = {}
        known: dict[str, list[int]] = {}
        for stimulus in stimuli:
            for caption in captions.of(stimulus):
                if caption not in known:
                    known[caption] = prompter.target(caption)
                    self._check(caption, prompter.check(prompt, known[caption]) - 1)  # the last token is only predicted
            self.by_stimulus[stimulus] = [known[caption] for caption in captions.of(stimulus)]

    def _check(self, caption: str, length: int) -> None:
        most = self.stage.pack_length
        if most is not None and length > most:
            raise CommandError(f"stage.pack_length: {most}, but {caption[:40]!r}… and its prompt have {length} tokens")

    def first(self, stimulus_B: np.ndarray) -> list[list[int]]:
        """The first caption of each."""
        return [self.by_stimulus[stimulus][0] for stimulus in stimulus_B.tolist()]

    def draw(self, stimulus_B: np.ndarray, bits_B: np.ndarray) -> list[list[int]]:
        """One caption of each by its random bits, or the first, as ``stage.captions`` says."""
        if self.stage.captions == "first":
            return self.first(stimulus_B)
        every = [self.by_stimulus[stimulus] for stimulus in stimulus_B.tolist()]
        return [own[bits % len(own)] for own, bits in zip(every, bits_B.tolist(), strict=True)]
