"""Naming concepts: the class report, what an encoder may begin with, and trials kept for training only.

The encoder is a linear map whose weights are those of ridge regression from EEG to the concepts' indicators, its concept head
the identity: no training loop is needed to have one that names concepts.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.contract.cli import parse
from data_prep.contract.closed_form import fit_ridge
from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, write_json
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from tests.helpers.intervals import bootstrap_class_mean, bootstrap_mean
from tests.helpers.tiny_study import write_tiny_study
from trainer.__main__ import COMMANDS, main
from trainer.artifacts.encoder import NetworkEncoder, load_encoder
from trainer.artifacts.encoder_export import write_export
from trainer.artifacts.export import find_export
from trainer.artifacts.part import collect
from trainer.data.batch import Batch
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.data.select import SelectConfig
from trainer.distributed.world import World
from trainer.evaluate.classes.config import EvaluateClassesConfig
from trainer.evaluate.classes.report import confusion_figure
from trainer.evaluate.classes.results import ConfusionCell, read_classes
from trainer.evaluate.results import plain
from trainer.losses import LossConfig
from trainer.metrics import balanced_accuracy
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoders import ChannelNet, EEGProject, FlatLinear
from trainer.tasks.contrastive.config import ContrastiveConfig
from trainer.tasks.contrastive.initial_weights import InitialWeights, sentence
from trainer.tasks.contrastive.task import ContrastiveTask
from trainer.tasks.keep import training_loader
from trainer.training.config import TrainConfig
from trainer.training.identity import make_identity
from trainer.training.lineage import Lineage, Origin

DIM = 12
MODEL = ContrastiveModelConfig(encoder=FlatLinear(embedding_dim=DIM, normalize_features=False), eeg_head="none")
CLASSIFY = LossConfig(contrastive_weight=0, cross_entropy_weight=1, mse_weight=1)


def data(study: Path, split: str, **fields: Any) -> DataConfig:
    return DataConfig(study=str(study), split=split, embedding="tiny", **fields)


def write_classifier(study: Path, split: str, output: Path, *, head: bool = True, started_from: tuple[Origin, ...] = ()) -> Path:
    """An export that was fitted on the training part of ``split``."""
    loader = Loader(StudyIndex.open(study), data(study, split), "train", seed=0)
    part, num_concepts = collect(loader), len(loader.index.manifest.tables.concepts)
    loss = CLASSIFY if head else LossConfig()
    sizes = {"n_chans": loader.n_chans, "n_times": loader.n_times, "sfreq": loader.sfreq, "embedding_dim": loader.embedding_dim}
    model = MODEL.build(**sizes, num_subjects=loader.num_subjects, num_concepts=num_concepts, loss=loss)
    shown_NK = np.eye(num_concepts, dtype=np.float32)[part.concept_N]
    fitted = fit_ridge(part.eeg_NCT, np.pad(shown_NK, ((0, 0), (0, DIM - num_concepts))) if head else part.target_NE)
    with torch.no_grad():
        model.encoder.linear.weight.copy_(torch.from_numpy(fitted.weights_DE.T))
        model.encoder.linear.bias.copy_(torch.from_numpy(fitted.intercept_E - fitted.mean_D @ fitted.weights_DE))
        if model.concept_head is not None:
            model.concept_head.weight.copy_(torch.eye(num_concepts, DIM))
            model.concept_head.bias.zero_()
    lineage = Lineage(step=7, split=split, split_hash=loader.split_hash, fingerprint=loader.fingerprint, started_from=started_from)
    write_export(output, weights=model.state_dict(), model=MODEL, loss=loss, loader=loader, lineage=lineage)
    return output


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 6 concepts x 6 images and 5 test images of concepts of their own, two subjects, and exports."""
    root = tmp_path_factory.mktemp("concepts")
    sizes = {"n_stimuli": 41, "n_test": 5, "images_per_concept": 6, "concept_share": 0.6}
    study = write_tiny_study(root / "study", **sizes, n_reps=3, noise=1.5, dim=DIM, samples_per_shard=20)
    shares = {"test_share": 0.3, "validation_share": 0.2}
    write_split(SplitConfig(study=str(study), policy="closed-set", **shares))
    write_split(SplitConfig(study=str(study), policy="closed-set", name="other", seed=5, **shares))
    write_split(SplitConfig(study=str(study), policy="zero-shot", num_validation_concepts=2))
    write_classifier(study, "closed-set", root / "export")
    write_classifier(study, "closed-set", root / "nearest", head=False)
    return root


