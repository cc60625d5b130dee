"""How it is known which image a row of imported features is of: by names, by measurement, or not at all.

Without names a sample of the images is embedded by an encoder at hand, and the rows are held against that (:mod:`.agreement`), training and
test images apart, since their rows may come from two files. The facts of the embedding say ``row_order: names | measured | unproven``.

Shapes in names: N stimuli, S sampled ones.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Stimulus
from data_prep.contract.words import short
from data_prep.embed.agreement import Verdict, judge
from data_prep.embed.base import EmbeddingConfig
from data_prep.studies.base import StudyFacts
from data_prep.studies.image_names import inside
from data_prep.studies.name_match import label_of

IMAGES_OF_A_CONCEPT = 10


@dataclass(frozen=True, kw_only=True)
class RowOrder:
    """What is known of it."""

    known_by: Literal["names", "measured", "unproven"]
    reason: str | None = None
    """Of ``unproven``, half a sentence."""
    measured: tuple[dict[str, Any], ...] = ()
    """One a part of the study: agreement, p-values, images, the encoder."""

    def plain(self) -> dict[str, Any]:
        """As facts of the embedding."""
        facts: dict[str, Any] = {"row_order": self.known_by}
        if self.reason:
            facts["row_order_reason"] = self.reason
        if self.measured:
            facts["row_order_measured"] = list(self.measured)
        return facts


def measure(table_NE: np.ndarray, facts: StudyFacts, encoder: EmbeddingConfig, num_images: int, where: str) -> RowOrder:
    """Hold rows against the images they are said to be of.

    Raises
    ------
    StudyError
        They contradict each other: what was found, and in which order the rows fit.
    """
    if facts.stimulus_level == "class":
        return RowOrder(known_by="unproven", reason="stimuli are classes, of which no image is known")
    if facts.image_root is None or not all(stimulus.image for stimulus in facts.stimuli):
        return RowOrder(known_by="unproven", reason="no images were given that the rows could be held against")
    parts = sorted({stimulus.part or "" for stimulus in facts.stimuli})
    others = other_orders(facts.stimuli)
    verdicts: list[tuple[str, Verdict]] = []
    model = ""
    for part in parts:
        members_N = np.array([row for row, stimulus in enumerate(facts.stimuli) if (stimulus.part or "") == part])
        sample_S = choose(facts.stimuli, members_N, num_images)
        stimuli = [facts.stimuli[row] for row in sample_S.tolist()]
        missing = [s for s in stimuli if not inside(facts.image_root, str(s.image)).is_file()]
        if missing:
            reason = f"{len(missing)} of {len(stimuli)} sampled images are not there, first {label_of(missing[0])!r}"
            return RowOrder(known_by="unproven", reason=reason)
        try:
            ours_SE, provenance = encoder.compute(replace(facts, stimuli=stimuli, captions=None))
        except StudyError as error:
            return RowOrder(known_by="unproven", reason=f"the images could not be embedded to compare ({short(error, 200)})")
        model = str(provenance.get("model"))
        verdict = judge(table_NE, ours_SE, sample_S, np.array([s.concept for s in stimuli]), others)
        named = f"{part} images" if part else "images"
        if verdict.outcome == "contradicted":
            raise StudyError(
                f"{where}: {verdict.reason} ({verdict.images} {named}, held against {model}; agreement {verdict.agreement:g}, "
                f"p {_shown(verdict)}): expected row i to be of stimulus i; give names, or prove: false if rows do not tell how images look"
            )
        verdicts.append((named, verdict))
    measured = tuple(
        {
            "part": named,
            "agreement": v.agreement,
            "p_concepts": v.p_concepts,
            "p_images": v.p_images,
            "images": v.images,
            "encoder": model,
        }
        for named, v in verdicts
    )
    weak = next(((named, v) for named, v in verdicts if v.outcome != "measured"), None)
    if weak is not None:
        return RowOrder(known_by="unproven", reason=f"{weak[0]}: {weak[1].reason}", measured=measured)
    return RowOrder(known_by="measured", measured=measured)


def choose(stimuli: Sequence[Stimulus], members_N: np.ndarray, num_images: int) -> np.ndarray:
    """Rows to sample, rising: whole concepts (of large ones some neighbours), spread over all of ``members_N``."""
    by_concept: dict[int, list[int]] = defaultdict(list)
    for row in members_N.tolist():
        by_concept[stimuli[row].concept].append(row)
    groups = [rows[len(rows) // 2 - min(len(rows), IMAGES_OF_A_CONCEPT) // 2 :][:IMAGES_OF_A_CONCEPT] for rows in by_concept.values()]
    groups.sort()
    if len(groups) * IMAGES_OF_A_CONCEPT <= num_images:  # few concepts: more images of each
        step = -(-len(members_N) // num_images)
        return np.array(sorted(row for rows in by_concept.values() for row in rows[::step]), np.int64)
    size = max(1, sum(map(len, groups)) // max(1, len(groups)))
    wanted = min(len(groups), max(1, num_images // size))
    picked = np.unique(np.linspace(0, len(groups) - 1, wanted).round().astype(int))
    return np.array(sorted(row for number in picked.tolist() for row in groups[number]), np.int64)


def other_orders(stimuli: Sequence[Stimulus]) -> dict[str, np.ndarray]:
    """Orders that feature files are known to come in, as the row of every stimulus: name -> int64 (N,)."""
    total = len(stimuli)
    rows = np.arange(total)
    parts: dict[str, list[int]] = defaultdict(list)
    for row, stimulus in enumerate(stimuli):
        parts[stimulus.part or ""].append(row)
    members = [np.array(part) for part in parts.values()]
    labels = [label_of(stimulus) for stimulus in stimuli]

    def inside_parts(order: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        found = rows.copy()
        for part in members:
            found[part] = part[order(part)]
        return found

    def sorted_by(key: Callable[[str], Any]) -> np.ndarray:
        def rank(part: np.ndarray) -> np.ndarray:
            place = np.empty(len(part), np.int64)
            place[np.array(sorted(range(len(part)), key=lambda i: key(labels[part[i]])), np.int64)] = np.arange(len(part))
            return place

        return inside_parts(rank)

    found = {
        "one row later": inside_parts(lambda part: (np.arange(len(part)) + 1) % len(part)),
        "one row earlier": inside_parts(lambda part: (np.arange(len(part)) - 1) % len(part)),
        "from the last row to the first": inside_parts(lambda part: np.arange(len(part))[::-1]),
        "by path": sorted_by(lambda label: label),
        "by path without regard to case": sorted_by(str.casefold),
        "by file name alone": sorted_by(lambda label: label.rsplit("/", 1)[-1]),
        "by path with numbers in order": sorted_by(
            lambda label: [(not w.isdigit(), int(w) if w.isdigit() else 0, w) for w in re.split(r"(\d+)", label)]
        ),
    }
    for number in _images_a_concept(stimuli, members):
        # Bound now: the loop's variable is another one when it is called.
        turned, later, earlier = (partial(order, number) for order in (_transposed, _one_concept_on, _one_concept_back))
        found[f"image by image over concepts ({number} images a concept)"] = inside_parts(turned)
        found[f"one concept later ({number} rows)"] = inside_parts(later)
        found[f"one concept earlier ({number} rows)"] = inside_parts(earlier)
    if len(members) == 2:
        # Row of a stimulus where the second part's rows come first: of 5 + 3 stimuli, 3..7 and then 0..2.
        first, second = members
        swapped = rows.copy()
        swapped[first], swapped[second] = len(second) + np.arange(len(first)), np.arange(len(second))
        found["with the parts the other way round"] = swapped
    return found


def _images_a_concept(stimuli: Sequence[Stimulus], members: Sequence[np.ndarray]) -> list[int]:
    found = set()
    for part in members:
        counts = np.unique([stimuli[row].concept for row in part.tolist()], return_counts=True)[1]
        if len(counts) > 1 and counts.min() == counts.max() > 1:
            found.add(int(counts[0]))
    return sorted(found)


def _transposed(images: int, part: np.ndarray) -> np.ndarray:
    i = np.arange(len(part))
    return i if len(part) % images else (i % images) * (len(part) // images) + i // images


def _one_concept_on(images: int, part: np.ndarray) -> np.ndarray:
    return (np.arange(len(part)) + images) % len(part)


def _one_concept_back(images: int, part: np.ndarray) -> np.ndarray:
    return (np.arange(len(part)) - images) % len(part)


def _shown(verdict: Verdict) -> str:
    return " and ".join(f"{p:g}" for p in (verdict.p_concepts, verdict.p_images) if p is not None) or "unknown"
