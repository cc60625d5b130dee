"""The encoding task on a tiny study: its run folder, its export by every command that takes one, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from data_prep.contract.cli import main
from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.files import read_json, write_json
from tests.distributed.training import write_split
from tests.helpers.tiny_study import write_tiny_study
from trainer.__main__ import COMMANDS
from trainer.artifacts.encoder import LikelihoodEncoder, load_encoder, load_network
from trainer.artifacts.part import collect, embed, open_part
from trainer.evaluate.baselines import EncodingByDirection
from trainer.evaluate.baselines.base import Trials
from trainer.evaluate.embeddings import read_embeddings
from trainer.evaluate.model_scores import model_scores
from trainer.evaluate.retrieval.results import read_retrieval
from trainer.serve.register import make_gallery
from trainer.training.completed import read_completed
from trainer.training.data_pass import SUMS
from trainer.training.run_folder import RunFolder
from trainer.training.verify import verify


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoding")
    root = write_tiny_study(
        folder / "study", n_subjects=3, n_stimuli=72, n_test=12, samples_per_shard=10, vary_reps=True, n_times=12, noise=3.0
    )
    train = {"stimulus": list(range(50)), "subject": [0, 1]}
    write_split(root, "tiny", train=train, validation={"stimulus": list(range(50, 60))}, test={"stimulus": list(range(60, 72))})
    write_split(root, "other", train={"stimulus": list(range(60, 72))}, test={"stimulus": list(range(50))})
    return folder


def encoding(home: Path, run: str, *arguments: str) -> int:
    data = ("--data.study", str(home / "study"), "--data.split", "tiny", "--data.embedding", "tiny")
    return main("trainer", "", COMMANDS, ["encoding", "--run", str(home / run), *data, "--mlflow.enabled", "false", *arguments])


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    assert encoding(home, "run", "--train.global_batch_size", "17", "--checkpoint.every_steps", "2", "--checkpoint.keep_last", "9") == 0
    return home / "run"


@pytest.fixture(scope="module")
def encoder(run: Path) -> LikelihoodEncoder:
    found = load_encoder(run / "export")
    assert isinstance(found, LikelihoodEncoder)
    return found


def fitted(run: Path) -> dict[str, np.ndarray]:
    """The models in a run's last checkpoint."""
    latest = RunFolder(run).pointed("latest")
    assert latest is not None
    return {name: array for name, array in load_file(latest / SUMS).items() if name.startswith("fitted.")}


def test_a_run_leaves_what_any_run_leaves(run: Path, encoder: LikelihoodEncoder) -> None:
    completed = read_completed(run)
    assert completed is not None
    assert (completed.step, completed.samples_seen, completed.reason, completed.score_name) == (6, 100, "finished", "mrr")
    assert completed.best_step == encoder.export.step == 6
    assert completed.best_score is not None
    assert completed.best_score > 0.5
    assert {path.name for path in run.iterdir()} >= {"config.yaml", "identity.json", "events.jsonl", "latest", "best", "heartbeat", "owner"}
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000002", "step-00000004", "step-00000006"]
    assert verify(run) == []
    assert encoder.export.metric == "likelihood"
    assert encoder.export.trained_subjects == ("01", "02")
    assert encoder.export.chosen_by is None, "nothing was chosen by validation trials"
    assert encoder.export.trained is not None
    assert encoder.export.simulated is False


def test_neither_steps_nor_a_resume_in_the_middle_changes_a_bit(home: Path, run: Path) -> None:
    assert encoding(home, "one-step", "--train.global_batch_size", "5000") == 0
    middle = run / "checkpoints" / "step-00000004"
    assert encoding(home, "resumed", "--resume", str(middle), "--train.global_batch_size", "9") == 0
    expected = fitted(run)
    assert {name.split(".")[1] for name in expected} == {"-1", "0", "1"}
    for other in ("one-step", "resumed"):
        found = fitted(home / other)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{other}: {name}")


