"""Two ranks under every ZeRO stage compute what one process computes on the joined batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launcher import launch

STAGES = ("0", "1", "2", "3")
LIMIT = 1e-5


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Errors of one launch that tries every stage."""
    output = Path(tmp_path_factory.mktemp("exactness")) / "errors.json"
    done = launch("tests.distributed.exactness_worker", [str(output)], ranks=2, timeout_seconds=150)
    assert done.returncode == 0, done.stdout[-4000:]
    return json.loads(output.read_text())


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("encoder", ["tsconv", "cnn_transformer"])
def test_two_ranks_equal_one_process(errors: dict[str, Any], stage: str, encoder: str) -> None:
    found = errors[stage][encoder]
    assert errors["world_size"] == 2
    assert found["num_gradients"] > 10
    for name in ("loss", "gradient", "weight", "next_loss", "running_statistics"):
        assert found[name] < LIMIT, f"{name} under ZeRO-{stage}"
    assert found["running_statistics_between_ranks"] == 0


def test_a_row_of_the_same_stimulus_is_never_a_negative(errors: dict[str, Any]) -> None:
    assert errors["forbidden_negatives"] == 0


@pytest.mark.parametrize("stage", STAGES)
def test_loss_scale_skips_overflow_on_all_ranks_and_steps_unscaled(errors: dict[str, Any], stage: str) -> None:
    found = errors["loss_scale"][stage]
    assert found["unchanged"] == 0
    assert found["skipped_then_stepped"] == 1
    assert found["halved"] == 2.0**15
    assert found["scale_between_ranks"] == 0
    assert found["clipped_step"] < 1e-4  # a difference of nearly equal weights, so less exact than a gradient


def test_autocast_works_inside_the_module(errors: dict[str, Any]) -> None:
    assert errors["autocast"] == {"inside": "torch.bfloat16", "without": "torch.float32"}
