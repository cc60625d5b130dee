"""From a recording to whitened trials: filter, resample, MVNN, beside a loop over trials and channels, which has to give the same numbers.

The loop filters each channel of each trial in a window that holds all that its filter needs, resamples it, and takes the covariance of
each time point by scikit-learn, as published code of this field does. Besides, how fast a filter goes through a recording that lies in
a file, and the memory that it takes: two recordings, one eight times longer.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import signal
from sklearn.covariance import ledoit_wolf

from data_prep.contract import signals
from data_prep.preprocess import fir
from data_prep.splits.transforms import shrunk_noise
from tests.benchmarks.report import main, row

TARGET_TIMES_LOOP = 5.0
MOST_DIFFERENCE = 1e-4
TARGET_EXTRA_MIB = 64.0
N_CHANS, SFREQ, NEW_SFREQ = 32, 500.0, 125.0
BAND_HZ = (1.0, 40.0)
TMIN, TMAX, SOA_SECONDS = -0.2, 0.8, 0.5
NUM_STIMULI, NUM_REPETITIONS = 40, 4


def run(folder: Path, *, rounds: int = 3) -> list[dict[str, Any]]:
    """Measure in ``folder``; rows for ``bench.json``; ``rounds`` times in turn, medians."""
    random = np.random.default_rng(0)
    num_trials = NUM_STIMULI * NUM_REPETITIONS
    onsets_B = round(5 * SFREQ) + np.arange(num_trials) * round(SOA_SECONDS * SFREQ)
    stimulus_B = random.permutation(np.repeat(np.arange(NUM_STIMULI), NUM_REPETITIONS))
    mixing = random.normal(size=(N_CHANS, N_CHANS))
    eeg_CT = (mixing @ random.normal(size=(N_CHANS, int(onsets_B[-1] + 6 * SFREQ)))).astype(np.float32)
    eeg_CT += 100 * np.sin(2 * np.pi * 50 * np.arange(eeg_CT.shape[1]) / SFREQ, dtype=np.float32)
    taps_K = fir.band_taps(SFREQ, *BAND_HZ)
    seconds: dict[str, list[float]] = {"ours": [], "loop": []}
    done: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, whole in (("ours", whitened), ("loop", whitened_by_loops)):
            start = time.perf_counter()
            done[name] = whole(eeg_CT.copy(), onsets_B, stimulus_B, taps_K)
            seconds[name].append(time.perf_counter() - start)
    ours, loop = (statistics.median(seconds[name]) for name in ("ours", "loop"))
    difference = float(np.abs(done["ours"] - done["loop"]).max() / done["loop"].std())
    small, large = (_filtering_in_a_file(folder, minutes) for minutes in (15, 120))
    extra = large["mib"] - small["mib"]
    what = f"{num_trials} trials of {N_CHANS} channels, {SFREQ:g} to {NEW_SFREQ:g} Hz, FIR of {len(taps_K):,} taps"
    return [
        row(f"preprocess: filter, resample, MVNN of {what}", ours, "s", peer="a loop over trials and channels", peer_value=loop),
        row("preprocess: times the rate of that loop", loop / ours, "x", TARGET_TIMES_LOOP, loop / ours >= TARGET_TIMES_LOOP),
        row(
            "preprocess: largest difference from that loop",
            difference,
            "standard deviations",
            MOST_DIFFERENCE,
            difference <= MOST_DIFFERENCE,
        ),
        row("preprocess: filtering a recording in a file", large["rate"], "million values/s"),
        row(
            f"preprocess: memory that eight times as long a recording takes more ({small['size']:.0f} and {large['size']:.0f} MiB)",
            extra,
            "MiB",
            TARGET_EXTRA_MIB,
            extra <= TARGET_EXTRA_MIB,
        ),
    ]


def whitened(eeg_CT: np.ndarray, onsets_B: np.ndarray, stimulus_B: np.ndarray, taps_K: np.ndarray) -> np.ndarray:
    """float32 (B, C, T): as the reader and the split do it."""
    fir.filter_in_chunks(eeg_CT, taps_K, [(0, eeg_CT.shape[1])], sfreq=SFREQ)
    trials_BCT, _ = signals.cut_trials(eeg_CT, onsets_B, SFREQ, tmin=TMIN, tmax=TMAX)
    trials_BCT = signals.resample(trials_BCT, SFREQ, NEW_SFREQ)
    samples = (trials_BCT[stimulus_B == stimulus].astype(np.float64) for stimulus in range(NUM_STIMULI))
    covariance_CC = shrunk_noise(((each, each.sum(0), len(each)) for each in samples), *trials_BCT.shape[1:])
    assert covariance_CC is not None
    return signals.whiten(trials_BCT, signals.inverse_sqrt(covariance_CC))


def whitened_by_loops(eeg_CT: np.ndarray, onsets_B: np.ndarray, stimulus_B: np.ndarray, taps_K: np.ndarray) -> np.ndarray:
    """The same, a channel of a trial at a time."""
    h, first, length = len(taps_K) // 2, round(TMIN * SFREQ), round((TMAX - TMIN) * SFREQ)
    down = round(SFREQ / NEW_SFREQ)
    trials_BCT = np.empty((len(onsets_B), N_CHANS, -(-length // down)))
    for b, onset in enumerate(onsets_B.tolist()):
        for c in range(N_CHANS):
            window_T = eeg_CT[c, onset + first - h : onset + first + length + h].astype(np.float64)
            filtered_T = signal.oaconvolve(window_T, taps_K, mode="valid")
            trials_BCT[b, c] = signal.resample_poly(filtered_T, 1, down, padtype="line")
    covariances = []
    for t in range(trials_BCT.shape[2]):
        residuals = []
        for stimulus in range(NUM_STIMULI):
            own_RC = trials_BCT[stimulus_B == stimulus, :, t]
            for repetition_C in own_RC:
                residuals.append((repetition_C - own_RC.mean(0)) * np.sqrt(len(own_RC) / (len(own_RC) - 1)))
        covariances.append(ledoit_wolf(np.array(residuals), assume_centered=True)[0])
    values_C, vectors_CC = np.linalg.eigh(np.mean(covariances, axis=0))
    matrix_CC = vectors_CC @ np.diag(values_C**-0.5) @ vectors_CC.T
    out_BCT = np.empty_like(trials_BCT)
    for b in range(len(onsets_B)):
        for c in range(N_CHANS):
            out_BCT[b, c] = matrix_CC[c] @ trials_BCT[b]
    return out_BCT


_CHILD = """
import resource, sys, time
from pathlib import Path
import numpy as np
from data_prep.preprocess import fir
n_chans, sfreq, n_times = 32, 500.0, int(sys.argv[2])
taps_K = fir.band_taps(sfreq, 1.0, 40.0)
fir.filter_in_chunks(np.random.default_rng(0).normal(size=(1, 10_000)), taps_K, [(0, 10_000)], sfreq=sfreq)
signal_CT = np.memmap(sys.argv[1], np.float32, "r+", shape=(n_chans, n_times))
start = time.perf_counter()
fir.filter_in_chunks(signal_CT, taps_K, [(0, n_times)], sfreq=sfreq)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _filtering_in_a_file(folder: Path, minutes: int) -> dict[str, float]:
    """Rate and peak memory of a process that filters a recording of so many minutes in its file."""
    n_times, file = round(60 * minutes * SFREQ), folder / "signal"
    noise_T = np.random.default_rng(0).normal(0, 10, n_times).astype(np.float32)
    with file.open("wb") as stream:
        for _ in range(N_CHANS):
            stream.write(noise_T.data)
    done = subprocess.run([sys.executable, "-c", _CHILD, str(file), str(n_times)], capture_output=True, text=True, check=True, timeout=600)
    seconds, kib = (float(number) for number in done.stdout.split())
    size = file.stat().st_size
    file.unlink()
    return {"rate": N_CHANS * n_times / seconds / 1e6, "mib": kib / 1024, "size": size / 2**20}


if __name__ == "__main__":
    raise SystemExit(main(run))
