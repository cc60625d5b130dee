"""The command line: overrides, one-line errors, configs that read back."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from data_prep.contract import cli
from data_prep.contract.errors import ConfigError, UserError, sentence_of, set_traceback_folder
from data_prep.contract.files import write_atomically


@cli.polymorphic
@dataclass(frozen=True, kw_only=True)
class Shape:
    """Any shape."""


@dataclass(frozen=True, kw_only=True)
class Circle(Shape):
    """A circle."""

    radius: float = 1.0
    """Radius, metres."""


@dataclass(frozen=True, kw_only=True)
class Square(Shape):
    """A square."""

    side: int = 2
    """Side, metres."""


@dataclass(frozen=True, kw_only=True)
class Optim:
    """Optimiser."""

    lr: float = 1e-3
    """Learning rate."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr: {self.lr}, expected above 0")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A config."""

    study: str
    """Folder."""
    mode: Literal["a", "b"] = "a"
    """Mode."""
    optim: Optim = field(default_factory=Optim)
    """Optimiser."""
    shape: Shape = field(default_factory=Circle)
    """Shape."""
    shape_or_none: Shape | None = None
    """Shape."""
    size: int | None = None
    """Size."""
    times: tuple[float, float] | None = None
    """Seconds."""
    title: str | None = None
    """Title."""
    prefix: str = ""
    """Prefix."""
    kind: Literal["a", "b"] | None = None
    """Kind."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    """Shapes."""
    names: list[str] = field(default_factory=list)
    """Names."""
    row: list[Shape] = field(default_factory=lambda: [Square(side=3), Circle()])
    """Shapes."""


@pytest.fixture
def yaml_file(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text("study: here\noptim: {lr: 0.5}\n")
    return str(path)


def test_a_config_of_defaults_needs_no_argument() -> None:
    assert cli.parse(Optim, []) == Optim()


def test_overrides_win_on_both_sides_of_config(yaml_file: str) -> None:
    before = cli.parse(Config, ["--optim.lr", "0.1", "--config", yaml_file])
    after = cli.parse(Config, [f"--config={yaml_file}", "--optim.lr=0.1"])
    assert before == after
    assert before.optim.lr == 0.1
    assert before.study == "here"


def test_a_subclass_is_chosen_by_name_and_survives_saving(yaml_file: str) -> None:
    config = cli.parse(Config, ["--config", yaml_file, "--shape", "Square", "--shape.side", "5", "--names", "[x, y]"])
    assert config.shape == Square(side=5)
    assert cli.from_plain(Config, yaml.safe_load(cli.to_yaml(config))) == config


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("chosen", [[], ["--row", "[{class_path: Square}]"], ["--row", "[]"], ["--shapes", "{a: {class_path: Circle}}"]])
def test_a_printed_config_is_the_config(chosen: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(Config, ["--study", "here", *chosen, "--print_config"])
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert cli.parse(Config, ["--config", str(tmp_path / "printed.yaml")]) == cli.parse(Config, ["--study", "here", *chosen])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--optim.lr", "fast"], "optim.lr"),
        (["--optim.lr", "-1"], "lr: -1.0, expected above 0"),
        (["--mode", "c"], "mode"),
        (["--optim.rate", "1"], "optim.rate"),
        (["--nothing", "1"], "nothing"),
        (["--shape", "Triangle"], "Triangle"),
        (["--shape", "Square", "--shape.side", "1.5"], "side"),
    ],
)
def test_a_bad_value_is_one_line_naming_the_field(yaml_file: str, arguments: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        cli.parse(Config, ["--config", yaml_file, *arguments])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_key_in_yaml_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text("study: here\noptin: {lr: 1}\n")
    with pytest.raises(ConfigError, match="optin"):
        cli.parse(Config, ["--config", str(path)])


PARSERS_OWN = ["<class", "Subtypes", "Union", "typing.", "validate", "Namespace", "jsonargparse", "Parser key", "Unable to load"]
WRONG = ["x", "1.5", "nan", "", "null", "true", "[1]", "[[]]", "{a: 1}", "{class_path: Square, init_arg: {}}", "{class_path: 3}"]


@pytest.mark.parametrize("name", ["mode", "optim", "optim.lr", "shape", "shape_or_none", "size", "times", "kind", "shapes", "names"])
def test_no_wrong_value_is_refused_in_the_words_of_the_parser(yaml_file: str, name: str) -> None:
    refused = []
    for value in [*WRONG, "[Triangle]", "{a: Triangle}", "{a: {class_path: Square, init_args: {side: x}}}", "{init_args: {side: 3}}"]:
        try:
            cli.parse(Config, ["--config", yaml_file, f"--{name}", value])
        except ConfigError as error:
            refused.append(str(error))
    assert len(refused) > 5
    assert [said for said in refused if not said.startswith(name)] == []
    assert [said for said in refused if any(words in said for words in PARSERS_OWN)] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "study: missing, expected in the config or on the line as --study VALUE"),
        (["--study"], "--study stands without a value"),
        (["--study", "here", "--size", "1.5"], "size: 1.5, expected a whole number or null"),
        (["--study", "here", "--kind", "c"], "kind: c, expected one of a, b or null"),
        (["--study", "here", "--times", "[1]"], "times: [1], expected a list of 2 or null"),
        (["--study", "here", "--shape_or_none", "Triangle"], "shape_or_none: there is no 'Triangle', expected one of Circle, Square"),
        (["--study", "here", "--shape_or_none", "Square", "--shape_or_none.side", "x"], "shape_or_none.side: x, expected a whole number"),
        (["--study", ""], "study: is empty, expected a text"),
        (["--study", "here", "--title", ""], "title: is empty, expected a text or null"),
    ],
)
def test_what_is_missing_empty_or_of_another_kind(arguments: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        cli.parse(Config, arguments)
    assert says in str(error.value)


def test_an_empty_text_is_a_value_where_it_is_the_default() -> None:
    assert cli.parse(Config, ["--study", "here", "--prefix", ""]).prefix == ""


def test_a_missing_config_file_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        cli.parse(Config, ["--config", "nowhere.yaml"])


@pytest.mark.parametrize("module", ["data_prep", "trainer", "launch"])
def test_every_command_line_lists_its_commands_and_fails_in_one_line(module: str) -> None:
    listing = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=120, check=True)
    assert "--config" in listing.stdout
    failed = subprocess.run([sys.executable, "-m", module, "no-such-command"], capture_output=True, text=True, timeout=120, check=False)
    assert failed.returncode == 2
    assert failed.stderr.strip().splitlines()[-1].startswith("error: unknown command 'no-such-command'")
    assert "Traceback" not in failed.stderr


# ------------------------------------------------------------------------------------------------- what ends a command


@dataclass(frozen=True, kw_only=True)
class Fate:
    """How a command ends."""

    how: str = "user"
    """Kind of the exception."""
    path: str = ""
    """File that it is about."""


def end(config: Fate) -> None:
    if config.how == "user":
        raise UserError(f"{config.path}: 3 rows, expected 4")
    if config.how == "missing":
        open(config.path)  # noqa: SIM115
    if config.how == "ours":
        _: list[int] = []
        _[3]
    number = {"full": errno.ENOSPC, "port": errno.EADDRINUSE, "denied": errno.EACCES}.get(config.how)
    if number is not None:
        raise OSError(number, os.strerror(number), config.path or None)
    raise {"value": ValueError, "runtime": RuntimeError, "type": TypeError, "key": KeyError, "memory": MemoryError}[config.how]("odd")


COMMANDS = {"end": cli.Command(config="tests.unit.test_cli:Fate", run="tests.unit.test_cli:end", help="")}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("user", "a.npy: 3 rows, expected 4"),
        ("missing", "a.npy: no such file or folder"),
        ("full", "a.npy: no space left on the disk"),
        ("port", "the port is in use by another program"),
        ("denied", "a.npy: permission denied"),
        ("memory", "out of memory: lower the batch size"),
    ],
)
def test_what_a_user_can_cause_is_one_line_without_a_traceback(how: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main("x", "", COMMANDS, ["end", "--how", how, "--path", "a.npy"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert "internal" not in line


@pytest.mark.parametrize("how", ["ours", "value", "runtime", "type", "key"])
@pytest.mark.parametrize("in_a_run", [False, True])
def test_what_is_ours_says_so_and_keeps_its_traceback(
    how: str, in_a_run: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    set_traceback_folder(tmp_path / "run" if in_a_run else None, rank=3)
    try:
        assert cli.main("x", "", COMMANDS, ["end", "--how", how]) == 1
    finally:
        set_traceback_folder(None)
    (line,) = capsys.readouterr().err.splitlines()
    assert "internal, not your fault" in line
    kept = tmp_path / "run" / "errors" / "rank-3.txt" if in_a_run else next(tmp_path.glob("eegvision-*.txt"))
    assert str(kept) in line
    assert "in end\n" in kept.read_text()


def test_debug_prints_the_traceback_and_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main("x", "", COMMANDS, ["end", "--how", "user", "--path", "a.npy", "--debug"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1] == "error: a.npy: 3 rows, expected 4"


@pytest.mark.parametrize(
    ("arguments", "lists"),
    [
        (["--shape", "Triangle"], ["shape: there is no 'Triangle'", "Circle", "Square", "an import path"]),
        (["--shape", "my_lab.nothing.Mine"], ["shape: 'my_lab.nothing.Mine' cannot be imported", "Circle", "Square"]),
        (["--shape", "Square", "--shape.sides", "3"], ["shape.sides: no such field", "Square has side", "Circle has radius"]),
        (["--optim.lrr", "3"], ["optim.lrr: no such field (did you mean lr?)", "optim has lr"]),
        (["--nothing", "3"], ["nothing: no such field", "study", "mode", "optim", "shape", "names"]),
        (["--mode", "c"], ["mode: c, expected one of a, b"]),
        (["--optim.lr", "fast"], ["optim.lr: fast, expected a number"]),
        (["stray"], ["'stray' stands alone"]),
    ],
)
def test_a_refused_name_lists_the_names_there_are(yaml_file: str, arguments: list[str], lists: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        cli.parse(Config, ["--config", yaml_file, *arguments])
    for words in lists:
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ("The server socket has failed to listen on any local network address. port: 29500, EADDRINUSE", "the port where the ranks meet"),
        ("[../gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:1234", "another rank is gone"),
        ("Timed out waiting 30000ms for recv operation to complete", "another rank is gone"),
    ],
)
def test_what_torch_says_of_the_network_is_said_in_our_words(said: str, ours: str) -> None:
    sentence = sentence_of(RuntimeError(said))
    assert sentence is not None
    assert sentence.startswith(ours)
    assert sentence_of(RuntimeError("a shape is wrong")) is None


def test_no_room_for_the_traceback_leaves_the_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.mkstemp", full)
    assert cli.main("x", "", COMMANDS, ["end", "--how", "ours"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: internal, not your fault: IndexError")
    assert line.endswith("its traceback could not be written: run again with --debug")


LEAVING = """
import atexit, sys, threading, time
from data_prep.contract.cli import leave
kept = open(sys.argv[1], "w")
kept.write("written")
def late():
    time.sleep(0.3)
    print("a thread")
