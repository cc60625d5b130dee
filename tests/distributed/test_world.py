"""A single process without a launcher connects to itself and trains."""

from __future__ import annotations

import os
import subprocess
import sys

SINGLE = """
import os, torch
from data_prep.contract.cli import leave
from trainer.distributed import collectives
from trainer.distributed.deepspeed_config import ZeroConfig, build_deepspeed_config
from trainer.distributed.world import choose_device, read_world, start_distributed, set_group_timeouts, stop_distributed
world = read_world()
for _ in range(2):
    start_distributed(world, choose_device("cpu", world), 30)
    import deepspeed
    module = torch.nn.Linear(3, 1)
    config = build_deepspeed_config(zero=ZeroConfig(stage=2), world=world, micro_batch_size=4)
    engine, *_ = deepspeed.initialize(model=module, optimizer=torch.optim.AdamW(module.parameters(), lr=0.1), config=config)
    set_group_timeouts(30)
    engine.backward(engine(torch.ones(4, 3)).square().mean()); engine.step()
    groups = torch.distributed.distributed_c10d._world.pg_map
    assert len(groups) > 1 and all(g._get_backend(torch.device("cpu")).options._timeout.total_seconds() == 30 for g in groups)
stop_distributed(); stop_distributed()
print("trained on", collectives.num_ranks())
leave(0)
"""


def test_a_single_process_trains_without_a_launcher() -> None:
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environ = {name: value for name, value in os.environ.items() if name not in launcher}
    done = subprocess.run([sys.executable, "-c", SINGLE], capture_output=True, text=True, timeout=120, env=environ, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "trained on 1" in done.stdout
