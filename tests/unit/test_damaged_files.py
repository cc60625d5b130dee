"""Files that a full disk, a broken copy or another program left: one sentence naming the file, whatever the damage."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.contract import safe_load
from data_prep.contract.arrays import read_archive
from data_prep.contract.errors import StudyError, UserError
from data_prep.contract.seed import SEED_LIMIT
from data_prep.embed.imported import ImportedConfig
from data_prep.simulate.study import SimulateConfig
from data_prep.splits.config import SplitConfig
from data_prep.splits.transforms import write_transform
from data_prep.studies.base import Stimulus, StudyFacts
from trainer.artifacts.fitted_transform import FittedTransform
from trainer.data.batch import Transform
from trainer.evaluate.embeddings import read_embeddings
from trainer.models.concepts import FILE as CONCEPTS
from trainer.models.concepts import ConceptTable
from trainer.training.config import TrainConfig

N_CHANS = 3
FEATURES = np.arange(1, 61, dtype=np.float32).reshape(12, 5)


def npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def pt(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


WHOLE = {
    "array.npy": npy(FEATURES),
    "dict.npy": npy(np.array({"features": FEATURES, "names": ["a", "b"]}, dtype=object)),
    "several.npz": npz(features=FEATURES, names=np.array(["a", "b"])),
    "plain.pkl": pickle.dumps({"features": FEATURES}, protocol=4),
    "tensor.pt": pt({"features": torch.from_numpy(FEATURES)}),
}
CUTS = (0.0, 0.05, 0.3, 0.6, 0.9, 0.999)


def flips(data: bytes) -> list[bytes]:
    """One byte inverted at each of many places: all of the first 200, then spread over the rest."""
    size = len(data)
    places = {*range(min(200, size)), *range(200, size, max(1, size // 60)), *range(max(0, size - 60), size)}
    return [data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :] for i in sorted(places)]


def sentence_or_value(read: Callable[[], Any], path: Path) -> StudyError | None:
    """The error, if there is one: it must be ours, one line, and name the file."""
    refusal = None
    try:
        read()
    except StudyError as error:
        refusal = error
    said = str(refusal or path)
    assert path.name in said
    assert "\n" not in said
    return refusal


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("share", CUTS)
def test_truncated_files_are_refused(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    path.write_bytes(WHOLE[name][: int(share * len(WHOLE[name]))])
    assert sentence_or_value(lambda: safe_load.load(path), path) is not None


@pytest.mark.parametrize("name", WHOLE)
def test_a_flipped_byte_is_a_sentence_or_another_number(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    refused = 0
    for data in flips(WHOLE[name]):
        path.write_bytes(data)
        refused += sentence_or_value(lambda: safe_load.load(path), path) is not None
    assert refused > 20


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 500, b'{"a": 1}', b"\xff\xd8\xff\xe0JFIF" * 9, b"PK\x03\x04", b"\x93NUMPY"])
def test_another_format_under_the_name_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert sentence_or_value(lambda: safe_load.load(path), path) is not None


def facts() -> StudyFacts:
    return StudyFacts(
        stimulus_level="image", unit="zscore", sfreq=100.0, tmin=0.0, n_times=4, ch_names=["A"], subjects=["01"], sessions=["unknown"],
        stimuli=[Stimulus(id=f"s{i}.jpg", concept=0, image=f"s{i}.jpg", part=None) for i in range(len(FEATURES))], concepts=["c"],
        recordings=["unknown"],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["array.npy", "several.npz", "tensor.pt"])
def test_imported_features_that_are_damaged_end_in_a_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    config = ImportedConfig(path=str(path))
    path.write_bytes(WHOLE[name] if name != "several.npz" else npz(features=FEATURES))
    whole = path.read_bytes()
    assert np.array_equal(config.compute(facts())[0], FEATURES)
    with np.errstate(all="ignore"):
        for data in [whole[: int(share * len(whole))] for share in CUTS] + flips(whole):
            path.write_bytes(data)
            sentence_or_value(lambda: config.compute(facts()), path)


def test_names_in_another_encoding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f.npy").write_bytes(npy(FEATURES))
    (tmp_path / "names.txt").write_bytes("älg\n".encode("latin1") * len(FEATURES))
    with pytest.raises(StudyError, match=r"names\.txt: not a text of names"):
        ImportedConfig(path=str(tmp_path / "f.npy"), names=str(tmp_path / "names.txt")).compute(facts())


@pytest.fixture
def transform(tmp_path: Path) -> Path:
    arrays = {
        "subject": np.zeros(1, np.int32),
        "session": np.zeros(1, np.int32),
        "matrix": np.eye(N_CHANS, dtype=np.float32)[None],
        "mean": np.zeros((1, N_CHANS), np.float32),
        "split_hash": np.array("h"),
        "kind": np.array("zscore"),
    }
    return write_transform(tmp_path, "white", arrays)


def read_transform(path: Path) -> Transform:
    return Transform.read(path, split_hash="h", channels=range(N_CHANS), n_chans=N_CHANS)


def test_damaged_transforms_are_refused(transform: Path) -> None:
    whole = transform.read_bytes()
    assert read_transform(transform).kind == "zscore"
    for share in CUTS:
        transform.write_bytes(whole[: int(share * len(whole))])
        assert sentence_or_value(lambda: read_transform(transform), transform) is not None, share
    for data in [*flips(whole), b"hello", npy(FEATURES)]:
        transform.write_bytes(data)
        sentence_or_value(lambda: read_transform(transform), transform)


@pytest.mark.parametrize("read", [
    lambda path: FittedTransform.read(path, torch.device("cpu")), lambda path: ConceptTable.read(path.parent), read_embeddings,
])  # fmt: skip
def test_archives_of_exports_and_embeddings_are_refused(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    path = tmp_path / CONCEPTS
    whole = npz(names=np.array(["a", "b"]), image=np.eye(2), eeg=np.eye(2))
    for data in [whole[: int(share * len(whole))] for share in CUTS] + [b"PK\x03\x04", whole[:-30] + b"\xff" * 30]:
        path.write_bytes(data)
        with pytest.raises(UserError, match=CONCEPTS):
            read(path)


def test_an_archive_without_an_array_says_which_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(npz(x=FEATURES, y=FEATURES))
    with pytest.raises(StudyError, match=r"a\.npz: lacks the array 'z'; it has x, y"):
        read_archive(path, ["x", "z"])


def test_the_cause_is_kept(tmp_path: Path) -> None:
    """``--debug`` shows where it went wrong: the library's error stays behind ours."""
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(StudyError) as caught:
        safe_load.load(path)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("seed", [-1, SEED_LIMIT])
@pytest.mark.parametrize("config", [
    lambda seed: SimulateConfig(output="o", seed=seed),
    lambda seed: SplitConfig(study="s", policy="zero-shot", seed=seed),
    lambda seed: TrainConfig(steps=1, seed=seed),
])  # fmt: skip
def test_seeds_that_no_generator_takes_are_refused_in_the_config(config: Callable[[int], Any], seed: int) -> None:
    config(SEED_LIMIT - 1)
    with pytest.raises(ValueError, match=rf"seed is {seed}, expected 0 to 2\*\*63 - 1"):
        config(seed)