def evaluate(*arguments: str | Path) -> int:
    return main("python -m trainer", "", COMMANDS, ["evaluate-classes", *map(str, arguments), "--num_resamples", "200"])


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "classes.json").read_text())


# --------------------------------------------------------------------------------------------------------- the report


def test_the_report_counts_what_the_encoder_named(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--export", home / "export", "--output", tmp_path) == 0
    found, printed = results(tmp_path), capsys.readouterr().out
    assert plain(read_classes(tmp_path / "classes.json")) == found
    assert (found["kind"], found["format_version"], found["named_by"]) == ("concepts", 1, "concept head")
    assert (found["num_candidates"], found["num_shown"], found["trials_left_out"], found["never_trained"]) == (11, 6, 0, [])
    assert set(found["arms"]) == {"model", "ridge"}
    assert found["summary"]["chance"] == pytest.approx({"top1": 1 / 11, "top5": 5 / 11, "balanced_accuracy": 1 / 11})
    for arm in found["arms"].values():
        for cell in arm.values():
            assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 1
    assert found["summary"]["ridge"]["top1"] > 3 / 11
    assert found["summary"]["model"]["top5"] >= found["summary"]["model"]["top1"]

    # The same by hand, from confusion counts alone.
    names = [row["concept"] for row in found["per_class"]]
    counts = {(c["true"], c["named"]): c["trials"] for c in found["confusion"]}
    total = sum(counts.values())
    assert total == found["num_trials"] == sum(row["support"] for row in found["per_class"])
    assert found["summary"]["model"]["top1"] == pytest.approx(sum(counts.get((n, n), 0) for n in names) / total)
    assert found["summary"]["model"]["balanced_accuracy"] == pytest.approx(np.mean([row["recall"] for row in found["per_class"]]))
    for row in found["per_class"]:
        right = counts.get((row["concept"], row["concept"]), 0)
        named = sum(n for (_, name), n in counts.items() if name == row["concept"])
        assert row["recall"] == pytest.approx(right / row["support"])
        assert row["precision"] == pytest.approx(right / named if named else 0)
    assert set(found["by_subject"]) == {"01", "02"}
    assert "Model minus ridge" in printed
    page = (tmp_path / "classes.html").read_text()
    assert page.count("<img") == 1
    assert all(f'<th scope="row">{name}</th>' in page for name in names)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_name_no_concept(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    scored = NetworkEncoder.concept_logits

    def one_is_none(self: NetworkEncoder, batch: Batch) -> torch.Tensor:
        logits_BK = scored(self, batch).clone()
        logits_BK[1, int(batch.concept_B[1])] = value
        return logits_BK

    monkeypatch.setattr(NetworkEncoder, "concept_logits", one_is_none)
    assert evaluate("--export", home / "export", "--output", tmp_path / "out") == 1
    assert "item 1: its concept scores are not finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scores_equal_those_of_the_encoder_trial_by_trial(home: Path, tmp_path: Path) -> None:
    evaluate("--export", home / "export", "--output", tmp_path, "--baselines", "[]")
    encoder, index = load_encoder(home / "export"), StudyIndex.open(home / "study")
    loader = Loader(index, encoder.export.data_config(), "test", seed=0)
    batch = loader.prepare(next(loader.sequential(10_000)), "cpu")
    trained = Loader(index, encoder.export.data_config(), "train", seed=0).concepts
    named = trained[encoder.concept_logits(batch)[:, trained].argmax(dim=1).numpy()]
    found = results(tmp_path)["summary"]["model"]
    assert found["top1"] == pytest.approx((named == batch.concept_B.numpy()).mean())
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy(named, batch.concept_B.numpy()))


def test_without_a_head_the_nearest_concept_is_named(home: Path, tmp_path: Path) -> None:
    assert evaluate("--export", home / "nearest", "--output", tmp_path, "--baselines", "[]") == 0
    found = results(tmp_path)
    assert found["named_by"] == "nearest concept"
    assert found["summary"]["model"]["top1"] > 3 / 11


def test_concepts_never_trained_are_left_out_in_a_sentence(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = home / "study"
    index = StudyIndex.open(study)
    held_out = index.split("closed-set").parts["test"][0]["stimulus"]
    closed = index.split("closed-set")
    trained = [s for s in closed.parts["train"][0]["stimulus"] if index.manifest.tables.stimuli[s].concept != 0]
    parts = {"train": [{"stimulus": trained}], "validation": [], "test": [{"stimulus": held_out}]}
    write_json(study / "splits" / "mixed.json", replace(closed, name="mixed", parts=parts).plain())
    write_classifier(study, "mixed", tmp_path / "export")
    assert evaluate("--export", tmp_path / "export", "--output", tmp_path / "reports") == 0
    found = results(tmp_path / "reports")
    assert found["never_trained"] == ["concept0"]
    assert found["num_candidates"] == 10
    assert "1 of 6 concepts of this part were never trained (first 'concept0')" in capsys.readouterr().out.replace("\n", " ")
    assert found["trials_left_out"] + found["num_trials"] == 2 * len(held_out)

    write_classifier(study, "zero-shot", tmp_path / "zero-shot")
    capsys.readouterr()
    assert evaluate("--export", tmp_path / "zero-shot", "--output", tmp_path / "none") == 1
    error = capsys.readouterr().err
    assert [line.startswith("error: ") for line in error.splitlines()].count(True) == 1
    assert "Traceback" not in error
    assert "none of the 5 concepts of part 'test' of split 'zero-shot' was trained (first 'concept6')" in error


def test_a_class_level_study_is_scored_by_trials(tmp_path: Path) -> None:
    study = write_tiny_study(tmp_path / "study", stimulus_level="class", n_concepts=4, n_subjects=1, n_recordings=5, noise=3.0, dim=DIM)
    write_split(SplitConfig(study=str(study), policy="recording"))
    write_classifier(study, "recording", tmp_path / "export")
    assert evaluate("--export", tmp_path / "export", "--output", tmp_path / "reports") == 0
    found = results(tmp_path / "reports")
    assert found["num_candidates"] == 4
    cell = found["arms"]["model"]["top1"]
    assert cell["low"] < cell["value"] < cell["high"]
    assert any("top-5 says nothing" in note for note in (tmp_path / "reports" / "classes.html").read_text().split("<li>"))


def test_intervals_of_balanced_accuracy_weigh_classes_equally() -> None:
    hit_Q, class_Q = np.array([1, 1, 1, 1, 1, 1, 0, 0]), np.array([0, 0, 0, 0, 0, 0, 1, 1])
    found = bootstrap_class_mean(hit_Q, class_Q, num_resamples=500)
    assert found.value == 0.5
    assert found.low <= 0.5 <= found.high
    rng = np.random.default_rng(0)
    hit_Q, class_Q = rng.random(400) < 0.4, np.repeat([0, 1], 200)
    ours, unweighted = bootstrap_class_mean(hit_Q, class_Q), bootstrap_mean(hit_Q)
    assert ours.value == pytest.approx(unweighted.value)
    assert ours.low == pytest.approx(unweighted.low, abs=0.01)


def test_the_confusion_matrix_has_a_row_for_every_shown_concept_and_no_formulas() -> None:
    cells = [ConfusionCell(true="a$b$", named="a$b$", trials=3), ConfusionCell(true="a$b$", named="c", trials=1)]
    figure = confusion_figure(["a$b$"], cells)
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == [r"a\$b\$", "c"]
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.75, 0.25]])


