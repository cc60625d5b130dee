"""``generate``: captions of a part's trials by a text model, for every arm of an evaluation, under the same decoding.

::

    export + study part -> what each arm shows (trainer.generate.arms) -> prefix features and prompts -> batches, dealt to the
    ranks -> OUTPUT/parts/*.jsonl as they come -> OUTPUT/generations.jsonl, generations.csv, generate.json

Batches are cut by item number, never by rank, and sampling draws by item: the text is the same on any number of ranks. Killed
and started again, it goes on where it stopped. Every item of the part is captioned, whatever the model got right.

I: items to be captioned.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from data_prep.contract.progress import tracked
from trainer.distributed import collectives
from trainer.distributed import world as worlds
from trainer.distributed.library_log import LibraryLog, collected
from trainer.distributed.world import World
from trainer.generate.arms import ArmError
from trainer.generate.captions import Generation
from trainer.generate.config import GenerateConfig
from trainer.generate.folder import GenerationFolder, print_summary
from trainer.training.task import say


def run(config: GenerateConfig) -> None:
    """``python -m trainer generate``, or on several ranks ``deepspeed --module trainer generate``."""
    world = worlds.read_world()
    device = worlds.choose_device(config.device, world)
    say(world, f"captioning into {config.output} on {world.size} rank{'s' if world.size > 1 else ''} ({device.type})")
    with collected() as said:
        if world.size > 1:
            worlds.start_distributed(world, device, config.timeout_seconds)
        try:
            generate(config, world, device, said)
        finally:
            if world.size > 1:
                worlds.stop_distributed()


def generate(config: GenerateConfig, world: World, device: torch.device, said: LibraryLog | None = None) -> None:
    """Caption this rank's share of what is not captioned yet; rank 0 writes the whole when all are done."""
    started, folder = time.monotonic(), GenerationFolder(config.output)
    generation = Generation(config, device)
    if world.is_main:
        folder.begin(generation.request)
    _wait_for_all(device)
    folder.check(generation.request)
    if said is not None:
        said.open(folder.log(world.rank))
    done = {(record["arm"], record["item"]) for record in folder.records()}
    _wait_for_all(device)  # nobody writes before all have read
    if world.is_main:
        folder.reopen()
    left_out: dict[str, str] = {}
    writer = f"{world.rank}-of-{world.size}"
    for arm in config.arms:
        todo = batches(generation.items, config.batch_size, done, arm, world)
        if all((arm, item) in done for item in generation.items.tolist()):
            continue
        try:
            speaker = generation.speaker(arm)
        except ArmError as error:
            left_out[arm] = str(error)
            continue
        for rows in tracked(todo, f"{arm}: batches") if world.is_main else todo:
            texts = speaker.say(rows, generation.items[rows], config)
            folder.append(arm, writer, generation.records(arm, speaker, rows, texts))
        if world.is_main:
            folder.publish()  # what other ranks still write of this arm comes with the next one
    _wait_for_all(device)  # all parts are on disk
    if world.is_main:
        records = folder.finish(replace(generation.facts, left_out=left_out, seconds=round(time.monotonic() - started, 1)))
        notes = [*generation.notes, *(f"arm {arm} is left out: {why}" for arm, why in left_out.items())]
        print_summary(records, folder.path, notes)


def batches(items: np.ndarray, batch_size: int, done: set[tuple[str, int]], arm: str, world: World) -> list[np.ndarray]:
    """This rank's batches, as rows of ``items``, without those that are done: batch b is rank ``b mod world.size``'s."""
    cut = [np.arange(first, min(first + batch_size, len(items))) for first in range(0, len(items), batch_size)]
    return [rows for rows in cut[world.rank :: world.size] if any((arm, item) not in done for item in items[rows].tolist())]


def _wait_for_all(device: torch.device) -> None:
    collectives.gather_ids(torch.zeros(1, dtype=torch.int64, device=device))
