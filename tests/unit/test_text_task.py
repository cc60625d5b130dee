"""The text task: what a batch holds, what is refused, two stages, and exports that others can load."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data_prep.contract.cli import from_plain, main, parse
from data_prep.contract.errors import CommandError, ConfigError
from data_prep.contract.files import read_json
from data_prep.contract.manifest import read_manifest, write_manifest
from tests.distributed.training import by_step, events, write_split
from tests.helpers.tiny_llm import write_tiny_llm
from tests.helpers.tiny_study import write_tiny_study
from tests.helpers.tiny_text import tiny_config, write_tiny_encoder, write_tiny_text
from tests.helpers.waits import Waits
from trainer.__main__ import COMMANDS
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.text import load_text
from trainer.data.index import StudyIndex
from trainer.distributed.world import World
from trainer.models.language.adapter import part_of
from trainer.models.language.decoding import DecodingConfig
from trainer.tasks.text.config import StageConfig, TextConfig
from trainer.tasks.text.task import TextTask
from trainer.training.loop import Loop

CPU = torch.device("cpu")
CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "text").glob("*.yaml"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_tiny_text(folder)
    return folder


def make(home: Path, **changes: Any) -> TextConfig:
    plain = tiny_config(home)
    for name, value in changes.items():
        *parents, last = name.split("__")
        part = plain
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = value
    return from_plain(TextConfig, plain)


def task_of(home: Path, **changes: Any) -> TextTask:
    return TextTask(make(home, **changes), World(), CPU)


def first_batches(task: TextTask, step: int = 0) -> list[Any]:
    with task.batches(0) as stream:
        return task.prepare(next(stream), step)


def text(home: Path, *arguments: str) -> int:
    return main("trainer", "", COMMANDS, ["text", "--config", str(home / "config.yaml"), *arguments])


# ------------------------------------------------------------------------------------------------------------ batches


def test_micro_batches_are_of_one_size_and_their_weights_make_the_mean_over_tokens(home: Path) -> None:
    whole, parts = first_batches(task_of(home)), first_batches(task_of(home, train__accumulation=4))
    assert [len(part) for part in whole] == [8]
    assert [len(part) for part in parts] == [2, 2, 2, 2]
    tokens = [part.rows.num_tokens for part in parts]
    assert sum(tokens) == whole[0].rows.num_tokens
    assert float(whole[0].weight) == pytest.approx(1 / sum(tokens))
    assert sum(float(part.weight) * count for part, count in zip(parts, tokens, strict=True)) / 4 == pytest.approx(1.0)
    lengths = [part.rows.ids_ML.shape[1] for part in parts]
    assert lengths == sorted(lengths), "neighbours in length belong together"


def test_making_a_step_s_batches_never_waits_for_the_device(home: Path) -> None:
    task = task_of(home, train__accumulation=2)
    with task.batches(0) as stream:
        host = next(stream)
    task.device = torch.device("meta")
    task.subject_S = task.subject_S.to("meta")
    with Waits() as waits:
        batches = task.prepare(host, 0)
    assert [batch.eeg_BCT.device.type for batch in batches] == ["meta", "meta"]
    assert waits.seen == []


def test_prompt_tokens_and_pads_are_never_predicted(home: Path) -> None:
    task = task_of(home)
    (batch,) = first_batches(task)
    captions = {task.prompter.decode(batch.rows.label_T[batch.rows.item_T == item].tolist()) for item in range(len(batch))}
    known = {caption for stimulus in range(14) for caption in task.captions.of(stimulus)}
    assert captions <= known
    ends = [int(batch.rows.label_T[batch.rows.item_T == item][-1]) for item in range(len(batch))]
    assert set(ends) == {task.prompter.end_id}, "a caption's end is learnt"


def test_one_of_several_captions_is_drawn_anew_in_each_pass_and_alike_everywhere(home: Path) -> None:
    task = task_of(home)
    stimulus_B, item_B = np.arange(14), np.arange(14)
    from trainer.data import random

    def draw(data_pass: int) -> list[list[int]]:
        return task.targets.draw(stimulus_B, random.hash_numpy(0, np.full(14, data_pass), item_B, 7))

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    first = task_of(home, stage__captions="first")
    assert first.targets.draw(stimulus_B, np.arange(14)) == [task.targets.by_stimulus[s][0] for s in range(14)]


def test_the_share_of_images_falls_with_the_steps(home: Path) -> None:
    stage = StageConfig(image_share_start=0.8, image_share_end=0.2)
    assert [round(stage.image_share(step, 4), 6) for step in range(4)] == [0.8, 0.6, 0.4, 0.2]
    assert StageConfig(name="image").image_share(3, 4) == 1
    assert StageConfig(name="eeg").image_share(0, 4) == 0
    task = task_of(home, stage__image_share_start=1.0, stage__image_share_end=0.0)
    (begin,), (end,) = first_batches(task, 0), first_batches(task, task.num_steps - 1)
    assert bool(begin.image_B.all())
    assert not bool(end.image_B.any())


def test_image_noise_has_the_length_asked_for_and_depends_on_the_item_only(home: Path) -> None:
    (batch,) = first_batches(task_of(home, train__global_batch_size=28))
    assert batch.noise_BP is not None
    assert float(batch.noise_BP.norm(dim=1).square().mean().sqrt()) == pytest.approx(0.3, rel=0.15)
    (again,) = first_batches(task_of(home, train__global_batch_size=28, data__repetitions="each"))
    assert torch.equal(batch.noise_BP, again.noise_BP)
    assert first_batches(task_of(home, stage__name="eeg"))[0].noise_BP is None


def test_words_are_those_predicted_never_the_true_label(home: Path) -> None:
    task = task_of(home, prompt__concepts=1, prompt__own_concept="keep", stage__name="eeg", train__global_batch_size=28)
    with task.batches(0) as stream:
        host = next(stream)
    batch = task.loader.prepare(host, CPU)
    words = task.words.of(batch, "eeg", batch.item_B < 0)
    assert task.words.concepts is not None
    z_BP = task.encoder.model.embed_eeg(batch.eeg_BCT, task.subject_S[batch.subject_B]).detach().numpy()
    assert words == [task.words.concepts.words(row) for row in task.words.concepts.predict(z_BP, 1).tolist()]
    names = task.index.manifest.tables.concepts
    true = [names[c] for c in batch.concept_B.tolist()]
    assert [w[0] for w in words] != true, "an untrained encoder cannot know them all"
    assert {*task.words.concepts.names} == {names[c] for c in task.loader.concepts}, "candidates are training concepts"


def test_where_tested_concepts_are_unseen_a_training_item_is_not_told_its_own(home: Path) -> None:
    # Of a test item's words none can be right; of training images' words many are, and a model would learn to repeat them.
    def said(**changes: Any) -> tuple[list[str], list[str]]:
        task = task_of(home, prompt__concepts=1, stage__name="image", train__global_batch_size=28, **changes)
        with task.batches(0) as stream:
            batch = task.loader.prepare(next(stream), CPU)
        names = task.index.manifest.tables.concepts
        words = task.words.of(batch, "image", batch.item_B >= 0, training=True)
        return [own[0] for own in words], [names[c] for c in batch.concept_B.tolist()]

    words, true = said()
    assert len(words) == 28
    assert not any(word == own for word, own in zip(words, true, strict=True))
    kept, _ = said(prompt__own_concept="keep")
    assert sum(word == own for word, own in zip(kept, true, strict=True)) > 0.2 * len(true)
    assert all(word == other for word, other, own in zip(words, kept, true, strict=True) if other != own), "others are as predicted"

    write_split(home / "study", "seen", train={"stimulus": [0, 2, 4, 6, 8, 10, 12]}, validation={"stimulus": [1, 3, 5]})
    write_tiny_encoder(home / "seen-encoder", home / "study", split="seen")
    closed = task_of(home, prompt__concepts=1, stage__name="image", data__split="seen", encoder=str(home / "seen-encoder"))
    assert closed.words.own_C is None, "validation images of trained concepts can be named rightly"
    asked = task_of(
        home,
        prompt__concepts=1,
        prompt__own_concept="leave_out",
        stage__name="image",
        data__split="seen",
        encoder=str(home / "seen-encoder"),
    )
    assert asked.words.share_right([asked.validation], "image", CPU)["validation"] > 0, "what is scored is named as in use"
    with pytest.raises(CommandError, match="has 7 concepts, of which an item's own is left out: expected at most 6"):
        task_of(home, prompt__concepts=7)


@pytest.mark.long
def test_packed_rows_give_the_loss_of_padded_ones(home: Path) -> None:
    losses = []
    for length in (None, 64):
        task = task_of(home, stage__pack_length=length)
        torch.manual_seed(0)
        model = task.build_model().train()
        (batch,) = first_batches(task)
        losses.append(task.losses(model, batch)["loss"].item())
        if length:
            assert batch.rows.ids_ML.shape[1] == 64
            assert len(batch.rows.ids_ML) < len(batch)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(("stage", "kind"), [("image", "linear"), ("mixed", "mlp"), ("eeg", "resampler")])
def test_every_trained_parameter_gets_a_gradient_and_no_other(home: Path, kind: str, stage: str) -> None:
    changes = {"prefix__kind": kind, "prefix__features": "tokens", "prefix__heads": 4, "stage__name": stage, "adapter__kind": "dora"}
    task = task_of(home, tune_encoder=stage == "eeg", **changes)
    model = task.build_model().train()
    task.losses(model, first_batches(task)[0])["loss"].backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == trained
    assert "base" not in {part_of(name) for name in trained}


# ------------------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train__precision": "fp16"}, "train.precision: fp16, expected bf16 or fp32"),
        ({"stage__name": "label"}, "prompt.concepts: 0 in stage label"),
        ({"tune_encoder": True, "stage__name": "image"}, "tune_encoder: true in stage image"),
        ({"tune_encoder": True, "prompt__concepts": 1}, "tune_encoder: true with prompt.concepts 1"),
        ({"stage__image_share_start": 1.5}, "stage.image_share_start: 1.5"),
        ({"stage__missing_captions": "guess"}, "stage.missing_captions"),
        ({"base__compile": True, "zero__stage": 3}, "base.compile: true with zero.stage 3"),
    ],
)
def test_contradictory_configs(home: Path, changes: dict, says: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=says):
        make(home, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data__select": {"channels": ["TP9", "AF7"]}}, r"n_chans is 2, the encoder was trained with 4"),
        ({"data__normalise": "trial_zscore"}, r"data.normalise: trial_zscore, the encoder .* was trained with none"),
        ({"data__embedding": "other"}, r"data.embedding: other has model other, .* aligned with images of tiny"),
        ({"data__split": "leaky"}, r"encoder: .* was trained on \d+ validation or test trials of split 'leaky'"),
        ({"encoder": "nowhere"}, "nowhere: has neither config.json"),
        ({"base__name": "./nowhere"}, "base.name: .*nowhere: no such folder"),
        ({"prompt__concepts": 50}, "prompt.concepts: 50, but the training part has 7 concepts"),
        ({"prompt__instruction": "red " * 300}, r"prompt: \d+ tokens .* the model's context of 256"),
        ({"stage__pack_length": 4}, r"stage.pack_length: 4, but 'a picture of .* and its prompt have \d+ tokens"),
    ],
)
def test_refused_in_one_sentence(home: Path, changes: dict, says: str) -> None:
    root = home / "study"
    if "data__split" in changes:
        write_split(root, "leaky", train={"stimulus": [14, 15, 16]}, validation={"stimulus": [0, 1]})
    if "data__embedding" in changes:
        root = with_other_embedding(home)
    with pytest.raises((CommandError, ValueError), match=says):
        first_batches(task_of(home, **({"data__study": str(root)} | changes)))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_too_small_to_learn_from_or_to_choose_by_are_refused(home: Path, size: int) -> None:
    write_split(home / "study", f"first-{size}", train={"stimulus": list(range(size))}, validation={"stimulus": [14, 15]})
    write_split(home / "study", f"second-{size}", train={"stimulus": [0, 1]}, validation={"stimulus": list(range(14, 14 + size))})
    early = {"train__early_stopping_validations": 2}
    if size == 1:
        with pytest.raises(CommandError, match=r"part 'train' of split 'first-1': stimuli to learn from: 1, expected at least 2"):
            task_of(home, data__split="first-1", **early)
        with pytest.raises(CommandError, match=r"part 'validation' of split 'second-1': stimuli to choose from: 1, expected at least 2"):
            task_of(home, data__split="second-1", **early)
    else:
        task_of(home, data__split=f"first-{size}", **early)
        task_of(home, data__split=f"second-{size}", **early)
    config = make(home, stage__validation_items=size)
    if size < 3:
        with pytest.raises(CommandError, match=rf"{size} samples to score on 3 ranks, expected one for each rank or more"):
            TextTask(config, World(size=3, local_size=3), CPU)
    else:
        TextTask(config, World(size=3, local_size=3), CPU)


def with_other_embedding(home: Path) -> Path:
    root = home / "other-embedding"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(home / "study", root)
    manifest = read_manifest(root)
    shutil.copyfile(root / "embeddings" / "tiny.npy", root / "embeddings" / "other.npy")
    tiny = manifest.embedding("tiny")
    write_manifest(root, manifest.with_embedding("other", replace(tiny, provenance={**tiny.provenance, "model": "other"})))
    write_split(root, "tiny", train={"stimulus": list(range(14))}, validation={"stimulus": [14, 15]})
    return root


def test_stimuli_without_captions_are_refused_or_counted_and_dropped(tmp_path: Path) -> None:
    root = write_tiny_study(tmp_path / "study", n_subjects=1, n_stimuli=24, n_test=4, n_reps=2, uncaptioned=(3, 5, 15))
    write_split(root, "tiny", train={"stimulus": list(range(14))}, validation={"stimulus": [14, 15, 16]})
    write_tiny_encoder(tmp_path / "encoder", root)
    write_tiny_llm(tmp_path / "base")
    with pytest.raises(CommandError, match=r"2 of 14 train stimuli have no caption \(first 'train/0003'\).*missing_captions: drop"):
        task_of(tmp_path)
    task = task_of(tmp_path, stage__missing_captions="drop")
    assert task.num_items == (14 - 2) * 2
    assert [facts for kind, facts in task.notes if kind == "captions missing"] == [
        {"part": "train", "stimuli": 2, "items_dropped": 4},
        {"part": "validation", "stimuli": 1, "items_dropped": 2},
    ]
    assert {3, 5} & set(task.loader.stimuli.tolist()) == set()
    with task.batches(0) as stream:
        seen = {s for _ in range(9) for s in next(stream).stimulus_B.tolist()}
    assert seen == set(range(14)) - {3, 5}


def test_how_often_predicted_words_are_right_is_told(home: Path, capsys: pytest.CaptureFixture) -> None:
    task = task_of(home, stage__name="image", prompt__concepts=1, prompt__own_concept="keep")
    task.check_start()
    (facts,) = [facts for name, facts in task.notes if name == "prompt"]
    # Validation concepts are none of those trained on, so that their words are always wrong; those of training images are often right.
    assert facts["words_right"]["validation"] == 0
    assert facts["words_right"]["train"] > 0.2
    assert "are right for" in capsys.readouterr().err
    task = task_of(home, stage__name="image", prompt__concepts=1)
    task.check_start()
    (facts,) = [facts for name, facts in task.notes if name == "prompt"]
    assert facts["own_concept"] == "left out"
    assert "are right for" not in capsys.readouterr().err


def test_a_frozen_adapter_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from trainer.tasks.text import model

    attach = model.attach_adapter
    monkeypatch.setattr(model, "attach_adapter", lambda llm, config: attach(llm, config).requires_grad_(False))
    with pytest.raises(CommandError, match="adapter: lora is asked for, but 0 of its 8192 parameters are trainable"):
        task_of(home).build_model()


# ------------------------------------------------------------------------------------------- runs, on one rank, in here


@pytest.fixture(scope="module")
def staged(home: Path) -> tuple[Path, Path]:
    """Stage image, then stage eeg from it."""
    quick = ("--train.steps", "3", "--train.validate_every_steps", "0", "--checkpoint.every_steps", "0")
    assert text(home, "--run", str(home / "image"), "--stage.name", "image", *quick) == 0
    # Under ZeRO 3 the base is cut up when the first stage's weights come in, however few ranks there are.
    cut_up = ("--zero.stage", "3", "--deepspeed_overrides.zero_optimization.stage3_param_persistence_threshold", "0")
    assert text(home, "--run", str(home / "eeg"), "--stage.name", "eeg", "--init_from", str(home / "image"), *quick, *cut_up) == 0
    return home / "image", home / "eeg"


@pytest.mark.long
def test_the_second_stage_begins_where_the_first_ended(home: Path, staged: tuple[Path, Path]) -> None:
    image, eeg = staged
    (facts,) = events(eeg, "init")
    assert (facts["stage"], facts["taken"], facts["new"]) == ("image", ["adapter", "projector"], [])
    completed = read_json(image / "completed.json")
    assert completed["score_name"] == "image_log_likelihood"
    before = by_step(image, "metrics.jsonl", "validation_log_likelihood")[3]
    fresh = task_of(home, stage__name="eeg", init_from=str(image))
    model = fresh.build_model()
    fresh.start(model)
    assert fresh.validate(model.eval())["log_likelihood"] == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--adapter.r", "8"), "was trained with adapter.r 4, this run has 8"),
        (("--prefix.num_tokens", "3"), "was trained with prefix.num_tokens 2, this run has 3"),
        (("--base.name", "OTHER"), "an adapter of another base model: fingerprint was"),
        (("--init_from", "ENCODER"), "not a text export"),
    ],
)
def test_an_export_that_does_not_fit_is_not_begun_with(
    home: Path, staged: tuple[Path, Path], arguments: tuple, says: str, capfd: pytest.CaptureFixture
) -> None:
    if "OTHER" in arguments:
        write_tiny_llm(home / "other-base", seed=5)
    places = {"OTHER": str(home / "other-base"), "ENCODER": str(home / "encoder")}
    given = [places.get(word, word) for word in arguments]
    assert text(home, "--run", str(home / "refused"), "--init_from", str(staged[0]), *given) == 1
    assert says in capfd.readouterr().err.strip().splitlines()[-1]
    assert not (home / "refused").exists()


def test_weights_that_have_seen_the_splits_validation_are_not_begun_with(home: Path, staged: tuple[Path, Path]) -> None:
    write_split(home / "study", "turned", train={"stimulus": [0, 1, 16]}, validation={"stimulus": [2, 3]})
    write_tiny_encoder(home / "turned-encoder", home / "study", split="turned")
    task = task_of(home, data__split="turned", encoder=str(home / "turned-encoder"), init_from=str(staged[0]))
    with pytest.raises(CommandError, match=r"init_from: .* was trained on \d+ validation or test trials of split 'turned'"):
        task.check_start()


def test_a_tuned_encoder_is_not_left_behind(home: Path) -> None:
    quick = ("--train.steps", "1", "--checkpoint.every_steps", "0", "--tune_encoder", "true")
    tuned = home / "tuned-first"
    assert text(home, "--run", str(tuned), "--stage.name", "eeg", *quick) == 0
    with pytest.raises(CommandError, match=r"init_from: .* tuned its encoder, expected it as this run's: --encoder"):
        task_of(home, stage__name="eeg", init_from=str(tuned)).check_start()
    task = task_of(home, stage__name="eeg", init_from=str(tuned), encoder=str(tuned))
    task.check_start()
    write_tiny_encoder(home / "another-encoder", home / "study", seed=4)
    task = task_of(home, stage__name="eeg", init_from=str(home / "image"), encoder=str(home / "another-encoder"))
    task.check_start()
    (facts,) = [facts for name, facts in task.notes if name == "init"]
    assert facts["other_encoder"], "the first stage's projector read another encoder: it is written down"


def test_weights_that_are_no_numbers_replace_no_checkpoint(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    run, seldom = home / "diverged", ("--train.log_every_steps", "100", "--train.validate_every_steps", "0")
    assert text(home, "--run", str(run), *seldom, "--optimizer.lr", "1e30", "--checkpoint.every_steps", "3") == 1
    assert "the loss is nan at step 3" in capfd.readouterr().err
    assert not list((run / "checkpoints").glob("*"))

    # A step whose loss was still a number.
    step = Loop._optimizer_step

    def overflowing(loop: Loop, batches: Any) -> Any:
        losses = step(loop, batches)
        weights = next(p for p in loop.engine.module.parameters() if p.requires_grad)
        weights.data.view(-1)[0] = float("inf") if loop.state.step == 4 else 0.0
        return losses

    monkeypatch.setattr(Loop, "_optimizer_step", overflowing)
    run = home / "overflown"
    assert text(home, "--run", str(run), *seldom, "--checkpoint.every_steps", "2") == 1
    assert "the weights after step 4 are not finite" in capfd.readouterr().err
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-00000002"]


def test_a_run_is_resumed_only_with_its_base_and_encoder(home: Path, staged: tuple[Path, Path], capfd: pytest.CaptureFixture) -> None:
    write_tiny_llm(home / "other-base", seed=5)
    write_tiny_encoder(home / "other-encoder", home / "study", seed=9)
    moved = home / "moved-base"
    shutil.copytree(home / "base", moved, dirs_exist_ok=True)
    common = ("--run", str(staged[0]), "--stage.name", "image", "--train.steps", "3", "--resume", "latest")
    for arguments, says in [
        (("--base.name", str(home / "other-base")), "data.base was"),
        (("--encoder", str(home / "other-encoder")), "data.encoder_sha256 was"),
        (("--adapter.alpha", "16"), "adapter.alpha was 8 when this run began and is 16 now"),
        (("--stage.image_noise", "0.1"), "stage.image_noise was 0.3"),
    ]:
        assert text(home, *common, *arguments) == 1
        assert says in capfd.readouterr().err
    assert text(home, *common, "--base.name", str(moved)) == 0, "the same base elsewhere is the same base"


def test_an_export_is_loadable_by_peft_alone_and_says_the_same(home: Path, staged: tuple[Path, Path]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    decoder = load_text(staged[1])
    base = AutoModelForCausalLM.from_pretrained(str(home / "base"), dtype=torch.float32)
    alone = PeftModel.from_pretrained(base, staged[1] / "export" / "adapter")
    ids = torch.tensor([decoder.prompter.target("a red star on the sand")])
    with torch.no_grad():
        ours, theirs = (model(input_ids=ids).logits for model in (decoder.model.llm.eval(), alone.eval()))
        with alone.disable_adapter():
            untuned = alone(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.allclose(ours, untuned, atol=1e-4)
    assert json.loads((staged[1] / "export" / "adapter" / "adapter_config.json").read_text())["r"] == 4
    assert all(size < 1 << 20 for size in (p.stat().st_size for p in (staged[1] / "export").rglob("*") if p.is_file()))


def test_an_export_captions_raw_trials_without_the_study(home: Path, staged: tuple[Path, Path]) -> None:
    decoder = load_text(staged[1])
    eeg = np.random.RandomState(0).standard_normal((5, 2, 4, 20)).astype(np.float32)
    decoding = DecodingConfig(method="sample", max_new_tokens=5)
    captions = decoder.caption(eeg, "01", decoding=decoding, batch_size=2)
    assert captions == decoder.caption(eeg, "01", decoding=decoding, batch_size=5)
    assert len(captions) == 5
    assert load_encoder(staged[1] / "export" / "encoder").export.fingerprint == decoder.export.fingerprint
    write_tiny_llm(home / "other-base", seed=5)
    with pytest.raises(CommandError, match="an adapter of another base model"):
        load_text(staged[1], base=str(home / "other-base"))
    with pytest.raises(CommandError, match="not a text export"):
        load_text(home / "encoder")


def test_a_label_only_model_reads_words_and_no_eeg(home: Path) -> None:
    run = home / "label"
    arguments = ("--stage.name", "label", "--prompt.concepts", "2", "--train.steps", "2", "--train.validate_every_steps", "0")
    assert text(home, "--run", str(run), *arguments) == 0
    decoder = load_text(run)
    assert not decoder.reads_eeg
    assert not (run / "export" / "projector.safetensors").exists()
    assert decoder.concepts is not None
    captions = decoder.caption(np.random.default_rng(0).standard_normal((2, 4, 20)), "01", decoding=DecodingConfig(max_new_tokens=3))
    assert len(captions) == 2


def test_a_tuned_encoder_is_exported_and_has_seen_the_runs_trials(home: Path) -> None:
    run = home / "tuned"
    arguments = ("--stage.name", "eeg", "--tune_encoder", "true", "--train.steps", "2", "--train.validate_every_steps", "0")
    assert text(home, "--run", str(run), *arguments) == 0
    before, after = (load_encoder(folder) for folder in (home / "encoder", run / "export" / "encoder"))
    changed = {name for name, value in before.model.state_dict().items() if not torch.equal(value, after.model.state_dict()[name])}
    assert any(name.startswith("encoder.") for name in changed)
    assert not {name for name in changed if "image_head" in name or "running" in name}
    assert after.export.started_from[-1].split == "tiny"
    decoder, index = load_text(run).export, StudyIndex.open(home / "study")
    for origin in (*after.export.origins, *decoder.origins):
        assert origin.trained is not None
        assert origin.trained.rows_in(index).tolist() == index.rows("tiny", "train").tolist()
    assert (decoder.study, decoder.unit, decoder.simulated, decoder.learnt_from_simulated) == ("study", "microvolts", False, False)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_valid(path: Path) -> None:
    config = parse(TextConfig, ["--config", str(path)])
    assert config.mlflow.experiment != "contrastive"
    assert yaml.safe_load(path.read_text())["run"] == config.run
