"""The project's pages lead where they say: links, the table of readers, and configs that are shown."""

from __future__ import annotations

import importlib
import re

import pytest

import data_prep.studies
from data_prep.studies.base import ReaderConfig
from tests.helpers.readme import PAGES, ROOT, files

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")


def prose(page: str) -> str:
    """A page without its fenced blocks, whose comments look like headings."""
    return _FENCE.sub("", (ROOT / page).read_text())


def anchors(page: str) -> list[str]:
    """The anchors that a forge gives a page's headings."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower().replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return found


def dead_links(page: str, text: str) -> list[str]:
    """Relative links of ``text``, on ``page``, whose file or heading is not there."""
    dead = []
    for link in _LINK.findall(text):
        path, _, anchor = link.partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(str(file.relative_to(ROOT)))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert dead_links(page, prose(page)) == []


def test_a_dead_link_is_found() -> None:
    text = (
        "[a](README.md) [b](#glossary) [c](gone.md) [d](README.md#gone) [e](https://example.org/gone) [f](data_prep/README.md#the-readers)"
    )
    assert dead_links("README.md", text) == ["gone.md", "README.md#gone"]


def test_every_page_is_reached_from_the_first() -> None:
    reached, new = {"README.md"}, ["README.md"]
    while new:
        page = new.pop()
        for link in _LINK.findall(prose(page)):
            file = ((ROOT / page).parent / link.partition("#")[0]).resolve()
            name = str(file.relative_to(ROOT))
            if name in PAGES and name not in reached:
                reached.add(name)
                new.append(name)
    assert set(PAGES) - reached <= {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}, "a forge shows these by their names"


def test_the_table_of_readers_has_every_reader_its_configs_and_a_page() -> None:
    rows = re.findall(r"^\| .* \| `(\w+ReaderConfig)` \| (.*) \| (.*) \|$", prose("data_prep/README.md"), re.MULTILINE)
    modules = [importlib.import_module(f"data_prep.studies.{name}") for name in data_prep.studies.__all__]
    readers = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, ReaderConfig) and value.__module__ == module.__name__
    }
    assert {reader for reader, _, _ in rows} == readers
    for reader, configs, page in rows:
        assert _LINK.findall(page), reader
        for config in re.findall(r"`(\w\S*\.yaml)`", configs):
            text = (ROOT / "configs/data_prep" / config).read_text()
            assert f"class_path: {reader}" in text, config


@pytest.mark.parametrize("room", ["data_prep", "trainer", "launch"])
def test_a_room_names_all_its_commands(room: str) -> None:
    page = (ROOT / room / "README.md").read_text()
    named = {words.split()[0] for words in re.findall(r"`([a-z][^`]*)`", page)}
    assert set(importlib.import_module(f"{room}.__main__").COMMANDS) <= named


def test_configs_that_are_shown_are_those_that_there_are() -> None:
    shown = {name: text for name, text in files(*PAGES).items() if name.startswith("configs/")}
    assert shown
    for name, text in shown.items():
        assert text == (ROOT / name).read_text(), name
