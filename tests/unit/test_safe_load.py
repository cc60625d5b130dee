"""Files with pickles: real ones open, malicious ones execute nothing and give one sentence."""

from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError

CONTENT = {"preprocessed_eeg_data": np.arange(24.0).reshape(2, 3, 4), "ch_names": ["Pz", "Oz"], "times": np.linspace(0, 1, 4)}


class Malice:
    """Its pickle runs a command when opened by an ordinary unpickler."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_published_kinds_of_files_open(tmp_path, protocol):
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    np.save(tmp_path / "object.npy", np.array(CONTENT, dtype=object), allow_pickle=True)
    for name in ("plain.npy", "object.npy"):
        value = safe_load.load_mapping(tmp_path / name, ("ch_names", "times"))
        assert type(value["preprocessed_eeg_data"]) is np.ndarray
        np.testing.assert_array_equal(value["preprocessed_eeg_data"], CONTENT["preprocessed_eeg_data"])
        assert value["ch_names"] == ["Pz", "Oz"]


def test_scalars_text_arrays_and_nested_object_arrays_open(tmp_path):
    value = {"a": np.float32(2.5), "b": np.array(["x", "yy"]), "c": np.array([np.zeros(2), "t"], dtype=object), "d": (1, {2}, None)}
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(value, protocol=4))
    loaded = safe_load.load(tmp_path / "v.pkl")
    assert loaded["a"] == np.float32(2.5)
    assert loaded["b"].tolist() == ["x", "yy"]
    assert loaded["d"] == (1, {2}, None)
    assert type(loaded["c"][0]) is np.ndarray


def test_object_array_holding_malice_executes_nothing(tmp_path):
    marker = tmp_path / "executed"
    np.save(tmp_path / "bad.npy", np.array({"ch_names": Malice(marker)}, dtype=object), allow_pickle=True)
    with pytest.raises(StudyError, match=r"bad\.npy: refused: its pickle asks for posix\.system") as caught:
        safe_load.load(tmp_path / "bad.npy")
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["bad.pkl", "bad.npy", "bad.pth", "bad.pt"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_plain_pickle_of_malice_executes_nothing(tmp_path, name, protocol):
    marker = tmp_path / "executed"
    (tmp_path / name).write_bytes(pickle.dumps([Malice(marker)], protocol=protocol))
    with pytest.raises(StudyError, match=name) as caught:
        safe_load.load(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_torch_archive_of_malice_executes_nothing(tmp_path):
    import torch

    marker = tmp_path / "executed"
    torch.save({"eeg": Malice(marker)}, tmp_path / "bad.pth")
    with pytest.raises(StudyError, match=r"bad\.pth: refused"):
        safe_load.load(tmp_path / "bad.pth")
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"ccollections\nOrderedDict.__init__.__globals__\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
    ],
)
def test_gadgets_are_refused(tmp_path, program):
    (tmp_path / "g.pkl").write_bytes(program)
    with pytest.raises(StudyError, match="refused"):
        safe_load.load(tmp_path / "g.pkl")


def test_array_that_reads_raw_bytes_as_object_pointers_is_refused(tmp_path):
    class Forged:
        def __reduce__(self):
            return np.array([1]).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("O"), False, struct.pack("Q", 8))

    (tmp_path / "f.pkl").write_bytes(pickle.dumps(Forged(), protocol=4))
    with pytest.raises(StudyError, match="object array made from raw bytes"):
        safe_load.load(tmp_path / "f.pkl")


def test_torch_tensors_and_npz_come_as_arrays(tmp_path):
    import torch

    torch.save({"img": torch.arange(6.0).reshape(2, 3).to(torch.bfloat16), "names": ["a", "b"]}, tmp_path / "t.pt")
    assert safe_load.load(tmp_path / "t.pt")["img"].dtype == np.float32
    np.savez(tmp_path / "z.npz", x=np.ones(3))
    assert safe_load.load(tmp_path / "z.npz")["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("keep", [4, 20, 130, 200])
def test_truncated_files_are_one_sentence(tmp_path, keep):
    buffer = io.BytesIO()
    np.save(buffer, np.array(CONTENT, dtype=object), allow_pickle=True)
    (tmp_path / "t.npy").write_bytes(buffer.getvalue()[:keep])
    with pytest.raises(StudyError, match=r"t\.npy") as caught:
        safe_load.load(tmp_path / "t.npy")
    assert "\n" not in str(caught.value)


def test_missing_file_and_missing_keys_are_named(tmp_path):
    with pytest.raises(StudyError, match="no such file"):
        safe_load.load(tmp_path / "none.npy")
    (tmp_path / "d.npy").write_bytes(pickle.dumps({"ch_names": []}))
    with pytest.raises(StudyError, match="lacks times; it has ch_names"):
        safe_load.load_mapping(tmp_path / "d.npy", ("ch_names", "times"))


def test_shared_containers_do_not_explode(tmp_path):
    value: list = ["x"]
    for _ in range(60):
        value = [value, value]
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(value, protocol=4))
    assert len(safe_load.load(tmp_path / "s.pkl")) == 2
