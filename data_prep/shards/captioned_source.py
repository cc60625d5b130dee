"""A reader's source with captions from elsewhere in the place of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from data_prep.studies.base import SamplePlan, Source, StudyFacts
from data_prep.studies.caption_sources import CaptionsConfig


class CaptionedSource:
    """``source``, captioned; what is not said here is the source's own."""

    def __init__(self, source: Source, facts: StudyFacts) -> None:
        self._source, self._facts = source, facts

    @property
    def facts(self) -> StudyFacts:
        """The source's, with the captions."""
        return self._facts

    @property
    def samples(self) -> Sequence[SamplePlan]:
        """The source's."""
        return self._source.samples

    @property
    def source_hash(self) -> str:
        """The source's: captions are part of the facts, and so of the plan."""
        return self._source.source_hash

    def eeg(self, i: int) -> np.ndarray:
        """The source's."""
        return self._source.eeg(i)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_source", "_facts"):  # asked for while it is taken out of a pickle
            raise AttributeError(name)
        return getattr(self._source, name)


def with_captions(source: Source, captions: CaptionsConfig | None) -> tuple[Source, dict[str, Any]]:
    """The source with ``captions``, and what the manifest says of their making; without any, the source as it is."""
    if captions is None:
        return source, {"source": "reader"} if source.facts.captions is not None else {}
    lines, says = captions.read(source.facts)
    return CaptionedSource(source, replace(source.facts, captions=lines)), says
