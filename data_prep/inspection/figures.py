"""Figures of a study's page: responses with topographies, spectra, levels, reliability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.contract.manifest import Signal
from data_prep.inspection.responses import Responses

_TOPOGRAPHIES = 3
_LEAST_CHANNELS = 4
"""Fewer points than these make no map."""
_MOST_LINES = 10


def evoked_figure(found: Responses, signal: Signal) -> Any:
    """A row a group: all channels over time, and maps at the times at which the mean response of all is strongest."""
    from matplotlib.figure import Figure

    time_T = times(signal)
    mean_CT = np.average(found.evoked_GCT, axis=0, weights=np.maximum(found.count_G, 0))
    info = _info(signal)
    peaks = _peaks(mean_CT) if info is not None else []
    rows = len(found.groups)
    figure = Figure(figsize=(11, 0.6 + 1.9 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 1 + len(peaks), width_ratios=[3.2, *[1.0] * len(peaks)])
    top = float(np.abs(found.evoked_GCT).max()) or 1.0
    for row, (name, count, evoked_CT) in enumerate(zip(found.groups, found.count_G, found.evoked_GCT, strict=True)):
        axis = figure.add_subplot(grid[row, 0])
        axis.plot(time_T, evoked_CT.T, color="#4878a8", linewidth=0.6, alpha=0.6)
        axis.axvline(0, color="#222", linewidth=0.8)
        axis.set_ylim(-1.05 * top, 1.05 * top)
        axis.set_title(f"{plain(name)}: {count} trials", fontsize=9, loc="left")
        axis.set_ylabel(unit(signal), fontsize=8)
        axis.tick_params(labelsize=7, labelbottom=row == rows - 1)
        if row == rows - 1:
            axis.set_xlabel("seconds from onset", fontsize=8)
        for column, peak in enumerate(peaks):
            axis.axvline(time_T[peak], color="#b0b0b0", linewidth=0.8, linestyle=":")
            _map(figure.add_subplot(grid[row, 1 + column]), evoked_CT[:, peak], info, f"{1000 * time_T[peak]:.0f} ms" if row == 0 else "")
    return figure


def spectra_figure(found: Responses, subjects: Sequence[str], signal: Signal) -> Any:
    """Power density by subject, the mean over channels and trials."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    axis = figure.subplots()
    keep = found.frequency_F > 0
    shown = np.flatnonzero(np.isfinite(found.power_SF).all(1) & (found.power_SF[:, keep] > 0).any(1))
    for number in shown.tolist():
        label = plain(subjects[number]) if len(shown) <= _MOST_LINES else None
        axis.semilogy(found.frequency_F[keep], found.power_SF[number, keep], linewidth=1, alpha=0.8, label=label)
    axis.set_xlabel("Hz")
    axis.set_ylabel(f"{unit(signal)}² / Hz")
    if 1 < len(shown) <= _MOST_LINES:
        axis.legend(frameon=False, fontsize=8, ncols=5, title="subject", title_fontsize=8)
    return figure


def levels_figure(found: Responses, subjects: Sequence[str], signal: Signal) -> Any:
    """Distribution of the trials' levels by subject, on a logarithmic axis: a unit that is another lies orders away."""
    from matplotlib.figure import Figure

    numbers = np.unique(found.subject_N).tolist()
    figure = Figure(figsize=(9, max(1.6, 0.5 + 0.28 * len(numbers))), layout="constrained")
    axis = figure.subplots()
    levels = [np.maximum(found.level_N[found.subject_N == number], 1e-12) for number in numbers]
    axis.boxplot(
        levels, orientation="horizontal", whis=(5, 95), showfliers=False, widths=0.6, tick_labels=[plain(subjects[n]) for n in numbers]
    )
    axis.set_xscale("log")
    axis.invert_yaxis()
    axis.set_xlabel(f"standard deviation of a trial, {unit(signal)} (box: quartiles; whiskers: 5 to 95 %)")
    axis.set_ylabel("subject")
    return figure


def reliability_figure(found: Responses, subjects: Sequence[str], signal: Signal) -> Any:
    """Split-half reliability over time, a line for each subject and part."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    axis = figure.subplots()
    several = len({each.part for each in found.reliabilities}) > 1
    few = len(found.reliabilities) <= _MOST_LINES
    for each in found.reliabilities:
        name = plain(subjects[each.subject]) + (f", {each.part or 'no part'}" if several else "")
        style = "--" if each.part == "test" and several else "-"
        axis.plot(times(signal), each.r_T, style, linewidth=1, alpha=0.8, label=f"{name} ({each.repetitions} repetitions)" if few else None)
    axis.axhline(0, color="#222", linewidth=0.6)
    axis.axvline(0, color="#222", linewidth=0.6)
    axis.set_xlabel("seconds from onset")
    axis.set_ylabel("reliability")
    if few:
        axis.legend(frameon=False, fontsize=8, ncols=2)
    return figure


def times(signal: Signal) -> np.ndarray:
    """Seconds from onset of every time point: (T,)."""
    return signal.tmin + np.arange(signal.n_times) / signal.sfreq


def unit(signal: Signal) -> str:
    """The unit as it stands on an axis."""
    return {"microvolts": "µV", "zscore": "z"}.get(signal.unit, signal.unit)


def plain(text: str) -> str:
    """A label from a file: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def _peaks(mean_CT: np.ndarray) -> list[int]:
    """Times of the largest maxima of the standard deviation over channels, ascending."""
    from scipy.signal import argrelmax

    strength_T = mean_CT.std(0)
    found = argrelmax(strength_T, order=max(1, len(strength_T) // 20))[0]
    if not len(found):
        found = np.array([int(strength_T.argmax())])
    largest: list[int] = np.sort(found[np.argsort(-strength_T[found])][:_TOPOGRAPHIES]).tolist()
    return largest


def _info(signal: Signal) -> Any:
    """Channels with positions as MNE has them; None where there are too few, or two share a place."""
    positions_C3 = None if signal.positions is None else np.asarray(signal.positions, np.float64)
    if positions_C3 is None or len(positions_C3) < _LEAST_CHANNELS or not np.isfinite(positions_C3).all():
        return None
    if len(np.unique(positions_C3.round(4), axis=0)) < len(positions_C3) or not np.linalg.norm(positions_C3, axis=1).all():
        return None
    import mne

    info = mne.create_info(list(signal.ch_names), signal.sfreq, "eeg", verbose="error")
    montage = mne.channels.make_dig_montage(dict(zip(signal.ch_names, positions_C3, strict=True)), coord_frame="head")
    return info.set_montage(montage, verbose="error")


def _map(axis: Any, value_C: np.ndarray, info: Any, title: str) -> None:
    import mne

    limit = float(np.abs(value_C).max()) or 1.0
    mne.viz.plot_topomap(value_C, info, axes=axis, show=False, contours=0, sensors=len(value_C) <= 64, vlim=(-limit, limit))
    axis.set_title(title, fontsize=8)
