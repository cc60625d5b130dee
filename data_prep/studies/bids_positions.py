"""Positions of electrodes in a BIDS dataset: their unit measured by the size of a head, their coordinate system brought to MNE's.

Shape suffixes: N electrodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed, short
from data_prep.studies.bids_files import Tree, entities_of, inherited, nearest
from data_prep.studies.bids_sidecars import Said, added_up
from data_prep.studies.cells import says_nothing
from data_prep.studies.event_tables import read_table
from data_prep.studies.recording import Recording

METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}
HEAD_METRES = (0.05, 0.2)
"""Median distance of electrodes from the origin between the ears that a head can have."""
EARS_METRES = (0.09, 0.25)
"""Distance between the preauricular points."""
_SAME_METRES = 1e-3


@dataclass(frozen=True, kw_only=True)
class Places:
    """Electrodes in head coordinates."""

    metres: Mapping[str, tuple[float, float, float]]
    """Label -> x, y, z; empty where they cannot be used."""
    said: str
    """In words, for the manifest."""
    files: list[Path]


def read_places(recording: Recording, tree: Tree, space: str | None, datatype: str = "eeg") -> Places | None:
    """Electrodes of a recording; None where there is no table of them.

    Raises
    ------
    StudyError
        Tables in several spaces that disagree, a unit that no head has, or coordinates that are no numbers.
    """
    tables = inherited(recording, tree, "electrodes.tsv", extras=("space",), from_raw=True)
    by_space: dict[str | None, list[Path]] = {}
    for file in tables:
        by_space.setdefault(entities_of(file.name).get("space"), []).append(file)
    if space is not None and space not in by_space and tables:
        raise StudyError(f"{tables[-1]}: positions are in space {listed(str(name) for name in by_space)}, expected {space} (space)")
    wanted = [space] if space is not None else list(by_space)
    read = [_places(nearest(by_space[name], among="a table of electrodes"), name, recording, tree) for name in wanted if name in by_space]
    usable = [places for places in read if places.metres]
    for other in usable[1:]:
        common = sorted(set(usable[0].metres) & set(other.metres))
        apart = max((float(np.linalg.norm(np.subtract(usable[0].metres[name], other.metres[name]))) for name in common), default=0.0)
        if apart > _SAME_METRES:
            raise StudyError(
                f"{other.files[0]}: differs from {usable[0].files[0].name} by {1e3 * apart:.0f} mm: say in 'space' which positions "
                "are meant"
            )
    return next(iter(usable or read), None)


def _places(file: Path | None, space: str | None, recording: Recording, tree: Tree) -> Places:
    assert file is not None
    systems = inherited(recording, tree, "coordsystem.json", extras=("space",), from_raw=True)
    own = [system for system in systems if entities_of(system.name).get("space") == space]
    said = added_up(own)
    number_N3, names = _numbers(file)
    files = [file, *own]
    if not names:
        return Places(metres={}, said=f"{file.name} has no coordinates", files=files)
    system = said.text("EEGCoordinateSystem") or said.text("MEGCoordinateSystem") or space
    unit, told = _unit(file, number_N3, said)
    if unit is None:
        return Places(metres={}, said=f"{file.name}: {told}", files=files)
    metres = _in_head(number_N3 * METRES[unit], names, system, said, file)
    if metres is None:
        return Places(
            metres={}, said=f"{file.name}: {system or 'no'} coordinate system, without landmarks: not brought to the head's", files=files
        )
    return Places(metres=metres, said=f"{file.name}, {system or 'no system said'}, {told}", files=files)


def _numbers(file: Path) -> tuple[np.ndarray, list[str]]:
    columns = read_table(file)
    lacking = [name for name in ("name", "x", "y", "z") if name not in columns]
    if lacking:
        raise StudyError(f"{file}: has no column {listed(lacking)}, its columns are {listed(columns)}")
    rows, names = [], []
    for row, name in enumerate(columns["name"]):
        cells = [columns[axis][row] for axis in "xyz"]
        if any(says_nothing(cell) for cell in cells):
            continue
        try:
            place = [float(cell) for cell in cells]
        except ValueError:
            comma = ": a decimal comma, write a point" if any("," in cell for cell in cells) else ""
            raise StudyError(f"{file}: electrode {short(name)!r} lies at {', '.join(map(repr, cells))}{comma}, expected numbers") from None
        if np.isfinite(place).all() and np.any(place):
            rows.append(place)
            names.append(name)
    if len(set(names)) != len(names):
        raise StudyError(f"{file}: has electrode {next(n for n in names if names.count(n) > 1)!r} twice, expected names that differ")
    return np.array(rows, np.float64).reshape(-1, 3), names


def _unit(file: Path, number_N3: np.ndarray, said: Said) -> tuple[str | None, str]:
    """Unit by the size of a head, which must be the one that is said."""
    stated = (said.text("EEGCoordinateUnits") or said.text("MEGCoordinateUnits") or "").casefold().rstrip("s")
    stated = {"metre": "m", "meter": "m", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm"}.get(
        stated, stated
    )
    distance = float(np.median(np.linalg.norm(number_N3, axis=1)))
    fits = [unit for unit, metres in METRES.items() if HEAD_METRES[0] <= distance * metres <= HEAD_METRES[1]]
    measured = fits[0] if fits else None
    told = f"electrodes lie {distance:.3g} from the origin"
    if stated in METRES and stated != measured:
        source = said.sources.get("EEGCoordinateUnits") or said.sources["MEGCoordinateUnits"]
        looks = f"which is a head in {measured}" if measured else "which is no head in m, cm or mm"
        raise StudyError(f"{source}: EEGCoordinateUnits is {stated}, in {file} {told}, {looks}: expected the unit of the positions")
    if measured is None:
        return None, f"{told}, no head in m, cm or mm"
    return measured, f"in {measured}, {'stated' if stated in METRES else 'measured'}"


def _in_head(
    metres_N3: np.ndarray, names: list[str], system: str | None, said: Said, file: Path
) -> dict[str, tuple[float, float, float]] | None:
    """By landmarks where there are any, else by what is known of the coordinate system."""
    import mne
    from mne_bids.config import BIDS_TO_MNE_FRAMES

    landmarks = _landmarks(said)
    if landmarks is not None:
        montage = mne.channels.make_dig_montage(dict(zip(names, metres_N3, strict=True)), **landmarks, coord_frame="unknown")
        moved = mne.channels.montage.transform_to_head(montage).get_positions()["ch_pos"]
        return {name: _rounded(place) for name, place in moved.items()}
    frame = BIDS_TO_MNE_FRAMES.get(system or "")
    if frame == "ctf_head":  # x to the nose, y to the left ear
        metres_N3 = np.stack([-metres_N3[:, 1], metres_N3[:, 0], metres_N3[:, 2]], axis=1)
    elif frame != "head":
        return None
    return {name: _rounded(place) for name, place in zip(names, metres_N3, strict=True)}


def _rounded(place: Any) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 6) for value in place)
    return x, y, z


def _landmarks(said: Said) -> dict[str, np.ndarray] | None:
    """Nasion and preauricular points in metres, in whatever unit they are given; None where they are not those of a head."""
    for kind in ("AnatomicalLandmark", "Fiducials", "HeadCoil"):
        given = said.values.get(f"{kind}Coordinates")
        if not isinstance(given, dict) or not {"NAS", "LPA", "RPA"} <= set(given):
            continue
        try:
            points = {name: np.array(given[name], np.float64).reshape(3) for name in ("NAS", "LPA", "RPA")}
        except (ValueError, TypeError):
            continue
        ears = float(np.linalg.norm(points["LPA"] - points["RPA"]))
        metres = next((factor for factor in METRES.values() if EARS_METRES[0] <= ears * factor <= EARS_METRES[1]), None)
        if metres is not None and float(np.linalg.norm(points["NAS"] - points["LPA"])) * metres > EARS_METRES[0] / 2:
            return {mne: points[name] * metres for mne, name in (("nasion", "NAS"), ("lpa", "LPA"), ("rpa", "RPA"))}
    return None
