"""Whether rows of features belong to images in the order that is claimed: measured against features of the same images that we made.

Two encoders agree on which images look alike. If row i is of image i, likeness between rows follows likeness between images; in any other
order it follows less. Tested apart are concepts (means of their rows, against shuffled concepts) and images inside them (what is left of
rows without their concept's mean, against rows shuffled inside each): images of a concept look alike, so that a whole file of concepts in
another order still agrees with itself. Besides, named orders that files are known to come in are tried, on all rows and on each quarter, so
that a row that is missing halfway shows.

Shapes in names: N all rows, S sampled images, A alternatives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

SHUFFLES = 999
"""Random orders against which an agreement is held."""
FEWEST = 40
"""Images below which nothing is decided."""
ENOUGH = 100
"""Images from which on no agreement at all is a contradiction: between two encoders of photographs it is found with far fewer."""
FEWEST_CONCEPTS = 12
"""Concepts below which their order cannot be told from shuffled ones."""
ALPHA, CLEARLY, CLEARLY_NOT = 0.01, 0.001, 0.05
"""Below the first a claim holds, below the second another order does, above the third there is nothing."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was measured of one part of the rows."""

    outcome: str
    """``measured``: in the claimed order; ``unproven``: cannot be told; ``contradicted``: in another, or of other images."""
    reason: str
    """Half a sentence."""
    agreement: float
    """Correlation of likenesses between rows with those between images."""
    p_concepts: float | None
    """Of the order of concepts; None where they are too few."""
    p_images: float | None
    """Of the order of images inside their concepts; None where concepts have one image each, or one row for all of theirs."""
    images: int


def judge(
    rows_NE: np.ndarray, ours_SE: np.ndarray, sample_S: np.ndarray, concept_S: np.ndarray, others: Mapping[str, np.ndarray]
) -> Verdict:
    """Judge the claim that row ``sample_S[j]`` is of the image whose features ``ours_SE[j]`` are.

    Parameters
    ----------
    sample_S
        Rising row numbers.
    concept_S
        Concept of each sampled image.
    others
        Name of another order -> int64 (N,), the row that image i would have in it.
    """
    rng = np.random.default_rng(20200220)
    given_SE, images = rows_NE[sample_S], len(sample_S)
    theirs_SS = _likeness(ours_SE)
    p_concepts = _p_of_concepts(given_SE, ours_SE, concept_S, rng)
    p_images = _p_inside_concepts(given_SE, ours_SE, concept_S, rng)
    tested = [p for p in (p_concepts, p_images) if p is not None]

    def verdict(outcome: str, reason: str) -> Verdict:
        return Verdict(
            outcome=outcome,
            reason=reason,
            agreement=round(float(np.vdot(_likeness(given_SE), theirs_SS)), 4),
            p_concepts=None if p_concepts is None else round(p_concepts, 4),
            p_images=None if p_images is None else round(p_images, 4),
            images=images,
        )

    if images < FEWEST or not tested:
        return verdict("unproven", f"{images} images are too few to tell, expected at least {FEWEST}")
    undecided = []
    for name, order_N in others.items():
        other_SE = rows_NE[order_N[sample_S]]
        differs_S = ~_equal_rows(other_SE, given_SE)
        if not differs_S.any():
            continue
        gain_S = _profiles(other_SE, theirs_SS) - _profiles(given_SE, theirs_SS)
        quarters = np.array_split(np.arange(images), 4) if images >= ENOUGH else []
        for part in (np.arange(images), *quarters):
            kept = part[differs_S[part]]
            if _p_positive(gain_S[kept]) < CLEARLY and min(_ps(other_SE[part], ours_SE[part], concept_S[part], rng)) < CLEARLY_NOT:
                where = "" if len(part) == images else f" (rows {sample_S[part[0]]} to {sample_S[part[-1]]})"
                return verdict("contradicted", f"the rows agree better with the images {name}{where} than in the order claimed")
        if _p_positive(-gain_S[differs_S]) > ALPHA:
            undecided.append(name)
    if min(tested) > CLEARLY_NOT / len(tested) and images >= ENOUGH:
        return verdict("contradicted", "the rows agree with the images no better than shuffled rows do")
    if min(tested) > ALPHA:
        return verdict("unproven", f"the rows hardly agree with {images} images better than shuffled rows do")
    if p_concepts is not None and p_concepts > ALPHA:
        return verdict("unproven", "rows agree inside concepts, but concepts no better than shuffled ones")
    if p_images is not None and p_images > ALPHA:
        return verdict("unproven", "concepts are in order, but inside them rows agree hardly better than shuffled ones")
    if undecided:
        return verdict("unproven", f"rows {undecided[0]} agree about as well")
    for part in np.array_split(np.arange(images), 4) if images >= ENOUGH else []:
        if min(_ps(given_SE[part], ours_SE[part], concept_S[part], rng), default=1.0) > CLEARLY_NOT:
            return verdict(
                "unproven", f"rows {sample_S[part[0]]} to {sample_S[part[-1]]} agree no better than shuffled ones, while others agree"
            )
    return verdict("measured", "rows agree with their images better than in any other order tried")


