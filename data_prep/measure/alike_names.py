"""Names that mean one thing in two spellings: another case, another Unicode form, a plural, a number behind, another blank."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

_SEPARATORS = re.compile(r"[\s_\-.]+")
_NUMBER = re.compile(r"(?<=[^\W\d]) ?\d+$")  # a number alone is a name


def folded(name: str) -> str:
    """A name without what two spellings of it may differ by: ``Zebras`` is ``zebra``, ``T-shirt`` and ``t_shirts`` are ``t shirt``."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(_singular(word) for word in _SEPARATORS.sub(" ", text).split())


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ses", "xes", "zes", "ches", "shes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def alike_names(names: Iterable[str]) -> list[list[str]]:
    """Groups of two and more names that fold to one, each group and the groups by name.

    A number behind a name counts as a spelling where the name stands without one, too (``zebra``, ``zebra_02``); ``class1`` and
    ``class2`` are two names.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for name in names:
        groups[folded(name)].add(name)
    for key in sorted(groups):
        bare = folded(_NUMBER.sub("", key))
        if bare != key and bare in groups:
            groups[bare] |= groups.pop(key)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)
