"""A run serves the version that it registered itself, as it registered it: aliases move, versions are deleted, files are altered."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, sha256_file, write_json
from tests.integration.test_serving import make_run
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.part import open_part
from trainer.callbacks.mlflow_store import experiment_id, open_store
from trainer.serve.command import ServeConfig, version_to_serve
from trainer.serve.config import RegisterConfig
from trainer.serve.package import example
from trainer.serve.register import run
from trainer.serve.registered import read_registered, write_registered
from trainer.serve.versions import Version, named_version
from trainer.serve.whole import FILES, META, TAG, check_files, write_files
from trainer.training.completed import Completed, write_completed
from trainer.training.tracking import MlflowConfig

pytestmark = pytest.mark.timeout(300)
NAME = "shared"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on two studies in one registry, registered under one name in turn: a has version 1, b 2, a again 3."""
    folder = tmp_path_factory.mktemp("registered")
    store = f"sqlite:///{folder / 'store.db'}"
    runs = {"a": make_run(folder / "a"), "b": make_run(folder / "b", seed=5)}
    for name in ("a", "b", "a"):
        run(RegisterConfig(run=str(runs[name]), name=NAME, tracking_uri=store))
        shutil.copyfile(runs[name] / "registered.json", folder / f"registered-{name}.json")
    return folder


def folder_of(home: Path, name: str) -> Path:
    return home / name / "runs" / "one"


def client(home: Path) -> Any:
    import mlflow

    uri = f"sqlite:///{home / 'store.db'}"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient()


def served(home: Path, name: str, tmp_path: Path) -> tuple[str, Path]:
    """URI and folder of what ``serve --run`` serves."""
    version, folder = version_to_serve(ServeConfig(run=str(folder_of(home, name)), port=0), tmp_path)
    return version.model_uri, folder


def test_a_run_serves_what_it_registered_itself_wherever_the_alias_is(home: Path, tmp_path: Path) -> None:
    own, drawn = {"a": "3", "b": "2"}, random.Random(0)
    for alias in (None, *drawn.choices(["1", "2", "3", ""], k=6)):
        if alias == "":
            client(home).delete_registered_model_alias(NAME, "candidate")
        elif alias:
            client(home).set_registered_model_alias(NAME, "candidate", alias)
        for name, version in own.items():
            uri, folder = served(home, name, tmp_path)
            assert uri == f"models:/{NAME}/{version}" == read_registered(folder_of(home, name)).model_uri
            weights = "artifacts/export/model.safetensors"
            assert sha256_file(folder / weights) == sha256_file(folder_of(home, name) / "export" / "model.safetensors")
            fingerprint = read_json(folder / "artifacts/gallery/gallery.json")["fingerprint"]
            assert fingerprint == load_encoder(folder_of(home, name) / "export").export.fingerprint
    client(home).set_registered_model_alias(NAME, "candidate", "2")
    version, _ = version_to_serve(
        ServeConfig(model_uri=f"models:/{NAME}@candidate", tracking_uri=f"sqlite:///{home / 'store.db'}"), tmp_path
    )
    assert version.model_uri == f"models:/{NAME}/2", "an alias is followed once, for all workers"