# ----------------------------------------------------------------------------------------- what picks the best weights


def task(study: Path, split: str, loss: LossConfig = CLASSIFY, **fields: Any) -> ContrastiveTask:
    config = ContrastiveConfig(
        run="unused", data=data(study, split), train=TrainConfig(steps=1, global_batch_size=4), model=MODEL, loss=loss, **fields
    )
    return ContrastiveTask(config, World(rank=0, size=1, local_rank=0, local_size=1), torch.device("cpu"))


def test_a_classifier_is_scored_by_concepts_named_in_a_closed_set_and_by_rank_elsewhere(home: Path) -> None:
    study = home / "study"
    closed = task(study, "closed-set")
    assert closed.score_name == "concept_accuracy"
    assert closed.notes == []
    model = closed.build_model().eval()
    model.model.load_state_dict(load_encoder(home / "export").model.state_dict())
    scores = closed.validate(model)
    assert set(scores) == {"concept_accuracy", "balanced_accuracy"}
    assert scores["concept_accuracy"] > 2 / 11
    unseen = task(study, "zero-shot")
    assert unseen.score_name == "mrr"
    [(kind, facts)] = unseen.notes
    assert kind == "note"
    assert facts["message"].startswith("2 of 2 validation concepts were never trained (first 'concept")
    assert task(study, "closed-set", LossConfig(cross_entropy_weight=1)).score_name == "mrr"


