"""An exported encoder gives for raw trials what training's path gives, and refuses what it was not trained for."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.files import read_json, write_json
from data_prep.contract.manifest import read_manifest
from data_prep.contract.memory import peak_memory_bytes
from data_prep.contract.split import read_split
from tests.distributed.training import write_split
from tests.helpers.tiny_study import write_tiny_study
from trainer.artifacts.command import ExportConfig, run
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.encoder_export import write_export
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.data.select import SelectConfig
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoders import TSConv
from trainer.training.lineage import Lineage

ENCODER = TSConv(num_filters=3, kernel_samples=3, pool_samples=4, stride_samples=2)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tiny_study(tmp_path_factory.mktemp("export") / "study", n_stimuli=12, n_test=4, n_subjects=3)
    write_split(root, "tiny", train={"stimulus": list(range(8)), "subject": [0, 1]}, test={"stimulus": [8, 9, 10, 11]})
    manifest = read_manifest(root)
    random = np.random.RandomState(0)
    (root / "transforms").mkdir()
    np.savez(
        root / "transforms" / "whitened.npz",
        subject=np.repeat([0, 1, 2], 2),
        session=np.tile([0, 1], 3),
        matrix=random.standard_normal((6, 4, 4)).astype(np.float32),
        mean=random.standard_normal((6, 4)).astype(np.float32),
        split_hash=np.array(read_split(root, manifest, "tiny").hash),
        kind=np.array("mvnn"),
    )
    return root


def export(study: Path, output: Path, model: ContrastiveModelConfig, **data: object) -> Loader:
    index = StudyIndex.open(study)
    loader = Loader(index, DataConfig(study=str(study), split="tiny", embedding="tiny", **data), "train", seed=0)  # type: ignore[arg-type]
    torch.manual_seed(0)
    sizes = {"n_chans": loader.n_chans, "n_times": loader.n_times, "sfreq": loader.sfreq, "embedding_dim": loader.embedding_dim}
    weights = model.build(**sizes, num_subjects=loader.num_subjects, num_concepts=9, loss=LossConfig()).state_dict()
    lineage = Lineage(step=7, split_hash=loader.split_hash, fingerprint=loader.fingerprint)
    write_export(output, weights=weights, model=model, loss=LossConfig(), loader=loader, lineage=lineage)
    return loader


@pytest.mark.parametrize("transform", [None, "whitened"])
def test_raw_trials_give_what_the_training_path_gives(study: Path, tmp_path: Path, transform: str | None) -> None:
    select = SelectConfig(channels=["TP10", "AF7"], tmin=0.0, tmax=0.13)
    model = ContrastiveModelConfig(encoder=ENCODER, subject_layer="linear", proj_dim=6, image_head="linear")
    loader = export(study, tmp_path / "export", model, select=select, transform=transform, normalise="channel_zscore")
    encoder = load_encoder(tmp_path / "export")
    batch = loader.prepare(next(iter(loader.sequential(64))), "cpu")
    expected = encoder.embed_batch(batch).numpy()

    stored = np.array([loader.index.signal.ch_names.index(name) for name in encoder.signal.ch_names])
    assert len(stored) == (2 if transform is None else 4), "a transform mixes all stored channels"
    first = round((encoder.signal.tmin - loader.index.signal.tmin) * 100)
    host = Loader(loader.index, DataConfig(study=str(study), split="tiny", embedding="tiny"), "train", seed=0).sequential(64)
    raw = next(iter(host)).repetitions_RCT.float().numpy().reshape(len(batch), 4, 4, 20)[:, :, stored, first : first + loader.n_times]
    subjects = [encoder.export.subjects[i] for i in batch.subject_B]
    if transform is None:
        found = encoder.embed(raw, subject=subjects, batch_size=5)
        averaged = encoder.embed(raw.mean(axis=1), subject=subjects)
        np.testing.assert_allclose(averaged, expected, atol=1e-5)
    else:  # repetition r lies in session r mod 2, so each half of them has its own row of the transform
        one_session = encoder.embed(raw[:, ::2], subject=subjects, session="01")
        assert one_session.shape == expected.shape
        with pytest.raises(ValueError, match=r"expected one that the transform was fitted on, of 01/01, 01/02"):
            encoder.embed(raw, subject=subjects)
        return
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert encoder.embed_image(loader.gallery).shape == (12, encoder.embedding_dim)


def test_transformed_trials_are_those_of_the_loader(study: Path, tmp_path: Path) -> None:
    loader = export(study, tmp_path / "export", ContrastiveModelConfig(encoder=ENCODER), transform="whitened", repetitions="each")
    encoder = load_encoder(tmp_path / "export")
    host = next(iter(loader.sequential(64, single_trials=True)))
    expected = encoder.embed_batch(loader.prepare(host, "cpu")).numpy()
    labels = [encoder.transform.labels[g] for g in host.group_R.tolist()]  # type: ignore[union-attr]
    subjects, sessions = zip(*labels, strict=True)
    found = encoder.embed(host.repetitions_RCT.numpy(), subject=subjects, session=sessions)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_subject_that_training_has_not_seen_is_unknown(study: Path, tmp_path: Path) -> None:
    model = ContrastiveModelConfig(encoder=ENCODER, subject_layer="linear")
    export(study, tmp_path / "export", model)
    encoder = load_encoder(tmp_path / "export")
    assert encoder.export.trained_subjects == ("01", "02")
    with torch.no_grad():
        for parameter in encoder.model.subjects.parameters():  # type: ignore[union-attr]
            parameter.copy_(torch.randn_like(parameter))
    eeg = np.random.RandomState(1).standard_normal((2, 4, 20))
    unknown = encoder.embed(eeg)
    assert np.array_equal(encoder.embed(eeg, subject="03"), unknown)
    for label in ("nobody", "1", "sub-01", "", "01 "):
        with pytest.raises(UserError, match=rf"^subject is '{label}', expected one of 01, 02, 03, or None for a person whom"):
            encoder.embed(eeg, subject=label)
        with pytest.raises(UserError, match=r"^subject is "):
            encoder.embed(eeg, subject=["01", label])
    for odd in (1, ["01", 2], {"01": 2}, b"01"):
        with pytest.raises(UserError, match=r"^subject is .*, expected text"):
            encoder.embed(eeg, subject=odd)  # type: ignore[arg-type]
    mixed = encoder.embed(eeg, subject=["01", None])
    np.testing.assert_allclose(mixed, np.stack([encoder.embed(eeg, subject="01")[0], unknown[1]]), atol=1e-6)
    assert not np.allclose(encoder.embed(eeg, subject="01"), unknown)


@pytest.mark.parametrize(
    ("eeg", "says"),
    [
        (np.zeros((2, 3, 20)), r"shape \(2, 3, 20\), this encoder expects \(trials, 4, 20\).*TP9, AF7.* at 100 Hz .* in microvolts"),
        (np.zeros((4, 20)), r"shape \(4, 20\)"),
        (np.full((2, 4, 20), np.nan), "trial 0 has values that are not finite"),
    ],
)
def test_eeg_that_does_not_fit_is_refused(study: Path, tmp_path: Path, eeg: np.ndarray, says: str) -> None:
    export(study, tmp_path / "export", ContrastiveModelConfig(encoder=ENCODER))
    with pytest.raises(ValueError, match=says):
        load_encoder(tmp_path / "export").embed(eeg)


def test_broken_exports_are_refused_naming_the_file(study: Path, tmp_path: Path) -> None:
    output = tmp_path / "run" / "export"
    export(study, output, ContrastiveModelConfig(encoder=ENCODER))
    run(ExportConfig(run=str(tmp_path / "run"), output=str(tmp_path / "copy")))
    assert load_encoder(tmp_path / "copy").export.step == 7
    with pytest.raises(CommandError, match="is there already"):
        run(ExportConfig(run=str(tmp_path / "run"), output=str(tmp_path / "copy")))
    with pytest.raises(CommandError, match="has no export"):
        run(ExportConfig(run=str(tmp_path), output=str(tmp_path / "other")))
    (output / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CommandError, match=r"model\.safetensors: not the weights"):
        load_encoder(output)
    config = read_json(output / "config.json")
    write_json(output / "config.json", config | {"format_version": 99})
    with pytest.raises(CommandError, match="format version 99, expected 1"):
        load_encoder(output)


def test_a_run_folder_points_to_its_export(study: Path, tmp_path: Path) -> None:
    export(study, tmp_path / "run" / "export", ContrastiveModelConfig(encoder=ENCODER))
    with pytest.raises(CommandError, match=r"a run folder, expected the export in it: .*run/export"):
        load_encoder(tmp_path / "run")


@pytest.mark.parametrize("contrastive_weight", [1.0, 0.0])
def test_a_loss_of_ones_own_need_not_be_importable_where_the_encoder_is_loaded(
    study: Path, tmp_path: Path, contrastive_weight: float
) -> None:
    export(study, tmp_path / "export", ContrastiveModelConfig(encoder=ENCODER))
    file = tmp_path / "export" / "config.json"
    config = json.loads(file.read_text())
    expected = load_encoder(tmp_path / "export").model.state_dict()
    config["loss"] |= {"terms": [{"class_path": "my_lab.loss.Huber", "init_args": {}}], "contrastive_weight": contrastive_weight}
    file.write_text(json.dumps(config))
    found = load_encoder(tmp_path / "export").model.state_dict()
    assert {name: value.tolist() for name, value in found.items()} == {name: value.tolist() for name, value in expected.items()}


WRONG: list[tuple[str, Any]] = [
    *((f"build.{name}", value) for name in ("n_chans", "n_times", "embedding_dim", "num_concepts") for value in (-4, 2**31, 10**15)),
    *(("build.sfreq", value) for value in (0.0, -100.0, 50.0)),
    *(("build.num_subjects", value) for value in (0, 2, 10**12)),
    *(("level.channels", value) for value in ([], [[1, 1, 1]] * 3, [[1, 2, 3]] * 4, [[-1, -1, -1]] * 4)),
    *((f"level.{name}", -1) for name in ("median", "low", "high", "peak", "trials")),
    *((f"level.{name}", value) for name, value in (("median", 1e300), ("unit", "zscore"))),
    *(("embedding_dim", value) for value in (7, 0, -1)),
    *(("signal.ch_names", value) for value in ([], ["A"] * 4, ["A", "B"])),
    *(("signal.n_times", value) for value in (-20, 21)),
    ("signal.unit", "volts"),
    ("stimulus_level", "x"),
    ("subjects", ["01", "01", "01"]),
    ("subjects", []),
    ("trained_subjects", ["99"]),
    ("trained_concepts", ["nowhere"]),
    ("model.proj_dim", 10**15),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=str)
def test_a_config_that_contradicts_itself_is_refused_by_name(study: Path, whole: Path, tmp_path: Path, field: str, value: Any) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "export"))
    plain = read_json(copy / "config.json")
    *inner, last = field.split(".")
    functools.reduce(dict.__getitem__, inner, plain)[last] = value
    write_json(copy / "config.json", plain)
    with pytest.raises(CommandError, match=r"config\.json(: | describes \()") as error:
        load_encoder(copy)
    assert "\n" not in str(error.value)
    assert len(str(error.value).removeprefix(str(copy))) < 400


@pytest.mark.parametrize("field", ["model.proj_dim", "model.encoder.init_args.num_filters"])
def test_a_config_of_a_larger_model_than_its_weights_gets_no_memory_for_it(whole: Path, tmp_path: Path, field: str) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "export"))
    plain = read_json(copy / "config.json")
    *inner, last = field.split(".")
    functools.reduce(dict.__getitem__, inner, plain)[last] = 400_000_000
    plain["embedding_dim"] = plain["model"]["proj_dim"]
    write_json(copy / "config.json", plain)
    before = peak_memory_bytes()
    with pytest.raises(CommandError, match=r"config\.json describes \(.*: shape .*, expected shape \(") as error:
        load_encoder(copy)
    assert "\n" not in str(error.value)
    assert peak_memory_bytes() < before + 2**28


@pytest.fixture(scope="module")
def whole(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export as it should be."""
    folder = tmp_path_factory.mktemp("whole") / "export"
    export(study, folder, ContrastiveModelConfig(encoder=ENCODER, subject_layer="linear", proj_dim=6, image_head="linear"))
    load_encoder(folder)
    return folder
