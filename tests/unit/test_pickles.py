"""Pickles are described, never run: what the stock unpickler makes of honest ones comes out the same, hostile ones end in a sentence."""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.contract import limits, safe_load
from data_prep.contract.errors import StudyError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
DTYPES = ["<f4", ">f8", "f2", "i1", "<i8", ">u2", "?", "c8", "S5", "<U3", ">U2"]


def loaded(path: Path, content: bytes) -> Any:
    path.write_bytes(content)
    return safe_load.load(path)


def refusal(path: Path, content: bytes) -> str:
    with pytest.raises(StudyError, match=path.name) as caught:
        loaded(path, content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def array(random: np.random.Generator) -> np.ndarray:
    shape = tuple(int(side) for side in random.integers(0, 5, random.integers(0, 4)))
    dtype = np.dtype(DTYPES[random.integers(len(DTYPES))])
    if dtype.kind in "SU":
        made = np.array([chr(97 + i % 26) * (i % 3) for i in range(int(np.prod(shape)))], dtype=dtype).reshape(shape)
    else:
        made = random.integers(0, 100, shape).astype(dtype)
    return [made, made.T, np.asfortranarray(made), made[..., ::-1] if made.ndim else made][random.integers(4)]


def value(random: np.random.Generator, depth: int = 0) -> Any:
    """Nested containers of everything that may be in such a file."""
    leaves = [
        None,
        True,
        -(2**40),
        1.5,
        3 + 2j,
        "tëxt\n'",
        "",
        b"\x00\xff" * 9,
        b"",
        np.float32(2.5),
        np.str_("é"),
        np.int64(-3),
        np.bool_(True),
    ]
    kind = int(random.integers(10)) if depth < 4 else 0
    items = [value(random, depth + 1) for _ in range(random.integers(4))] if kind > 3 else []
    if kind < 3:
        return leaves[random.integers(len(leaves))]
    if kind == 3:
        return array(random)
    made: list[Any] = [items, tuple(items), {f"k{i}": item for i, item in enumerate(items)}, collections.OrderedDict(enumerate(items))]
    if kind == 8:
        return {"a", 3, None, "b" * int(random.integers(1, 300))}
    if kind == 9:
        boxed = np.empty(len(items), dtype=object)
        for place, item in enumerate(items):
            boxed[place] = item
        return boxed
    return made[kind - 4]


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, np.ndarray):
        if theirs.dtype == object:
            return ours.shape == theirs.shape and all(same(a, b) for a, b in zip(ours.ravel(), theirs.ravel(), strict=True))
        # Swapped bytes stay as they are in the file; numpy turns them.
        alike = ours.dtype.newbyteorder("=") == theirs.dtype.newbyteorder("=")
        return type(ours) is np.ndarray and alike and ours.shape == theirs.shape and bool((ours == theirs).all())
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, (list, tuple)):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_honest_pickles_come_out_as_the_stock_unpickler_has_them(tmp_path: Path, protocol: int) -> None:
    random = np.random.default_rng(protocol)
    for _ in range(60):
        content = pickle.dumps(value(random), protocol)
        assert same(loaded(tmp_path / "v.pkl", content), pickle.loads(content))
        packed = pickletools.optimize(content)
        for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
            if protocol == 0:  # names are lines there: another length fits
                assert same(loaded(tmp_path / "v.pkl", packed.replace(old, new)), pickle.loads(content))


