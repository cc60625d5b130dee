"""Embeddings of captions: a row of a stimulus is the mean of its captions' unit-normalised vectors.

::

    captions of the study (or a file, or a template) ──► texts, each once ──► cache: which are known ──► network ──► (n_stimuli, dim)

Shapes in names: N stimuli, E embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_json
from data_prep.contract.progress import progress
from data_prep.contract.words import short
from data_prep.embed.base import EmbeddingConfig, Provenance
from data_prep.embed.row_cache import RowCache, read_facts, write_facts
from data_prep.embed.running import cache_folder
from data_prep.studies.base import StudyFacts
from data_prep.studies.caption_sources import CaptionsConfig


@dataclass(frozen=True, kw_only=True)
class LoadedTextEncoder:
    """A network that is ready."""

    encode: Callable[[list[str]], Any]
    """Texts to (B, E) on the CPU, without gradients."""
    too_long: Callable[[str], bool]
    """Whether a text has more tokens than the network reads."""
    provenance: Provenance
    """``model``, ``layer``, ``weights_sha256``, ``transform``."""


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(EmbeddingConfig):
    """Base of encoders of captions: a subclass adds fields, :meth:`load` and, where it can, :meth:`known`."""

    captions_from: CaptionsConfig | None = None
    """Captions to embed; None: those of the study."""
    use: Literal["all", "first"] = "all"
    """Which captions of a stimulus count."""
    batch_size: int = 64
    """Texts a forward pass."""
    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:1``: where the network runs."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")

    @property
    def reads_captions(self) -> bool:
        return self.captions_from is None

    def known(self) -> Mapping[str, Any] | None:
        """What rows hang on, where it is known without loading a network; None: it is not."""
        return None

    def load(self) -> LoadedTextEncoder:
        """Load the network.

        Raises
        ------
        StudyError
            Weights that are not there.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to load its network")

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, Provenance]:
        captions, source = (facts.captions, {"source": "captions"}) if self.captions_from is None else self.captions_from.read(facts)
        if captions is None:
            raise StudyError("the study has no captions: say captions_from, a file of them or a template")
        without = [stimulus.id for stimulus, lines in zip(facts.stimuli, captions, strict=True) if not lines]
        if without:
            raise StudyError(f"stimulus {without[0]!r} has no caption ({len(without)} of {len(facts.stimuli)}): expected one for each")
        chosen = [lines if self.use == "all" else lines[:1] for lines in captions]
        texts = list(dict.fromkeys(line for lines in chosen for line in lines))
        vectors, provenance = self._vectors(texts)
        units = {text: row / np.linalg.norm(row) for text, row in zip(texts, vectors, strict=True)}
        table_NE = np.stack([np.mean([units[line] for line in lines], axis=0) for lines in chosen]).astype(np.float32)
        which = "mean of its captions" if self.use == "all" else "its first caption"
        says = {**provenance, "layer": f"{provenance['layer']}, unit-normalised, {which}", "row_order": "names"}
        return table_NE, {**says, "source": "captions", **({"captions": source} if self.captions_from is not None else {})}

    def _vectors(self, texts: Sequence[str]) -> tuple[np.ndarray, Provenance]:
        known = self.known()
        loaded = None if known is not None else self.load()
        identity = dict(known) if known is not None else (loaded.provenance if loaded else {})
        with cache_folder() as root:
            folder = root / sha256_json(["text", type(self).__name__, identity])[:32]
            facts = read_facts(folder)
            rows = RowCache(folder, sum(facts["dims"])).load() if facts else {}
            keys = [sha256(text.encode()).digest() for text in texts]
            missing = [text for text, key in zip(texts, keys, strict=True) if key not in rows]
            if missing or facts is None:
                loaded = loaded or self.load()
                long = [text for text in missing if loaded.too_long(text)]
                if long:
                    raise StudyError(
                        f"{loaded.provenance['model']}: {len(long)} of {len(texts)} captions have more tokens than it reads, first "
                        f"{short(long[0], 80)!r}: expected shorter ones"
                    )
                with progress(f"captions embedded by {loaded.provenance['model']}", len(missing)) as advance:
                    for start in range(0, len(missing), self.batch_size):
                        batch = missing[start : start + self.batch_size]
                        values = np.asarray(loaded.encode(batch), np.float32)
                        if not np.isfinite(values).all() or not values.any(axis=1).all():
                            raise StudyError(
                                f"{loaded.provenance['model']}: gives values of {short(batch[0])!r} that are not finite or all zero"
                            )
                        if facts is None or facts["dims"] != [values.shape[1]]:
                            facts = {"dims": [values.shape[1]], "provenance": [loaded.provenance]}
                            write_facts(folder, facts)
                        new = {sha256(text.encode()).digest(): row for text, row in zip(batch, values, strict=True)}
                        RowCache(folder, values.shape[1]).add(new)
                        rows.update(new)
                        advance(len(batch))
            assert facts is not None
            provenance: Provenance = facts["provenance"][0]
            return np.stack([rows[key] for key in keys]), provenance
