"""Exports that a full disk, a broken copy or another program left: one sentence naming the file, whatever the damage."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from data_prep.contract.errors import UserError
from tests.helpers.tiny_text import write_tiny_text
from tests.unit.test_flipped_bits import damages, flips, unnamed
from tests.unit.test_generate import export_model
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.text import load_text
from trainer.serve.gallery import ARRAYS, FACTS, Gallery, read_top_k
from trainer.training.verify import verify

WEIGHTS = "model.safetensors"


def header_bytes(whole: bytes) -> int:
    """Length of a safetensors file before its numbers."""
    return 8 + int(struct.unpack("<Q", whole[:8])[0])


def damaged(whole: bytes, rounds: int) -> dict[str, bytes]:
    """What can become of a file of weights: cut anywhere, a byte of the header changed, another header, other tensors."""
    chance, header = random.Random(3), header_bytes(whole)
    cuts = [0, 1, 7, 8, 9, header - 1, header, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(rounds))]
    found = {f"cut at {place}": whole[:place] for place in cuts}
    for place in [*range(8), *(chance.randrange(8, header) for _ in range(rounds))]:
        found[f"byte {place}"] = whole[:place] + bytes([whole[place] ^ (1 << chance.randrange(8))]) + whole[place + 1 :]
    tensors = load(whole)
    first = next(name for name, value in tensors.items() if value.ndim > 1)
    for title, changed in {
        "another shape": tensors | {first: tensors[first][:-1].clone()},
        "one dimension less": tensors | {first: tensors[first].flatten()},
        "another name": {("renamed" if name == first else name): value for name, value in tensors.items()},
        "one is missing": {name: value for name, value in tensors.items() if name != first},
        "one too many": tensors | {"more": torch.zeros(2)},
        "none": {},
    }.items():
        found[title] = save(changed)
    for title, text in {
        "a list": "[]",
        "a number": "5",
        "no offsets": '{"w": {"dtype": "F32", "shape": [1]}}',
        "not UTF-8": "\xff",
    }.items():
        found[f"header is {title}"] = struct.pack("<Q", len(text.encode("latin1"))) + text.encode("latin1") + whole[header:]
    offsets = json.loads(whole[8:header])
    offsets[first]["data_offsets"] = [0, 2**62]
    text = json.dumps(offsets)
    found["offsets beyond the end"] = struct.pack("<Q", len(text)) + text.encode() + whole[header:]
    return found | {"a page": b"<html>not found</html>" * 20, "zeros": bytes(len(whole))}


def npz(**arrays: np.ndarray) -> bytes:
    """An archive of arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def check_refusals(path: Path, variants: dict[str, bytes], read: Callable[[], Any]) -> int:
    """``read`` is whole or refuses each variant of ``path`` in one line that names it; how many it refuses."""
    whole, refused = path.read_bytes(), 0
    try:
        for title, data in variants.items():
            path.write_bytes(data)
            try:
                read()
            except UserError as error:
                refused += 1
                said = str(error)
                assert str(path) in said, f"{title}: {said}"
                assert "\n" not in said, f"{title}: {said}"
                assert len(said) < 700, f"{title}: {said}"
    finally:
        path.write_bytes(whole)
    return refused


def test_damaged_weights_of_an_encoder_are_a_sentence(tmp_path: Path) -> None:
    write_tiny_text(tmp_path)
    export = tmp_path / "encoder"
    variants = damaged((export / WEIGHTS).read_bytes(), 15)
    # A flipped bit of the header may change what nobody reads, such as a blank.
    assert check_refusals(export / WEIGHTS, variants, lambda: load_encoder(export)) > len(variants) - 10
    (export / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        load_encoder(export)


@pytest.fixture(scope="module")
def text_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("damaged")
    write_tiny_text(home)
    return export_model(home, "model")


@pytest.mark.parametrize("made", [flips, damages])
def test_verify_names_whatever_was_damaged_in_a_text_export(text_export: Path, tmp_path: Path, made: Any) -> None:
    export = Path(shutil.copytree(text_export, tmp_path / "export"))
    assert verify(export) == []
    assert unnamed(export, 0, verify, made) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("turn", "name"), [*enumerate(("adapter/adapter_model.safetensors", "projector.safetensors", "encoder/model.safetensors"))]
)
def test_damaged_weights_of_a_text_model_are_a_sentence(text_export: Path, tmp_path: Path, turn: int, name: str) -> None:
    """Each kind of damage in one of the files."""
    export = Path(shutil.copytree(text_export, tmp_path / "export"))
    load_text(export)
    variants = dict([*damaged((export / name).read_bytes(), 6).items()][turn::3])
    assert check_refusals(export / name, variants, lambda: load_text(export)) > len(variants) - 4
    (export / name).unlink()
    with pytest.raises(UserError, match=rf"{Path(name).name}: no such file"):
        load_text(export)


