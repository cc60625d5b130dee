"""Re-reference: the mean of all channels, of named ones (mastoids), or a point at infinity (REST).

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.contract import signals
from data_prep.contract.errors import UserError
from data_prep.preprocess.linear import apply_in_place, one_thread, pieces, release
from data_prep.preprocess.positions import info_of, places_of

KINDS = ("average", "rest")


def rereference(eeg_CT: np.ndarray, ch_names: Sequence[str], reference: Sequence[str], positions: Mapping[str, Sequence[float]]) -> None:
    """Re-reference in place, piece by piece.

    Parameters
    ----------
    reference
        ``("average",)``, ``("rest",)`` or channel names, which stay in the signal.
    positions
        Of all channels, for REST.

    Raises
    ------
    UserError
        A channel that is not there, or without a position.
    """
    if tuple(reference) == ("rest",):
        apply_in_place(eeg_CT, rest_matrix(ch_names, positions))
        return
    kind: str | Sequence[str] = "average" if tuple(reference) == ("average",) else list(reference)
    for piece in pieces((eeg_CT.shape[0], eeg_CT.shape[1])):
        eeg_CT[:, piece] = signals.rereference(eeg_CT[:, piece], ch_names, kind)
        release(eeg_CT)


def rest_matrix(ch_names: Sequence[str], positions: Mapping[str, Sequence[float]]) -> np.ndarray:
    """float64 (C, C): the reference electrode standardisation technique (Yao 2001) of MNE, with a sphere and sources on a 15 mm grid."""
    import mne

    if len(ch_names) < 8:
        raise UserError(f"reference is [rest] with {len(ch_names)} channels, expected at least 8: it estimates sources from them")
    places_C3 = places_of(ch_names, positions, "reference: [rest]")
    info = info_of(ch_names, 1.0, places_C3)
    with one_thread():
        sphere = mne.make_sphere_model((0.0, 0.0, 0.04), 0.095, verbose="error")
        grid = mne.setup_volume_source_space(sphere=sphere, exclude=30.0, pos=15.0, verbose="error")
        forward = mne.make_forward_solution(info, trans=None, src=grid, bem=sphere, meg=False, n_jobs=1, verbose="error")
        raw = mne.io.RawArray(np.eye(len(ch_names)), info, verbose="error")
        referenced, _ = mne.set_eeg_reference(raw, "REST", forward=forward, verbose="error")
    matrix_CC: np.ndarray = referenced.get_data()
    return matrix_CC
