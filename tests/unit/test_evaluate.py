"""Evaluation of an export and of embeddings: what the tables say, and what is refused.

The encoder is a linear map whose weights are those of ridge regression on the training part: no training loop is needed to
have one that decodes.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.contract.closed_form import fit_ridge
from data_prep.contract.errors import CommandError
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from tests.helpers.shared_data import shared_data
from tests.helpers.tiny_study import write_tiny_study
from trainer.__main__ import COMMANDS, main
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.encoder_export import write_export
from trainer.artifacts.part import collect
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.evaluate.baselines import Trials
from trainer.evaluate.baselines.lda import lda_class_scores
from trainer.evaluate.results import plain
from trainer.evaluate.retrieval.class_level import class_auc
from trainer.evaluate.retrieval.image_level import chance
from trainer.evaluate.retrieval.results import ClassLevelResults, RetrievalResults, read_retrieval
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoders import FlatLinear
from trainer.training.lineage import Lineage


def write_ridge_export(study: Path, split: str, output: Path, **data: Any) -> Path:
    """An export of ridge regression, fitted on the training part of ``split``."""
    loader = Loader(StudyIndex.open(study), DataConfig(study=str(study), split=split, embedding="tiny", **data), "train", seed=0)
    part = collect(loader)
    model = ContrastiveModelConfig(encoder=FlatLinear(embedding_dim=loader.embedding_dim, normalize_features=False), eeg_head="none")
    built = model.build(
        n_chans=loader.n_chans,
        n_times=loader.n_times,
        sfreq=loader.sfreq,
        num_subjects=loader.num_subjects,
        embedding_dim=loader.embedding_dim,
    )
    fitted = fit_ridge(part.eeg_NCT, part.target_NE)
    with torch.no_grad():
        built.encoder.linear.weight.copy_(torch.from_numpy(fitted.weights_DE.T))
        built.encoder.linear.bias.copy_(torch.from_numpy(fitted.intercept_E - fitted.mean_D @ fitted.weights_DE))
    lineage = Lineage(step=7, git_revision="unknown", split=split, split_hash=loader.split_hash, fingerprint=loader.fingerprint)
    write_export(output, weights=built.state_dict(), model=model, loss=LossConfig(), loader=loader, lineage=lineage)
    return output


def evaluate(*arguments: str | Path) -> int:
    """The command as typed, with few resamples."""
    few = ("--num_resamples", "200", "--num_permutations", "99")
    return main("python -m trainer", "", COMMANDS, ["evaluate-retrieval", *map(str, arguments), *few])


def results(folder: Path) -> dict[str, Any]:
    """What the evaluation wrote for machines."""
    return json.loads((folder / "retrieval.json").read_text())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image study, two subjects, with the splits ``zero-shot`` and ``other``, and an export trained on the first."""
    root = tmp_path_factory.mktemp("images")
    study = write_tiny_study(root / "study", n_stimuli=48, n_test=12, n_reps=4, noise=1.0, samples_per_shard=20)
    write_split(SplitConfig(study=str(study), policy="zero-shot", num_validation_concepts=4))
    write_split(SplitConfig(study=str(study), policy="zero-shot", name="other", num_test_concepts=10, num_validation_concepts=2, seed=3))
    write_ridge_export(study, "zero-shot", root / "export")
    return root


