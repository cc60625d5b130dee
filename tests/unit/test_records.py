"""What lies on disk as JSON: written and read by one place, also what earlier versions wrote, and damaged a sentence."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, write_json
from data_prep.contract.records import FLAT, from_json, read_record, to_json
from trainer.artifacts.export import Export, read_export
from trainer.artifacts.generations import GenerationFacts
from trainer.artifacts.text_export import TextExport, read_text_export
from trainer.training.checkpoint import Seal, read_checkpoint
from trainer.training.completed import Completed, read_completed
from trainer.training.lineage import Origin

WRITTEN_BEFORE = read_json(Path(__file__).parents[1] / "helpers" / "format_1.json")
"""As they were written at revision c8e2ad9, before there was a reader for them."""
KINDS: dict[str, type[Any]] = {
    "encoder/config.json": Export,
    "text/config.json": TextExport,
    "manifest.json": Seal,
    "completed.json": Completed,
    "generate.json": GenerationFacts,
}


@dataclass(frozen=True, kw_only=True)
class Inner:
    number: float
    rest: dict[str, int] = field(default_factory=dict, metadata=FLAT)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: tuple[Inner, ...]
    by_name: dict[str, Inner]
    perhaps: Inner | None = None


def present(value: Any) -> Any:
    """JSON without its nulls: a field that is null may be left out."""
    if isinstance(value, dict):
        return {name: present(inner) for name, inner in value.items() if inner is not None}
    return [present(inner) for inner in value] if isinstance(value, list) else value


SAID_SINCE = {"encoder/config.json": {"metric": "cosine"}}
"""What files of before did not say, as they meant it."""


@pytest.mark.parametrize("name", KINDS)
def test_what_was_written_before_is_read_and_written_again(name: str) -> None:
    found = WRITTEN_BEFORE[name]
    record = from_json(KINDS[name], found, name, written_by="a test")
    again = present(json.loads(json.dumps(to_json(record))))
    assert known(again, found) == present(found) | SAID_SINCE.get(name, {})


def known(again: Any, found: Any) -> Any:
    """What ``found`` has of ``again``, and what is new in it beside counters at nought and empty lists and objects."""
    if not isinstance(again, dict) or not isinstance(found, dict):
        return again
    return {name: known(value, found.get(name)) for name, value in again.items() if name in found or value not in ([], {}, 0)}


@pytest.mark.parametrize("name", KINDS)
def test_a_field_of_another_kind_or_missing_is_named(name: str) -> None:
    found, kind = WRITTEN_BEFORE[name], KINDS[name]
    for own in fields(kind):
        if own.metadata.get("flat") or own.name not in found:
            continue
        wrong = 5 if isinstance(found[own.name], dict) else {"a": ["thing"]}
        with pytest.raises(CommandError, match=rf"^file: {own.name}[.:].* expected what a test of this version writes$") as caught:
            from_json(kind, found | {own.name: wrong}, "file", written_by="a test")
        assert "\n" not in str(caught.value)
    required = [own.name for own in fields(kind) if own.default is MISSING and own.default_factory is MISSING]
    for missing in required:
        with pytest.raises(CommandError, match=rf"^file: {missing}: Field required"):
            from_json(kind, {n: value for n, value in found.items() if n != missing}, "file", written_by="a test")
    for other in ([], 3, "text", None):
        with pytest.raises(CommandError, match=r"^file: the file: "):
            from_json(kind, other, "file", written_by="a test")


def test_exports_say_where_their_weights_come_from(tmp_path: Path) -> None:
    for name, found in WRITTEN_BEFORE.items():
        write_json(tmp_path / name, found)
    text = read_text_export(tmp_path / "text")
    assert text.stages == ("image", "eeg")
    assert text.trained_on == ("image", "eeg")
    assert text.planned() == {"steps": 4, "items": 32}
    assert text.read_base().name == "base"
    encoder = read_export(tmp_path / "encoder")
    assert encoder.origins == (Origin(fingerprint=text.fingerprint, split="tiny", split_hash=text.split_hash),)
    assert text.origins[0] == encoder.own
    assert encoder.build_model().state_dict()
    completed = read_completed(tmp_path)
    assert completed is not None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "manifest.json").rename(tmp_path / "checkpoints" / "manifest.json")
    assert read_checkpoint(tmp_path / "checkpoints").state.step == completed.step == text.step == 2
    assert read_completed(tmp_path / "text") is None


def test_records_hold_records_and_loose_fields() -> None:
    record = Outer(name="a", inner=(Inner(number=1.5, rest={"x": 1}), Inner(number=2)), by_name={"b": Inner(number=0, rest={"y": 2})})
    found = to_json(record)
    assert found == {"name": "a", "inner": [{"number": 1.5, "x": 1}, {"number": 2}], "by_name": {"b": {"number": 0, "y": 2}}}
    assert from_json(Outer, found, "", written_by="") == record
    assert from_json(Outer, found | {"perhaps": {"number": 3, "z": 4}}, "", written_by="").perhaps == Inner(number=3, rest={"z": 4})
    assert to_json(Outer(name="a", inner=(Inner(number=float("nan")),), by_name={}), lost := []) is not None
    assert lost == ["inner.0.number (nan)"]
    with pytest.raises(CommandError, match=r"^f: inner\.0\.number: "):
        from_json(Outer, found | {"inner": [{"number": "1"}]}, "f", written_by="")
    with pytest.raises(ValueError, match="rest holds 'number', which is a field of its own"):
        to_json(Inner(number=1, rest={"number": 2}))


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    for content in (b"", b"{", b"\xff\xfe", b"[1, 2"):
        (tmp_path / "completed.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"completed\.json: not valid JSON"):
            read_record(tmp_path / "completed.json", Completed, written_by="a training")