@pytest.mark.parametrize("when", ["as registered", "trained on", "export is gone", "export of another kind"])
def test_a_run_that_was_trained_on_since_says_that_its_registered_weights_are_others(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    copy = Path(shutil.copytree(folder_of(home, "b"), tmp_path / "run"))
    weights = copy / "export" / "model.safetensors"
    if when == "trained on":
        flipped(weights, random.Random(0))
    elif when == "export is gone":
        shutil.rmtree(copy / "export")
    elif when == "export of another kind":
        weights.rename(copy / "export" / "adapter.safetensors")
    version, _ = version_to_serve(ServeConfig(run=str(copy), port=0), tmp_path)
    said = f"note: {copy / 'export'} holds other weights than models:/{NAME}/2, which is served: run `python -m trainer register`"
    assert version.model_uri == f"models:/{NAME}/2"
    assert (said in capsys.readouterr().err) == (when == "trained on")


def test_a_registration_of_an_earlier_version_is_followed_by_its_number(home: Path, tmp_path: Path) -> None:
    path = folder_of(home, "b") / "registered.json"
    kept = read_json(path)
    write_json(path, {name: value for name, value in kept.items() if name != "files_sha256"} | {"model_uri": f"models:/{NAME}@candidate"})
    client(home).set_registered_model_alias(NAME, "candidate", "3")
    assert served(home, "b", tmp_path)[0] == f"models:/{NAME}/2"
    write_json(path, kept)


def test_a_version_that_is_gone_or_anothers_is_a_sentence(home: Path, tmp_path: Path) -> None:
    folder = folder_of(home, "a")
    kept = read_registered(folder)
    for changes, says in (
        ({"version": "7"}, rf"^run: version 7 of {NAME}, which .* registered, is not in sqlite:.*: run .*register` again$"),
        ({"name": "nowhere"}, r"^run: version 3 of nowhere, which .* registered, is not in sqlite:"),
        ({"version": "2"}, rf"^run: version 2 of {NAME} in sqlite:.* belongs to the run \w+, expected {kept.run_id}, that of "),
        ({"tracking_uri": f"sqlite:///{home / 'empty.db'}"}, rf"^run: version 3 of {NAME}, which .* is not in sqlite:"),
    ):
        write_registered(folder, replace(kept, **changes))
        with pytest.raises(CommandError, match=says) as caught:
            served(home, "a", tmp_path)
        assert "\n" not in str(caught.value)
    write_registered(folder, kept)
    model = client(home)
    source = model.get_model_version(NAME, "1").source
    model.create_registered_model("again")
    model.create_model_version("again", source, run_id=read_registered(folder_of(home, "b")).run_id)
    write_registered(folder, replace(kept, name="again", version="1"))
    with pytest.raises(CommandError, match=r"belongs to the run"):
        served(home, "a", tmp_path)  # deleted, and made anew by another run under the same name and number
    model.delete_model_version("again", "1")
    with pytest.raises(CommandError, match=r"version 1 of again, which .* is not in"):
        served(home, "a", tmp_path)
    write_registered(folder, kept)
    assert served(home, "a", tmp_path)[0] == f"models:/{NAME}/3"


@pytest.mark.parametrize("rest", [f"{NAME}/99", "nowhere/1", "nowhere@candidate"])
def test_a_uri_of_a_model_that_is_not_registered_says_so(home: Path, rest: str) -> None:
    uri = f"models:/{rest}"
    with pytest.raises(CommandError, match=rf"^model_uri: {uri} is not in the registry, or is deleted: expected "):
        named_version(uri, f"sqlite:///{home / 'store.db'}")


def test_a_deleted_run_is_registered_under_a_new_one_and_a_deleted_experiment_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    uri = MlflowConfig().uri(folder)
    store = open_store(uri, 5)
    experiment = experiment_id(store, "contrastive", uri)
    deleted = store.create_run(experiment).info.run_id
    store.delete_run(deleted)
    write_completed(folder, Completed(step=0, best_score=None, best_step=0, score_name=None, tracking_run_id=deleted))
    run(RegisterConfig(run=str(folder), name="again"))
    assert store.get_run(read_registered(folder).run_id).info.lifecycle_stage == "active"
    store.delete_experiment(experiment)
    with pytest.raises(CommandError, match=rf"^mlflow.experiment: 'contrastive' is deleted in .*restore --experiment-id {experiment}"):
        run(RegisterConfig(run=str(folder), name="again"))


@pytest.mark.parametrize("scheme", ["models", "MODELS", "Models", " models"])
def test_however_its_scheme_is_spelled_a_version_is_held_against_its_hashes(home: Path, tmp_path: Path, scheme: str) -> None:
    uri, store = f"{scheme}:/{NAME}/2", f"sqlite:///{home / 'store.db'}"
    found = named_version(uri, store)
    assert found == Version(model_uri=f"models:/{NAME}/2", files_sha256=client(home).get_model_version(NAME, "2").tags[TAG])


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/x", "foo://bucket/model", "runs:/x/y", "models:/../x/1", "models:", "/nowhere"])
def test_a_uri_of_any_kind_that_names_no_model_is_a_sentence(home: Path, tmp_path: Path, uri: str) -> None:
    with pytest.raises(CommandError, match=rf"^model_uri: {uri} cannot be read: ") as caught:
        version_to_serve(ServeConfig(model_uri=uri, tracking_uri=f"sqlite:///{home / 'store.db'}", port=0), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("study", "expected"),
    [("studies/muse", "muse"), ("/data/THINGS EEG2 (v1)/", "THINGS-EEG2-v1"), ("ümlaut", "mlaut"), ("..#..", "study"), ("a/../b", "b")],
)
def test_the_name_holds_the_task_and_the_study(study: str, expected: str) -> None:
    study = study.replace("a/../b", "b")
    assert RegisterConfig(run="r").named("eeg-retrieval", study).name == f"eeg-retrieval-{expected}"
    assert RegisterConfig(run="r", name="mine").named("eeg-retrieval", study).name == "mine"


# ---------------------------------------------------------------------------------------------------------- tampering


def flipped(path: Path, drawn: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
    path.write_bytes(bytes(data))


@pytest.fixture
def model(home: Path, tmp_path: Path) -> Path:
    """A copy of a registered model's folder."""
    return Path(shutil.copytree(served(home, "a", tmp_path)[1], tmp_path / "model"))


@pytest.mark.long
def test_every_flipped_bit_of_every_file_is_named(home: Path, model: Path) -> None:
    drawn, sha256 = random.Random(1), read_registered(folder_of(home, "a")).files_sha256
    files = [path for path in sorted(model.rglob("*")) if path.is_file() and path.name != META and path.stat().st_size]
    assert {"model.safetensors", "gallery.npz", "MLmodel", "encoder.py", FILES} <= {path.name for path in files}
    assert len(files) > 100
    for path in (*files, *drawn.choices(files, k=100)):
        whole = path.read_bytes()
        flipped(path, drawn)
        with pytest.raises(CommandError, match=rf"{path.name}: not the file that was registered"):
            check_files(model, sha256)
        path.write_bytes(whole)
    check_files(model, sha256)


def test_files_that_are_cut_gone_new_or_exchanged_are_named(home: Path, model: Path) -> None:
    sha256 = read_registered(folder_of(home, "a")).files_sha256
    weights, gallery = model / "artifacts/export/model.safetensors", model / "artifacts/gallery/gallery.npz"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-100])
    with pytest.raises(CommandError, match=r"model\.safetensors: not the file that was registered"):
        check_files(model, sha256)
    weights.unlink()
    with pytest.raises(CommandError, match=r"model\.safetensors: no such file, it was there when the model was registered"):
        check_files(model, sha256)
    weights.symlink_to(gallery)
    with pytest.raises(CommandError, match=r"model\.safetensors: not the file"):
        check_files(model, sha256)
    weights.unlink()
    weights.write_bytes(kept)
    for name in ("code/torch.py", "artifacts/export/transform.npz", "code/trainer/__pycache__/evil.py", "artifacts/__pycache__/x.pyc"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"1")
        with pytest.raises(CommandError, match="not a file that was registered: it came later"):
            check_files(model, sha256)
        (model / name).unlink()
    weights.write_bytes(kept[::-1])
    write_files(model)  # whoever changes the weights may change the list, but not what the registry and the run folder say of it
    check_files(model, None)
    with pytest.raises(CommandError, match=rf"{FILES}: not the file that was registered"):
        check_files(model, sha256)


