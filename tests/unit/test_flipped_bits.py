"""One bit flipped anywhere in a study, a finished run or an export: verify names the file."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import COMMANDS as DATA_COMMANDS
from data_prep.contract.cli import main
from data_prep.contract.errors import UserError
from data_prep.contract.seal import SEALS
from data_prep.embed.command import EmbedConfig
from data_prep.embed.command import run as embed
from data_prep.shards.verify import verify
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from tests.helpers.tiny_study import TinyEmbedding, write_tiny_study

FLIPS = int(os.environ.get("FLIPS", "40"))
"""Bits flipped in each test; 300 and more are asked for by hand."""


@contextlib.contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        yield
    finally:
        path.write_bytes(whole)


def places(root: Path, seed: int) -> Iterator[tuple[Path, int]]:
    """Files in turn, so that small ones come, too, and a bit of each at random."""
    rng = np.random.default_rng(seed)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)
    for number in range(FLIPS):
        if number % len(files) == 0:
            rng.shuffle(files)  # type: ignore[arg-type]
        path = files[number % len(files)]
        yield path, int(rng.integers(8 * path.stat().st_size))


def unnamed(root: Path, seed: int, check: Callable[[Path], Sequence[str]]) -> list[str]:
    """Flips that nothing names: the file itself, or the list or manifest that has its hash."""
    found = []
    for path, bit in places(root, seed):
        with flipped(path, bit):
            try:
                faults = check(root)
            except UserError as error:
                faults = [str(error)]
        named = [path.name, *(["/" + path.stem] if path.suffix != ".json" else [])]
        if not any(name in fault for name in named for fault in faults):
            found.append(f"{path.relative_to(root)} bit {bit}: {faults}")
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tiny_study(tmp_path_factory.mktemp("flips") / "study", n_stimuli=24, n_test=8, samples_per_shard=12, vary_reps=True)
    write_split(SplitConfig(study=str(root), policy="zero-shot", num_validation_concepts=2, transform="mvnn"))
    write_split(SplitConfig(study=str(root), policy="zero-shot", name="scaled", transform="zscore", seed=2))
    embed(EmbedConfig(study=str(root), name="later", embedding=TinyEmbedding(seed=4)))
    return root


@pytest.mark.parametrize("seed", range(2))
def test_verify_names_every_flipped_bit_of_a_study(study: Path, seed: int) -> None:
    assert verify(study) == []
    assert unnamed(study, seed, verify) == []


@pytest.mark.parametrize("name", [
    "transforms/zero-shot.npz", "000000.done.json", "manifest.sha256", "plan.json", "config.yaml", "embeddings/later.json",
    "splits/zero-shot.json", "splits/zero-shot.audit.json", f"splits/{SEALS}", SEALS,
])  # fmt: skip
def test_every_byte_of_what_was_passed_over_is_looked_at(study: Path, name: str) -> None:
    path, missed = study / name, []
    size = path.stat().st_size
    for at in range(0, size, max(1, size // 12)):
        with flipped(path, 8 * at + at % 8):
            try:
                missed += [] if verify(study) else [at]
            except UserError:
                continue
    assert missed == []


def test_a_study_of_an_earlier_version_is_whole_and_what_has_no_hash_is_said(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path(shutil.copytree(study, tmp_path / "old"))
    for seals in old.rglob(SEALS):
        seals.unlink()
    assert main("data_prep", "", DATA_COMMANDS, ["verify", "--study", str(old)]) == 0
    said = capsys.readouterr().err
    assert "no hash is known of 000000.done.json" in said
    assert "whole" in said
    assert main("data_prep", "", DATA_COMMANDS, ["verify", "--study", str(study)]) == 0
    assert "no hash is known" not in capsys.readouterr().err


def test_splits_written_at_once_are_all_sealed(study: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    root = Path(shutil.copytree(study, tmp_path / "study"))
    configs = [SplitConfig(study=str(root), policy="zero-shot", name=f"s{n}", seed=n) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write_split, configs))
    listed = (root / "splits" / SEALS).read_text()
    assert all(f"  s{n}.json\n" in listed and f"  s{n}.audit.json\n" in listed for n in range(6))
    assert verify(root) == []