# ---------------------------------------------------------------------------------------------- weights to begin with


def test_init_from_takes_the_encoder_and_what_heads_fit(home: Path) -> None:
    study = home / "study"
    before = load_encoder(home / "export").model.state_dict()
    new = task(study, "closed-set", LossConfig(cross_entropy_weight=1, name="siglip"), init_from=str(home / "export"))
    new.check_start()
    [(kind, facts)] = new.notes
    assert kind == "init"
    assert set(facts["taken"]) == {"encoder", "concept_head", "log_logit_scale"}
    assert facts["new"] == {"logit_bias": "not there"}
    assert "takes " in sentence(facts)
    model = new.build_model()
    new.start(model)
    assert torch.equal(model.model.encoder.linear.weight, before["encoder.linear.weight"])
    assert torch.equal(model.model.concept_head.weight, before["concept_head.weight"])
    assert float(model.model.logit_bias.detach()) == -10
    (origin,) = new.started_from
    told = {"fingerprint": new.study["fingerprint"], "split_hash": new.study["split_hash"], "simulated": False, "study": "study"}
    assert replace(origin, trained=None) == Origin(split="closed-set", **told)
    assert origin.trained is not None
    assert origin.trained.rows_in(new.index).tolist() == new.index.rows("closed-set", "train").tolist()
    new.export(model.model.state_dict(), home / "begun", 0)
    assert load_encoder(home / "begun").export.started_from == new.started_from


