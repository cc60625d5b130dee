"""What the pages tell a newcomer to type works: quick blocks run in order in one fresh folder, of the others every config is built."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import data_prep.__main__
import launch.__main__
import trainer.__main__
from data_prep.contract.cli import main, parse, to_plain
from tests.distributed.launcher import free_port
from tests.helpers.readme import EXAMPLES, NEWCOMER, PAGES, ROOT, Block, blocks, commands, files
from trainer.distributed.child import environment_of_its_own

pytestmark = pytest.mark.timeout(1800)
PROGRAMS = {"data_prep": data_prep.__main__.COMMANDS, "trainer": trainer.__main__.COMMANDS, "launch": launch.__main__.COMMANDS}
ALL = blocks(*PAGES)


def quick(*pages: str) -> list[Block]:
    return [block for block in blocks(*pages) if block.language in ("sh", "python") and not block.mark]


def environment() -> dict[str, str]:
    """That of a user who has activated the environment that ``make`` installed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    quiet = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**environment_of_its_own(), **quiet, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the configs, and the files that these pages show."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "configs").symlink_to(ROOT / "configs")
    for name, text in files(*NEWCOMER).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(block: Block, home: Path) -> str:
    """Run a block as it stands, but for a port that is free; returns what it printed."""
    text = block.text.replace("5001", str(free_port()))
    argv = ["bash", "-em", "-c", text] if block.language == "sh" else [sys.executable, "-c", text]
    done = subprocess.run(argv, cwd=home, env=environment(), text=True, capture_output=True, timeout=900, check=False)
    assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.long
def test_quick_blocks_run_in_order_and_leave_what_they_promise(home: Path) -> None:
    printed = {str(block): run(block, home) for block in quick(*NEWCOMER)}
    for promised in (
        "studies/first-source/ceiling.json",
        "studies/first/manifest.sha256",
        "studies/first/splits/zero-shot.audit.json",
        "runs/first/completed.json",
        "runs/first/reports/retrieval.html",
        "runs/first/embeddings.npz",
        "runs/first/registered.json",
        "studies/lab/splits/zero-shot.audit.json",
        "runs/lab/reports/retrieval.html",
    ):
        assert (home / promised).is_file(), promised
    answers = [text for text in printed.values() if '"predictions"' in text]
    assert len(answers) == 1, "the served model has answered"
    assert not (home / "runs/quickstart").exists(), "the quickstart's folders are left alone"
    assert not [path for path in (home / "studies").iterdir() if path.name in ("simulated", "simulated-source", "muse")]


def programs(command: str) -> list[list[str]]:
    """Program and arguments whose configs a command line builds; a launch has two."""
    words = shlex.split(command)
    if words[0] == "deepspeed":
        return [words[words.index("trainer") :]]
    assert words[:2] == ["python", "-m"], command
    if "--" in words:
        cut = words.index("--")
        return [words[2:cut], ["trainer", *words[cut + 1 :]]]
    return [words[2:]]


MARKED = [
    (block, command)
    for block in ALL
    if block.language == "sh" and block.mark in ("bench", "data")
    for command in commands(block.text)
    if not command.startswith(". ")
]


@pytest.mark.parametrize(("block", "command"), MARKED, ids=[f"{block}-{command[:60]}" for block, command in MARKED])
def test_of_commands_that_are_not_run_here_every_config_is_built(
    block: Block, command: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = re.fullmatch(r"(?:[A-Z_]+=\S+ )?make ([a-z-]+)", command)
    if made:
        assert re.search(rf"^{made[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{block}: no such target"
        return
    monkeypatch.chdir(home)
    for program, *arguments in programs(command):
        with pytest.raises(SystemExit) as ended:
            main(f"python -m {program}", "", PROGRAMS[program], [*arguments, "--print_config"])
        printed = capsys.readouterr()
        assert ended.value.code in (0, None), f"{block}: {command}\n{printed.err[-1000:]}"
        again = tmp_path / "printed.yaml"
        again.write_text(printed.out)
        module, name = PROGRAMS[program][arguments[0]].config.split(":")
        config = getattr(importlib.import_module(module), name)
        assert to_plain(parse(config, ["--config", str(again)])) == to_plain(parse(config, arguments[1:])), "what is printed is the config"


def test_every_block_says_what_it_is() -> None:
    for block in ALL:
        assert block.language in ("sh", "python", "yaml", "text"), (
            f"{block}: a fence without a known language is a block that nothing tests"
        )
        assert block.mark in ("", "file", "bench", "data"), f"{block}: <!-- {block.mark}: ... -->"
        assert block.language != "yaml" or block.mark == "file", f"{block}: a config that no command reads"


def test_blocks_that_are_not_run_here_are_run_elsewhere() -> None:
    assert quick(*EXAMPLES), "test_outside follows them"
    for page in NEWCOMER:  # a file that no command reads is one that nothing tests
        run_here = "".join(block.text for block in quick(page))
        assert all(name in run_here for name in files(page)), page
