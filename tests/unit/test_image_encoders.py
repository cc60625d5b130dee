"""Image encoders of timm, torchvision, transformers and open_clip: layers, transforms, cache, shares, blur and low-level features."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Stimulus, read_manifest
from data_prep.embed.base import EmbeddingConfig
from data_prep.embed.blurred import BlurredConfig
from data_prep.embed.command import EmbedConfig, parse_part, run
from data_prep.embed.efficientnet_lite0 import EfficientNetLite0Config
from data_prep.embed.image_encoder import ImageEncoderConfig
from data_prep.embed.layers import find_blocks, outputs_of
from data_prep.embed.loaded import LoadedEncoder
from data_prep.embed.low_level import LowLevelConfig
from data_prep.embed.running import Running, using
from data_prep.embed.timm import TimmConfig
from data_prep.embed.torchvision import TorchvisionConfig
from data_prep.embed.transformers import TransformersConfig
from data_prep.studies.base import StudyFacts
from tests.helpers import tiny_vision
from tests.helpers.tiny_study import write_tiny_study

NUMBER = 7
CHECKED = 2
"""Images that a network is given when it is loaded, to see that it draws nothing."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(NUMBER):
        small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC).save(root / f"{i}.png")
    return root


def facts_for(root: Path, number: int = NUMBER) -> StudyFacts:
    stimuli = [Stimulus(id=f"{i}.png", concept=0, image=f"{i}.png", part=None) for i in range(number)]
    return StudyFacts(
        stimulus_level="image", unit="microvolts", sfreq=100.0, tmin=0.0, n_times=10, ch_names=["Oz"], subjects=["01"], stimuli=stimuli,
        concepts=["thing"], sessions=["unknown"], recordings=["unknown"], image_root=root,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EEGVISION_EMBED_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "dinov2": tiny_vision.dinov2(root / "dinov2"), "registers": tiny_vision.dinov2(root / "registers", registers=4),
        "clip": tiny_vision.clip(root / "clip"), "siglip": tiny_vision.siglip(root / "siglip"),
        "timm": tiny_vision.timm_folder(root / "timm", img_size=32, patch_size=8, depth=3, embed_dim=24, num_heads=2, num_classes=5),
    }  # fmt: skip


def tables(config: EmbeddingConfig, root: Path) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    return config.compute_all(facts_for(root))


# ------------------------------------------------------------------------------------------------------------ transformers


def pixels_of(folder: Path, pictures: Path) -> torch.Tensor:
    from transformers import AutoImageProcessor

    images = [Image.open(pictures / f"{i}.png").convert("RGB") for i in range(NUMBER)]
    return AutoImageProcessor.from_pretrained(folder)(images=images, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize(("name", "prefix"), [("dinov2", 1), ("registers", 5), ("clip", 1), ("siglip", 0)])
def test_layers_of_transformers_are_the_models_own(folders: dict[str, Path], pictures: Path, name: str, prefix: int) -> None:
    from transformers import AutoModel

    pooling = ("mean", "patches") if name == "siglip" else ("mean", "cls", "patches")
    config = TransformersConfig(model=str(folders[name]), layers=("final", 2, -1), pooling=pooling, batch_size=3)
    found = tables(config, pictures)
    assert tuple(found) == config.outputs == ("final", *(f"{b}_{p}" for b in ("block02", "last1") for p in pooling))
    model = AutoModel.from_pretrained(folders[name]).eval()
    pixels = pixels_of(folders[name], pictures)
    with torch.inference_mode():
        hidden = (model.vision_model if hasattr(model, "vision_model") else model)(pixels, output_hidden_states=True).hidden_states
        own = (
            model.get_image_features(pixel_values=pixels).pooler_output
            if hasattr(model, "get_image_features")
            else model(pixels).pooler_output
        )
    assert hidden[2].shape[1] == 16 + prefix
    wanted = {
        "final": own,
        "block02_mean": hidden[2].mean(1),
        "block02_patches": hidden[2][:, prefix:].mean(1),
        "last1_mean": hidden[3].mean(1),
    }
    if prefix:
        wanted["last1_cls"] = hidden[3][:, 0]
    for output, value in wanted.items():
        np.testing.assert_allclose(found[output][0], value.numpy(), atol=2e-5, err_msg=output)
    says = found["block02_patches"][1]
    assert (says["model"], says["layer"], says["row_order"], says["source"]) == (
        f"transformers {name}",
        "block 2, mean of patches",
        "names",
        "images",
    )
    assert len(says["weights_sha256"]) == 64
    assert "ImageProcessor" in says["transform"]


def test_a_model_of_other_weights_or_size_is_another_embedding(folders: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    import shutil

    first, says = TransformersConfig(model=str(folders["dinov2"])).compute(facts_for(pictures))
    moved = shutil.copytree(folders["dinov2"], tmp_path / "dinov2")
    again, again_says = TransformersConfig(model=str(moved)).compute(facts_for(pictures))
    np.testing.assert_array_equal(first, again)
    assert says == again_says, "where a folder lies is no fact"
    larger, _ = TransformersConfig(model=str(moved), image_size=64).compute(facts_for(pictures))
    assert np.abs(larger - first).max() > 1e-3
    settings = json.loads((moved / "preprocessor_config.json").read_text())
    (moved / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0, 0, 0]}))
    other, other_says = TransformersConfig(model=str(moved)).compute(facts_for(pictures))
    assert other_says["weights_sha256"] != says["weights_sha256"]
    assert np.abs(other - first).max() > 1e-3