LINES = [b"0", b"7", b"00", b"01", b"-5", b"12L", b"1_000", b" 3 ", b"1.5", b"-1e5", b"nan", b"inf", b"0x1", b"", b"L", b"\xff", b"9" * 39]
ARGUMENTS = {
    **dict.fromkeys(("INT", "LONG", "FLOAT"), tuple(line + b"\n" for line in LINES)),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINFLOAT"), tuple(bytes([length]) * 8 for length in (0, 1, 127, 128, 255))),
    "LONG1": [bytes([size]) + b"\x80\x7f" * 10 for size in range(21)] + [b"\x01\x80", b"\x02\xff", b"\x05\x01"],
    "LONG4": [struct.pack("<i", size) + b"\xff" * 20 for size in range(21)] + [b"\x01\x00"],
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_numbers_are_read_as_pickletools_reads_them(tmp_path: Path, name: str) -> None:
    opcode = next(opcode for opcode in pickletools.opcodes if opcode.name == name)
    for argument in ARGUMENTS[name]:
        source = io.BytesIO(argument)
        content = opcode.code.encode("latin1") + argument
        try:
            wanted = opcode.arg.reader(source)
        except ValueError:
            assert refusal(tmp_path / "n.pkl", content)
            continue
        assert repr(loaded(tmp_path / "n.pkl", content[: 1 + source.tell()] + b".")) == repr(wanted), argument


@pytest.mark.parametrize("code", range(256))
def test_every_byte_is_an_instruction_or_refused(tmp_path: Path, code: int) -> None:
    known = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
    said = refusal(tmp_path / "b.pkl", b"\x80\x04" + bytes([code]))  # none leaves a value: the program does not end
    assert code in known or repr(chr(code)) in said


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_large_arrays_and_texts_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {
        "eeg": np.arange(60_000, dtype=">f4").reshape(3, 4, 5000).transpose(2, 0, 1),
        "note": "é" * 90_000,
        "raw": bytes(range(256)) * 400,
    }
    assert same(loaded(tmp_path / "v.pkl", pickle.dumps(content, protocol)), content)
    assert same(loaded(tmp_path / "v.npy", npy(np.array(content, dtype=object))), content)


def npy(made: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, made, allow_pickle=True)
    return buffer.getvalue()


def test_python_2_pickles(tmp_path: Path) -> None:
    """``cPickle.dump`` of a dict of numpy 1.x in Python 2: texts are bytes, module names are of then."""
    content = (
        b"\x80\x02}q\x01(U\x01xq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02\x85"
        b"cnumpy\ndtype\nq\x06U\x02f4K\x00K\x01\x87Rq\x07(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
        + struct.pack("<2f", 1.5, -2) + b"tbU\x01sc__builtin__\nset\n]K\x05a\x85Ru."
    )  # fmt: skip
    found = loaded(tmp_path / "v.pkl", content)
    assert found["x"].tolist() == [1.5, -2]
    assert found["s"] == {5}


# ---------------------------------------------------------------------------------------------------------- torch


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_of_both_formats(tmp_path: Path, zipped: bool) -> None:
    random = torch.Generator().manual_seed(0)
    for number in range(12):
        base = torch.randn(6, 8, generator=random)
        kinds = [
            torch.float16,
            torch.bfloat16,
            torch.float64,
            torch.int64,
            torch.int32,
            torch.int16,
            torch.int8,
            torch.uint8,
            torch.bool,
            torch.complex64,
        ]
        value = {
            "view": base[1:4, ::2].t(), "same": base, "kind": (base * 9).to(kinds[number % len(kinds)]), "empty": torch.empty(0, 4),
            "one": torch.tensor(3.0), "model": torch.nn.Linear(3, 2).state_dict(), "parameter": torch.nn.Parameter(base[:1]),
            "names": ["a", ("b", 2)], "array": np.arange(5), "size": base.shape,
        }  # fmt: skip
        torch.save(value, tmp_path / "t.pt", _use_new_zipfile_serialization=zipped)
        found = safe_load.load(tmp_path / "t.pt")
        for name in ("view", "same", "kind", "empty", "one", "parameter"):
            tensor = value[name].detach()
            expected = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
            assert found[name].dtype == expected.dtype
            np.testing.assert_array_equal(found[name], expected)
        assert found["model"].keys() == {"weight", "bias"}
        assert (found["names"], found["size"], found["array"].tolist()) == (["a", ("b", 2)], (6, 8), [0, 1, 2, 3, 4])


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_reach_outside_their_storage_are_refused(tmp_path: Path, zipped: bool) -> None:
    tensor = torch.arange(4.0)
    for shape, strides, offset in [((5,), (1,), 0), ((4,), (1,), 1), ((10**6, 10**6), (0, 0), 0), ((2,), (9,), 0), ((1,), (1,), 5)]:

        class Reaching:
            def __reduce__(self, shape=shape, strides=strides, offset=offset):
                return torch._utils._rebuild_tensor_v2, (tensor.storage(), offset, shape, strides, False, collections.OrderedDict())

        torch.save(Reaching(), tmp_path / "t.pt", _use_new_zipfile_serialization=zipped)
        assert "tensor" in refusal(tmp_path / "t.pt", (tmp_path / "t.pt").read_bytes())


@pytest.mark.parametrize("made", [torch.eye(3).to_sparse(), torch.ones(3).to(torch.float8_e4m3fn), torch.float32])
def test_other_things_of_torch_are_named(tmp_path: Path, made: Any) -> None:
    torch.save({"x": made}, tmp_path / "t.pt")
    assert "refused: its pickle asks for torch" in refusal(tmp_path / "t.pt", (tmp_path / "t.pt").read_bytes())


# -------------------------------------------------------------------------------------------------------- hostile


def forged(build: str) -> bytes:
    """Object arrays over raw bytes, by each way in which a pickle may call numpy."""
    pointer, array = struct.pack("<Q", 0x41414141), b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    dtype = b"cnumpy\ndtype\n(X\x01\x00\x00\x00OK\x00K\x01tR"
    return b"\x80\x04" + {
        "call": b"cnumpy\nndarray\n(K\x01\x85X\x01\x00\x00\x00Ocbuiltins\nbytearray\nC\x08" + pointer + b"\x85RtR.",
        "state": array + b"(K\x01K\x01\x85" + dtype + b"\x89C\x08" + pointer + b"tb.",
        "plain state": array + b"(K\x01K\x01\x85X\x01\x00\x00\x00O\x89C\x08" + pointer + b"tb.",
        "buffer": b"cnumpy._core.numeric\n_frombuffer\n(C\x08" + pointer + dtype + b"K\x01\x85X\x01\x00\x00\x00CtR.",
        "scalar": b"cnumpy.core.multiarray\nscalar\n(" + dtype + b"C\x08" + pointer + b"tR.",
        "fields": array + b"(K\x01K\x01\x85cnumpy\ndtype\n(X\x02\x00\x00\x00V8K\x00K\x01tR(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00a\x85"
        b"}X\x01\x00\x00\x00a" + dtype + b"K\x00\x86sK\x08K\x01K\x1btb\x89C\x08" + pointer + b"tb.",
        "new": b"cnumpy\nndarray\n(K\x01\x85X\x01\x00\x00\x00Ot\x81.",
        "order of O": array + b"(K\x01K\x01\x85" + dtype + b"(K\x03X\x01\x00\x00\x00>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb\x89C\x08"
        + pointer + b"tb.",
    }[build]  # fmt: skip


@pytest.mark.parametrize("build", ["call", "state", "plain state", "buffer", "scalar", "fields", "new", "order of O"])
def test_no_way_leads_from_bytes_to_pointers(tmp_path: Path, build: str) -> None:
    assert "refused: its pickle asks for" in refusal(tmp_path / "f.npy", forged(build))
    header = npy(np.array(None, dtype=object))[:128]
    assert "f.npy" in refusal(tmp_path / "f.npy", header + forged(build))


def nested(depth: int) -> bytes:
    return b"\x80\x04" + b"]" * depth + b"a" * (depth - 1) + b"."


BOMBS = {
    "deep": nested(200_000),
    "in itself": b"\x80\x04]\x94h\x00a.",
    "in itself by tuple": b"\x80\x04]\x94h\x00\x85a.",
    "hash of shared tuples": b"\x80\x04)\x94" + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(90)) + b"}h\x5aNs.",
    "long": b"\x80\x04\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b".",
    "long text": b"L" + b"9" * 10**6 + b"L\n.",
    "copies of a text": b"\x80\x02c_codecs\nencode\nq\x00X" + struct.pack("<I", 60_000) + b"x" * 60_000 + b"q\x01"
    + b"h\x00h\x01\x85R" * 30_000 + b".",
    "size of the payload": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "negative size": b"T" + struct.pack("<i", -1) + b"x.",
    "empty texts": npy(np.zeros(2, "U1")).replace(b"'<U1'", b"'<U0'").replace(b"(2,)", b"(999999999999,)"),
    "shape": npy(np.zeros(4)).replace(b"(4,)", b"(2**99,)"),
    "no elements": npy(np.zeros((4, 0))).replace(b"(4, 0)", b"(99999999999999, 0)"),
    "bool as a side": npy(np.zeros(4)).replace(b"(4,)", b"(True, 4)"),
    "out of band": b"\x80\x05\x97.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Pidentity\n.",
    "instance": b"(iposix\nsystem\n.",
    "mark as a value": b"\x80\x04](a.",
    "unknown memo": b"\x80\x04h\x07.",
    "large keys of one hash": b"\x80\x04}("
    + b"".join(b"\x8a\x09" + (i * (2**61 - 1)).to_bytes(9, "little") + b"N" for i in range(1, 90)) + b"u.",
    "later protocol": b"\x80\x09N.",
    "half a character": b"V\\ud800\n.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_a_sentence_at_once(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path / "b.npy", BOMBS[name])


def test_a_limit_is_named_and_raised(tmp_path: Path) -> None:
    content = pickle.dumps(list(range(1000)))
    limits.use_limits(limits.Limits(objects=500))
    try:
        assert "file_limits.objects" in refusal(tmp_path / "b.pkl", content)
    finally:
        limits.use_limits(limits.Limits())
    assert loaded(tmp_path / "b.pkl", content) == list(range(1000))


def test_names_inside_each_other_are_no_names(tmp_path: Path) -> None:
    """Shared lists cost a file nothing; what makes texts of them must not take 2 to the 60th."""
    shared: list[Any] = ["x"]
    for _ in range(60):
        shared = [shared, shared]
    content = loaded(tmp_path / "b.pkl", pickle.dumps({"names": shared}))
    with pytest.raises(StudyError, match=r"b\.pkl: names holds a list"):
        safe_load.texts(content["names"], tmp_path / "b.pkl", "names")


# Characters that Python may have imported, and what it may print: nothing that a refused file could have left.
STATE = """
import os, sys
from pathlib import Path
import numpy as np
from data_prep.contract import safe_load
from data_prep.contract.errors import StudyError
before = set(sys.modules), dict(os.environ), np.dtype("f8").str, np.geterr(), sys.getrecursionlimit()
for path in map(Path, sys.argv[1:]):
    try:
        safe_load.load(path)
        sys.exit(f"{path} was read")
    except StudyError:
        pass
new = set(sys.modules) - before[0]
assert not {name for name in new if not name.startswith(("encodings", "numpy", "codecs", "unicodedata"))}, new
assert "torch" not in sys.modules and "pickle" not in str(safe_load.load.__globals__.get("pickle"))
assert before[1:] == (dict(os.environ), np.dtype("f8").str, np.geterr(), sys.getrecursionlimit())
"""


def test_a_refused_file_changes_nothing_of_the_process(tmp_path: Path) -> None:
    class Malice:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save([Malice()], tmp_path / "zip.pt")
    torch.save([Malice()], tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    for name, content in {**BOMBS, **{f"f {kind}": forged(kind) for kind in ("call", "state", "fields", "buffer")}}.items():
        (tmp_path / f"{name}.npy").write_bytes(content)
    for protocol in PROTOCOLS:
        (tmp_path / f"malice{protocol}.pkl").write_bytes(pickle.dumps(Malice(), protocol))
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    ended = subprocess.run([sys.executable, "-c", STATE, *files], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "ran").exists()


MEASURE = """
import sys
from pathlib import Path
from data_prep.contract import safe_load
from data_prep.contract.memory import peak_memory_bytes
before = peak_memory_bytes()
found = safe_load.load(Path(sys.argv[1]))
found = found if not isinstance(found, dict) else found["x"]
assert found.nbytes > 8e9 and float(found.reshape(-1)[-1]) == 0, found.shape
print((peak_memory_bytes() - before) // 2**20)
"""


@pytest.mark.parametrize("kind", ["pickle", "object.npy", "plain.npy", "legacy.pt"])
def test_eight_gigabytes_do_not_pass_through_memory(tmp_path: Path, kind: str) -> None:
    """A hole of 8 GB where an array's bytes are."""
    small, large = 2**16, 2**30
    if kind == "plain.npy":
        content, hole = npy(np.zeros(large // 2**20, "f8")).replace(b"(1024,)", f"({large},)".encode()), b"\x00" * 8192
        content = content.replace(b" " * 6 + b"\n", b"\n", 1)
    elif kind == "legacy.pt":
        buffer = io.BytesIO()
        torch.save({"x": torch.zeros(small * 64, dtype=torch.float64)}, buffer, _use_new_zipfile_serialization=False)
        number = struct.pack("<q", small * 64)
        content, hole = buffer.getvalue().replace(number, struct.pack("<q", large)), b"\x00" * (small * 512)
        content = content.replace(b"J" + struct.pack("<i", small * 64), b"J" + struct.pack("<i", large))
    else:
        made = {"x": np.zeros(small, "f8")}
        content = pickle.dumps(made, 4) if kind == "pickle" else npy(np.array(made, dtype=object))
        hole = b"\x00" * (small * 8)
        content = content.replace(b"B" + struct.pack("<I", small * 8), b"\x8e" + struct.pack("<Q", large * 8))
        content = content.replace(b"J" + struct.pack("<i", small), b"J" + struct.pack("<i", large))
    place = content.index(hole)
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(content[:place])
        file.seek(large * 8, 1)
        file.write(content[place + len(hole) :])
        file.truncate(max(file.tell(), place + large * 8))
    ended = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 100


def test_archives_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "z.npz"
    path.write_bytes(zip_of({"x.npy": npy(np.zeros(4 * 2**20))}))
    assert safe_load.load(path)["x"].sum() == 0
    limits.use_limits(limits.Limits(unpacked_bytes=2**20))
    try:
        with pytest.raises(StudyError, match=r"z\.npz: an archive of .* unpacks to .*file_limits\.unpacked_bytes"):
            safe_load.load(path)
    finally:
        limits.use_limits(limits.Limits())
    path.write_bytes(zip_of({"x.npy": npy(np.arange(9.0))}))
    assert safe_load.load(path)["x"].tolist() == list(range(9))


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()