@pytest.fixture(scope="module")
def scored(images: Path) -> dict[str, Any]:
    """The evaluation of that export."""
    assert evaluate("--export", images / "export", "--output", images / "reports") == 0
    return results(images / "reports")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-level study of one subject, split by recording, and an export."""
    root = tmp_path_factory.mktemp("classes")
    study = write_tiny_study(root / "study", stimulus_level="class", n_subjects=1, n_recordings=5, n_reps=12, noise=3.0)
    write_split(SplitConfig(study=str(study), policy="recording"))
    write_ridge_export(study, "recording", root / "export")
    return root


# -------------------------------------------------------------------------------------------------------- image level


def test_the_model_stands_beside_baselines_and_chance_with_intervals(scored: dict[str, Any]) -> None:
    assert scored["kind"] == "retrieval"
    assert scored["format_version"] == 1
    assert (scored["num_queries"], scored["num_gallery"], scored["repetitions"]) == (24, 12, [4])
    assert set(scored["arms"]) == {"model", "ridge", "centred ridge", "encoding model", "encoding by direction"}
    assert scored["summary"]["chance"] == pytest.approx({"top1": 1 / 12, "top5": 5 / 12, "mrr": 0.25860, "median_rank": 6.5}, abs=1e-4)
    for arm in ("model", "ridge", "centred ridge", "encoding model", "encoding by direction"):
        cell = scored["arms"][arm]["eeg_to_image"]["recall@1"]
        assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 1
        assert scored["summary"][arm]["top1"] == cell["value"]
    assert scored["summary"]["ridge"]["top1"] > 0.4  # 5 times chance
    assert scored["arms"]["ridge"]["null"]["p_top1"] == pytest.approx(0.01)
    assert scored["arms"]["ridge"]["null"]["null_top1"] == pytest.approx(1 / 12, abs=0.03)


def test_both_directions_are_scored_but_a_likelihood_only_within_a_query(scored: dict[str, Any]) -> None:
    assert scored["arms"]["model"]["image_to_eeg"]["recall@5"]["value"] > 0
    assert "image_to_eeg" not in scored["arms"]["encoding model"]
    assert "image_to_eeg" not in scored["arms"]["encoding by direction"]


def test_metrics_that_coincide_are_called_so(scored: dict[str, Any]) -> None:
    assert any("One image a concept" in note for note in scored["notes"])
    values = {name: cell["value"] for name, cell in scored["arms"]["model"]["eeg_to_image"].items()}
    assert values["map"] == pytest.approx(values["mrr"])
    assert values["ndcg@1"] == values["recall@1"]


def test_subjects_are_listed_and_average_to_the_whole(scored: dict[str, Any]) -> None:
    assert set(scored["by_subject"]) == {"01", "02"}
    mean = np.mean([subject["recall@1"] for subject in scored["by_subject"].values()])
    assert mean == pytest.approx(scored["summary"]["model"]["top1"])


def test_the_report_is_one_file_that_tells_how_to_read_it(images: Path, scored: dict[str, Any]) -> None:
    page = (images / "reports" / "retrieval.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    for sentence in ("tied candidates take their mean rank", "It tests chance, not leakage", "resample queries with the gallery fixed"):
        assert sentence in page
    assert scored["fingerprint"] in page


def test_the_same_config_gives_the_same_numbers(images: Path, scored: dict[str, Any], tmp_path: Path) -> None:
    assert evaluate("--export", images / "export", "--output", tmp_path, "--seed", "0") == 0
    again = results(tmp_path)
    assert again["arms"] == scored["arms"]


def test_single_trials_embedded_and_then_averaged(images: Path, tmp_path: Path) -> None:
    output = ("--output", tmp_path, "--baselines", "[]")
    assert evaluate("--export", images / "export", *output, "--average", "embedding") == 0
    found = results(tmp_path)
    assert found["average"] == "embedding"
    assert set(found["arms"]) == {"model"}
    assert found["summary"]["model"]["top5"] > 5 / 12


def test_simulated_data_are_called_simulated_and_have_a_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.helpers import tiny_study

    row = {"repetitions": 2, "top1": 0.9, "top5": 1.0}
    facts = {
        "simulated": {"seed": 0},
        "ceiling": {"gallery": 6, "subjects": {"01": {"ceiling": [row, row | {"repetitions": 4, "top1": 0.95}]}}},
    }
    source = tiny_study.TinySource.__init__

    def simulated(self: Any, config: Any) -> None:
        source(self, config)
        self.facts.preprocessing.update(facts)

    monkeypatch.setattr(tiny_study.TinySource, "__init__", simulated)
    study = write_tiny_study(tmp_path / "study", n_subjects=1, n_stimuli=30, n_test=6, n_reps=2)
    write_split(SplitConfig(study=str(study), policy="zero-shot", num_validation_concepts=2))
    write_ridge_export(study, "zero-shot", tmp_path / "export")
    assert evaluate("--export", tmp_path / "export", "--output", tmp_path / "reports", "--baselines", "[]") == 0
    found = results(tmp_path / "reports")
    assert found["simulated"] is True
    assert found["summary"]["ceiling"] == {"top1": 0.9, "top5": 1.0}
    page = (tmp_path / "reports" / "retrieval.html").read_text()
    assert "simulated EEG" in page
    assert "of the ceiling&#39;s top-1" in page
    # The ceiling is of the test images: another part has none.
    assert evaluate("--export", tmp_path / "export", "--output", tmp_path / "reports", "--baselines", "[]", "--part", "train") == 0
    assert "ceiling" not in results(tmp_path / "reports")["summary"]


# ------------------------------------------------------------------------------------------------------------ refused


def test_trials_of_training_are_not_called_a_test(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--export", images / "export", "--output", tmp_path, "--split", "other") == 1
    error = capsys.readouterr().err
    assert "the encoder was trained on" in error
    assert "split 'other' calls test" in error
    assert not (tmp_path / "retrieval.json").exists()


def test_a_contradicting_sampling_rate_is_refused(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--export", images / "export", "--output", tmp_path, "--expect_sfreq", "500") == 1
    assert "500 Hz" in (error := capsys.readouterr().err)
    assert "100 Hz" in error


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        ({"n_chans": 5}, "n_chans is 5, the encoder was trained with 4"),
        ({"sfreq": 200.0}, "sfreq is 200.0, the encoder was trained with 100.0"),
    ],
)
def test_another_montage_or_rate_is_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], reader: dict[str, Any], message: str
) -> None:
    study = write_tiny_study(tmp_path / "study", n_subjects=1, n_stimuli=30, n_test=6, **reader)
    write_split(SplitConfig(study=str(study), policy="zero-shot", num_validation_concepts=2))
    assert evaluate("--export", images / "export", "--output", tmp_path / "reports", "--study", study) == 1
    assert message in capsys.readouterr().err


def test_exactly_one_source_of_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--output", tmp_path) == 2
    assert "expected exactly one of them" in capsys.readouterr().err


MY_BASELINE = """
from dataclasses import dataclass

