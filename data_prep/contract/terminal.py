"""Text that comes from files, where it is shown: names of folders, members of tars, captions, labels are text and nothing else.

A terminal must not take them for commands, rich not for markup, a spreadsheet not for formulas.
"""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.text import Text

from data_prep.contract.secrets import masked

_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""All that moves the cursor, rings, recolours or turns the direction of writing; not the newline. And half
characters, as in file names that are no text, which no terminal takes."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "＝", "＋", "－", "＠")


class Terminal(Console):
    """A rich console to which strings are text: no markup, no emoji codes, and control characters stand as their escapes.

    What is to be coloured is said by ``style=`` or a :class:`rich.text.Text` of our own words.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """``text`` as it stands."""
        return super().render_str(visible(masked(text)), **options)


def visible(text: str) -> str:
    r"""``text`` with control characters as escapes such as ``\x1b``."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_spreadsheet(value: Any) -> Any:
    """A cell of a CSV file: text that a spreadsheet would compute begins with an apostrophe, as does text that begins with one."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value
