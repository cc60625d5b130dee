"""One montage for devices that differ: what target electrodes would show, interpolated from each device's own by spherical splines.

Shape suffixes: S source electrodes, O target electrodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.contract.errors import UserError
from data_prep.contract.words import listed
from data_prep.preprocess.positions import montage_positions, places_of
from data_prep.preprocess.splines import distances, spline_matrix


@dataclass(frozen=True, kw_only=True)
class MontageConfig:
    """Electrodes that every recording is brought to, whatever device it is of."""

    channels: tuple[str, ...]
    """Target electrodes, in this order."""
    positions: str = "standard_1005"
    """Where they are: one of MNE's standard montages, or a file of positions."""
    max_distance_metres: float = 0.03
    """A target whose nearest electrode is farther along the scalp (a sphere of 95 mm) is masked: its values are zero, and the manifest says
    in which recordings."""

    def __post_init__(self) -> None:
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise ValueError(f"montage.channels is {list(self.channels)}, expected at least one name, each once")
        if not self.max_distance_metres > 0:
            raise ValueError(f"montage.max_distance_metres is {self.max_distance_metres}, expected above 0")

    def target_positions(self) -> dict[str, list[float]]:
        """Name -> [x, y, z] in metres, head coordinates.

        Raises
        ------
        UserError
            A target that the montage does not have, whatever its case.
        """
        known = {name.casefold(): place for name, place in montage_positions(self.positions, "montage.positions").items()}
        lacking = [name for name in self.channels if name.casefold() not in known]
        if lacking:
            raise UserError(f"montage.channels has {listed(lacking)}, of which {self.positions} has no position")
        return {name: known[name.casefold()] for name in self.channels}


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """How a recording is brought to the target electrodes."""

    matrix_OS: np.ndarray
    """float64; rows of masked targets are zero."""
    masked: tuple[str, ...]
    """Targets that are far from every electrode."""


def to_montage(ch_names: Sequence[str], positions: Mapping[str, Sequence[float]], config: MontageConfig) -> Mapped:
    """Matrix from the electrodes of a recording to the target ones.

    Raises
    ------
    UserError
        An electrode without a position, or no target within reach.
    """
    source_S3 = places_of(ch_names, positions, "montage")
    target_O3 = np.array(list(config.target_positions().values()))
    far_O = distances(source_S3, target_O3).min(1) > config.max_distance_metres
    if far_O.all():
        raise UserError(
            f"montage: no target is within {config.max_distance_metres:g} m of an electrode of this recording ({listed(ch_names)})"
        )
    matrix_OS = np.zeros((len(target_O3), len(source_S3)))
    matrix_OS[~far_O] = spline_matrix(source_S3, target_O3[~far_O])
    return Mapped(matrix_OS=matrix_OS, masked=tuple(name for name, far in zip(config.channels, far_O, strict=True) if far))
