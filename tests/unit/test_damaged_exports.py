"""Exports that a full disk, a broken copy or another program left: one sentence naming the file, whatever the damage."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from data_prep.contract.errors import UserError
from tests.helpers.tiny_text import write_tiny_text
from tests.unit.test_generate import export_model
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.text import load_text

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
    variants = damaged((export / WEIGHTS).read_bytes(), 40)
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


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "projector.safetensors", "encoder/model.safetensors"])
def test_damaged_weights_of_a_text_model_are_a_sentence(text_export: Path, tmp_path: Path, name: str) -> None:
    export = Path(shutil.copytree(text_export, tmp_path / "export"))
    load_text(export)
    variants = damaged((export / name).read_bytes(), 6)
    assert check_refusals(export / name, variants, lambda: load_text(export)) > len(variants) - 4
    (export / name).unlink()
    with pytest.raises(UserError, match=rf"{Path(name).name}: no such file"):
        load_text(export)
