"""What of a study a run uses: ablations decided when the data is loaded, without sharding again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_prep.contract.errors import CommandError
from data_prep.contract.manifest import Signal, Tables
from data_prep.contract.repetitions import RepetitionTable
from data_prep.contract.words import listed
from trainer.data import random

_FRACTION = random.word("fraction of items")


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Part of the data to use; the defaults use everything.

    Subjects, concepts, channels and the time window hold for every part of the split; ``repetitions``, ``fraction`` and
    ``keep`` thin out the training part only, so that tests stay comparable.
    """

    subjects: list[str] | None = None
    """Labels of the subjects to keep, as in the manifest (``01``); null keeps all."""
    concepts: list[str] | None = None
    """Names of the concepts to keep, as in the manifest; null keeps all."""
    channels: list[str] | None = None
    """Names of the channels to keep, in this order; null keeps all in the study's order."""
    tmin: float | None = None
    """First time point to keep, in seconds from stimulus onset (included); null keeps from the start."""
    tmax: float | None = None
    """Last time point to keep, in seconds from stimulus onset (included); null keeps to the end."""
    repetitions: int | None = None
    """Training part: keep only each sample's first so many repetitions (of those in the part); null keeps all."""
    fraction: float = 1.0
    """Training part: share of items to keep, in (0, 1], chosen by a hash of the item (not by the seed), so that a smaller
    fraction is part of a larger one."""
    keep: Literal["all", "correctly_classified"] = "all"
    """Training part: ``correctly_classified`` keeps the items whose concept ``keep_encoder`` names rightly, by its concept head or,
    where it has none, as the nearest concept. Scores are never computed on such a choice: no validation or test part takes it."""
    keep_encoder: str = ""
    """Export or run folder of the encoder that decides, for ``keep: correctly_classified``; empty otherwise."""

    def __post_init__(self) -> None:
        for name in ("subjects", "concepts", "channels"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) != len(values)):
                raise ValueError(f"data.select.{name} is {values}, expected names without repeats, at least one, or null")
        if self.tmin is not None and self.tmax is not None and self.tmin >= self.tmax:
            raise ValueError(f"data.select.tmin {self.tmin} is not below tmax {self.tmax}")
        if self.repetitions is not None and self.repetitions < 1:
            raise ValueError(f"data.select.repetitions is {self.repetitions}, expected at least 1 or null")
        if self.keep not in ("all", "correctly_classified"):
            raise ValueError(f"data.select.keep is {self.keep!r}, expected all or correctly_classified")
        if (self.keep == "all") != (not self.keep_encoder):
            raise ValueError(
                f"data.select.keep is {self.keep} and keep_encoder {self.keep_encoder!r}, expected an encoder for correctly_classified only"
            )
        if not 0 < self.fraction <= 1:
            raise ValueError(f"data.select.fraction is {self.fraction}, expected a number above 0, at most 1")


def select_channels(select: SelectConfig, signal: Signal) -> list[int]:
    """Numbers of the selected channels, in the selected order."""
    if select.channels is None:
        return list(range(signal.n_chans))
    return _ids("channels", select.channels, signal.ch_names)


def select_times(select: SelectConfig, signal: Signal) -> slice:
    """Time points of the selected window."""
    start, sfreq, n_times = signal.tmin, signal.sfreq, signal.n_times
    # A thousandth of a point forgives 0.1 + 0.2.
    first = 0 if select.tmin is None else math.ceil((select.tmin - start) * sfreq - 1e-3)
    last = n_times - 1 if select.tmax is None else math.floor((select.tmax - start) * sfreq + 1e-3)
    if first < 0 or last >= n_times or first > last:
        raise CommandError(
            f"data.select: the window {select.tmin} to {select.tmax} s is not inside the study's "
            f"{start:g} to {start + (n_times - 1) / sfreq:g} s"
        )
    return slice(first, last + 1)


def select_rows(select: SelectConfig, table: RepetitionTable, tables: Tables, rows: np.ndarray, *, thin: bool) -> np.ndarray:
    """Repetitions of ``rows`` (ascending row numbers of ``table``) that are selected; ``thin`` in the training part."""
    for field in ("subjects", "concepts"):
        names = getattr(select, field)
        if names is not None:
            rows = rows[np.isin(table.column(field[:-1])[rows], _ids(field, names, getattr(tables, field)))]
    if thin and select.repetitions is not None and len(rows):
        _, first, count = np.unique(table.sample[rows], return_index=True, return_counts=True)
        rows = rows[np.arange(len(rows)) - np.repeat(first, count) < select.repetitions]
    return rows


def select_fraction(select: SelectConfig, identity: np.ndarray) -> np.ndarray:
    """Which items are in the fraction: bool, from their samples' or repetitions' numbers in the study."""
    return random.uniform_numpy(random.hash_numpy(_FRACTION, identity)) < select.fraction


def _ids(field: str, names: list[str], table: list[str]) -> list[int]:
    position = {name: number for number, name in enumerate(table)}
    unknown = [name for name in names if name not in position]
    if unknown:
        raise CommandError(f"data.select.{field} names {listed(unknown)}, which the study lacks; it has {listed(table)}")
    return [position[name] for name in names]