def test_heads_that_mean_something_else_begin_anew(home: Path, tmp_path: Path) -> None:
    other = write_tiny_study(tmp_path / "study", n_stimuli=20, n_test=2, images_per_concept=3, dim=DIM, n_reps=2)
    write_split(SplitConfig(study=str(other), policy="closed-set", test_share=0.3, validation_share=0.3))
    loader = Loader(StudyIndex.open(other), data(other, "closed-set"), "train", seed=0)
    initial = InitialWeights(str(home / "export"), loader, MODEL)
    sizes = {"n_chans": 4, "n_times": 20, "sfreq": 100.0, "num_subjects": 2, "embedding_dim": DIM}
    found = initial.compare(MODEL.build(**sizes, num_concepts=8, loss=CLASSIFY))
    assert found["new"] == {"concept_head": "concept_head.bias is (11,) there and (8,) here"}
    found = initial.compare(MODEL.build(**sizes, num_concepts=11, loss=CLASSIFY))
    assert found["new"] == {"concept_head": "other concepts"}


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("log_logit_scale", 40.0, None),  # brought back to the limit
        ("log_logit_scale", -40.0, "a logit scale of 4.24835e-18 there, expected at least 0.001"),
        ("logit_bias", 1e30, "a logit bias of 1e+30 there, expected -1000 to 1000"),
        ("logit_bias", -1e4, "a logit bias of -10000 there, expected -1000 to 1000"),
        ("logit_bias", -12.0, None),
    ],
)
def test_scales_and_biases_from_which_no_gradient_leads_back_begin_anew(home: Path, part: str, value: float, reason: str | None) -> None:
    study = home / "study"
    siglip = LossConfig(name="siglip")
    loader = Loader(StudyIndex.open(study), data(study, "closed-set"), "train", seed=0)
    initial = InitialWeights(str(home / "export"), loader, MODEL)
    initial.weights |= {"logit_bias": torch.tensor([-10.0]), part: torch.tensor([value])}
    sizes = {"n_chans": 4, "n_times": 20, "sfreq": 100.0, "num_subjects": 2, "embedding_dim": DIM, "num_concepts": 11}
    assert initial.compare(MODEL.build(**sizes, loss=siglip))["new"].get(part) == reason
    fixed = MODEL.build(**sizes, loss=replace(siglip, learnable_temperature=False))
    assert initial.compare(fixed)["new"].get(part) == reason or "fixed by this run's config"
    initial.copy_into(fixed)
    assert (float(fixed.log_logit_scale), float(fixed.logit_bias)) == pytest.approx((math.log(1 / 0.07), -10.0))


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        (
            {"channels": ["TP9", "AF7"]},
            MODEL,
            r"init_from: .*export was trained on channels TP9, AF7, AF8, TP10, .* have TP9, AF7: expected",
        ),
        ({"tmax": 0.1}, MODEL, r"trained on n_times 20, this run's data have 16"),
        (
            {},
            ContrastiveModelConfig(encoder=EEGProject()),
            r"export is a FlatLinear, this run's model\.encoder a EEGProject: expected the same",
        ),
        (
            {},
            ContrastiveModelConfig(encoder=FlatLinear(embedding_dim=9, normalize_features=False)),
            r"a FlatLinear with embedding_dim 12, this run's model\.encoder a FlatLinear with embedding_dim 9",
        ),
    ],
)
def test_init_from_refuses_another_montage_or_architecture(
    home: Path, changes: dict[str, Any], model: ContrastiveModelConfig, message: str
) -> None:
    loader = Loader(StudyIndex.open(home / "study"), data(home / "study", "closed-set", select=SelectConfig(**changes)), "train", seed=0)
    with pytest.raises(CommandError, match=message):
        InitialWeights(str(home / "export"), loader, model)


def test_weights_that_have_seen_held_out_trials_are_refused_also_as_ancestors(home: Path, tmp_path: Path) -> None:
    study = home / "study"
    with pytest.raises(
        CommandError, match=r"trained on \d+ validation or test trials of split 'other' \(training trials of 'closed-set'\)"
    ):
        task(study, "other", init_from=str(home / "export")).check_start()
    write_classifier(study, "other", tmp_path / "export", started_from=load_encoder(home / "export").export.origins)
    with pytest.raises(CommandError, match="expected weights that have not seen them"):
        task(study, "other", init_from=str(tmp_path / "export")).check_start()
    assert evaluate("--export", tmp_path / "export", "--output", tmp_path / "reports") == 1


