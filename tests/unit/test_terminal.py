"""Text from files is text: on a terminal, in rich's tables and bars, in error lines and in a spreadsheet."""

from __future__ import annotations

import csv
import io
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from data_prep.__main__ import COMMANDS
from data_prep.contract.cli import ending, main
from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json
from data_prep.contract.progress import progress
from data_prep.contract.terminal import Terminal, in_spreadsheet, visible
from tests.distributed.training import write_split
from tests.helpers.tiny_study import write_tiny_study

ROOT = Path(__file__).parents[2]
PIECES = (
    "[bold]",
    "[/bold]",
    "[/]",
    "[",
    "]",
    "[link=http://x]",
    ":smile:",
    "\\[",
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\r",
    "\b",
    "\u202e",
)
PIECES += ("=1+1", "+", "-2", "@SUM(A1)", "\t", "'", "naïve", "猫", " ", "a")


def hostile(seed: int) -> str:
    """A name of some of :data:`PIECES`."""
    draw = random.Random(seed)
    return "".join(draw.choice(PIECES) for _ in range(draw.randint(1, 6)))


@pytest.mark.parametrize("seed", range(60))
def test_a_name_is_printed_as_it_stands_with_its_control_characters_as_escapes(seed: int) -> None:
    name, out = hostile(seed), io.StringIO()
    console = Terminal(file=out, width=400, force_terminal=bool(seed % 2), color_system=None)
    table = Table(name, title=name)
    table.add_row(name)
    console.print(name, soft_wrap=True)
    console.print(table)
    console.rule(name)
    shown = out.getvalue()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", re.sub("\x1b\\[[0-9;]*m", "", shown) if seed % 2 else shown)
    assert shown.splitlines()[0].rstrip() == visible(name).rstrip()
    assert shown.count(visible(name).strip()) >= 3


@pytest.mark.parametrize("seed", range(20))
def test_an_error_line_moves_no_cursor(seed: int, capsys: pytest.CaptureFixture) -> None:
    def fail() -> int:
        raise CommandError(f"{hostile(seed)}: no such file")

    assert ending(fail) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()


def test_a_bar_takes_any_name() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    for seed in range(20):
        with progress(hostile(seed), 2, stream=Screen()) as advance:
            advance()


@pytest.mark.long
@pytest.mark.parametrize("name", ["[/bold]", "[red]study[/green]", "a\x1b[2Jb", ":smile:[/]"])
def test_commands_read_a_study_whose_names_are_markup(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_tiny_study(tmp_path / name, n_stimuli=6, n_test=2, n_subjects=1)
    write_split(root, "tiny", train={"stimulus": [0, 1, 2, 3]}, test={"stimulus": [4, 5]})
    assert main("data_prep", "", COMMANDS, ["audit", "--study", str(root), "--split", "tiny"]) == 0
    for command in ("verify", "inspect"):
        assert main("data_prep", "", COMMANDS, [command, "--study", str(root)]) == 0
    said = capsys.readouterr()
    assert visible(name) in (said.out + said.err).replace("\n", "")
    assert "\x1b" not in said.out + said.err
    shutil.rmtree(root / "embeddings")
    assert main("data_prep", "", COMMANDS, ["verify", "--study", str(root)]) == 1
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(60))
def test_no_cell_is_a_formula_and_each_can_be_read_back(seed: int) -> None:
    name, out = hostile(seed), io.StringIO(newline="")
    csv.writer(out).writerow([in_spreadsheet(name), in_spreadsheet(-2.5)])
    out.seek(0)
    ((cell, number),) = csv.reader(out)
    assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r"))
    assert (cell.removeprefix("'") if cell.startswith("'") else cell) == name
    assert number == "-2.5"


def test_nothing_else_prints_through_rich_itself() -> None:
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    rooms = [ROOT / file for file in files if file.startswith(("trainer/", "data_prep/", "launch/"))]
    users = {file.relative_to(ROOT).as_posix() for file in rooms if re.search(r"import Console\b|rich import print", file.read_text())}
    assert users <= {"data_prep/contract/terminal.py"}
    assert issubclass(Terminal, Console)


def test_json_is_read_whatever_its_names(tmp_path: Path) -> None:
    (tmp_path / "[x].json").write_text('{"[/bold]": 1}')
    assert read_json(tmp_path / "[x].json") == {"[/bold]": 1}
