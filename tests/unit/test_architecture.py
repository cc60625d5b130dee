"""Import rules that import-linter cannot express, and words that the project does not use."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(p for folder in ("data_prep", "trainer", "launch") for p in (ROOT / folder).rglob("*.py"))


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All of a file's syntax; the first node is the module."""
    return tuple(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imports(path: Path) -> set[str]:
    """Dotted names a file imports anywhere, lazily or not."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def offenders(prefix: str, allowed: tuple[str, ...]) -> list[str]:
    """Files that import ``prefix`` and are not under an allowed path."""
    found = []
    for path in SOURCES:
        where = path.relative_to(ROOT).as_posix()
        if any(n == prefix or n.startswith(prefix + ".") for n in imports(path)) and not where.startswith(allowed):
            found.append(where)
    return found


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("deepspeed", ("trainer/distributed/", "trainer/run.py", "trainer/training/checkpoint.py")),
        ("mlflow", ("trainer/callbacks/mlflow", "trainer/serve/")),
        ("torch.distributed", ("trainer/distributed/", "trainer/run.py", "trainer/training/")),
        (
            "pickle",
            (
                "data_prep/simulate/study.py",  # writes, as the published files are
                "data_prep/workers/piece.py",  # a call from this program to its own workers, never what lies in a file
            ),
        ),
    ],
)
def test_only_these_modules_import(library: str, allowed: tuple[str, ...]) -> None:
    assert offenders(library, allowed) == []


def test_data_prep_never_imports_trainer_or_launch() -> None:
    for path in SOURCES:
        if path.is_relative_to(ROOT / "data_prep"):
            assert not {n for n in imports(path) if n.split(".")[0] in ("trainer", "launch")}, path


def test_mlflow_is_imported_lazily() -> None:
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {a.name for a in node.names} if isinstance(node, ast.Import) else {node.module or ""}
                serving_model = path.relative_to(ROOT).as_posix() in (
                    "trainer/serve/model.py",
                    "trainer/serve/text_model.py",
                )  # the files that MLflow itself runs
                assert serving_model or not {n for n in names if n.split(".")[0] == "mlflow"}, path


@pytest.mark.parametrize(
    "pattern", [r"allow_pickle=True", r"weights_only=False", r"trust_remote_code(?!=False\b)", r"shell=True", r"\bTODO\b|\bFIXME\b"]
)
def test_never_in_the_sources(pattern: str) -> None:
    hits = [f"{p.relative_to(ROOT)}: {line.strip()}" for p in SOURCES for line in p.read_text().splitlines() if re.search(pattern, line)]
    assert hits == []


def test_transformers_never_asks_whether_to_run_a_models_own_code() -> None:
    calls = [node for path in SOURCES for node in nodes(path) if isinstance(node, ast.Call)]
    asked = [node for node in calls if isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"]
    loads = [call for node in asked if re.match(r"(Auto\w+|kind)\.from_pretrained\(", call := ast.unparse(node))]
    assert len(loads) >= 7
    assert all("trust_remote_code=False" in call for call in loads)


def test_the_bare_word_for_a_pass_is_not_used_as_a_name() -> None:
    for path in SOURCES:
        for node in nodes(path):
            name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "attr", None)
            assert name not in ("epoch", "epochs", "num_epochs"), f"{path}: {name}"