import numpy as np

from trainer.evaluate.baselines import Baseline, BaselineScores, Trials


@dataclass(frozen=True, kw_only=True)
class FirstImages(Baseline):
    \"\"\"Ranks images in the order of the gallery, whatever the EEG.\"\"\"

    arm: str = "in order"

    def score(self, trials: Trials) -> BaselineScores:
        order_G = -np.arange(len(trials.gallery_GE), dtype=float)
        scores_QG = np.tile(order_G, (len(trials.test), 1))
        return BaselineScores(arms={self.arm: scores_QG}, notes=("This one has not looked.",))
"""


def test_a_users_own_baseline_is_one_file_and_a_config_line(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_lab_baselines.py").write_text(MY_BASELINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ("--export", images / "export", "--output", tmp_path / "reports", "--baselines")
    assert evaluate(*command, "[{class_path: my_lab_baselines.FirstImages, init_args: {arm: shelf}}, {class_path: Ridge}]") == 0
    found = results(tmp_path / "reports")
    assert list(found["arms"]) == sorted(found["arms"]) == ["centred ridge", "model", "ridge", "shelf"]
    assert found["summary"]["shelf"]["top1"] == pytest.approx(1 / 12)
    assert "This one has not looked." in (tmp_path / "reports" / "retrieval.html").read_text()
    assert found["config"]["baselines"][0] == {"class_path": "my_lab_baselines.FirstImages", "init_args": {"arm": "shelf"}}
    capsys.readouterr()
    assert evaluate(*command, "[{class_path: my_lab_baselines.FirstImages, init_args: {arm: model}}]") == 1
    assert "baselines: FirstImages calls an arm 'model', expected a name that no other row of the table has" in capsys.readouterr().err
    assert evaluate(*command, "[{class_path: Rigde}]") == 2


def test_a_command_that_waits_says_so_at_once(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--export", images / "export", "--output", tmp_path) == 0
    said = capsys.readouterr().err.splitlines()
    for line in ("batches of test read 0/1", "batches of test embedded 0/1", "baselines 0/3", "arms scored 0/5"):
        assert line in said, "lines are there before the work is done"


def test_what_was_written_is_read_back_as_values(images: Path, scored: dict[str, Any], tmp_path: Path) -> None:
    found = read_retrieval(images / "reports" / "retrieval.json")
    assert isinstance(found, RetrievalResults)
    assert plain(found) == scored
    for changes, message in (
        ({"kind": "text"}, "kind is 'text', expected retrieval or classes"),
        ({"format_version": 7}, "format_version is 7, expected 1"),
        ({"num_queries": "many"}, "retrieval.json: num_queries: "),
        ({"arms": {"model": {"null": {}}}}, "retrieval.json: arms.model.eeg_to_image: Field required"),
    ):
        (tmp_path / "retrieval.json").write_text(json.dumps(scored | changes))
        with pytest.raises(CommandError, match=message) as caught:
            read_retrieval(tmp_path / "retrieval.json")
        assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------- class level


def test_a_class_level_study_has_auc_and_lda_and_never_retrieval(classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--export", classes / "export", "--output", classes / "reports") == 0
    found = results(classes / "reports")
    again = read_retrieval(classes / "reports" / "retrieval.json")
    assert isinstance(again, ClassLevelResults)
    assert plain(again) == found
    assert found["kind"] == "classes"
    assert set(found["arms"]) == {"model", "lda"}
    assert found["summary"]["chance"] == {"auc": 0.5, "balanced_accuracy": 0.5}
    assert found["summary"]["lda"]["auc"] > 0.8
    cell = found["arms"]["lda"]["auc"]
    assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 1
    assert found["arms"]["lda"]["null"]["p_auc"] == pytest.approx(0.01)
    page = (classes / "reports" / "retrieval.html").read_text()
    for text in (page, capsys.readouterr().out, json.dumps(found["arms"])):
        assert "recall" not in text.lower()
        assert "ndcg" not in text.lower()


def two_class_trials(index: StudyIndex, config: DataConfig) -> Trials:
    """What a baseline is given of a study with two classes."""
    train, test = (Loader(index, config, part, seed=0) for part in ("train", "test"))
    nothing = train.gallery[:0]
    return Trials(train=collect(train), test=collect(test), train_loader=train, gallery_GE=nothing, concepts_G=np.arange(2))


def test_lda_of_each_subject_is_its_own(tmp_path: Path) -> None:
    # Responses differ between subjects: one LDA for all would average them away.
    study = write_tiny_study(tmp_path / "study", stimulus_level="class", n_subjects=2, n_recordings=4, n_reps=20, noise=3.0)
    write_split(SplitConfig(study=str(study), policy="recording"))
    index = StudyIndex.open(study)
    config = DataConfig(study=str(study), split="recording", embedding="tiny")
    trials = two_class_trials(index, config)
    train, test = trials.train, trials.test
    both, shrinkages = lda_class_scores(trials)
    assert len(shrinkages) == 2
    for subject in (0, 1):
        own = {"train": train.where(train.subject_N == subject), "test": test.where(test.subject_N == subject)}
        alone, _ = lda_class_scores(replace(trials, **own))
        np.testing.assert_allclose(both[test.subject_N == subject], alone)


def test_lda_falls_back_to_automatic_shrinkage_where_there_is_nothing_to_choose_from(classes: Path) -> None:
    index = StudyIndex.open(classes / "study")
    config = DataConfig(study=str(classes / "study"), split="recording", embedding="tiny")
    trials = two_class_trials(index, config)
    one = trials.train.where(trials.train.recording_N == trials.train.recording_N[0])
    scores_QK, shrinkages = lda_class_scores(replace(trials, train=one))
    assert shrinkages == [None]
    assert class_auc(scores_QK, trials.test.concept_N) > 0.6


# --------------------------------------------------------------------------------------------------------- embeddings


def test_exported_embeddings_give_the_same_scores_as_the_export(images: Path, scored: dict[str, Any], tmp_path: Path) -> None:
    argv = ["export-embeddings", "--export", str(images / "export"), "--output", str(tmp_path / "test.npz")]
    assert main("python -m trainer", "", COMMANDS, argv) == 0
    with np.load(tmp_path / "test.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert sorted(arrays) == ["concepts", "eeg", "facts", "ids", "image", "metric", "split", "subjects"]
    assert str(arrays["metric"]) == "cosine"
    assert str(arrays["split"]) == "test"
    assert set(arrays["subjects"]) == {"01", "02"}
    np.testing.assert_allclose(np.linalg.norm(arrays["eeg"], axis=1), 1, rtol=1e-5)
    assert evaluate("--embeds", tmp_path / "test.npz", "--output", tmp_path / "reports") == 0
    found = results(tmp_path / "reports")
    for metric, cell in scored["arms"]["model"]["eeg_to_image"].items():
        assert found["arms"]["model"]["eeg_to_image"][metric]["value"] == pytest.approx(cell["value"]), metric


def test_embeddings_in_the_order_of_the_study(images: Path, tmp_path: Path) -> None:
    argv = ["export-embeddings", "--export", str(images / "export"), "--output", str(tmp_path / "test.npz")]
    assert main("python -m trainer", "", COMMANDS, argv) == 0
    encoder, index = load_encoder(images / "export"), StudyIndex.open(images / "study")
    loader = Loader(index, encoder.export.data_config(), "test", seed=0)
    host = next(loader.sequential(3))
    expected = encoder.embed(loader.prepare(host, "cpu").eeg_BCT.numpy())
    with np.load(tmp_path / "test.npz", allow_pickle=False) as file:
        np.testing.assert_allclose(file["eeg"][:3], expected, atol=1e-5)
        assert file["ids"][:3].tolist() == [index.manifest.tables.stimuli[i].id for i in host.stimulus_B]


def test_real_clip_vectors_as_embeddings(tmp_path: Path) -> None:
    folder = shared_data() / "things_clip"
    vectors, centres = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("clip_feature_maps_test", "center_clip"))
    np.savez(tmp_path / "clip.npz", eeg=vectors[:, 0], img=centres)
    assert evaluate("--embeds", tmp_path / "clip.npz", "--output", tmp_path) == 0
    found = results(tmp_path)
    assert found["num_gallery"] == 200
    assert found["summary"]["model"]["top1"] == pytest.approx(0.98)
    assert found["summary"]["model"]["top5"] == 1.0


def test_rows_that_share_an_image_share_a_candidate(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image_GE, stimulus_Q = rng.standard_normal((5, 8)), np.repeat(np.arange(5), 3)
    np.savez(tmp_path / "e.npz", eeg=image_GE[stimulus_Q] + 0.1 * rng.standard_normal((15, 8)), image=image_GE[stimulus_Q])
    assert evaluate("--embeds", tmp_path / "e.npz", "--output", tmp_path) == 0
    found = results(tmp_path)
    assert (found["num_queries"], found["num_gallery"]) == (15, 5)
    assert found["summary"]["model"]["top1"] == 1.0
    assert found["arms"]["model"]["image_to_eeg"]["map"]["value"] == 1.0


@pytest.mark.parametrize("scale", [1e-20, 1e-4, 1.0, 1e3, 1e20])
def test_rows_of_one_id_may_differ_by_rounding_at_any_scale(tmp_path: Path, scale: float) -> None:
    rng = np.random.default_rng(0)
    image_GE, ids_Q = scale * rng.standard_normal((5, 8)), np.repeat(np.arange(5), 3)
    image_QE = (image_GE[ids_Q] * (1 + 2e-4 * rng.uniform(-1, 1, (15, 8)))).astype(np.float32)
    np.savez(tmp_path / "e.npz", eeg=image_GE[ids_Q] / scale, image=image_QE, ids=ids_Q)
    assert evaluate("--embeds", tmp_path / "e.npz", "--output", tmp_path) == 0
    assert results(tmp_path)["num_gallery"] == 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"eeg": np.eye(3)}, "expected eeg and image"),
        ({"eeg": np.eye(3), "image": np.eye(4)}, r"eeg has shape \(3, 3\) and image \(4, 4\)"),
        ({"eeg": np.full((2, 2), np.nan), "image": np.eye(2)}, "eeg holds values that are not finite"),
        ({"eeg": np.eye(2), "image": np.eye(2), "ids": np.array(["a"])}, r"ids has shape \(1,\), expected \(2,\)"),
        ({"eeg": np.eye(2), "image": np.eye(2), "ids": np.array(["a", "a"])}, "rows 0 and 1 have the id"),
        *(
            (
                {"eeg": np.eye(2), "image": np.eye(2) * scale, "ids": np.array(["a", "a"])},
                "rows 0 and 1 have the id 'a' but other image embeddings",
            )
            for scale in (1e-30, 1e-6, 1e-4, 1e6, 1e30)
        ),
        (
            {"eeg": np.eye(3), "image": np.eye(3)[[0, 0, 1]], "ids": np.array([7, 7, 8]), "concepts": np.array(["ant", "bee", "bee"])},
            "rows 0 and 1 have the id 7 but other concepts",
        ),
        *(
            ({"eeg": np.eye(3), "image": np.eye(3), name: np.array([1.0, np.nan, np.nan])}, f"{name} of row 1 is nan, expected a value")
            for name in ("ids", "concepts", "subjects")
        ),
        ({"eeg": np.zeros((2, 2)), "image": np.eye(2)}, r"npz: row 0 of eeg has no direction \(norm 0\)"),
        ({"eeg": np.eye(2), "image": np.diag([1, 1e-44]).astype("f4")}, r"npz: row 1 of image has no direction"),
        ({"eeg": np.eye(2) * 1e300, "image": np.eye(2)}, r"npz: row 0 of eeg has no direction \(norm inf\)"),
        ({"eeg": np.empty((0, 2)), "image": np.empty((0, 2))}, r"npz: eeg has shape \(0, 2\)"),
        ({"eeg": np.array([object()]), "image": np.eye(1)}, "not an archive of plain arrays"),
    ],
)
def test_bad_embeddings_are_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "e.npz", **arrays)  # type: ignore[arg-type]
    assert evaluate("--embeds", tmp_path / "e.npz", "--output", tmp_path / "reports") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "reports").exists()


def test_one_array_where_embeddings_are_expected_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "e.npy", np.eye(3))
    assert evaluate("--embeds", tmp_path / "e.npy", "--output", tmp_path / "reports") == 1
    assert "not an archive of plain arrays (.npz): truncated, altered or of another format (one array, a .npy)" in capsys.readouterr().err


def test_hostile_names_do_not_reach_the_page(tmp_path: Path) -> None:
    arrays = {"eeg": np.eye(4), "image": np.eye(4), "subjects": np.array(["<script>alert(1)</script>", "b", "b", "b"])}
    path = tmp_path / "<b>x.npz"
    np.savez(path, **arrays)
    assert evaluate("--embeds", path, "--output", tmp_path / "reports") == 0
    page = (tmp_path / "reports" / "retrieval.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page


def test_chance_of_a_small_gallery() -> None:
    assert chance(1) == {"top1": 1.0, "top5": 1.0, "mrr": 1.0, "median_rank": 1.0}
    assert chance(200)["top5"] == pytest.approx(0.025)


def test_every_config_of_this_folder_is_read() -> None:
    from data_prep.contract.cli import parse
    from trainer.evaluate.export_embeddings import ExportEmbeddingsConfig
    from trainer.evaluate.retrieval.config import EvaluateRetrievalConfig

    folder = Path(__file__).parents[2] / "configs" / "evaluate"
    for name in ("retrieval", "embeds"):
        parse(EvaluateRetrievalConfig, ["--config", str(folder / f"{name}.yaml")])
    parse(ExportEmbeddingsConfig, ["--config", str(folder / "export_embeddings.yaml")])


@pytest.mark.parametrize("below", ["", "/reports", "/a/b"])
@pytest.mark.parametrize("command", ["evaluate-retrieval", "evaluate-classes", "export-embeddings", "evaluate-text"])
def test_an_output_that_cannot_be_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, below: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for taken in ("file", "dangling"):
        output = f"{tmp_path / taken}{below}" + ("/e.npz" if command == "export-embeddings" else "")
        source = ("--generations", "[nowhere]") if command == "evaluate-text" else ("--export", "nowhere")
        assert main("python -m trainer", "", COMMANDS, [command, *source, "--output", output]) == 1
        assert capsys.readouterr().err == f"error: output: {tmp_path / taken} is no folder, expected one or a new name\n"
    assert (tmp_path / "file").read_text() == "mine"