def test_an_export_is_found_in_a_run_and_in_a_text_export(home: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(CommandError, match=r"run: has neither config\.json nor export/config\.json"):
        find_export(tmp_path / "run")
    write_classifier(home / "study", "closed-set", tmp_path / "run" / "export")
    assert find_export(tmp_path / "run") == tmp_path / "run" / "export"
    write_classifier(home / "study", "closed-set", tmp_path / "text" / "export" / "encoder")
    write_json(tmp_path / "text" / "export" / "config.json", {"kind": "text"})
    assert find_export(tmp_path / "text") == tmp_path / "text" / "export" / "encoder"


# ------------------------------------------------------------------------------------- correctly classified, in training


@pytest.mark.parametrize("repetitions", ["mean", "each"])
@pytest.mark.parametrize("export", ["export", "nearest"])
def test_training_keeps_the_items_that_the_encoder_names_rightly(home: Path, repetitions: Any, export: str) -> None:
    index = StudyIndex.open(home / "study")
    config = data(home / "study", "closed-set", repetitions=repetitions)
    whole, facts = training_loader(index, config, 0)
    assert facts is None
    select = SelectConfig(keep="correctly_classified", keep_encoder=str(home / export), subjects=["02"])
    kept, facts = training_loader(index, replace(config, select=select), 0)
    assert facts is not None
    assert (facts["of"], facts["kept"]) == (whole.num_items // 2, kept.num_items)
    assert 0 < kept.num_items < facts["of"] or (repetitions == "mean" and export == "nearest")  # averages are all learnt by heart
    assert facts["by"] == ("concept head" if export == "export" else "nearest concept")

    encoder = load_encoder(home / export)
    host = kept.batch(0, kept.num_items)  # a whole data pass
    batch = kept.prepare(host, "cpu")
    assert sorted(batch.item_B.tolist()) == list(range(kept.num_items))
    assert set(batch.subject_B.tolist()) == {1}
    if export == "export":
        named = encoder.concept_logits(batch).argmax(dim=1)
        assert torch.equal(named, batch.concept_B)


def test_validation_and_test_parts_never_take_the_choice(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = home / "study"
    select = SelectConfig(keep="correctly_classified", keep_encoder=str(home / "export"))
    config = data(study, "closed-set", select=select)
    for part in ("train", "validation", "test"):
        with pytest.raises(ValueError, match=f"correctly_classified is a choice of training alone, part '{part}' is read whole here"):
            Loader(StudyIndex.open(study), config, part, seed=0)
    chosen = ContrastiveTask(
        ContrastiveConfig(run="unused", data=config, train=TrainConfig(steps=1, global_batch_size=16), model=MODEL, loss=CLASSIFY),
        World(rank=0, size=1, local_rank=0, local_size=1),
        torch.device("cpu"),
    )
    assert chosen.validation is not None
    everything = Loader(StudyIndex.open(study), data(study, "closed-set"), "validation", seed=0)
    assert chosen.validation.num_items == everything.num_items
    [(kind, facts)] = chosen.notes
    assert kind == "kept"
    assert facts["kept"] == chosen.num_items < facts["of"]
    assert f"{facts['kept']} of {facts['of']} training items, by the concept head of" in capsys.readouterr().err
    identity = make_identity(chosen.config, chosen.study)
    assert len(identity["data"]["kept_sha256"]) == 64
    assert "keep_encoder" not in identity["data"]["select"]

    assert chosen.started_from == load_encoder(home / "export").export.origins, "the choice tells of what the encoder was trained on"
    # An encoder that was trained so is scored on all trials.
    chosen.export(chosen.build_model().model.state_dict(), home / "chosen", 0)
    assert load_encoder(home / "chosen").export.data_config().select.keep == "all"
    assert read_json(home / "chosen" / "config.json")["data"]["select"]["keep"] == "correctly_classified"


@pytest.mark.parametrize("command", [name for name in COMMANDS if name.startswith(("evaluate", "generate", "export-embeddings"))])
def test_no_evaluation_command_can_be_asked_for_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("python -m trainer", "", COMMANDS, [command, "--data.select.keep", "correctly_classified"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "keep" in error


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": "some"}, "keep is 'some', expected all or correctly_classified"),
        ({"keep": "correctly_classified"}, "expected an encoder for correctly_classified only"),
        ({"keep_encoder": "runs/x"}, "expected an encoder for correctly_classified only"),
    ],
)
def test_contradicting_choices_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectConfig(**fields)


def test_the_configs_of_the_classic_first_stage_are_read() -> None:
    configs = Path(__file__).parents[2] / "configs"
    parse(EvaluateClassesConfig, ["--config", str(configs / "evaluate" / "classes.yaml")])
    config = parse(ContrastiveConfig, ["--config", str(configs / "contrastive" / "classify_align.yaml"), "--init_from", "runs/x"])
    assert config.model.encoder == ChannelNet()
    assert (config.loss.contrastive_weight, config.loss.cross_entropy_weight, config.loss.mse_weight) == (0, 1, 1)
    assert config.init_from == "runs/x"