def test_the_export_scores_as_the_baseline_does(encoder: LikelihoodEncoder) -> None:
    loader, train = open_part(encoder, None, None, "test"), open_part(encoder, None, None, "train")
    part, gallery_GE = collect(loader), loader.gallery[loader.stimuli]
    assert set(part.n_reps_N.tolist()) == {3, 4}
    trials = Trials(train=collect(train), test=part, train_loader=train, gallery_GE=gallery_GE, concepts_G=np.empty(0, np.int64))
    expected = EncodingByDirection().score(trials).arms["encoding by direction"]
    assert not isinstance(expected, np.ndarray)
    z_QP = embed(loader, encoder.embed_batch, encoder.device)
    found_QG = model_scores(encoder, z_QP, part.subject_N, part.n_reps_N, gallery_GE).whole()
    expected_QG = expected.whole()
    assert np.abs(found_QG - expected_QG).max() <= 1e-4 * np.abs(expected_QG).max()  # the export's EEG side is float32
    np.testing.assert_array_equal(found_QG.argmax(axis=1), expected_QG.argmax(axis=1))
    assert 0.2 < (found_QG.argmax(axis=1) == np.searchsorted(loader.stimuli, part.stimulus_N)).mean() < 1


@pytest.mark.parametrize("subject", ["01", "03", None])
def test_squared_distances_are_likelihoods_by_repetitions(encoder: LikelihoodEncoder, subject: str | None) -> None:
    draw = np.random.RandomState(0)
    images = draw.standard_normal((9, encoder.export.build.embedding_dim)).astype(np.float32)
    eeg = draw.standard_normal((3, 4, len(encoder.signal.ch_names), encoder.signal.n_times)).astype(np.float32)
    rows = encoder.gallery_rows(images)
    for given, each, n_reps in ((eeg, 1, 4), (eeg.mean(axis=1), 4, 4), (eeg[:, 0], 1, 1)):
        z_BP, image_GP = encoder.embed(given, subject, n_reps=each), encoder.embed_image(images, subject, n_reps)
        distance_BG = np.square(z_BP[:, None] - image_GP).sum(axis=2)
        scores_BG = encoder.scores(given, rows, subject, n_reps=each)
        np.testing.assert_allclose(scores_BG, -0.5 * distance_BG, rtol=1e-4, atol=1e-4)
        number = encoder.export.subjects.index(subject) if subject else -1
        row = encoder.model.sizes.model_of_subject[number] if number in (0, 1) else encoder.model.sizes.model_of_others
        model = encoder.model.model(row)
        averaged = given.mean(axis=1) if given.ndim == 4 else given
        likelihood_BG = model.log_likelihood(averaged, n_reps, images)
        differences = scores_BG - scores_BG[:, :1], likelihood_BG - likelihood_BG[:, :1]
        np.testing.assert_allclose(*differences, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="n_reps is 0"):
        encoder.embed(eeg, n_reps=0)
    with pytest.raises(UserError, match="subject is '09'"):
        encoder.embed_image(images, "09")


