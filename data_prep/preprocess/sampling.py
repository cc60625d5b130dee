"""A part of a recording that stands for the whole: what is found or fitted on a signal takes bounded memory.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.preprocess.fir import Span, band_taps, filter_in_chunks

MOST_VALUES = 2**24
"""Values that are fitted on: 128 MB of float64."""
BLOCK_SECONDS = 20.0
LEAST_SECONDS = 10.0


def high_passed_part(
    eeg_CT: np.ndarray, rows: Sequence[int], sfreq: float, spans: Sequence[Span], *, beside: int = 0, most_values: int = MOST_VALUES
) -> np.ndarray:
    """float64 (C, T'): the clean part of channels ``rows``, high-passed at 1 Hz; of a longer one, blocks of 20 s spread evenly over it.

    Parameters
    ----------
    beside
        Channels of another signal of the same recording, of which the same points are wanted.
    spans
        What may be used: neither across breaks nor bad segments. Those shorter than the filter (3.3 s) are left out.

    Raises
    ------
    UserError
        Less than 10 s are left.
    """
    taps_K = band_taps(sfreq, 1.0, None)
    h = len(taps_K) // 2
    usable = [(start, stop) for start, stop in spans if stop - start >= len(taps_K)]
    total = sum(stop - start for start, stop in usable)
    if total < LEAST_SECONDS * sfreq:
        raise UserError(
            f"{total / sfreq:.3g} s are clean and without breaks, expected at least {LEAST_SECONDS:g} s: bad channels and eye artefacts "
            "cannot be found in so little"
        )
    length = max(round(BLOCK_SECONDS * sfreq), len(taps_K))
    blocks = [(span, start, min(start + length, span[1])) for span in usable for start in range(span[0], span[1], length)]
    count = max(most_values // ((len(rows) + beside) * length), 1)
    if count < len(blocks):
        blocks = [blocks[i] for i in np.linspace(0, len(blocks) - 1, count).round().astype(int)]
    parts = []
    for (first, last), start, stop in blocks:
        a, b = max(start - h, first), min(stop + h, last)
        if b - a < len(taps_K):  # the end of a span
            a = max(b - len(taps_K), first)
        part_CT = np.array(eeg_CT[list(rows), a:b], np.float64)
        filter_in_chunks(part_CT, taps_K, [(0, b - a)], sfreq=sfreq)
        parts.append(part_CT[:, start - a : stop - a])
    return np.concatenate(parts, axis=1)


def without(spans: Sequence[Span], bad: Sequence[Span]) -> list[Span]:
    """``spans`` less the segments ``bad``."""
    left = list(spans)
    for start, stop in bad:
        left = [piece for a, b in left for piece in ((a, min(b, start)), (max(a, stop), b)) if piece[0] < piece[1]]
    return left
