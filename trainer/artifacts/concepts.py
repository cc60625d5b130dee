"""The candidates for words in a prompt, from a trained encoder and the part that names them."""

from __future__ import annotations

import numpy as np

from trainer.artifacts.encoder import Encoder
from trainer.data.loader import Loader
from trainer.models.concepts import ConceptTable


def build_concept_table(encoder: Encoder, loader: Loader) -> ConceptTable:
    """Candidates: the concepts of the loader's part, by their images through the encoder's image side."""
    tables = loader.index.manifest.tables
    concept_N = np.array([tables.stimuli[s].concept for s in loader.stimuli.tolist()])
    return ConceptTable.make(tables.concepts, concept_N, encoder.embed_image(loader.gallery[loader.stimuli]))