def test_a_damaged_gallery_is_a_sentence(tmp_path: Path) -> None:
    names, z_GP = np.array(["a", "b", "c"]), np.eye(3, 5, dtype=np.float32)
    Gallery(embedding_GK=z_GP, stimuli=names.tolist(), concepts=names.tolist()).write(tmp_path, {"top_k": 2})
    path = tmp_path / ARRAYS
    assert np.array_equal(Gallery.read(tmp_path, 5).embedding_GK, z_GP)
    assert read_top_k(tmp_path) == 2

    whole, arrays = path.read_bytes(), {"embedding": z_GP, "stimulus": names, "concept": names}
    chance = random.Random(5)
    cuts = {f"cut at {place}": whole[:place] for place in [0, 1, 30, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(40))]}
    assert check_refusals(path, cuts, lambda: Gallery.read(tmp_path, 5)) == len(cuts)
    flips = {f"byte {place}": whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :] for place in range(0, len(whole), 7)}
    assert check_refusals(path, flips, lambda: Gallery.read(tmp_path, 5)) > len(flips) // 2
    others = {
        "no embedding": npz(stimulus=names, concept=names),
        "no names": npz(embedding=z_GP),
        "a row is not a number": npz(**arrays | {"embedding": np.where(np.arange(3)[:, None] == 1, np.nan, z_GP)}),
        "an infinite row": npz(**arrays | {"embedding": np.where(np.arange(3)[:, None] == 1, np.inf, z_GP)}),
        "narrower": npz(**arrays | {"embedding": z_GP[:, :-1]}),
        "wider": npz(**arrays | {"embedding": np.eye(3, 6)}),
        "flat": npz(**arrays | {"embedding": z_GP.ravel()}),
        "whole numbers": npz(**arrays | {"embedding": z_GP.astype(np.int64)}),
        "texts": npz(**arrays | {"embedding": z_GP.astype(str)}),
        "empty": npz(embedding=z_GP[:0], stimulus=names[:0], concept=names[:0]),
        "a name too few": npz(**arrays | {"stimulus": names[:-1]}),
        "a concept too many": npz(**arrays | {"concept": np.array(list("abcd"))}),
        "names are numbers": npz(**arrays | {"stimulus": np.arange(3)}),
        "names in two columns": npz(**arrays | {"concept": names[:, None]}),
        "objects": b"".join([whole[:30], b"PK", whole[32:]]),
        "another format": b"hello",
    }  # fmt: skip
    assert check_refusals(path, others, lambda: Gallery.read(tmp_path, 5)) == len(others)
    for width in (1, 4, 6):
        with pytest.raises(
            UserError, match=rf"gallery\.npz: embedding is float32 of shape \(3, 5\), expected numbers \(entries, {width}\)"
        ):
            Gallery.read(tmp_path, width)
    texts = ("", "[]", "{}", '{"top_k": 0}', '{"top_k": "2"}', '{"top_k": true}', '{"top_k": 1.5}', '{"top_k"')
    facts = {text: text.encode() for text in texts}
    assert check_refusals(tmp_path / FACTS, facts, lambda: read_top_k(tmp_path)) == len(facts)
    for file, read in ((path, lambda: Gallery.read(tmp_path, 5)), (tmp_path / FACTS, lambda: read_top_k(tmp_path))):
        file.unlink()
        with pytest.raises(UserError, match=f"{file.name}: no such file"):
            read()
