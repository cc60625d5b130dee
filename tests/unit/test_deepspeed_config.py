"""The DeepSpeed config, the world, devices and precisions: pure decisions and their one-sentence refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.distributed.deepspeed_config import OWNED, ZeroConfig, build_deepspeed_config, check_parameters
from trainer.distributed.precision import check_precision
from trainer.distributed.world import World, check_world_size, choose_device, read_world, start_distributed

TWO = World(rank=0, size=2, local_size=2)


def build(overrides: dict | None = None, **fields: object) -> dict:
    arguments = {"zero": ZeroConfig(stage=2), "world": TWO, "micro_batch_size": 64, "gradient_clipping": 0.0, **fields}
    return build_deepspeed_config(overrides=overrides, **arguments)  # type: ignore[arg-type]


def test_batch_sizes_and_clipping_are_always_written() -> None:
    config = build()
    assert config["train_batch_size"] == 128
    assert config["train_micro_batch_size_per_gpu"] == 64
    assert config["gradient_accumulation_steps"] == 1
    assert config["gradient_clipping"] == 0.0
    assert config["zero_optimization"]["stage"] == 2
    assert build(gradient_clipping=0.3)["gradient_clipping"] == 0.3


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_accepts_it(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    parsed = DeepSpeedConfig(build(zero=ZeroConfig(stage=stage), world=World()))  # type: ignore[arg-type]
    assert parsed.zero_config.stage == stage
    assert parsed.gradient_clipping == 0


def test_overrides_are_merged_deep_and_strings_read_as_scalars() -> None:
    config = build(
        {
            "zero_optimization": {"round_robin_gradients": "true", "sub_group_size": "5e8"},
            "zero_optimization.reduce_bucket_size": "7",
            "communication_data_type": "fp32",
            "steps_per_print": "10",
        }
    )
    assert config["zero_optimization"]["round_robin_gradients"] is True
    assert config["zero_optimization"]["sub_group_size"] == 500_000_000
    assert config["zero_optimization"]["reduce_bucket_size"] == 7
    assert config["zero_optimization"]["stage"] == 2
    assert (config["communication_data_type"], config["steps_per_print"]) == ("fp32", 10)


@pytest.mark.parametrize("key", sorted(OWNED))
def test_keys_of_the_trainer_are_refused_by_name(key: str) -> None:
    field = OWNED[key].replace(".", r"\.")
    with pytest.raises(ValueError, match=rf"deepspeed_overrides\.{key}: decided by {field}"):
        build({key: "1"})


def test_nested_stage_is_refused_too() -> None:
    with pytest.raises(ValueError, match=r"zero\.stage"):
        build({"zero_optimization": {"stage": "3"}})


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"zero\.stage: 4"):
        ZeroConfig(stage=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"offload_optimizer: true with zero\.stage 0"):
        ZeroConfig(stage=0, offload_optimizer=True)
    with pytest.raises(ValueError, match=r"offload_parameters: true with zero\.stage 2, expected stage 3"):
        ZeroConfig(stage=2, offload_parameters=True)
    with pytest.raises(ValueError, match=r"gradient_clipping: -1"):
        build(gradient_clipping=-1.0)
    with pytest.raises(ValueError, match=r"micro_batch_size: 0"):
        build(micro_batch_size=0)


def test_parameters_that_crash_deepspeed_are_named() -> None:
    model = nn.Linear(2, 2)
    check_parameters(model)
    model.register_parameter("logit_scale", nn.Parameter(torch.tensor(1.0)))
    with pytest.raises(ValueError, match=r"'logit_scale' has shape \(\)"):
        check_parameters(model)
    with pytest.raises(ValueError, match="no parameters to train"):
        check_parameters(nn.Linear(2, 2).requires_grad_(False))


def test_world_from_launchers() -> None:
    assert read_world({}) == World()
    assert read_world({"LOCAL_RANK": "0"}) == World()
    deepspeed = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_SIZE": "2"}
    assert read_world(deepspeed) == World(rank=3, local_rank=1, size=4, local_size=2)
    torchrun = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    assert read_world(torchrun).one_host
    for environ, message in [
        ({"RANK": "0"}, "WORLD_SIZE is missing"),
        ({"WORLD_SIZE": "2"}, "RANK is missing"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "expected an integer"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_world(environ)


def test_rows_of_a_rank() -> None:
    worlds = [World(rank=rank, local_rank=rank, size=3, local_size=3) for rank in range(3)]
    assert [list(range(12))[world.rows(12)] for world in worlds] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(ValueError, match="10 rows cannot be divided among 3"):
        worlds[0].rows(10)
    check_world_size(worlds[0], 3)
    check_world_size(worlds[0], None)
    with pytest.raises(ValueError, match="4 ranks were asked for, but 3 started"):
        check_world_size(worlds[0], 4)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto", TWO) == torch.device("cpu")
    with pytest.raises(ValueError, match="no usable CUDA device"):
        choose_device("cuda", World())
    with pytest.raises(ValueError, match="no Apple GPU"):
        choose_device("mps", World())
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ValueError, match="mps with 2 ranks"):
        choose_device("mps", TWO)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto", World()) == torch.device("cuda", 0)
    assert choose_device("auto", TWO) == torch.device("cpu")
    with pytest.raises(ValueError, match="2 ranks on this host, but it has 1"):
        choose_device("cuda", TWO)


def test_precisions() -> None:
    check_precision("bf16", torch.device("cpu"))
    with pytest.raises(ValueError, match="fp16 is not supported on the CPU"):
        check_precision("fp16", torch.device("cpu"))
    with pytest.raises(ValueError, match="'fp8'"):
        check_precision("fp8", torch.device("cpu"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout_seconds: 0"):
        start_distributed(World(), torch.device("cpu"), 0)
