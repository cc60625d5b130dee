"""``python -m launch.doctor.bandwidth``: a rank that meets the others as a training's does, and measures what they need of the network."""

from __future__ import annotations

import json
import os

from data_prep.contract.cli import begin_process, ending, leave

ASKED = "EEGVISION_DOCTOR"


def main() -> int:
    """Meet, measure, and say on rank 0 what was found."""
    from trainer.distributed import world as worlds
    from trainer.distributed.bandwidth import measure_collectives
    from trainer.distributed.library_log import collected

    asked = json.loads(os.environ[ASKED])
    world = worlds.read_world()
    device = worlds.choose_device(asked["device"], world)
    with collected():
        worlds.start_distributed(world, device, asked["seconds"])
        try:
            found = measure_collectives(asked["bytes"], device)
        finally:
            worlds.stop_distributed()
    if world.is_main:
        print(json.dumps({"bandwidth": found}), flush=True)
    return 0


if __name__ == "__main__":
    begin_process()
    leave(ending(main))
