"""What the parser refuses, in our words: the field, what was found, what was expected, and the names there are."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from data_prep.contract.words import as_given, short

_FIELD = re.compile(r'Parser key "(?P<field>[^"]+)": (?P<what>.*)', re.DOTALL)
_PATH = re.compile(r"Expected a dot import path string: (?P<name>.*)", re.DOTALL)
_NO_IMPORT = re.compile(r"Problem with given class_path '(?P<name>[^']*)': (?P<why>.*)", re.DOTALL)
_OPTION = re.compile(r"Option '(?P<name>[^']+)' is not accepted")
_GROUP = re.compile(r"Group '(?P<group>[^']+)' does not accept option '(?P<name>[^']+)'")
_VALUE = re.compile(r"Expected a (?P<kind>.*?)\. Got value: ?(?P<value>.*)", re.DOTALL)
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes .*? Errors: - (?P<first>.*) Given value type: <[^>]*> Given value: ?(?P<value>.*)"
)
_NOT_NULL = re.compile(r" - Expected a <class 'NoneType'>(?:\. Got value: .*)?\Z")
_UNKNOWN = re.compile(r"unrecognized arguments: (?P<words>.*)", re.DOTALL)
_MISSING = re.compile(r"the following arguments are required: (?P<names>.*)")
_NO_WORD = re.compile(r"argument (?P<option>--\S+): expected one argument")
_NO_FIELDS = re.compile(r"Unable to load config '(?P<value>.*?)' - .*", re.DOTALL)
_PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list",
    dict: "fields",
    type(None): "null",
}
_KINDS = {**{str(kind): words for kind, words in _PLAIN.items()}, "<class 'tuple'>": "a list"}


def in_our_words(config_class: type[Any], message: str) -> str:
    """One sentence for a refusal of the parser, with the names that would have been accepted; other messages as they are."""
    message = " ".join(message.split())
    if match := _GROUP.fullmatch(message):
        return _no_such_field(config_class, f"{match['group']}.{match['name']}")
    if match := _OPTION.fullmatch(message):
        return _no_such_field(config_class, match["name"])
    if match := _UNKNOWN.match(message):
        word = match["words"].split()[0]
        if word.startswith("--"):
            return _no_such_field(config_class, word[2:].split("=")[0])
        return f"{word!r} stands alone on the line, expected --field value"
    if match := _MISSING.fullmatch(message):
        return _missing(match["names"].split(", "))
    if match := _NO_WORD.fullmatch(message):
        return f"{match['option']} stands without a value, expected --field value"
    if match := _FIELD.fullmatch(message):
        return _value(config_class, match["field"], match["what"])
    return message


def _missing(fields: Sequence[str]) -> str:
    return f"{', '.join(fields)}: missing, expected in the config or on the line as --{fields[0]} VALUE"


def _value(config_class: type[Any], field: str, what: str) -> str:
    kind = type_of(config_class, field)
    if match := _UNION.fullmatch(what):
        # Of a class or nothing, the class's own refusal says more than that it was neither.
        first = _NOT_NULL.sub("", match["first"])
        own = re.match(r"Expected a (?!dot import)", first) is None
        return _value(config_class, field, first) if own else f"{field}: {match['value'] or repr('')}, expected {_described(kind)}"
    if match := _FIELD.fullmatch(what):
        return _value(config_class, f"{field}.{match['field']}", match["what"])
    if match := _MISSING.fullmatch(what):
        return _missing([f"{field}.{name}" for name in match["names"].split(", ")])
    if match := _NO_FIELDS.fullmatch(what):
        return f"{field}: {match['value']}, expected its fields: {', '.join(fields_of(kind))}"
    if match := _PATH.fullmatch(what):
        return f"{field}: there is no {as_given(match['name'])}, expected {classes_of(kind)}"
    if (match := _NO_IMPORT.fullmatch(what)) and "is not allowed, denied by" in match["why"]:
        room = short(match["name"].partition(".")[0])
        return (
            f"{field}: {as_given(match['name'])} is not ours, and nothing is imported because a file names it: "
            f"expected {classes_of(kind)}; or trust it by --trust {room} (in Python: load_encoder(..., trust=({room!r},)))"
        )
    if match := _NO_IMPORT.fullmatch(what):
        return f"{field}: {as_given(match['name'])} cannot be imported ({match['why']}), expected {classes_of(kind)}"
    if _OPTION.fullmatch(what) and "'class_path'" in what:
        return f"{field}: expected class_path and init_args, and nothing beside them"
    if match := _OPTION.fullmatch(what):
        # The class that was chosen is not in the message: its field, or one of another class of the same base.
        accepted = {name: sorted(fields_of(one)) for one in _subclasses(kind) for name in [one.__name__]}
        accepted_by = "; ".join(f"{name} has {', '.join(fields)}" for name, fields in accepted.items() if fields)
        return f"{field}.{match['name']}: no such field; {accepted_by or 'there are none'}"
    if match := _VALUE.fullmatch(what):
        choices = _choices(kind)
        expected = f"one of {', '.join(map(str, choices))}" if choices else _KINDS.get(match["kind"], _described(kind))
        return f"{field}: {match['value'] or repr('')}, expected {expected}"
    return f"{field}: {what}"


def _no_such_field(config_class: type[Any], dotted: str) -> str:
    parts = dotted.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        level = config_class if depth == 0 else type_of(config_class, ".".join(parts[:depth]))
        if level is not None and (names := fields_of(level)):
            close = difflib.get_close_matches(parts[depth], names, n=1)
            where = f"{'.'.join(parts[:depth])} has" if depth else "the config has"
            return f"{dotted}: no such field{f' (did you mean {close[0]}?)' if close else ''}; {where} {', '.join(names)}"
    return f"{dotted}: no such field"


def type_of(config_class: Any, dotted: str) -> Any:
    """Declared type of a nested field such as ``model.encoder``; None where there is no such field."""
    found = config_class
    for name in dotted.split("."):
        owner = _dataclass(found)
        hints = get_type_hints(owner) if owner is not None else {}
        if name not in hints and owner is not None:
            # A field of one of the base's subclasses, whichever was chosen.
            hints = {key: hint for one in _subclasses(owner) for key, hint in get_type_hints(one).items()}
        if name not in hints:
            return None
        found = hints[name]
    return found


def fields_of(kind: Any) -> list[str]:
    """Names of a config's fields, or of the dataclass inside an optional or a collection."""
    owner = _dataclass(kind)
    return [] if owner is None else [f.name for f in dataclasses.fields(owner) if f.init]


