"""The model of scaling: its page is what it prints, its limits are those of arithmetic, and it says what published figures say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.contract.cli import main
from launch.__main__ import COMMANDS
from launch.scaling import GPUS, PUBLISHED, ClusterConfig, ScalingConfig, fitted_waiting, interruptions, step, tables, works

PAGE = Path(__file__).parents[2] / "launch" / "SCALING.md"
FREE = ClusterConfig(
    inside_bytes_a_second=1e30, between_bytes_a_second=1e30, inside_seconds=0.0, between_seconds=0.0, waiting_share=0.0, memory_bytes=1e30
)


def test_the_page_holds_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("launch", "", COMMANDS, ["scaling"]) == 0
    printed = capsys.readouterr().out
    page = PAGE.read_text()
    between = page.partition("<!-- printed by: python -m launch scaling -->\n")[2].partition("\n<!-- end of what is printed -->")[0]
    assert between.strip() == printed.strip() == tables(ScalingConfig())
    assert f"{100 * fitted_waiting():.2f} % of computing" in page


@pytest.mark.parametrize("work", works(), ids=lambda work: work.name)
def test_links_without_limits_scale_linearly(work: object) -> None:
    work = replace(work, compute=replace(work.compute, fixed_seconds=0.0, pair_seconds=0.0))  # type: ignore[type-var,attr-defined]
    one = step(work, FREE, 1).samples_a_second
    for gpus in GPUS:
        assert step(work, FREE, gpus).samples_a_second == pytest.approx(gpus * one)


@pytest.mark.parametrize("work", works(), ids=lambda work: work.name)
def test_worse_links_and_more_waiting_are_never_faster(work: object) -> None:
    best = ClusterConfig()
    worse = [
        replace(best, between_bytes_a_second=1.25e9),
        replace(best, inside_bytes_a_second=1e9),
        replace(best, between_seconds=1e-3),
        replace(best, waiting_share=0.05),
        replace(best, memory_bytes=0.0),
    ]
    for gpus in GPUS:
        rate = step(work, best, gpus).samples_a_second  # type: ignore[arg-type]
        assert rate <= gpus * step(work, best, 1).samples_a_second * (1 + 1e-9)  # type: ignore[arg-type]
        assert all(step(work, cluster, gpus).samples_a_second <= rate * (1 + 1e-9) for cluster in worse)  # type: ignore[arg-type]


def test_the_interval_of_checkpoints_is_the_best_one() -> None:
    cluster = ClusterConfig()
    for gpus in (1, 64, 1024):
        found = interruptions(86e6, cluster, gpus)
        between = found.hours_between * 3600
        write = 16 * 86e6 / cluster.write_bytes_a_second + 1.0

        def lost(every: float, write: float = write, between: float = between) -> float:
            return write / every + (every / 2 + cluster.restart_seconds) / between

        assert found.lost_share == pytest.approx(lost(found.checkpoint_every_seconds))
        assert all(lost(found.checkpoint_every_seconds) <= lost(found.checkpoint_every_seconds * factor) for factor in (0.5, 0.9, 1.1, 2.0))


def test_published_figures_are_met_as_the_page_says() -> None:
    errors = {
        one.name: [model - found for (_, found), (_, model) in zip(one.efficiencies(), one.predicted(one.cluster), strict=True)]
        for one in PUBLISHED
    }
    assert max(map(abs, errors["CLAP, HTSAT-tiny, GH200"])) < 0.01  # fitted
    assert max(map(abs, errors["CLAP, HTSAT-base, GH200"])) < 0.04
    assert max(map(abs, errors["NeMo CLIP g/14, DGX A100"])) < 0.012
    assert max(map(abs, errors["NeMo CLIP g/14, DGX H100"])) < 0.08
    assert all(min(found) > -0.01 for found in errors.values())


def test_a_cluster_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--cluster.gpus_per_node", "0"], ["--cluster.between_bytes_a_second", "0"], ["--cluster.hours_between_failures=-1"]):
        assert main("launch", "", COMMANDS, ["scaling", *words]) != 0
        assert "expected a positive number" in capsys.readouterr().err
