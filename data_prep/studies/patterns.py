"""Patterns that a config names things by: regular expressions with what they stand for, and file names with labels in braces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.words import short

LABELS = ("subject", "session", "run")


def one_blank(text: str) -> str:
    """``text`` without blanks around it and with one where there are several: exporters pad codes (``S  4``)."""
    return " ".join(text.split())


class Names:
    """Regular expression -> name; a value is named by the one that matches the whole of it, ``\\1`` stands for its first group."""

    def __init__(self, rules: Mapping[str, str], field: str) -> None:
        self._field = field
        self._rules = []
        for pattern, name in rules.items():
            try:
                self._rules.append((re.compile(re.sub(" +", " ", pattern.strip())), name))
                self._rules[-1][0].sub(name, "")  # a group that is not there
            except re.error as error:
                raise UserError(
                    f"{field}: {short(pattern)!r} -> {short(name)!r} is no regular expression and what it stands for ({error})"
                ) from error

    def of(self, value: str) -> str | None:
        """Name of ``value``; None where no pattern matches.

        Raises
        ------
        UserError
            Patterns that give it two names.
        """
        value = one_blank(value)
        found = {match.expand(name): rule.pattern for rule, name in self._rules if (match := rule.fullmatch(value))}
        if len(found) > 1:
            raise UserError(
                f"{self._field}: {short(value)!r} is matched by {' and '.join(map(repr, found.values()))}, expected one pattern or one name"
            )
        return next(iter(found), None)


_WORD = re.compile(r"\{(?P<label>\w*)\}|(?P<any>\*\*/)|(?P<star>\*)|(?P<one>\?)|(?P<text>[^{}*?]+)")
_REGEX = {"any": r"(?:[^/]+/)*", "star": r"[^/]*", "one": r"[^/]"}


class FilePattern:
    """``sub-{subject}/ses-{session}/*.vhdr``: labels of letters and digits, ``*``, ``?`` and ``**/``; the ending in either case."""

    def __init__(self, pattern: str, field: str = "files", *, needs_subject: bool = True) -> None:
        self.pattern = pattern
        if not pattern or PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
            raise UserError(f"{field} is {pattern!r}, expected a pattern inside root")
        expression, position, seen = "", 0, set[str]()
        ending = pattern.rfind(".") if "/" not in pattern[pattern.rfind(".") :] else len(pattern)
        while position < len(pattern):
            match = _WORD.match(pattern, position)
            label = match["label"] if match else None
            if match is None or (label is not None and label not in LABELS):
                raise UserError(f"{field} is {pattern!r}, expected {', '.join('{' + name + '}' for name in LABELS)}, *, ** and ? only")
            if label:
                expression += f"(?P={label})" if label in seen else f"(?P<{label}>[A-Za-z0-9]+)"
                seen.add(label)
            else:
                kind = match.lastgroup or "text"
                text = re.escape(match["text"]) if kind == "text" else _REGEX[kind]
                if kind == "text" and match.end() > ending:
                    cut = max(ending - match.start(), 0)
                    text = re.escape(match["text"][:cut]) + f"(?i:{re.escape(match['text'][cut:])})"
                expression += text
            position = match.end()
        if needs_subject and "subject" not in seen:
            raise UserError(f"{field} is {pattern!r}, expected {{subject}} in it")
        self._regex = re.compile(expression)

    def labels(self, relative: str) -> dict[str, str] | None:
        """Labels of a file, numbers with two digits at least; None where the pattern does not match."""
        texts = self.texts(relative)
        return None if texts is None else {name: value.zfill(2) if value.isdigit() else value for name, value in texts.items()}

    def texts(self, relative: str) -> dict[str, str] | None:
        """Labels of a file as its path spells them."""
        match = self._regex.fullmatch(relative)
        if match is not None and any("\ud800" <= letter <= "\udfff" for letter in relative):
            raise UserError(f"{relative!a}: its name is no text in UTF-8, which a study writes down: expected another name")
        return None if match is None else match.groupdict()


def fill(template: str, labels: Mapping[str, str], field: str) -> str:
    """``template`` with its labels in braces replaced; nothing else in it is looked at."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in labels:
            raise UserError(f"{field} is {template!r}, expected only {', '.join('{' + name + '}' for name in labels)} in it")
        return labels[match[1]]

    return re.sub(r"\{(\w*)\}", value, template)


def text_keys(rules: Mapping[Any, str]) -> dict[str, str]:
    """``rules`` by text: YAML reads ``1: house`` as a number's."""
    return {str(pattern): name for pattern, name in rules.items()}