def test_no_code_of_a_models_own_is_run(folders: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(folders["dinov2"], tmp_path / "own")
    (folder / "modeling_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(settings | {"model_type": "own", "auto_map": {"AutoModel": "modeling_own.Own", "AutoConfig": "modeling_own.Own"}})
    )
    with pytest.raises(StudyError, match=r"own cannot be loaded by transformers"):
        TransformersConfig(model=str(folder)).compute(facts_for(pictures))
    assert not (tmp_path / "ran").exists()
    evil = shutil.copytree(folders["dinov2"], tmp_path / "evil")
    (evil / "model.safetensors").unlink()

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"x": Runs()}, evil / "pytorch_model.bin")
    with pytest.raises(StudyError, match="cannot be loaded by transformers"):
        TransformersConfig(model=str(evil)).compute(facts_for(pictures))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("config", "message"), [
    ({"layers": (9,)}, "the vision part of transformers dinov2 has 3 blocks, none of number 9: expected 1 to 3"),
    ({"layers": ("encoder.layers.1.mlp",)}, r"has no module 'encoder\.layers\.1\.mlp'; it has "),
    ({"device": "cuda"}, "device: cuda, but no GPU can be used here"),
    ({"device": "gpu"}, "device: gpu"),
])  # fmt: skip
def test_what_a_model_has_not_is_one_sentence(folders: dict[str, Path], pictures: Path, config: dict[str, Any], message: str) -> None:
    if config.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(StudyError, match=message):
        tables(TransformersConfig(model=str(folders["dinov2"]), **config), pictures)


def test_no_folder_and_no_hub_is_one_sentence(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"cannot be loaded by transformers .*; give its folder where no model hub is in reach"):
        TransformersConfig(model="facebook/dinov2-small").compute(facts_for(pictures))
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="empty: holds no weights"):
        TransformersConfig(model=str(tmp_path / "empty")).compute(facts_for(pictures))


def test_layers_side_by_side(folders: dict[str, Path], pictures: Path) -> None:
    apart = tables(TransformersConfig(model=str(folders["dinov2"]), layers=(1, 3)), pictures)
    joined, says = TransformersConfig(model=str(folders["dinov2"]), layers=(1, 3), concatenate=True).compute(facts_for(pictures))
    np.testing.assert_allclose(joined, np.concatenate([table for table, _ in apart.values()], axis=1), atol=1e-6)
    assert says["layer"] == "block 1, mean of positions + block 3, mean of positions"


@pytest.mark.parametrize("fields", [{"layers": ()}, {"layers": ("final", "final")}, {"layers": (0,)}, {"pooling": ()}, {"layers": (1, 1)}])
def test_layers_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"layers"):
        TransformersConfig(model="m", **fields)


# ----------------------------------------------------------------------------------------------------- timm and torchvision


