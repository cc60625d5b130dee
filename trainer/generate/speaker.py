"""An arm, ready to speak: what is said for some rows of the items.

B: items of a batch, S: feature tokens, D: their width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from trainer.artifacts.text import TextDecoder
from trainer.generate.config import GenerateConfig
from trainer.models.language.prompt import Prompt, Prompter


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """An arm, ready to speak: fixed ``texts``, or prompts and features by row of the items."""

    concepts: list[str]
    """Predicted concept of each item; empty where nothing is predicted."""
    decoder: TextDecoder
    texts: list[str] | None = None
    prompts: list[Prompt] | None = None
    features: Callable[[np.ndarray], Tensor] | None = None
    """(B, S, D) of the rows B; None: the prompt alone."""
    prompter: Prompter | None = None
    """Another than the decoder's."""
    use_adapter: bool = True
    first_line: bool = False
    """Keep no more than the first line: an untuned model that does not know where a caption ends would ramble on."""

    def say(self, rows: np.ndarray, items: np.ndarray, config: GenerateConfig) -> list[str]:
        """Captions of some rows; ``items`` are their numbers in the part."""
        if self.texts is not None:
            return [self.texts[row] for row in rows]
        assert self.prompts is not None
        texts = self.decoder.model.generate(
            None if self.features is None else self.features(rows),
            [self.prompts[row] for row in rows],
            config.decoding,
            self.prompter or self.decoder.prompter,
            seed=config.seed,
            items=items.tolist(),
            use_adapter=self.use_adapter,
        )
        return [next((line for line in text.splitlines() if line.strip()), "") for text in texts] if self.first_line else texts
