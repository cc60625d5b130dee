"""Differences between bases: those that were put in are found, chance is not called a difference; children leave nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.contract.cli import to_yaml
from data_prep.contract.errors import CommandError
from data_prep.contract.files import write_json
from launch.compare_bases.plan import CompareBasesConfig, plan
from launch.compare_bases.stages import check_same, train
from tests.helpers.generations import ATTRIBUTES, records, write
from tests.helpers.tiny_text import tiny_config
from trainer.evaluate.text.base_differences import BaseDifference, differences, over_seeds, sentences
from trainer.evaluate.text.command import evaluate
from trainer.evaluate.text.config import EvaluateTextConfig
from trainer.evaluate.text.results import TextScore

METRICS = ["bleu_1", "rouge_l", "attribute_accuracy"]
SHARES = {"good": 0.85, "poor": 0.45, "alike": 0.45}
"""How often each base's captions tell an attribute rightly."""


def folders(home: Path, num_seeds: int, num_items: int = 80) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for number, (base, share) in enumerate(SHARES.items()):
        arms: dict[str, float | None] = {"eeg": share, "noise": 0.2, "shuffled": 0.2, "caption-prior": None}
        for seed in range(num_seeds):
            rows = records(num_items, arms, seed=10 * number + seed)
            found.setdefault(base, []).append(write(home / f"{num_seeds}" / base / f"seed-{seed}", rows))
    return found


def test_what_differs_is_told_from_what_does_not(tmp_path: Path) -> None:
    write_json(tmp_path / "attributes.json", ATTRIBUTES)
    settings = EvaluateTextConfig(
        generations=["x"],
        output=str(tmp_path / "report"),
        attributes=str(tmp_path / "attributes.json"),
        metrics=["bleu", "rouge", "attributes"],
        resamples=300,
        mlflow=False,
    )
    generations = folders(tmp_path, 3)
    found = differences(generations, settings, METRICS)
    by_pair = {(d.a, d.b, d.metric): d for d in found}
    assert len(by_pair) == 9
    for metric in METRICS:
        assert by_pair["good", "poor", metric].clear is True
        assert by_pair["poor", "alike", metric].clear is False
    accuracy = by_pair["good", "poor", "attribute_accuracy"]
    assert 0.2 < accuracy.value < 0.45
    # The same numbers that evaluate-text has of each base by itself: corpus BLEU, mean over seeds.
    alone = {}
    for base in ("good", "poor"):
        results, _ = evaluate(EvaluateTextConfig(**{**vars(settings), "generations": [str(f) for f in generations[base]]}))
        alone[base] = results.arms["eeg"].scores["bleu_1"].value
    assert by_pair["good", "poor", "bleu_1"].value == pytest.approx(alone["good"] - alone["poor"], abs=1e-12)
    said = sentences(found)
    assert any(line.startswith("good beats poor by") and "more than training seeds differ" in line for line in said)
    assert not any("beats" in line and "alike" in line and "poor" in line for line in said)

    one = differences(folders(tmp_path, 1), settings, METRICS)
    assert {d.clear for d in one} == {None}
    assert any("one training seed says nothing about another training" in line for line in sentences(one))


def test_a_difference_no_larger_than_seeds_differ_is_not_called_one() -> None:
    estimate = TextScore(value=0.1, se=0.01, low=0.08, high=0.12, seeds_sd=None, by_seed=(0.25, 0.06, -0.01))
    about = BaseDifference(a="one", b="two", metric="bleu_1", title="BLEU-1", **vars(estimate), **vars(over_seeds(estimate)))
    assert about.clear is False
    (line,) = sentences([about])
    assert "one is ahead of two by 0.100 ± 0.010 BLEU-1, but no more than training seeds differ" in line
    assert about.seeds_low < 0 < about.seeds_high
    assert np.isclose((about.seeds_low + about.seeds_high) / 2, 0.1)


def test_bases_of_other_items_are_refused(tmp_path: Path) -> None:
    generations = folders(tmp_path, 1)
    write(tmp_path / "other", records(70, {"eeg": 0.5, "noise": 0.2, "shuffled": 0.2, "caption-prior": None}, pictures=1))
    settings = EvaluateTextConfig(generations=["x"], output=str(tmp_path), metrics=["bleu"], resamples=10)
    with pytest.raises(CommandError, match=r"other references|same items"):
        differences({"good": generations["good"], "other": [tmp_path / "other"]}, settings, METRICS)


def test_a_completed_run_of_another_config_is_refused(tmp_path: Path) -> None:
    from data_prep.contract.cli import from_plain
    from trainer.tasks.text.config import TextConfig

    plain = tiny_config(tmp_path)
    text = from_plain(TextConfig, plain)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(text))
    write_json(tmp_path / "run" / "completed.json", {"step": 12})
    train(None, from_plain(TextConfig, plain | {"mlflow": {"enabled": True}}))  # type: ignore[arg-type]  # nothing is launched
    check_same(tmp_path / "run" / "config.yaml", text)
    with pytest.raises(CommandError, match=r"was trained with adapter\.r 4, now it is 8: choose another folder"):
        train(None, from_plain(TextConfig, plain | {"adapter": {"r": 8, "alpha": 8, "dropout": 0.1}}))  # type: ignore[arg-type]
    (tmp_path / "run" / "completed.json").unlink()
    with pytest.raises(CommandError, match=r"was trained with train\.steps 12, now it is 24"):  # begun, and not gone on with otherwise
        train(None, from_plain(TextConfig, plain | {"train": {**plain["train"], "steps": 24}}))  # type: ignore[arg-type]


def test_the_plan_changes_nothing_but_base_seed_and_folders(tmp_path: Path) -> None:
    from data_prep.contract.cli import from_plain
    from trainer.generate.config import GenerateConfig
    from trainer.models.language.base import BaseConfig
    from trainer.tasks.text.config import TextConfig

    bases = {"one": BaseConfig(name="lab/one"), "two": BaseConfig(name="lab/two", quantisation="4bit")}
    config = CompareBasesConfig(text="text.yaml", bases=bases, output="compared", seeds=[3, 5])
    text = from_plain(TextConfig, tiny_config(tmp_path))
    arms = ["eeg", "noise", "shuffled", "caption-prior"]
    generation = GenerateConfig(export="x", output="x", arms=arms)
    scoring = EvaluateTextConfig(generations=["x"], output="x")
    planned = plan(config, text, generation, scoring)
    assert [(one.name, [run.text.run for run in one.runs]) for one in planned] == [
        ("one", ["compared/one/seed-3", "compared/one/seed-5"]),
        ("two", ["compared/two/seed-3", "compared/two/seed-5"]),
    ]
    for one in planned:
        for run, seed in zip(one.runs, (3, 5), strict=True):
            expected = replace(text, base=bases[one.name], run=run.text.run, resume="auto", train=replace(text.train, seed=seed))
            assert run.text == expected
            assert run.generation == replace(generation, export=f"{run.text.run}/export", output=f"{run.text.run}/generations")
        assert one.scoring.generations == [run.generation.output for run in one.runs]
    with pytest.raises(CommandError, match=r"generate: .*generate\.yaml has no arm shuffled: without its controls"):
        plan(config, text, replace(generation, arms=["eeg", "noise", "caption-prior"]), scoring)
