"""Scores of queries for candidates, in blocks: a gallery of tens of thousands of images never stands in memory as one matrix.

::

    cosine_scores, Products, or a matrix as it is -> Scores -> blocks() of queries, reverse_blocks() of candidates

A score has the same digits whatever the block, and in both directions: see :mod:`data_prep.contract.row_products`.

Q: queries, G: candidates, E: embedding dimension, K: values a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.contract.ranking import FIRST, SECOND, check_scores
from data_prep.contract.row_products import CutRows, cut_rows, row_blocks, row_products

Block = tuple[np.ndarray, np.ndarray]
"""Numbers of some rows, and all their scores: float64 (rows, columns)."""


class Scores(ABC):
    """Scores of every query for every candidate, higher is better."""

    shape: tuple[int, int]
    """Queries, candidates."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Every query once: (queries, scores (q, G)). The block may be written over by whoever takes it."""

    @abstractmethod
    def reverse_blocks(self) -> Iterator[Block]:
        """Every candidate once: (candidates, scores (g, Q))."""

    def whole(self) -> np.ndarray:
        """All of them: float64 (Q, G)."""
        scores_QG = np.empty(self.shape)
        for rows, block in self.blocks():
            scores_QG[rows] = block
        return scores_QG


class WholeScores(Scores):
    """A matrix that is there already."""

    def __init__(self, scores_QG: np.ndarray) -> None:
        self.scores_QG = check_scores(scores_QG)
        self.shape = (len(self.scores_QG), self.scores_QG.shape[1])

    def blocks(self) -> Iterator[Block]:
        return self._rows_of(self.scores_QG)

    def reverse_blocks(self) -> Iterator[Block]:
        return self._rows_of(self.scores_QG.T)

    def _rows_of(self, scores: np.ndarray) -> Iterator[Block]:
        for rows in row_blocks(*scores.shape):
            yield np.arange(len(scores))[rows], np.array(scores[rows], order="C")


@dataclass(frozen=True, kw_only=True)
class Products:
    """Scores of some queries: products of their rows with the candidates', and a term of each candidate."""

    query_q: np.ndarray
    """Which queries, as numbers among all."""
    left: CutRows
    """A row a query (q, K)."""
    right: Callable[[slice], tuple[CutRows, np.ndarray | float]]
    """Rows of some candidates (g, K) and a term of each (g,); made when they are needed, as each subject may have others."""


class ProductScores(Scores):
    """Scores that are computed when they are asked for; every query belongs to one of ``parts``."""

    def __init__(self, parts: Sequence[Products], num_candidates: int) -> None:
        self.parts = parts
        self.shape = (sum(len(part.query_q) for part in parts), num_candidates)
        assert (np.sort(np.concatenate([part.query_q for part in parts])) == np.arange(self.shape[0])).all(), "every query once"

    def blocks(self) -> Iterator[Block]:
        for part in self.parts:
            right, term_G = part.right(slice(None))
            for rows in row_blocks(len(part.query_q), self.shape[1]):
                scores_qG = row_products(part.left[rows], right)
                scores_qG += term_G
                yield part.query_q[rows], scores_qG

    def reverse_blocks(self) -> Iterator[Block]:
        for rows in row_blocks(*self.shape[::-1]):
            candidates = np.arange(self.shape[1])[rows]
            scores_gQ = np.empty((len(candidates), self.shape[0]))
            for part in self.parts:
                right, term_g = part.right(rows)
                scores_gQ[:, part.query_q] = row_products(right, part.left) + np.reshape(term_g, (-1, 1))
            yield candidates, scores_gQ


def cosines(query_q: np.ndarray, embedding_qE: np.ndarray, gallery_GE: np.ndarray, centre_E: np.ndarray | None = None) -> Products:
    """Cosine of embeddings with the gallery's; of both less ``centre_E``, where one is given."""

    def cut(rows: np.ndarray, name: str) -> CutRows:
        return cut_rows(rows if centre_E is None else rows - centre_E, name, unit=True)

    return Products(query_q=query_q, left=cut(embedding_qE, FIRST), right=lambda rows: (cut(gallery_GE[rows], SECOND), 0.0))


def cosine_scores(embedding_QE: np.ndarray, gallery_GE: np.ndarray) -> Scores:
    """Cosine of every row with every row of the gallery."""
    return ProductScores([cosines(np.arange(len(embedding_QE)), embedding_QE, gallery_GE)], len(gallery_GE))


def as_scores(scores: Scores | np.ndarray) -> Scores:
    """What is a matrix, as scores."""
    return scores if isinstance(scores, Scores) else WholeScores(scores)