def test_timm_from_a_folder_and_from_a_file(folders: dict[str, Path], pictures: Path) -> None:
    import timm
    from timm.data import create_transform, resolve_model_data_config

    found = tables(TimmConfig(model=f"local-dir:{folders['timm']}", layers=("final", 1), pooling=("cls",)), pictures)
    model = timm.create_model(f"local-dir:{folders['timm']}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    with torch.inference_mode(), Image.open(pictures / "2.png") as image:
        pixels = transform(image.convert("RGB"))[None]
        own = model.forward_head(model.forward_features(pixels), pre_logits=True)[0]
        tokens = model.forward_intermediates(pixels, indices=[0], return_prefix_tokens=True, intermediates_only=True)[0][1][0, 0]
    np.testing.assert_allclose(found["final"][0][2], own.numpy(), atol=2e-5)
    np.testing.assert_allclose(found["block01_cls"][0][2], tokens.numpy(), atol=2e-5)
    assert found["final"][1]["model"] == "timm timm"


def test_timm_weights_of_another_model_are_refused(folders: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"model\.safetensors: lacks blocks\.3\..*expected the weights of this model"):
        TimmConfig(model="vit_tiny_patch16_224", weights=str(folders["timm"] / "model.safetensors")).compute(facts_for(pictures))
    with pytest.raises(StudyError, match=r"none\.pt: no such file"):
        TimmConfig(model="vit_tiny_patch16_224", weights=str(tmp_path / "none.pt")).compute(facts_for(pictures))
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(StudyError, match=r"broken\.safetensors: no weights that can be read"):
        TimmConfig(model="vit_tiny_patch16_224", weights=str(tmp_path / "broken.safetensors")).compute(facts_for(pictures))
    with pytest.raises(StudyError, match="timm model 'resnet0' cannot be loaded"):
        TimmConfig(model="resnet0").compute(facts_for(pictures))


def test_torchvision_from_a_file_gives_what_its_classifier_is_given(pictures: Path, tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    model = models.mobilenet_v3_small(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    config = TorchvisionConfig(model="mobilenet_v3_small", file=str(tmp_path / "w.pt"), layers=("final", -1, "features.3"))
    found = tables(config, pictures)
    assert tuple(found) == ("final", "last1_mean", "features_3_mean")
    transform = models.MobileNet_V3_Small_Weights.DEFAULT.transforms()
    with torch.inference_mode(), Image.open(pictures / "1.png") as image:
        pixels = transform(image.convert("RGB"))[None]
        maps = model.features(pixels)
        own = model.classifier[:-1](model.avgpool(maps).flatten(1))
    np.testing.assert_allclose(found["final"][0][1], own[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(found["last1_mean"][0][1], maps.mean((2, 3))[0].numpy(), atol=1e-4)
    with pytest.raises(StudyError, match="none called 'V9', expected IMAGENET1K_V1, DEFAULT"):
        TorchvisionConfig(model="mobilenet_v3_small", weights="V9").compute(facts_for(pictures))
    with pytest.raises(StudyError, match="torchvision has no model 'resnet0'"):
        TorchvisionConfig(model="resnet0").compute(facts_for(pictures))


def test_the_outermost_stack_is_the_blocks() -> None:
    names = ["layer1", "layer1.0", "layer1.1", "layer1.2", "layer2", "layer2.0", "layer10", "fc"]
    assert find_blocks(dict.fromkeys(names)) == ["layer1", "layer2", "layer10"]
    assert find_blocks(dict.fromkeys(["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"]))[1].endswith("_1")
    assert find_blocks({"fc": None}) == []
    assert [output.name for output in outputs_of(("final", "a.b-C", 3), ("mean", "cls"))] == [
        "final",
        "a_b_c_mean",
        "a_b_c_cls",
        "block03_mean",
        "block03_cls",
    ]


# ----------------------------------------------------------------------------------------------------- inference transforms


@dataclass(frozen=True, kw_only=True)
class Chance(ImageEncoderConfig):
    """Pixels by a transform for training."""

    named: bool = True

    def load(self, device: str | None = None) -> LoadedEncoder:
        from torchvision import transforms

        crop = transforms.RandomResizedCrop(8)
        steps = [crop if self.named else lambda image: crop(image), transforms.ToTensor()]
        says = {"model": "chance", "weights_sha256": None, "transform": "?"}
        return LoadedEncoder(transform=transforms.Compose(steps), encode=lambda x: [x.flatten(1)], provenance=says, words=("pixels",))


@pytest.mark.parametrize(
    ("named", "message"), [(True, "has RandomResizedCrop, which draws at random"), (False, "gave one picture twice differently")]
)
def test_a_transform_of_training_is_refused(pictures: Path, named: bool, message: str) -> None:
    with pytest.raises(StudyError, match=f"chance: its transform {message}.*expected the model's inference transform"):
        Chance(named=named).compute(facts_for(pictures))


def test_what_was_done_to_images_is_said(tmp_path: Path, pictures: Path) -> None:
    """Case e08, in the facts of the embedding."""
    for i in range(3):
        image = Image.open(pictures / f"{i}.png")
        if i == 1:
            image.putalpha(128)
        image.save(tmp_path / f"{i}.png")
    Image.fromarray(np.asarray(Image.open(pictures / "0.png").convert("L")).astype(np.uint16) * 257).save(tmp_path / "3.png")
    facts = facts_for(tmp_path, 4)
    _, says = LowLevelConfig(feature="colour").compute(facts)
    assert says["images"] == {"16 bits scaled to 8": 1, "transparency laid on white": 1}
    assert LowLevelConfig(feature="colour").compute(facts)[1] == says, "from the cache, too"
    assert "images" not in LowLevelConfig(feature="colour").compute(facts_for(pictures))[1]


# --------------------------------------------------------------------------------------------------------------- the cache


@dataclass(frozen=True, kw_only=True)
class Counting(LowLevelConfig):
    """Counts loads and images, in a file."""

    log: str = ""

    def load(self, device: str | None = None) -> LoadedEncoder:
        loaded = super().load(device)

        def encode(images: np.ndarray) -> list[np.ndarray]:
            with open(self.log, "a") as file:
                file.write("i" * len(images))
            return loaded.encode(images)

        return replace(loaded, encode=encode)


def test_a_second_run_another_study_and_other_names_cost_nothing(pictures: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    config = Counting(log=str(log), batch_size=2)
    first, says = config.compute(facts_for(pictures))
    assert len(log.read_text()) == NUMBER + CHECKED
    again, again_says = config.compute(facts_for(pictures))
    np.testing.assert_array_equal(first, again)
    assert (len(log.read_text()), says) == (NUMBER + CHECKED, again_says)
    other = tmp_path / "other"
    other.mkdir()
    for i in range(NUMBER):  # other names, other files, the same pixels
        Image.open(pictures / f"{i}.png").save(other / f"{NUMBER - 1 - i}.png", compress_level=1, pnginfo=None)
    Image.fromarray(np.full((48, 64, 3), 7, np.uint8)).save(other / f"{NUMBER}.png")
    backwards, _ = config.compute(facts_for(other, NUMBER + 1))
    np.testing.assert_array_equal(backwards[:NUMBER], first[::-1])
    assert len(log.read_text()) == NUMBER + 1 + 2 * CHECKED
    replace(config, cells=4).compute(facts_for(pictures))
    assert len(log.read_text()) == 2 * NUMBER + 1 + 3 * CHECKED, "another encoder's rows are others"


def test_damaged_rows_are_computed_again(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.touch()
    config = Counting(log=str(log))
    first, _ = config.compute(facts_for(pictures))
    for number, path in enumerate(sorted((tmp_path / "cache").rglob("*"))):
        if path.is_file():
            content = bytearray(path.read_bytes())
            if number % 2:
                content[len(content) // 2] ^= 255
            path.write_bytes(content if number % 2 else content[: len(content) // 2])
    again, _ = config.compute(facts_for(pictures))
    np.testing.assert_array_equal(first, again)
    assert len(log.read_text()) == 2 * (NUMBER + CHECKED)
    assert "damaged files deleted" in capsys.readouterr().err
    config.compute(facts_for(pictures))
    assert len(log.read_text()) == 2 * (NUMBER + CHECKED)


def test_a_cache_that_cannot_be_is_one_sentence_and_off_keeps_nothing(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with using(Running(cache=str(tmp_path / "file"))), pytest.raises(StudyError, match="file: cannot be the cache of embeddings"):
        LowLevelConfig().compute(facts_for(pictures))
    with using(Running(cache="off")):
        LowLevelConfig().compute(facts_for(pictures))
    assert not (tmp_path / "cache").exists()


# ---------------------------------------------------------------------------------------------------- several processes, shares


@pytest.mark.long
def test_two_processes_make_the_rows_of_one(folders: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    config = TransformersConfig(model=str(folders["clip"]), batch_size=2, layers=("final", 1))
    alone = tables(config, pictures)
    with using(Running(cache=str(tmp_path / "shared"), processes=2)):
        together = tables(config, pictures)
    for output, (table, says) in alone.items():
        np.testing.assert_allclose(together[output][0], table, atol=1e-6)
        assert together[output][1] == says


def test_an_error_in_one_of_several_processes_is_its_sentence(folders: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    facts = facts_for(tmp_path, 3)
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes((pictures / f"{i}.png").read_bytes() if i < 2 else b"none")
    with using(Running(processes=2)), pytest.raises(StudyError, match=r"2\.png: not a readable image"):
        LowLevelConfig(batch_size=1).compute(facts)


def test_shares_of_several_hosts_meet_in_the_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    for part in ("train", "test"):
        for i in range(8):
            (images / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(images / part / f"{i:04d}.jpg")
    study = write_tiny_study(tmp_path / "study", n_stimuli=12, n_test=4)
    log = tmp_path / "log"
    log.touch()
    config = EmbedConfig(study=str(study), name="low", embedding=Counting(log=str(log), batch_size=2), image_root=str(images))
    run(replace(config, part="0/2"))
    assert (len(log.read_text()), "low" in read_manifest(study).embeddings) == (4 + CHECKED, False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run(replace(config, part="auto"))
    assert len(log.read_text()) == 8 + 2 * CHECKED, "equal pictures once"
    assert "share 1 of 2 is in the cache" in capsys.readouterr().out
    run(config)
    assert len(log.read_text()) == 8 + 2 * CHECKED
    assert read_manifest(study).embedding("low").provenance["row_order"] == "names"


@pytest.mark.parametrize("part", ["2/2", "1", "-1/2", "a/b", "1/0"])
def test_a_part_that_cannot_be_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="expected I/N"):
        parse_part(part)


def test_several_layers_are_several_embeddings_of_a_study(folders: dict[str, Path], tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in [f"train/{i:04d}.jpg" for i in range(8)] + [f"test/{i:04d}.jpg" for i in range(4)]:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(images / name)
    layers = TransformersConfig(model=str(folders["dinov2"]), layers=("final", 2), pooling=("patches",))
    study = write_tiny_study(tmp_path / "study", image_root=str(images), embeddings={"dino": layers})
    manifest = read_manifest(study)
    assert manifest.tar_embeddings == ["dino_final", "dino_block02_patches"]
    run(EmbedConfig(study=str(study), name="more", embedding=replace(layers, layers=(1, 3)), image_root=str(images)))
    assert {"more_block01_patches", "more_block03_patches"} <= set(read_manifest(study).embeddings)
    with pytest.raises(StudyError, match="makes 2 tables"):
        layers.compute(replace(facts_for(images), stimuli=manifest.tables.stimuli, concepts=manifest.tables.concepts))


# --------------------------------------------------------------------------------------------------------- blur, low level


def test_blur_is_of_the_image_file(pictures: Path, tmp_path: Path) -> None:
    config = BlurredConfig(encoder=EfficientNetLite0Config(), sigma_pixels=3.0)
    found, says = config.compute(facts_for(pictures, 2))
    for i in range(2):
        Image.open(pictures / f"{i}.png").filter(ImageFilter.GaussianBlur(3.0)).save(tmp_path / f"{i}.png")
    by_hand, sharp_says = EfficientNetLite0Config().compute(facts_for(tmp_path, 2))
    np.testing.assert_allclose(found, by_hand, atol=1e-4)
    assert says["transform"] == f"Gaussian blur of 3 pixels, then {sharp_says['transform']}"
    degrees, _ = BlurredConfig(encoder=EfficientNetLite0Config(), sigma_degrees=0.5, image_degrees=8.0).compute(facts_for(pictures, 2))
    np.testing.assert_allclose(degrees, found, atol=1e-4)  # 48 pixels are 8 degrees


@pytest.mark.parametrize("fields", [{}, {"sigma_pixels": 1.0, "sigma_degrees": 1.0}, {"sigma_degrees": 1.0}, {"sigma_pixels": -1.0}])
def test_a_blur_that_cannot_be_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="sigma"):
        BlurredConfig(encoder=LowLevelConfig(), **fields)


def test_low_level_features_see_what_they_are_called(tmp_path: Path) -> None:
    across, down = np.meshgrid(np.arange(128), np.arange(128))
    gratings = {0: np.sin(2 * np.pi * across / 16), 1: np.sin(2 * np.pi * down / 16), 2: np.sin(2 * np.pi * across / 4), 3: 0 * across}
    for i, wave in gratings.items():
        Image.fromarray(np.repeat((128 + 100 * wave).astype(np.uint8)[..., None], 3, 2)).save(tmp_path / f"{i}.png")
    facts = facts_for(tmp_path, 4)
    gabor = LowLevelConfig(frequencies=(8.0, 32.0), cells=2).compute(facts)[0].reshape(4, 2, 8, 4).mean(3)
    assert [np.unravel_index(each.argmax(), each.shape) for each in gabor[:3]] == [(0, 0), (0, 4), (1, 0)]
    assert gabor[3].max() < 0.01 * gabor[0].max()
    gradients = LowLevelConfig(feature="gradients").compute(facts)[0].reshape(4, 8, 64)
    assert (gradients[0].mean(1).argmax(), gradients[1].mean(1).argmax()) == (0, 4)
    luminance = LowLevelConfig(feature="luminance").compute(facts)[0].reshape(4, 2, 64)
    assert luminance[3, 1].max() < 1e-3 < luminance[0, 1].min()
    np.testing.assert_allclose(luminance[3, 0], 0.2158, atol=2e-3)  # sRGB 128 is 0.2158 of linear light


def test_short_names_and_nesting_in_yaml() -> None:
    program = """
from data_prep.contract import cli
from data_prep.embed.command import EmbedConfig
nested = {
    "class_path": "BlurredConfig",
    "init_args": {
        "sigma_pixels": 2,
        "encoder": {"class_path": "TransformersConfig", "init_args": {"model": "m", "layers": ["final", 12, -1]}},
    },
}
config = cli.from_plain(EmbedConfig, {"study": "s", "name": "n", "embedding": nested})
print(config.embedding.outputs)
print(cli.to_plain(config)["embedding"]["init_args"]["encoder"]["init_args"]["layers"])
for name, fields in {"TimmConfig": {"model": "m"}, "TorchvisionConfig": {"model": "m"}, "LowLevelConfig": {}}.items():
    cli.from_plain(EmbedConfig, {"study": "s", "name": "n", "embedding": {"class_path": name, "init_args": fields}})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["('final', 'block12_mean', 'last1_mean')", "['final', 12, -1]"], done.stderr


def test_networks_that_mask_at_random_are_refused(pictures: Path, tmp_path: Path) -> None:
    from transformers import ViTImageProcessor, ViTMAEConfig, ViTMAEModel

    fields = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "image_size": 32,
        "patch_size": 8,
    }
    ViTMAEModel(ViTMAEConfig(**fields)).save_pretrained(tmp_path / "mae")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "mae")
    with pytest.raises(StudyError, match="transformers mae: gave one picture twice differently, as networks do that mask at random"):
        TransformersConfig(model=str(tmp_path / "mae")).compute(facts_for(pictures))


def test_other_weights_in_a_folder_are_another_plan(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    images = tmp_path / "images"
    for number, name in enumerate([f"train/{i:04d}.jpg" for i in range(8)] + [f"test/{i:04d}.jpg" for i in range(4)]):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(images / name)
    folder = shutil.copytree(folders["dinov2"], tmp_path / "model")
    blurred = BlurredConfig(encoder=TransformersConfig(model=str(folder)), sigma_pixels=1.0)
    write_tiny_study(tmp_path / "study", image_root=str(images), embeddings={"dino": blurred})
    write_tiny_study(tmp_path / "study", image_root=str(images), embeddings={"dino": blurred})
    shutil.copy(folders["registers"] / "config.json", folder / "config.json")
    with pytest.raises(StudyError, match="holds shards of another plan"):
        write_tiny_study(tmp_path / "study", image_root=str(images), embeddings={"dino": blurred})
