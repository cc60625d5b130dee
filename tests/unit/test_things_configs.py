"""The configs of THINGS-EEG2 as they are shipped, on small studies in exactly the format that each is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from data_prep.contract import cli
from data_prep.contract.manifest import Manifest
from data_prep.shards.open import open_study
from data_prep.shards.write import ShardConfig, write_study
from tests.helpers.readme import PAGES, ROOT, files
from tests.helpers.things_files import TEST, TRAIN, eeg_of, times_of, ubp, write_dict, write_metadata, write_presentation_order
from tests.unit.test_things_raw import write_raw

NAMES_17 = ["Pz", "P3", "P7", "O1", "Oz", "O2", "P4", "P8", "P1", "P5", "PO7", "PO3", "POz", "PO4", "PO8", "P6", "P2"]
NAMES_63 = [f"E{i}" for i in range(63)]


def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Manifest:
    """Run a config where its data lie; embeddings, which need a model hub, are left out."""
    content = yaml.safe_load((ROOT / "configs/data_prep" / name).read_text())
    content.pop("embeddings", None)
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(content))
    return write_study(cli.parse(ShardConfig, ["--config", "config.yaml"]))


def write_images(root: Path, *, training: str = "training_images") -> None:
    rng = np.random.default_rng(0)
    for folder, images in ((training, TRAIN), ("test_images", TEST)):
        for concept, file in images:
            (root / folder / concept).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(root / folder / concept / file)


def write_trials(root: Path, names: list[str], n_times: int, times: np.ndarray, **options: Any) -> None:
    write_metadata(root)
    write_images(root / "images")
    for subject in ("01", "02"):
        for part, n_images, n_reps in (("training", 6, 4), ("test", 3, 80)):
            eeg = eeg_of(n_images, n_reps, 10 * int(subject) + n_images, n_chans=len(names), n_times=n_times).astype(
                options.get("dtype", np.float64)
            )
            content = {"preprocessed_eeg_data": eeg, "ch_names": names, "times": times}
            write_dict(root / f"sub-{subject}/preprocessed_eeg_{part}.npy", content, alone=bool(options.get("alone")))


def test_published_trials_of_17_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_trials(tmp_path / "data/things_eeg2", NAMES_17, 100, times_of(100, 100.0, -0.2))
    manifest = shard(tmp_path, monkeypatch, "shard_things.yaml")
    assert (manifest.signal.sfreq, manifest.signal.tmin, manifest.signal.n_chans) == (100.0, -0.2, 17)
    assert manifest.tables.sessions == ["01", "02", "03", "04", "unknown"]
    assert manifest.preprocessing["whitening_saw_test"] == "yes"


@pytest.mark.long
def test_trials_of_63_channels_with_their_presentation_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for subject in (1, 2):
        write_presentation_order(tmp_path / "data/things_eeg2/stim_order", subject, 6)
    write_trials(tmp_path / "data/things_eeg2_63", NAMES_63, 250, times_of(300, 250.0, -0.2), alone=True, dtype=np.float32)
    manifest = shard(tmp_path, monkeypatch, "shard_things_63.yaml")
    assert (manifest.signal.sfreq, manifest.signal.tmin, manifest.signal.n_times) == (250.0, 0.0, 250)
    assert manifest.tables.sessions == ["01", "02", "03", "04"]
    assert manifest.clean_baseline
    assert manifest.preprocessing["whitening_saw_test"] == "no"
    assert "unclear" not in manifest.preprocessing


def test_trials_that_ubp_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    write_images(tmp_path / "data/ubp/Image_set_Resize", training="train_images")
    folder = tmp_path / "data/ubp/Preprocessed_data_250Hz_whiten/sub-01"
    folder.mkdir(parents=True)
    for part, images, sessions in (("train", TRAIN, np.tile([0, 0, 2, 2], (6, 1))), ("test", TEST, np.tile(np.arange(80) // 20, (3, 1)))):
        eeg = eeg_of(len(images), sessions.shape[1], len(images), n_chans=63, n_times=250)
        content = ubp(eeg, images, part, sessions, ch_names=NAMES_63) | {"times": times_of(301, 250.0, -0.2)}
        torch.save(content, folder / f"{part}.pt", pickle_protocol=5)
    manifest = shard(tmp_path, monkeypatch, "shard_things_ubp.yaml")
    assert (manifest.signal.sfreq, manifest.signal.tmin, manifest.signal.n_chans) == (250.0, 0.004, 63)
    assert manifest.tables.sessions == ["01", "02", "03", "04"]
    assert manifest.tables.stimuli[0].id == "training_images/00001_aardvark/aardvark_01b.jpg"
    assert manifest.tables.stimuli[0].image == "train_images/00001_aardvark/aardvark_01b.jpg"


@pytest.mark.long
def test_raw_sessions_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "configs/data_prep/shard_things_raw.yaml"
    assert files(*PAGES)[name] == (ROOT / name).read_text()
    root = tmp_path / "data/things_eeg2_raw"
    write_metadata(root)
    write_images(root / "images")
    orders = write_presentation_order(tmp_path / "data/things_eeg2/stim_order", 1, 6)
    for session, order in enumerate(orders):
        flat = order.ravel(order="F")
        folder = root / f"sub-01/ses-{session + 1:02d}"
        write_raw(folder / "raw_eeg_training.npy", np.where(flat == 0, 99999, flat).tolist(), made_at=1000.0, seed=session)
        write_raw(folder / "raw_eeg_test.npy", [1, 2, 3, 99999] * 5, made_at=1000.0, seed=9 + session)
    manifest = shard(tmp_path, monkeypatch, "shard_things_raw.yaml")
    assert (manifest.signal.sfreq, manifest.signal.tmin, manifest.signal.n_times, manifest.signal.n_chans) == (250.0, -0.2, 300, 4)
    study = open_study(tmp_path / "studies/things_raw")
    assert manifest.tables.sessions == ["01", "02", "03", "04"]
    assert (study.table.clean_baseline == 1).any()
    assert manifest.preprocessing["trials"]["targets"] == sum(int((order == 0).sum()) + 5 for order in orders)