def test_serve_and_mlflow_refuse_what_was_altered_in_the_store(home: Path, tmp_path: Path) -> None:
    import mlflow

    uri, folder = served(home, "a", tmp_path)
    client(home)
    drawn = random.Random(2)
    for name in ("artifacts/export/model.safetensors", "artifacts/export/config.json", "artifacts/gallery/gallery.npz", "requirements.txt"):
        path = folder / name
        whole = path.read_bytes()
        flipped(path, drawn)
        with pytest.raises(CommandError, match=rf"^model_uri: {uri} cannot be loaded: .*{path.name}: not the file that was registered"):
            served(home, "a", tmp_path)
        with pytest.raises(mlflow.exceptions.MlflowException, match=rf"{path.name}: not the file that was registered"):
            mlflow.pyfunc.load_model(uri)
        listed = (folder / FILES).read_bytes()
        write_files(folder)
        for load in (lambda: served(home, "a", tmp_path), lambda: mlflow.pyfunc.load_model(uri)):
            with pytest.raises((CommandError, mlflow.exceptions.MlflowException), match=rf"{FILES}: not the file that was registered"):
                load()
        (folder / FILES).write_bytes(listed)
        path.write_bytes(whole)
    compiled = folder / "code/trainer/__pycache__/losses.cpython-311.pyc"
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(b"another program")
    served(home, "a", tmp_path)
    assert not compiled.exists(), "what Python compiled is run in the code's place, and stands in no list"
    assert client(home).get_model_version(NAME, "3").tags[TAG] == read_registered(folder_of(home, "a")).files_sha256


