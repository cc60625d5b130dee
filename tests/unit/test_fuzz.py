"""The short form of ``make fuzz``: some inputs for every parser, and all cases that were found before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.child import FOUND, all_targets
from tests.fuzz.harness import Target, fuzz, tried
from tests.helpers.shared_data import shared_data


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return {target.name: target for target in all_targets(tmp_path_factory.mktemp("fuzz"))}


def test_every_parser_gives_a_value_or_one_sentence(targets: dict[str, Target], tmp_path: Path) -> None:
    for target in targets.values():
        folder = tmp_path / target.name
        folder.mkdir()
        for content in target.seeds:
            assert tried(target, content, folder) in (None, "refused"), target.name
        found = fuzz(target, folder, seed=7, inputs=-(-target.inputs // 2))
        assert found.faults == [], target.name
        assert found.refused > 0 or not target.refuses, target.name


def test_cases_found_before_are_refused_or_read(targets: dict[str, Target], tmp_path: Path) -> None:
    for case in sorted(FOUND.glob("*-*")) if FOUND.is_dir() else ():
        target = targets[max((name for name in targets if case.name.startswith(name)), key=len)]
        assert tried(target, case.read_bytes(), tmp_path) in (None, "refused"), case.name


@pytest.mark.parametrize(("folder", "parser"), [
    ("fuzz_captions_*", "captions"), ("fuzz_embeds_*", "embeds"), ("fuzz_image_*", "image"), ("fuzz_npy_*", "npy"), ("fuzz_npz_*", "npz"),
    ("fuzz_pt_*", "torch-zip"), ("fuzz_pt_*", "features"), ("fuzz_npz_*", "features"), ("fuzz_npy_*", "names"), ("fuzz_yaml_*", "yaml"),
])  # fmt: skip
def test_inputs_that_went_wrong_in_the_field(targets: dict[str, Target], tmp_path: Path, folder: str, parser: str) -> None:
    cases = [path for place in shared_data().glob(f"cases/{folder}") for path in place.iterdir() if path.is_file()]
    for case in cases:
        assert tried(targets[parser], case.read_bytes(), tmp_path) in (None, "refused"), case.name


def test_the_harness_sees_what_it_is_for(tmp_path: Path) -> None:
    import subprocess

    def target(read: object) -> Target:
        return Target(name="t", suffix=".x", seeds=[b"x"], read=read)  # type: ignore[arg-type]

    assert "started a program" in str(tried(target(lambda _: subprocess.run(["true"], check=True)), b"", tmp_path))
    assert "ZeroDivisionError" in str(tried(target(lambda _: 1 / 0), b"", tmp_path))

    def unnamed(_: Path) -> None:
        from data_prep.contract.errors import StudyError

        raise StudyError("something is wrong")

    assert "unnamed" in str(tried(target(unnamed), b"", tmp_path))
