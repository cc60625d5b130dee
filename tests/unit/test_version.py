"""The code's version is its own: of its checkout, as it was when the process began, and of no repository around it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from data_prep.contract.version import VERSION, commit_of

ROOT = Path(__file__).parents[2]
OWN = ("data_prep/contract/version.py", "pyproject.toml")
GIT = str(shutil.which("git"))


def git(folder: Path, *arguments: str) -> str:
    options = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main")
    return subprocess.run(
        [GIT, "-C", str(folder), *options, *arguments], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def repository(folder: Path, *names: str) -> str:
    """A repository with one commit of what lies in ``folder``; returns its name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README").write_text(folder.name)
    git(folder, "init")
    git(folder, "add", "README", *names)
    git(folder, "commit", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


def lay(folder: Path, *names: str) -> Path:
    """Our own files in ``folder``."""
    for name in names or OWN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def running(folder: Path) -> ModuleType:
    """The module as a process has it that runs the code in ``folder``."""
    spec = importlib.util.spec_from_file_location("running", folder / OWN[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def version(folder: Path) -> str:
    return str(running(folder).code_version())


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> None:
    yield
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = lay(tmp_path / "ours")
    repository(folder, *OWN)
    return folder


def test_a_checkout_has_its_commit_and_says_that_it_was_changed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert version(checkout) == commit
    (checkout / "notes.txt").write_text("mine")
    assert version(checkout) == commit
    (checkout / "README").write_text("other")
    assert version(checkout) == f"{commit}+changes"
    assert commit_of(f"{commit}+changes") == commit
    assert commit_of(VERSION) is None


def test_a_commit_made_later_is_not_what_runs(checkout: Path) -> None:
    module, other = running(checkout), running(checkout)
    before = module.code_version()
    git(checkout, "commit", "--allow-empty", "-m", "while it trains")
    assert module.code_version() == before
    assert other.code_version() == git(checkout, "rev-parse", "HEAD") != before


@pytest.mark.parametrize("place", ["env/lib/site-packages", ".", "vendor/ours"])
@pytest.mark.parametrize("kept", ["ignored", "untracked", "tracked"])
def test_a_repository_around_an_installed_package_is_not_asked(tmp_path: Path, place: str, kept: str) -> None:
    foreign = tmp_path / "foreign"
    packages = lay(foreign / place, OWN[0])
    if kept == "ignored":
        (foreign / ".gitignore").write_text("env\ndata_prep\nvendor\n")
    repository(foreign, *([str(Path(place) / OWN[0])] if kept == "tracked" else []))
    assert version(packages) == VERSION


def test_worktrees_submodules_and_shallow_clones_have_commits_of_their_own(checkout: Path, tmp_path: Path) -> None:
    first = git(checkout, "rev-parse", "HEAD")
    git(checkout, "commit", "--allow-empty", "-m", "second")
    second = git(checkout, "rev-parse", "HEAD")
    git(checkout, "worktree", "add", "--detach", str(tmp_path / "tree"), first)
    assert version(tmp_path / "tree") == first
    git(tmp_path, "clone", "--depth", "1", checkout.as_uri(), "shallow")
    assert version(tmp_path / "shallow") == second
    repository(tmp_path / "foreign")
    git(tmp_path / "foreign", "submodule", "add", str(checkout), "ours")
    assert version(tmp_path / "foreign" / "ours") == second
    (tmp_path / "link").symlink_to(checkout)
    assert version(tmp_path / "link") == second


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"])
def test_variables_of_a_git_that_called_us_change_nothing(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    repository(tmp_path / "foreign")
    commit = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv(name, str(tmp_path / "foreign" / ("" if name == "GIT_WORK_TREE" else ".git")))
    assert version(checkout) == commit


def put_git(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``script`` in the place of git."""
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_no_git_and_a_slow_git_are_said_in_the_version_alone(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    put_git(tmp_path / "slow", f'case "$*" in *status*) exec sleep 30;; esac; exec {GIT} "$@"', monkeypatch)
    module = running(checkout)
    monkeypatch.setattr(module, "_GIT_SECONDS", 0.5)
    assert module.code_version() == f"{commit}+unknown"
    put_git(tmp_path / "broken", "echo 'fatal: broken' >&2; exit 128", monkeypatch)
    assert version(checkout) == f"{VERSION}+unknown"
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert version(checkout) == f"{VERSION}+unknown"
    assert version(lay(tmp_path / "installed", OWN[0])) == VERSION


def test_a_checkout_of_another_user_has_its_commit(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_git(tmp_path / "bin", f'GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {GIT} "$@"', monkeypatch)
    assert version(checkout) == git(checkout, "rev-parse", "HEAD")


def test_no_program_that_a_repository_names_is_run(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "program").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "program").chmod(0o755)
    git(checkout, "config", "core.fsmonitor", str(tmp_path / "program"))
    assert version(checkout)
    assert not (tmp_path / "ran").exists()
