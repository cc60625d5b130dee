"""From what drives the brain to what electrodes record: dipoles in a sphere, evoked responses, coloured noise.

The model of one subject::

    drive_NK  --linear-->  dipole moments over time  --leadfield-->  evoked_CT + drive_NK @ response_KCT  + noise

The noise is Gaussian with covariance ``space (x) time + floor * identity``: brain-like sources everywhere seen through the
same sphere, a 1/f spectrum with an alpha bump, and a white sensor floor. Everything is known, so the best possible
identification is computable (:mod:`data_prep.simulate.ceiling`).

Shapes in names: N stimuli, K drive components, S sources, P peaks a source, C channels, T time points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

THINGS_17 = ("Pz", "P3", "P7", "O1", "Oz", "O2", "P4", "P8", "P1", "P5", "PO7", "PO3", "POz", "PO4", "PO8", "P6", "P2")
THINGS_63 = (
    "Fp1", "F3", "F7", "FT9", "FC5", "FC1", "C3", "T7", "TP9", "CP5", "CP1", "Pz", "P3", "P7", "O1", "Oz", "O2", "P4", "P8", "TP10",
    "CP6", "CP2", "Cz", "C4", "T8", "FT10", "FC6", "FC2", "F4", "F8", "Fp2", "AF7", "AF3", "AFz", "F1", "F5", "FT7", "FC3", "FCz",
    "C1", "C5", "TP7", "CP3", "P1", "P5", "PO7", "PO3", "POz", "PO4", "PO8", "P6", "P2", "CPz", "CP4", "TP8", "C6", "C2", "FC4",
    "FT8", "F6", "F2", "AF4", "AF8",
)  # fmt: skip
MONTAGES = {17: THINGS_17, 63: THINGS_63}
HEAD_RADIUS_METRES = 0.095
REFERENCE = {"montage": 17, "sfreq": 100.0, "n_times": 100}
"""Recording for which the level of the signal is set: more channels or time points then say more, as they do."""
REFERENCE_MICROVOLTS, REFERENCE_FLOOR_MICROVOLTS = 10.0, 2.0
NUM_SOURCES, NUM_PEAKS, NUM_NOISE_SOURCES = 24, 5, 300
EVOKED_MICROVOLTS = 3.0
PEAK_SECONDS = (0.09, 0.14, 0.19, 0.27, 0.38)


@cache
def electrode_positions(montage: int) -> np.ndarray:
    """Positions (n_chans, 3) in metres of the standard 10-05 montage, pushed onto the head sphere."""
    import mne

    # MNE 1.13 renames this montage.
    name = "colin27_1005" if "colin27_1005" in mne.channels.get_builtin_montages() else "standard_1005"
    places = mne.channels.make_standard_montage(name).get_positions()["ch_pos"]
    # Centre of the sphere that fits the montage best: |p - c|^2 = r^2 is linear in c and r^2 - |c|^2.
    every = np.array([places[name] for name in THINGS_63])
    centre = np.linalg.lstsq(np.c_[2 * every, np.ones(len(every))], (every**2).sum(1), rcond=None)[0][:3]
    chosen = np.array([places[name] for name in MONTAGES[montage]]) - centre
    positions_C3: np.ndarray = HEAD_RADIUS_METRES * chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    return positions_C3


def leadfield(positions_S3: np.ndarray, moments_S3: np.ndarray, montage: int) -> np.ndarray:
    """Potential of unit dipoles at the electrodes, against the average of all 63: (n_chans, sources), in arbitrary units.

    MNE's three-shell spherical head (brain, skull, scalp), no file is read or fetched.
    """
    import mne

    info = mne.create_info(list(THINGS_63), 1000.0, "eeg")
    places = dict(zip(THINGS_63, electrode_positions(63), strict=True))
    with mne.utils.use_log_level("ERROR"):
        info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
        sphere = mne.make_sphere_model(r0=(0.0, 0.0, 0.0), head_radius=HEAD_RADIUS_METRES)
        source = mne.setup_volume_source_space(pos={"rr": positions_S3, "nn": moments_S3}, sphere_units="m", mindist=0.0)
        forward = mne.make_forward_solution(info, trans=None, src=source, bem=sphere, meg=False, eeg=True, mindist=0.0)
        field = mne.convert_forward_solution(forward, force_fixed=True)["sol"]["data"]
    field = field - field.mean(0)
    field_CS: np.ndarray = field[[THINGS_63.index(name) for name in MONTAGES[montage]]]
    return field_CS


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a subject's EEG is made of, in microvolts."""

    evoked_CT: np.ndarray
    """Response to any picture."""
    response_KCT: np.ndarray
    """Change of the response by one unit of each drive component."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise of single trials: covariance ``space_CC (x) time_TT + floor_microvolts**2 * identity``."""

    space_CC: np.ndarray
    time_TT: np.ndarray
    floor_microvolts: float

    def spectrum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eigenvectors over channels (c, c) and times (t, t) and the variance (c, t) of each pair of them."""
        space_C, channels_CC = np.linalg.eigh(self.space_CC)
        time_T, times_TT = np.linalg.eigh(self.time_TT)
        variance = np.maximum(space_C, 0)[:, None] * np.maximum(time_T, 0)[None] + self.floor_microvolts**2
        return channels_CC, times_TT, variance

    def information(self, response_KCT: np.ndarray) -> float:
        """Mean squared size, in standard deviations of this noise, of how a single trial's response varies with unit drives."""
        return float(np.square(self.whiten(response_KCT)).sum())

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Independent trials of noise, float32 (count, n_chans, n_times)."""
        channels_CC, times_TT, variance_CT = self.spectrum()
        white = rng.standard_normal((count, *variance_CT.shape), np.float32) * np.sqrt(variance_CT).astype(np.float32)
        coloured = white.reshape(-1, variance_CT.shape[1]) @ times_TT.T.astype(np.float32)
        noise_NCT: np.ndarray = np.matmul(channels_CC.astype(np.float32), coloured.reshape(white.shape))
        return noise_NCT

    def whiten(self, eeg_NCT: np.ndarray) -> np.ndarray:
        """EEG in the coordinates where this noise is the identity, float64 (n, n_chans * n_times)."""
        channels_CC, times_TT, variance_CT = self.spectrum()
        white_NW: np.ndarray = ((channels_CC.T @ eeg_NCT @ times_TT) / np.sqrt(variance_CT)).reshape(len(eeg_NCT), -1)
        return white_NW


def times_of(sfreq: float, tmin: float, n_times: int) -> np.ndarray:
    """Seconds of every time point from stimulus onset."""
    return tmin + np.arange(n_times) / sfreq


def make_noise(*, montage: int, sfreq: float, n_times: int, microvolts: float, floor_microvolts: float, seed: int) -> Noise:
    """Noise whose coloured part has ``microvolts`` RMS over channels and the given white floor."""
    rng = np.random.default_rng([seed, 20])
    places = rng.standard_normal((NUM_NOISE_SOURCES, 3))
    places *= (0.07 * rng.random(NUM_NOISE_SOURCES) ** (1 / 3) / np.linalg.norm(places, axis=1))[:, None]
    field = leadfield(places, _unit(rng.standard_normal((NUM_NOISE_SOURCES, 3))), montage)
    space = field @ field.T
    # Autocovariance from a power spectrum that falls as 1/f above 1 Hz, with a bump at 10 Hz.
    hertz = np.fft.rfftfreq(8192, 1.0 / sfreq)
    power = 1.0 / np.maximum(hertz, 1.0) + 0.15 * np.exp(-0.5 * ((hertz - 10.0) / 1.5) ** 2)
    power[0] = 0.0
    covariance = np.fft.irfft(power)[:n_times]
    lag = np.abs(np.subtract.outer(np.arange(n_times), np.arange(n_times)))
    return Noise(
        space_CC=space * microvolts**2 / np.trace(space) * len(space),
        time_TT=covariance[lag] / covariance[0],
        floor_microvolts=floor_microvolts,
    )


def make_subjects(
    count: int, *, num_drives: int, decay: float, montage: int, sfreq: float, tmin: float, n_times: int, information: float, seed: int
) -> list[Subject]:
    """Subjects who share what drives which source, and differ in topography, latency and strength.

    Parameters
    ----------
    num_drives
        Drive components K, each of variance one.
    decay
        The amplitude that component k (from 1) gives falls as ``k ** -decay``.
    information
        :meth:`Noise.information` of a subject of average strength in the reference recording (17 channels, 100 Hz, 1 s, 10 uV
        of coloured noise, 2 uV floor): a level in microvolts would mean another difficulty for every random head.
    """
    rng = np.random.default_rng([seed, 10])
    seconds = times_of(sfreq, tmin, n_times)
    # Early visual cortex at the back, then both ventral streams and parietal cortex (head coordinates: x right, y front, z up).
    regions = np.array([[0.0, -0.9, 0.15], [0.5, -0.75, -0.05], [-0.5, -0.75, -0.05], [0.3, -0.7, 0.55], [-0.3, -0.7, 0.55]])
    directions = _unit(regions[np.arange(NUM_SOURCES) % len(regions)] + 0.25 * rng.standard_normal((NUM_SOURCES, 3)))
    places_S3 = directions * rng.uniform(0.05, 0.075, (NUM_SOURCES, 1))
    moments_S3 = _unit(directions + 0.8 * rng.standard_normal((NUM_SOURCES, 3)))
    centre_SP = np.array(PEAK_SECONDS) + 0.012 * rng.standard_normal((NUM_SOURCES, NUM_PEAKS))
    width_SP = rng.uniform(0.018, 0.03, (NUM_SOURCES, NUM_PEAKS)) * (1 + np.arange(NUM_PEAKS) * 0.35)
    mixing_KSP = rng.standard_normal((num_drives, NUM_SOURCES, NUM_PEAKS)) * np.arange(1, num_drives + 1)[:, None, None] ** -float(decay)
    common_SP = rng.standard_normal((NUM_SOURCES, NUM_PEAKS)) + np.array([2.0, -1.5, 1.0, -1.0, 0.5])

    reference = make_noise(microvolts=REFERENCE_MICROVOLTS, floor_microvolts=REFERENCE_FLOOR_MICROVOLTS, seed=seed, **REFERENCE)  # type: ignore[arg-type]
    reference_seconds = times_of(100.0, tmin, reference.time_TT.shape[0])

    def waves(at_T: np.ndarray, delay: float) -> np.ndarray:
        return np.exp(-0.5 * ((at_T - centre_SP[..., None] - delay) / width_SP[..., None]) ** 2)

    subjects = []
    for number in range(count):
        own = np.random.default_rng([seed, 11, number])
        radius = np.linalg.norm(places_S3, axis=1, keepdims=True)
        places = _unit(places_S3 + 0.006 * own.standard_normal(places_S3.shape)) * radius
        moments = _unit(moments_S3 + 0.25 * own.standard_normal(moments_S3.shape))
        delay, strength = 0.01 * float(own.standard_normal()), float(np.exp(0.04 * own.standard_normal()))

        def respond(field_CS: np.ndarray, waves_SPT: np.ndarray) -> np.ndarray:
            response_KCT: np.ndarray = np.einsum("cs,kst->kct", field_CS, np.einsum("ksp,spt->kst", mixing_KSP, waves_SPT))
            return response_KCT

        known = reference.information(respond(leadfield(places, moments, 17), waves(reference_seconds, delay)))
        field_CS, waves_SPT = leadfield(places, moments, montage), waves(seconds, delay)
        evoked_CT = field_CS @ np.einsum("sp,spt->st", common_SP, waves_SPT)
        subjects.append(
            Subject(
                evoked_CT=evoked_CT * strength * EVOKED_MICROVOLTS / np.sqrt(np.square(evoked_CT).mean()),
                response_KCT=respond(field_CS, waves_SPT) * strength * np.sqrt(information / known),
            )
        )
    return subjects


def _unit(vectors_S3: np.ndarray) -> np.ndarray:
    unit_S3: np.ndarray = vectors_S3 / np.linalg.norm(vectors_S3, axis=-1, keepdims=True)
    return unit_S3
