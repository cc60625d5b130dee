"""Where captions come from when it is not the reader that has them: a file, a template, or (in :mod:`data_prep.embed`) a captioning model.

Each says of itself what the manifest keeps: ``source``, and what else tells captions of one making from those of another.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract import cli
from data_prep.contract.files import sha256_file
from data_prep.studies.base import StudyFacts
from data_prep.studies.captions import Missing, read_captions


@cli.polymorphic
@dataclass(frozen=True, kw_only=True)
class CaptionsConfig:
    """Base of sources of captions: a subclass adds fields and :meth:`read`."""

    def read(self, facts: StudyFacts) -> tuple[list[list[str]], dict[str, Any]]:
        """Captions of every stimulus, and what the manifest says of their making.

        Raises
        ------
        StudyError
            A stimulus without a caption, a name that fits several.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say where captions are")


@dataclass(frozen=True, kw_only=True)
class FileCaptionsConfig(CaptionsConfig):
    """Captions of a JSON file, by image (or class) name."""

    path: str
    """``{"folder/image.jpg": ["a caption", ...], ...}``, or a list in the order of the stimuli."""
    missing: Missing = "refuse"
    """Stimuli that the file has no caption for: ``refuse``, or ``allow`` them to have none."""
    made_by: str | None = None
    """Who or what wrote them, for the record."""

    def read(self, facts: StudyFacts) -> tuple[list[list[str]], dict[str, Any]]:
        path = Path(self.path)
        captions = read_captions(path, facts.stimuli, self.missing)
        made_by = {"made_by": self.made_by} if self.made_by else {}
        return captions, {"source": "file", "file": path.name, "sha256": sha256_file(path), **made_by}


@dataclass(frozen=True, kw_only=True)
class TemplateCaptionsConfig(CaptionsConfig):
    """Captions that say no more than the concept."""

    templates: tuple[str, ...] = ("a photo of {a_concept}",)
    """A caption each. ``{concept}``: the concept's name in words (``ice_cream`` is ice cream, and the number of ``bat1`` goes);
    ``{a_concept}``: with its article."""

    def __post_init__(self) -> None:
        if not self.templates:
            raise ValueError("templates is empty, expected at least one")
        for template in self.templates:
            try:
                fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
            except ValueError as error:
                raise ValueError(f"templates: {template!r} is no template ({error})") from error
            if not fields or not fields <= {"concept", "a_concept"}:
                raise ValueError(f"templates: {template!r} names {sorted(fields) or 'nothing'}, expected {{concept}} or {{a_concept}}")

    def read(self, facts: StudyFacts) -> tuple[list[list[str]], dict[str, Any]]:
        names = [in_words(facts.concepts[stimulus.concept]) for stimulus in facts.stimuli]
        captions = [[template.format(concept=name, a_concept=_with_article(name)) for template in self.templates] for name in names]
        return captions, {"source": "template", "templates": list(self.templates)}


def in_words(concept: str) -> str:
    """A concept's name in words: ``00012_ice_cream`` is ice cream, ``bat1`` is bat."""
    name = re.sub(r"^\d+[_-]+(?=\D)", "", concept)
    name = re.sub(r"[\s_]+", " ", name).strip()
    return re.sub(r"(?<=[^\W\d])\d+$", "", name) or concept


def _with_article(name: str) -> str:
    return f"{'an' if name[:1].casefold() in 'aeiou' else 'a'} {name}"
