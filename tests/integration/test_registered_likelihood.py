"""An encoding model in the registry: a loaded version ranks by likelihood, for each subject and number of repetitions, as its export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.contract.cli import main
from tests.distributed.training import write_split
from tests.helpers.tiny_study import write_tiny_study
from trainer.__main__ import COMMANDS
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.part import open_part
from trainer.serve.registered import read_registered

pytestmark = pytest.mark.timeout(300)


def test_a_registered_version_ranks_by_likelihood(tmp_path: Path) -> None:
    root = write_tiny_study(tmp_path / "study", n_subjects=2, n_stimuli=40, n_test=8, samples_per_shard=10, n_times=12, noise=3.0)
    write_split(root, "tiny", train={"stimulus": list(range(32))}, test={"stimulus": list(range(32, 40))})
    run, store = tmp_path / "run", f"sqlite:///{tmp_path / 'store.db'}"
    data = ("--data.study", str(root), "--data.split", "tiny", "--data.embedding", "tiny")
    assert main("trainer", "", COMMANDS, ["encoding", "--run", str(run), *data, "--mlflow.tracking_uri", store]) == 0
    assert main("trainer", "", COMMANDS, ["register", "--run", str(run), "--top_k", "3"]) == 0

    import mlflow

    registered = read_registered(run)
    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    model = mlflow.pyfunc.load_model(registered.model_uri)
    tags = mlflow.MlflowClient().get_model_version(registered.name, registered.version).tags
    assert (tags["metric"], tags["simulated"]) == ("likelihood", "False")

    encoder = load_encoder(run / "export")
    loader = open_part(encoder, None, None, "test")
    stimuli = [loader.index.manifest.tables.stimuli[number].id for number in loader.stimuli.tolist()]
    host = loader.samples_batch(np.flatnonzero(loader.item_subjects == 0))
    repeated = host.repetitions_RCT.numpy().astype(np.float32).reshape(len(host), -1, loader.n_chans, loader.n_times)
    rows, right = encoder.gallery_rows(loader.gallery[loader.stimuli]), 0
    for given, params in ((repeated, {"subject": "01"}), (repeated.mean(axis=1), {"subject": "01", "n_reps": 4}), (repeated[:, 0], {})):
        answers = model.predict(given, params=params)
        scores_BG = encoder.scores(given, rows, params.get("subject"), n_reps=params.get("n_reps", 1))  # type: ignore[arg-type]
        for answer, scores_G, stimulus in zip(answers, scores_BG, host.stimulus_B.tolist(), strict=True):
            best = np.argsort(-scores_G, kind="stable")[:3]
            assert answer["stimuli"] == [stimuli[number] for number in best]
            np.testing.assert_allclose(answer["scores"], scores_G[best], rtol=1e-5)
            right += answer["stimuli"][0] == loader.index.manifest.tables.stimuli[stimulus].id
    assert right >= 8, "of 24; chance is 3"
