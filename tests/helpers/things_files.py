"""Small studies in the layouts that THINGS-EEG2 trials are passed on in, each written as its source writes it.

Shape suffixes: N images, R repetitions, C channels, T time points.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CH_NAMES = ("Pz", "P3", "O1", "Oz")
TRAIN = [("00001_aardvark", "aardvark_01b.jpg"), ("00001_aardvark", "aardvark_02s.jpg"), ("00002_abacus", "abacus_01b.jpg"),
         ("00002_abacus", "abacus_02s.jpg"), ("00003_accordion", "accordion_01b.jpg"), ("00003_accordion", "accordion_2s.jpg")]  # fmt: skip
TEST = [("00001_zebra", "zebra_01b.jpg"), ("00002_zither", "zither_01b.jpg"), ("00003_zucchini", "zucchini_01b.jpg")]
N_TIMES = 24


def eeg_of(n_images: int, n_reps: int, seed: int = 0, *, n_chans: int = len(CH_NAMES), n_times: int = N_TIMES) -> np.ndarray:
    """float64 (N, R, C, T) of the size of z-scores."""
    return np.random.default_rng(seed).standard_normal((n_images, n_reps, n_chans, n_times))


def times_of(n_times: int = N_TIMES, sfreq: float = 100.0, tmin: float = -0.04) -> np.ndarray:
    """Seconds."""
    return tmin + np.arange(n_times) / sfreq


def write_metadata(root: Path, train: Sequence[tuple[str, str]] = tuple(TRAIN), test: Sequence[tuple[str, str]] = tuple(TEST)) -> None:
    """``image_metadata.npy`` as published."""
    content = {
        "train_img_concepts": [folder for folder, _ in train],
        "train_img_files": [file for _, file in train],
        "test_img_concepts": [folder for folder, _ in test],
        "test_img_files": [file for _, file in test],
    }
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / "image_metadata.npy", np.array(content, dtype=object))


def write_dict(file: Path, content: dict[str, Any], *, alone: bool = False, protocol: int = 4) -> Path:
    """A dict as ``np.save`` writes it (17 channels, 100 Hz), or ``alone`` by ``pickle.dump`` (63 channels, 250 Hz)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if alone:
        file.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        np.save(file, np.array(content, dtype=object))
    return file


def official(eeg: Any, ch_names: Sequence[str] = CH_NAMES, times: Any = None) -> dict[str, Any]:
    """Content of ``preprocessed_eeg_*.npy``."""
    return {"preprocessed_eeg_data": eeg, "ch_names": list(ch_names), "times": times_of() if times is None else times}


def ubp(
    eeg: Any, images: Sequence[tuple[str, str]], part: str, sessions: np.ndarray, *, ch_names: Sequence[str] = CH_NAMES
) -> dict[str, Any]:
    """Content of ``train.pt`` and ``test.pt``: labels, pictures, texts and sessions of every repetition, more times than points."""
    n_reps = sessions.shape[1]
    folders = list(dict.fromkeys(folder for folder, _ in images))

    def tiled(values: list[Any]) -> np.ndarray:
        return np.tile(np.array(values)[:, None], (1, n_reps))

    return {
        "eeg": np.asarray(eeg).astype(np.float16),
        "label": tiled([folders.index(folder) for folder, _ in images]),
        "img": tiled([f"{part}_images/{folder}/{file}" for folder, file in images]),
        "text": tiled([file.rsplit("_", 1)[0] for _, file in images]),
        "session": sessions.astype(np.float64),
        "ch_names": list(ch_names),
        "times": times_of(N_TIMES + 20, 100.0, -0.2),
    }


def write_sparse(file: Path, shape: tuple[int, ...], ch_names: Sequence[str], times: Sequence[float], dtype: str = "<f4") -> Path:
    """The dict of the 63-channel files by ``pickle.dump``, with an array of zeros that takes no room on the disk."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    def numbers(values: Sequence[int]) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    kind = b"cnumpy\ndtype\n(" + text(dtype[1:]) + b"\x89\x88tR(K\x03" + text(dtype[0]) + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    head = b"\x80\x04}(" + text("preprocessed_eeg_data") + made + b"(K\x01" + numbers(shape) + kind + b"\x89\x8e" + struct.pack("<Q", size)
    names = b"](" + b"".join(map(text, ch_names)) + b"e"
    moments = b"](" + b"".join(b"G" + struct.pack(">d", moment) for moment in times) + b"e"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as handle:
        handle.write(head)
        handle.seek(size, 1)
        handle.write(b"tb" + text("ch_names") + names + text("times") + moments + b"u.")
    return file


def write_presentation_order(folder: Path, subject: int, num_images: int, seed: int = 0) -> list[np.ndarray]:
    """``stimOrder_sub-N_sess-K.mat``: images divided between the first two sessions, and between the last two as well, each shown twice
    (some three times), in sequences of 4 with targets among them, two blocks and two runs."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, subject])
    orders = []
    for _pair in range(2):
        images = rng.permutation(num_images) + 1
        for half in (images[: num_images // 2], images[num_images // 2 :]):
            shown = np.r_[np.repeat(half, 2), half[:1], 0]
            length = -(-len(shown) // 16) * 16
            shown = np.r_[shown, np.zeros(length - len(shown), int)]
            orders.append(rng.permutation(shown).reshape((4, -1, 2, 2), order="F"))
    for session, order in enumerate(orders):
        savemat(folder / f"stimOrder_sub-{subject}_sess-{session + 1}.mat", {"stimOrder": order.astype(np.uint16)})
    return orders