def test_evaluated_from_the_export(home: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--num_resamples", "20", "--num_permutations", "20", "--mlflow", "false"]
    config = ["--baselines", "[{class_path: EncodingByDirection}]"]
    reports = home / "reports"
    assert main("trainer", "", COMMANDS, ["evaluate-retrieval", "--export", str(run), "--output", str(reports), *config, *arguments]) != 0
    export = ["--export", str(run / "export"), "--output", str(reports)]
    assert main("trainer", "", COMMANDS, ["evaluate-retrieval", *export, *config, *arguments]) == 0
    found: Any = read_retrieval(reports / "retrieval.json")
    assert found.summary["model"] == found.summary["encoding by direction"]
    assert found.arms["model"].image_to_eeg is None
    assert "on 30 validation trials of 10 stimuli: nothing was chosen by it." in capsys.readouterr().out
    refused = ["export-embeddings", "--export", str(run / "export"), "--output", str(home / "z.npz")]
    assert main("trainer", "", COMMANDS, refused) != 0, "averages of 3 and of 4 repetitions"


def test_a_file_of_embeddings_says_its_metric(tmp_path: Path) -> None:
    root = write_tiny_study(tmp_path / "study", n_stimuli=40, n_test=10, samples_per_shard=10, n_times=12, noise=3.0)
    write_split(root, "tiny", train={"stimulus": list(range(30))}, test={"stimulus": list(range(30, 40))})
    assert encoding(tmp_path, "run") == 0
    file, rest = tmp_path / "z.npz", ["--num_resamples", "20", "--num_permutations", "20", "--mlflow", "false"]
    export = ["--export", str(tmp_path / "run" / "export")]
    assert main("trainer", "", COMMANDS, ["export-embeddings", *export, "--output", str(file)]) == 0
    assert read_embeddings(file).metric == "likelihood"
    for name, source in (("a", export), ("b", ["--embeds", str(file)])):
        assert main("trainer", "", COMMANDS, ["evaluate-retrieval", *source, "--output", str(tmp_path / name), *rest]) == 0
    one, other = (read_json(tmp_path / name / "retrieval.json")["summary"]["model"] for name in ("a", "b"))
    assert one == other
    assert one["top1"] > 0.3
    arrays = dict(np.load(file))
    np.savez(tmp_path / "odd.npz", **(arrays | {"metric": np.array("angle")}))
    with pytest.raises(CommandError, match="metric is 'angle', expected cosine or likelihood"):
        read_embeddings(tmp_path / "odd.npz")


def test_a_gallery_keeps_what_every_trial_can_be_compared_with(encoder: LikelihoodEncoder) -> None:
    loader = open_part(encoder, None, None, "test")
    gallery = make_gallery(encoder, loader)
    np.testing.assert_array_equal(gallery.embedding_GK, loader.gallery[loader.stimuli])
    assert gallery.embedding_GK.shape[1] == encoder.gallery_width


def test_a_metric_that_contradicts_the_rest_is_refused(run: Path, tmp_path: Path) -> None:
    config = read_json(run / "export" / "config.json")
    for name, changes, says in (
        ("cosine", {"metric": "cosine"}, "metric: cosine, expected likelihood"),
        ("no models", {"encoding": None}, "metric: likelihood, expected cosine"),
        ("unknown", {"metric": "angle"}, "metric: Input should be 'cosine' or 'likelihood'"),
        ("row", {"encoding": config["encoding"] | {"model_of_others": 7}}, "names model 7, expected one of its 3"),
        ("width", {"embedding_dim": 1}, "embedding_dim: 1, expected"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        written = {key: value for key, value in (config | changes).items() if key != "encoding" or value is not None}
        write_json(folder / "config.json", written)
        (folder / "model.safetensors").write_bytes((run / "export" / "model.safetensors").read_bytes())
        with pytest.raises(CommandError, match=says):
            load_encoder(folder)


def test_trials_that_it_learnt_from_are_not_called_held_out(encoder: LikelihoodEncoder) -> None:
    with pytest.raises(CommandError, match=r"the encoder was trained on \d+ of .*training trials of 'tiny'"):
        open_part(encoder, None, "other", "test")


def test_layers_of_a_network_are_not_asked_of_it(run: Path) -> None:
    with pytest.raises(CommandError, match="metric is likelihood, expected cosine: an encoder of a contrastive training"):
        load_network(run / "export")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--data.repetitions", "each"), "data.repetitions: each, expected mean"),
        (("--data.select.fraction", "0.1"), "rows in"),
        (("--train.global_batch_size", "0"), "train.global_batch_size: 0, expected a positive number"),
        (("--train.world_size", "2"), "train.world_size: 2 ranks were asked for, but 1 started"),
        (("--resume", "latest"), "has no checkpoint"),
        (("--model.most_directions", "0"), "model.most_directions: 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    home: Path, tmp_path: Path, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encoding(home, str(tmp_path / "refused"), *arguments) != 0
    assert says in " ".join(capsys.readouterr().err.split())


def test_another_experiment_does_not_go_on_from_it(home: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run / "identity.json").read_text())
    assert encoding(home, "run", "--resume", "latest", "--model.most_directions", "5") != 0
    assert "model.most_directions was 1200 when this run began and is 5 now" in " ".join(capsys.readouterr().err.split())
    assert json.loads((run / "identity.json").read_text()) == before
