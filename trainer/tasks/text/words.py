"""Words in prompts: the concepts that the encoder predicts from what an item shows, in training as in use.

B: items of a batch, P: common space of EEG and images, K: words of a prompt, C: concepts of the study, S: subjects.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from data_prep.contract import schema
from data_prep.contract.errors import CommandError
from trainer.artifacts.concepts import build_concept_table
from trainer.artifacts.encoder import NetworkEncoder
from trainer.data.batch import Batch
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.models.concepts import ConceptTable, as_words
from trainer.models.language.eeg_language_model import Source
from trainer.models.language.text_reader import TextReader
from trainer.tasks.text.config import TextConfig
from trainer.tasks.text.items import evenly_spread

_COUNTED_ITEMS = 512


class PromptWords:
    """What is said of each item in its prompt; nothing where ``prompt.concepts`` is 0.

    Parameters
    ----------
    loader
        Training part, whose concepts are the candidates.
    subject_S
        Row in the encoder's own table for each subject of the study, -1 unknown.

    Raises
    ------
    CommandError
        More words are asked for than there are candidates.
    """

    def __init__(self, config: TextConfig, loader: Loader, encoder: NetworkEncoder, subject_S: Tensor) -> None:
        self.num_words, self.encoder, self.subject_S = config.prompt.concepts, encoder, subject_S
        self.study_concepts = loader.index.manifest.tables.concepts
        self.concepts: ConceptTable | None = None
        """The candidates."""
        self.own_C: np.ndarray | None = None
        """Their row for each of the study's concepts, where a training item's own is no candidate."""
        if self.num_words:
            self.concepts = build_concept_table(encoder, loader)
            if leaves_own_out(config, loader.index):
                self.own_C = self.concepts.rows(self.study_concepts)
            self._check(len(self.concepts.names))

    def _check(self, num_concepts: int) -> None:
        most = num_concepts - (self.own_C is not None)
        if self.num_words > most:
            found = f"prompt.concepts: {self.num_words}, but the training part has {num_concepts} concepts"
            other = ", of which an item's own is left out" if self.own_C is not None else ""
            raise CommandError(f"{found}{other}: expected at most {most}")

    @torch.no_grad()
    def of(self, batch: Batch, source: Source | None, image_B: Tensor, *, training: bool = False) -> list[list[str]]:
        """Words of each item, predicted from its EEG, its image, or with ``both`` from the image where ``image_B`` says so."""
        if self.concepts is None:
            return [[] for _ in range(len(batch))]
        model, target_BE = self.encoder.model, batch.target_BE
        z_BP = model.embed_image(target_BE) if source == "image" else model.embed_eeg(batch.eeg_BCT, self.subject_S[batch.subject_B])
        if source == "both":
            z_BP = torch.where(image_B[:, None], model.embed_image(target_BE), z_BP)
        own_B = self.own_C[batch.concept_B.cpu().numpy()] if training and self.own_C is not None else None
        ids_BK = self.concepts.predict(z_BP.cpu().numpy(), self.num_words, without_B=own_B)
        return [self.concepts.words(ids) for ids in ids_BK.tolist()]

    def longest(self, reader: TextReader) -> list[str]:
        """The candidates that need the most tokens, as many as a prompt has words."""
        if self.concepts is None:
            return []
        names = [self.concepts.words([number])[0] for number in range(len(self.concepts.names))]
        return sorted(names, key=lambda name: (len(reader.ids(name)), len(name)), reverse=True)[: self.num_words]

    def share_right(self, loaders: Iterable[Loader], source: Source, device: torch.device) -> dict[str, float]:
        """Share of items whose true concept is among their words, by part, on some hundreds of them.

        An encoder knows the trials it was trained on: words may be better in training than in use.
        """
        found = {}
        for loader in loaders:
            batch = loader.prepare(loader.samples_batch(evenly_spread(loader.num_samples, _COUNTED_ITEMS)), device)
            words = self.of(batch, source, torch.zeros(len(batch), dtype=torch.bool, device=device))
            true = [as_words(self.study_concepts[concept]) for concept in batch.concept_B.tolist()]
            found[loader.part] = float(np.mean([name in own for name, own in zip(true, words, strict=True)]))
        return found


def leaves_own_out(config: TextConfig, index: StudyIndex) -> bool:
    """Whether words of training items are predicted among other concepts than their own: see ``PromptConfig.own_concept``."""
    if config.prompt.own_concept != "auto":
        return config.prompt.own_concept == "leave_out"
    train, *held_out = (np.unique(index.table.concept[index.rows(config.data.split, part)]) for part in schema.PARTS)
    held = np.concatenate(held_out)
    return len(held) > 0 and not np.isin(held, train).any()
