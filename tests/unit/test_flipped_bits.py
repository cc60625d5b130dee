"""One bit flipped, or any other damage, anywhere in a study, a run, an export, captions or reports: verify names the file."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from tests.helpers import generations
from tests.helpers.tiny_study import TinyEmbedding, write_tiny_study
from trainer.artifacts.generations import GenerationFacts, read_generations
from trainer.evaluate.results import Results, write_report
from trainer.generate.folder import GenerationFolder
from trainer.training.verify import verify as verify_results

FLIPS = int(os.environ.get("FLIPS", "40"))
"""Damages in each test; `make fuzz` makes 300."""
SEED = int(os.environ.get("FLIPS_SEED", "0"))
PAGE = 4096


@contextlib.contextmanager
def holding(contents: Mapping[Path, bytes | None]) -> Iterator[None]:
    """Files that hold something else for a while, or (None) are not there."""
    whole = {path: path.read_bytes() for path in contents}
    for path, content in contents.items():
        path.unlink() if content is None else path.write_bytes(content)
    try:
        yield
    finally:
        for path, content in whole.items():
            path.write_bytes(content)


def flipped(path: Path, bit: int) -> contextlib.AbstractContextManager[None]:
    damaged = bytearray(path.read_bytes())
    damaged[bit // 8] ^= 1 << bit % 8
    return holding({path: bytes(damaged)})


def places(root: Path, rng: np.random.Generator) -> Iterator[Path]:
    """Files in turn, so that small ones come, too."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)
    for number in range(FLIPS):
        if number % len(files) == 0:
            rng.shuffle(files)  # type: ignore[arg-type]
        yield files[number % len(files)]