def _ps(given_SE: np.ndarray, ours_SE: np.ndarray, concept_S: np.ndarray, rng: np.random.Generator) -> list[float]:
    found = (_p_of_concepts(given_SE, ours_SE, concept_S, rng), _p_inside_concepts(given_SE, ours_SE, concept_S, rng))
    return [p for p in found if p is not None] or [1.0]


def _likeness(rows_SE: np.ndarray) -> np.ndarray:
    """Cosines between centred rows, standardised over pairs, the diagonal 0: (S, S). The sum of two's product is a correlation."""
    rows = rows_SE.astype(np.float64)
    rows = rows - rows.mean(0)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(norms > 0, norms, 1.0)
    cosines = rows @ rows.T
    off = ~np.eye(len(rows), dtype=bool)
    values = cosines[off] - cosines[off].mean()
    scale = np.linalg.norm(values)
    found: np.ndarray = np.zeros_like(cosines)
    found[off] = values / (scale if scale > 0 else 1.0)
    return found


def _p_against_shuffles(given_SE: np.ndarray, ours_SE: np.ndarray, blocks: Sequence[np.ndarray], rng: np.random.Generator) -> float:
    """p of the agreement against rows shuffled inside each block (the others stay)."""
    given_SS, theirs_SS = _likeness(given_SE), _likeness(ours_SE)
    found = float(np.vdot(given_SS, theirs_SS))
    as_good = 0
    order = np.arange(len(given_SE))
    for _ in range(SHUFFLES):
        for block in blocks:
            order[block] = rng.permutation(block)
        as_good += float(np.vdot(given_SS[np.ix_(order, order)], theirs_SS)) >= found - 1e-12
    return (1 + as_good) / (1 + SHUFFLES)


def _p_of_concepts(given_SE: np.ndarray, ours_SE: np.ndarray, concept_S: np.ndarray, rng: np.random.Generator) -> float | None:
    """p of the order of concepts: of the means of their rows."""
    concepts = np.unique(concept_S)
    if len(concepts) < FEWEST_CONCEPTS:
        return None
    given, ours = (np.stack([rows[concept_S == concept].mean(0) for concept in concepts]) for rows in (given_SE, ours_SE))
    return _p_against_shuffles(given, ours, [np.arange(len(concepts))], rng)


def _p_inside_concepts(given_SE: np.ndarray, ours_SE: np.ndarray, concept_S: np.ndarray, rng: np.random.Generator) -> float | None:
    """p of the order inside concepts: of what is left of rows and images when their concept's mean is taken away."""
    blocks = [np.flatnonzero(concept_S == concept) for concept in np.unique(concept_S)]
    blocks = [block for block in blocks if len(block) > 1 and not _equal_rows(given_SE[block], given_SE[block[0]]).all()]
    if not blocks:
        return None
    given, ours = (np.concatenate([rows[block] - rows[block].mean(0) for block in blocks]) for rows in (given_SE, ours_SE))
    ends = np.cumsum([0, *map(len, blocks)])
    return _p_against_shuffles(given, ours, [np.arange(start, stop) for start, stop in pairwise(ends.tolist())], rng)


def _equal_rows(one_SE: np.ndarray, other_SE: np.ndarray) -> np.ndarray:
    """Whether rows are equal but for rounding, bool (S,), whatever the scale."""
    found: np.ndarray = np.isclose(one_SE, other_SE, atol=1e-8 * float(np.abs(other_SE).max(initial=0.0))).all(axis=1)
    return found


def _p_positive(gain_S: np.ndarray) -> float:
    """p that an order is better than another, by how much better each image's likenesses agree in it."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(gain_S, alternative="greater").pvalue) if np.any(gain_S) else 1.0


def _profiles(rows_SE: np.ndarray, theirs_SS: np.ndarray) -> np.ndarray:
    """For each image, the correlation of its likenesses to all others: (S,)."""
    ours, theirs = _likeness(rows_SE), theirs_SS
    ours, theirs = ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True)
    scale = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    found: np.ndarray = (ours * theirs).sum(1) / np.where(scale > 0, scale, 1.0)
    return found
