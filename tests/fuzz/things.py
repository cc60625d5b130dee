"""THINGS-EEG2 files of every layout, each in its place in a small study that is whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.studies.base import ReaderConfig
from data_prep.studies.cutting import CuttingConfig
from data_prep.studies.things import ThingsReaderConfig
from data_prep.studies.things_raw import ThingsRawReaderConfig
from tests.fuzz.continuous import in_forks
from tests.fuzz.harness import Target
from tests.fuzz.targets import at_its_place
from tests.helpers import things_files as made


def things(folder: Path) -> Iterator[Target]:
    """Trials as published and as UBP packs them, the presentation order, and a raw session."""
    official, ubp, raw = (folder / name for name in ("official", "ubp", "raw"))
    for root in (official, ubp, raw):
        made.write_metadata(root)
    made.write_presentation_order(official / "order", 1, 6)
    for part, n_images, n_reps in (("training", 6, 4), ("test", 3, 80)):
        eeg = made.eeg_of(n_images, n_reps, n_images).astype(np.float32)
        made.write_dict(official / f"sub-01/preprocessed_eeg_{part}.npy", made.official(eeg))
    (ubp / "sub-01").mkdir()
    for name, images, sessions in (
        ("train", made.TRAIN, np.tile([0, 0, 2, 2], (6, 1))),
        ("test", made.TEST, np.tile(np.arange(8) // 2, (3, 1))),
    ):
        content = made.ubp(made.eeg_of(len(images), sessions.shape[1], len(images)), images, name, sessions)
        torch.save(content, ubp / f"sub-01/{name}.pt", pickle_protocol=5)
    rng = np.random.default_rng(0)
    signal_CT = np.vstack([2e-5 * rng.standard_normal((4, 600)), np.zeros(600)])
    signal_CT[4, 100:500:50] = [1, 2, 3, 99999, 4, 5, 6, 1]
    content = {"raw_eeg_data": signal_CT, "ch_names": [*made.CH_NAMES, "stim"], "ch_types": ["eeg"] * 4 + ["stim"], "sfreq": 100}
    made.write_dict(raw / "sub-01/ses-01/raw_eeg_training.npy", content | {"highpass": 0.01, "lowpass": 100})
    trials = ThingsReaderConfig(root=str(official), require_images=False, presentation_order=str(official / "order"))
    packed = ThingsReaderConfig(root=str(ubp), require_images=False)
    cutting = CuttingConfig(band_hz=None, tmin=-0.1, tmax=0.3)
    sessions_of = ThingsRawReaderConfig(root=str(raw), require_images=False, parts=("training",), trials=cutting)
    for root, name, reader in (
        (official, "image_metadata.npy", trials),
        (official, "sub-01/preprocessed_eeg_training.npy", trials),
        (official, "order/stimOrder_sub-1_sess-3.mat", trials),
        (ubp, "sub-01/train.pt", packed),
        (raw, "sub-01/ses-01/raw_eeg_training.npy", sessions_of),
    ):
        yield at_its_place(
            root, name, lambda reader=reader: _read(reader), prefix=f"things-{root.name}-", inputs=6 if name.endswith(".mat") else 15
        )


def _read(reader: ReaderConfig) -> Any:
    with in_forks():
        source = reader.open()
    return [source.eeg(number) for number in range(len(source.samples))]
