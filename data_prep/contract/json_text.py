"""JSON that somebody else wrote: bytes, values and depth are held against the limits, numbers and text can be written again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.contract.limits import limits, too_much
from data_prep.contract.words import short

_MOST_BITS = 64


def parse_json(content: bytes | str, where: Path | str, *, halves: bool = False) -> Any:
    """The value of a JSON text; ``where`` names it in an error.

    Parameters
    ----------
    halves
        Text may hold half a character, as language models write them.

    Raises
    ------
    StudyError
        One sentence: no JSON, not UTF-8, a limit, integers of more than 64 bits, text with half a character.
    """
    try:
        raw = content.encode() if isinstance(content, str) else content
        _check_size(raw, where)
        value = json.loads(raw.decode(), parse_int=_integer)
    except (ValueError, RecursionError) as error:  # text in another encoding is a ValueError, too
        if isinstance(error, StudyError):
            raise
        said = "nested too deep" if isinstance(error, RecursionError) else short(error, 120)
        raise StudyError(f"{where}: not valid JSON ({said})") from error
    _check_depth(value, where)
    if not halves and (b"\\ud" in raw or b"\\uD" in raw):
        _check_text(value, where)
    return value


def parse_line(line: bytes | str) -> dict[str, Any] | None:
    """The object of a line of JSON lines; None: cut short by a kill, damaged, or something else."""
    try:
        found = parse_json(line, "the line", halves=True)
    except StudyError:
        return None
    return found if isinstance(found, dict) else None


def _check_size(raw: bytes, where: Path | str) -> None:
    if len(raw) > limits().json_bytes:
        raise too_much(where, f"{len(raw):,} bytes of JSON", "json_bytes")
    count = sum(map(raw.count, (b",", b"[", b"{", b":")))  # at least as many as there are values
    if count > limits().json_items:
        raise too_much(where, f"JSON of up to {count:,} values", "json_items")


def _integer(digits: str) -> int:
    if len(digits) > 21 or int(digits).bit_length() > _MOST_BITS:
        raise ValueError(f"an integer of {len(digits)} digits, expected at most {_MOST_BITS} bits")
    return int(digits)


def _check_depth(value: Any, where: Path | str) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(limits().depth):
        if not level:
            return
        inside = (each for outer in level for each in (outer.values() if isinstance(outer, dict) else outer))
        level = [each for each in inside if isinstance(each, (dict, list))]
    raise too_much(where, f"JSON nested more than {limits().depth} deep", "depth")


def _check_text(value: Any, where: Path | str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise StudyError(f"{where}: holds half a character ({error.object[error.start]!r}), expected text") from error