threading.Thread(target=late).start()
atexit.register(print, "an exit function")
print("the command")
leave(7)
"""


def test_a_process_that_leaves_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING, str(tmp_path / "kept")], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (7, ["the command", "a thread", "an exit function"], "")
    assert (tmp_path / "kept").read_text() == "written"


SAYING = """
import sys
from data_prep.contract.cli import begin_process
begin_process()
kept = open(sys.argv[1], "wb")
print("Zürich → Łódź…")
print("Zürich → Łódź…", file=sys.stderr)
sys.stdout.flush()
import os
os.write(1, b"straight to the output")
os.write(2, b"straight to the output")
kept.write(b"a result")
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
@pytest.mark.parametrize("closed", ["", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_output_that_is_closed_or_of_few_characters_costs_no_result(tmp_path: Path, encoding: str, closed: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    argv = ["sh", "-c", f'"$0" -c "$1" "$2" {closed}', sys.executable, SAYING, str(tmp_path / "kept")]
    done = subprocess.run(argv, env=environment, capture_output=True, timeout=60, check=False)
    assert (done.returncode, (tmp_path / "kept").read_bytes()) == (0, b"a result")
    if not closed:
        assert done.stdout.decode(encoding).splitlines()[0] == "Zürich → Łódź…".encode(encoding, "backslashreplace").decode(encoding)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("failing", ["tempfile.mkstemp", "os.fsync", "os.replace"])
def test_a_write_that_fails_names_the_file_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, failing: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match=str(tmp_path / "result.json")) as error:
        write_atomically(tmp_path / "result.json", b"{}")
    assert str(sentence_of(error.value)).startswith(f"{tmp_path / 'result.json'}: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "nan", "1e999", "1e39", "-1e300", "1e-39", "1e-320"])
@pytest.mark.parametrize("where", ["optim.lr", "limit", "extra.a"])
def test_what_is_no_number_is_refused_wherever_a_config_has_one(value: str, where: str) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Numbers:
        """Numbers."""

        optim: Optim = field(default_factory=Optim)
        """Nested."""
        limit: float | None = None
        """A limit."""
        extra: dict[str, float] = field(default_factory=dict)
        """Any."""

    name, _, rest = where.partition(".")
    given = f"{{{rest}: {value}}}" if rest else value
    with pytest.raises(ConfigError, match=rest or name):
        cli.parse(Numbers, [f"--{name}", given])


def test_no_memory_of_the_host_is_a_sentence() -> None:
    import torch

    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50)
    assert str(sentence_of(error.value)).startswith("out of memory: lower the batch size (")
