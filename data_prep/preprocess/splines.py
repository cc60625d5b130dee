"""Spherical splines (Perrin et al. 1989), by MNE: what an electrode would show, from those around it.

MNE interpolates signals; given one unit impulse a source, what it returns is the matrix, which is then applied in pieces.

Shape suffixes: S source electrodes, O target electrodes, 3 metres in head coordinates.
"""

from __future__ import annotations

import numpy as np

ORIGIN = np.array([0.0, 0.0, 0.04])
"""Centre of the head, metres in head coordinates: MNE's default sphere."""
HEAD_METRES = 0.095
SAME_PLACE_METRES = 1e-3


def spline_matrix(source_S3: np.ndarray, target_O3: np.ndarray) -> np.ndarray:
    """float64 (O, S): signals at the targets from those at the sources. A target within 1 mm of a source is that source, unsmoothed."""
    import mne

    num_sources, num_targets = len(source_S3), len(target_O3)
    names = [f"S{i}" for i in range(num_sources)] + [f"T{i}" for i in range(num_targets)]
    places = dict(zip(names, np.vstack([source_S3, target_O3]), strict=True))
    info = mne.create_info(names, 1.0, "eeg", verbose="error")
    impulses = np.vstack([np.eye(num_sources), np.zeros((num_targets, num_sources))])
    raw = mne.io.RawArray(impulses, info, verbose="error")
    raw.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="error")
    raw.info["bads"] = names[num_sources:]
    raw.interpolate_bads(reset_bads=False, method={"eeg": "spline"}, origin=tuple(ORIGIN), verbose="error")
    matrix_OS: np.ndarray = raw.get_data()[num_sources:]
    apart_OS = distances(source_S3, target_O3)
    for target in np.flatnonzero(apart_OS.min(1) < SAME_PLACE_METRES):
        matrix_OS[target] = np.eye(num_sources)[apart_OS[target].argmin()]
    return matrix_OS


def distances(source_S3: np.ndarray, target_O3: np.ndarray) -> np.ndarray:
    """float64 (O, S): metres along the scalp, a sphere of 95 mm: heads of other sizes count as one."""
    source, target = (_directions(places) for places in (source_S3, target_O3))
    # atan2 keeps the digits of small angles, which arccos loses.
    cross = np.linalg.norm(np.cross(target[:, None], source[None]), axis=-1)
    arc_OS: np.ndarray = HEAD_METRES * np.arctan2(cross, target @ source.T)
    return arc_OS


def _directions(places_N3: np.ndarray) -> np.ndarray:
    offsets = np.asarray(places_N3, np.float64) - ORIGIN
    directions_N3: np.ndarray = offsets / np.linalg.norm(offsets, axis=1, keepdims=True)
    return directions_N3