def _dataclass(kind: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return kind
    return next((found for inner in reversed(get_args(kind)) if (found := _dataclass(inner)) is not None), None)


def _subclasses(kind: Any) -> Iterable[type[Any]]:
    owner = _dataclass(kind)
    for child in owner.__subclasses__() if owner is not None else ():
        # The command line is no place for what a test or a notebook has made up as it went.
        if not child.__name__.startswith("_"):
            yield child
        yield from _subclasses(child)


def classes_of(kind: Any) -> str:
    """What a field of a base class takes, in words: the names there are."""
    names = sorted({child.__name__ for child in _subclasses(kind)})
    return f"one of {', '.join(names) or 'no built-in'}, or an import path such as my_lab.module.MyClass"


def _described(kind: Any) -> str:
    """What a field takes, in words: ``a whole number or null``."""
    if get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_described, get_args(kind))))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple and Ellipsis not in get_args(kind):
        return f"a list of {len(get_args(kind))}"
    plain = get_origin(kind) or kind
    return "a list" if plain is tuple else _PLAIN.get(plain) or classes_of(kind)


def _choices(kind: Any) -> Sequence[Any]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    if get_origin(kind) in (typing.Union, types.UnionType):
        found = [choice for inner in get_args(kind) for choice in _choices(inner)]
        return [*found, *(["null"] if found and type(None) in get_args(kind) else [])]
    return ()
