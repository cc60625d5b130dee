"""Some stimuli of a study as a page shows them: a small picture, what it is, its captions."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.images import open_image
from data_prep.contract.words import short
from data_prep.shards.open import StudyFolder
from data_prep.studies.image_names import inside

_SIDE = 160
_MOST_CAPTIONS = 5


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A stimulus."""

    name: str
    about: str
    captions: list[str]
    jpeg: str = ""
    """Base64; empty where there is no image."""


def pictures(study: StudyFolder, images: Path | None, count: int = 8) -> list[Picture]:
    """Stimuli spread evenly over those that were shown; with ``images``, the folder of the study's images, each with its picture.

    Raises
    ------
    StudyError
        An image is not in the folder, or cannot be read.
    """
    manifest = study.manifest
    stimuli, rows = np.unique(study.samples["stimulus"], return_index=True)
    chosen = np.linspace(0, len(stimuli) - 1, min(count, len(stimuli))).round().astype(int)
    found = []
    for stimulus, sample in zip(stimuli[chosen].tolist(), rows[chosen].tolist(), strict=True):
        about = manifest.tables.stimuli[stimulus]
        concept = manifest.tables.concepts[about.concept]
        trials = int(study.samples["n_reps"][study.samples["stimulus"] == stimulus].sum())
        facts = [f"concept {concept}", *([about.part] if about.part else []), f"{trials} trials"]
        found.append(
            Picture(
                name=about.image or about.id,
                about=", ".join(facts),
                captions=[short(line, 300) for line in study.captions(sample)[:_MOST_CAPTIONS]],
                jpeg=_thumbnail(images, about.image) if images is not None and about.image else "",
            )
        )
    return found


def _thumbnail(images: Path, name: str) -> str:
    path = inside(images, name)
    if not path.is_file():
        raise StudyError(f"{path}: no such image, expected it in the folder that images names")
    image = open_image(path, smaller=2 * _SIDE)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