def test_a_version_without_hashes_is_said_and_served(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = served(home, "b", tmp_path)
    listed = (folder / FILES).read_bytes()
    (folder / FILES).unlink()
    with pytest.raises(CommandError, match=rf"{FILES}: no such file"):
        served(home, "b", tmp_path)
    registered = read_registered(folder_of(home, "b"))
    client(home).delete_model_version_tag(NAME, "2", TAG)
    write_registered(folder_of(home, "b"), replace(registered, files_sha256=""))
    assert served(home, "b", tmp_path)[0] == f"models:/{NAME}/2"
    assert "without hashes of its files: they are not checked" in capsys.readouterr().err
    (folder / FILES).write_bytes(listed)
    client(home).set_model_version_tag(NAME, "2", TAG, registered.files_sha256)
    write_registered(folder_of(home, "b"), registered)


# -------------------------------------------------------------------------------------------------------------- inputs


def test_a_loaded_model_takes_any_numbers_lists_and_repetitions(home: Path, tmp_path: Path) -> None:
    import mlflow

    uri, _ = served(home, "a", tmp_path)
    client(home)
    loaded = mlflow.pyfunc.load_model(uri)
    trial_BCT, params = example(open_part(load_encoder(folder_of(home, "a") / "export"), None, None, "test"))
    (expected,) = loaded.predict(trial_BCT, params=params)
    repeated = np.repeat(trial_BCT[:, None], 3, axis=1)
    for given in (trial_BCT.astype(np.float64), trial_BCT.tolist(), repeated, repeated.astype(np.float64), repeated.tolist()):
        (found,) = loaded.predict(given, params=params)
        assert found["stimuli"] == expected["stimuli"]
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
    for given, says in (
        (trial_BCT * 1e-6, "trial 0 has a level of .* microvolts"),
        (trial_BCT * 1e30, "trial 0 has a level of .* microvolts"),
        ((trial_BCT * 0).tolist(), "trial 0 is constant"),
    ):
        with pytest.raises(mlflow.exceptions.MlflowException, match=says):
            loaded.predict(given, params=params)
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"params\.subject is 'nobody', expected one of"):
        loaded.predict(trial_BCT, params={"subject": "nobody"})