def flips(root: Path, seed: int) -> Iterator[tuple[str, dict[Path, bytes | None]]]:
    """A bit of each file at random."""
    rng = np.random.default_rng([seed, SEED])
    for path in places(root, rng):
        damaged = bytearray(path.read_bytes())
        bit = int(rng.integers(8 * len(damaged)))
        damaged[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", {path: bytes(damaged)}


def damages(root: Path, seed: int) -> Iterator[tuple[str, dict[Path, bytes | None]]]:
    """What disks and copies do to files: cut, a page of zeros, not there, or one in the place of another of its size."""
    rng = np.random.default_rng([seed, SEED])
    for number, path in enumerate(places(root, rng)):
        whole = path.read_bytes()
        at = int(rng.integers(len(whole)))
        page = at // PAGE * PAGE
        twin = next(
            (other for other in path.parent.glob("*") if other.is_file() and other.stat().st_size == len(whole) and other != path), None
        )
        kinds: dict[str, dict[Path, bytes | None]] = {
            "cut": {path: whole[:at]},
            "zeroed": {path: whole[:page] + bytes(len(whole[page : page + PAGE])) + whole[page + PAGE :]},
            "gone": {path: None},
            "exchanged": {path: twin.read_bytes(), twin: whole} if twin else {path: whole[::-1]},
        }
        if path.name == SEALS:
            del kinds["gone"]  # what then has no hash is said, and nothing else of it is wrong
            lines = whole.splitlines(keepends=True)
            kinds |= {f"lines {n}": {path: b"".join(lines_changed(lines, rng))} for n in range(4)}
            kinds["cut at a line"] = {path: b"".join(lines[: int(rng.integers(1, len(lines)))])}
        kind = list(kinds)[number % len(kinds)]
        if any(content != whole for content in kinds[kind].values()):
            yield kind, kinds[kind]


def lines_changed(lines: list[bytes], rng: np.random.Generator) -> list[bytes]:
    """Some of a list's lines taken out, exchanged, written twice, or one of another file put in."""
    one, other = sorted(rng.choice(len(lines), 2, replace=False).tolist())
    ways = [
        [*lines[:one], *lines[other:]],
        [*lines[:one], lines[other], *lines[one + 1 : other], lines[one], *lines[other + 1 :]],
        [*lines[:other], lines[one], *lines[other:]],
        [*lines[:other], b"0" * 64 + b"  other.json\n", *lines[other:]],
        lines[one + 1 :],
        lines[::-1],
    ]
    return ways[int(rng.integers(len(ways)))]


def unnamed(
    root: Path,
    seed: int,
    check: Callable[[Path], Sequence[str]],
    made: Callable[[Path, int], Iterator[tuple[str, dict[Path, bytes | None]]]] = flips,
) -> list[str]:
    """Damages that nothing names: a file itself, or the list or manifest that has its hash."""
    found = []
    for kind, contents in made(root, seed):
        with holding(contents):
            try:
                faults = check(root)
            except UserError as error:
                faults = [str(error)]
        named = [name for path in contents for name in [path.name, *(["/" + path.stem] if path.suffix != ".json" else [])]]
        if not any(name in fault for name in named for fault in faults):
            found.append(f"{[str(path.relative_to(root)) for path in contents]} {kind}: {faults}")
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tiny_study(tmp_path_factory.mktemp("flips") / "study", n_stimuli=24, n_test=8, samples_per_shard=12, vary_reps=True)
    write_split(SplitConfig(study=str(root), policy="zero-shot", num_validation_concepts=2, transform="mvnn"))
    write_split(SplitConfig(study=str(root), policy="zero-shot", name="scaled", transform="zscore", seed=2))
    embed(EmbedConfig(study=str(root), name="later", embedding=TinyEmbedding(seed=4)))
    return root


@pytest.mark.parametrize("made", [flips, damages])
def test_verify_names_whatever_was_damaged_in_a_study(study: Path, made: Any) -> None:
    assert verify(study) == []
    assert unnamed(study, 0, verify, made) == []


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions as ``generate`` leaves them, and the report of an evaluation."""
    root = tmp_path_factory.mktemp("results")
    folder = GenerationFolder(root / "captions")
    folder.begin({"split": "zero-shot"})
    made = generations.records(6)
    for arm in ("eeg", "noise"):
        folder.append(arm, "0-of-1", [record for record in made if record["arm"] == arm])
    folder.log(0).parent.mkdir()
    folder.log(0).write_text("loading\n")
    folder.finish(GenerationFacts(split="zero-shot", simulated=True))
    write_report(root / "report", "some", Results(kind="retrieval", notes=("one",)), lambda results: f"<p>{results.notes}</p>")
    return root


@pytest.mark.parametrize("made", [flips, damages])
@pytest.mark.parametrize("folder", ["captions", "report"])
def test_verify_names_whatever_was_damaged_in_captions_and_reports(results: Path, tmp_path: Path, folder: str, made: Any) -> None:
    root = Path(shutil.copytree(results / folder, tmp_path / folder, ignore=shutil.ignore_patterns("logs")))
    assert verify_results(root) == []
    assert unnamed(root, 0, verify_results, made) == []


def test_captions_that_were_damaged_are_not_added_to_and_scored_with_a_word(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(results / "captions", tmp_path / "captions"))
    folder = GenerationFolder(root)
    folder.check({"split": "zero-shot"})
    parts = root / "parts" / "eeg.0-of-1.jsonl"
    with holding({parts: parts.read_bytes().replace(b"ring", b"star", 1)}), pytest.raises(UserError, match=r"eeg\.0-of-1\.jsonl: SHA-256"):
        folder.check({"split": "zero-shot"})
    captions = root / "generations.jsonl"
    with holding({captions: captions.read_bytes().replace(b'"seed": 0', b'"seed": 7', 1)}):
        read_generations([root])
    assert "generations.jsonl: SHA-256" in capsys.readouterr().err
    folder.reopen()
    folder.append("image", "0-of-1", [record for record in generations.records(6) if record["arm"] == "image"])
    folder.finish(GenerationFacts(split="zero-shot", simulated=True))
    assert verify_results(root) == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b"names nothing"])
def test_a_list_that_holds_no_hash_is_damaged(results: Path, content: bytes) -> None:
    seals = results / "report" / SEALS
    with holding({seals: content}):
        assert f"{seals}: not a list of hashes" in verify_results(results / "report")[0]


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
