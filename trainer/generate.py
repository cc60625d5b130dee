"""``generate``: captions of a part's trials by a text model, for every arm of an evaluation, under the same decoding.

::

    export + study part -> inputs of each arm -> batches, dealt to the ranks -> OUTPUT/parts/*.jsonl, appended as they come
    -> OUTPUT/generations.jsonl, generations.csv, generate.json

Batches are cut by item number, never by rank, and sampling draws by item: the text is the same on any number of ranks. Killed
and started again, it goes on where it stopped. Every item of the part is captioned, whatever the model got right.

N: items, B: items of a batch, C: channels, T: time points, S: feature tokens, D: their width, P: common space.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from data_prep import schema
from data_prep.cli import CommandError, to_plain
from trainer.data import random
from trainer.data.captions import StudyCaptions
from trainer.data.loader import Loader
from trainer.distributed import collectives
from trainer.distributed import world as worlds
from trainer.distributed.world import DeviceName
from trainer.evaluate import arms as arm_inputs
from trainer.evaluate.arms import ARMS, WITH_WORDS
from trainer.evaluate.embeddings import open_part, seen_trials
from trainer.evaluate.part import PartArrays, collect
from trainer.export_text import TextDecoder, find_text_export, load_text
from trainer.models.base_llm import context_length
from trainer.models.concepts import ConceptTable, as_words, build_concept_table
from trainer.models.decoding import DecodingConfig
from trainer.models.prompt import Prompt, PromptConfig, Prompter, Style
from trainer.run_folder import read_lines

GENERATIONS, TABLE, FACTS, REQUEST, PARTS = "generations.jsonl", "generations.csv", "generate.json", "request.json", "parts"
COLUMNS = (
    "arm", "item", "stimulus", "subject", "image", "expected", "generated", "concept_true", "concept_predicted", "prompt", "seed",
)  # fmt: skip
FREE = ("output", "arms", "device", "timeout_seconds", "batch_size")
"""Fields that may change when a generation is continued."""
KEYWORDS = "Write one short caption of a picture of this."
_LIMIT = random.word("items of a limited generation")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Caption a part of a study by a text model, and by its controls."""

    export: str
    """Text export, or the folder of a run that has one."""
    output: str
    """Folder for the captions; one that holds a part of the same generation is continued."""
    arms: list[str] = field(default_factory=lambda: ["eeg", "noise", "shuffled", "image", "nearest-caption", "caption-prior"])
    """Arms: eeg, eeg+concept, noise, noise+word, shuffled, shuffled-within-concept, concept-mean, label-only, keywords, nearest-caption,
    caption-prior, image."""
    label_only: str = ""
    """Text export or run of stage ``label``, for the arm label-only."""
    study: str = ""
    """Study folder; empty: the one the encoder was trained on."""
    split: str = ""
    """Split; empty: that of training."""
    part: Literal["train", "validation", "test"] = "test"
    """Part of the split."""
    candidates: Literal["train", "part"] = "train"
    """Concepts that words are predicted from: those of training, or ``part``: those of the part itself, a closed gallery; it is said."""
    num_words: int = 0
    """Predicted concepts in prompts with words; 0: as in training, at least one."""
    style: Style | None = None
    """Prompt style; null: that of training."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """The same for all arms."""
    seed: int = 0
    """Of sampling, noise and shuffling."""
    limit: int = 0
    """Only this many items, a fixed choice; 0: all."""
    batch_size: int = 32
    """Items a forward."""
    base: str = ""
    """Another place of the base model; empty: as the export says."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the base and the computation."""
    device: DeviceName = "auto"
    """Where it computes."""
    timeout_seconds: float = 3600.0
    """Longest wait for the other ranks at the end."""

    def __post_init__(self) -> None:
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown or not self.arms:
            raise ValueError(f"arms: {unknown[0] if unknown else 'empty'}, expected some of {', '.join(ARMS)}")
        if "label-only" in self.arms and not self.label_only:
            raise ValueError("label_only: empty with the arm label-only, expected the export of a model trained in stage label")
        for name, least in (("seed", 0), ("limit", 0), ("num_words", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least {least}")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the arms draw on; every array in the order of the items."""

    items: np.ndarray
    """Numbers of the items in their part."""
    arrays: PartArrays
    z_NP: np.ndarray
    """EEG in the common space."""
    noise_NCT: np.ndarray
    table: ConceptTable
    train_captions: list[str]
    train_NP: np.ndarray
    """Images of the training stimuli with captions, in the common space, and their first captions."""
    train_concepts: list[str]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An arm, ready to be generated: fixed ``texts``, or features and prompts by row of the items."""

    name: str
    concepts: list[str]
    """Predicted concept of each item; empty where nothing is predicted."""
    texts: list[str] | None = None
    prompts: list[Prompt] | None = None
    features: Callable[[np.ndarray], Tensor] | None = None
    decoder: TextDecoder | None = None
    prompter: Prompter | None = None
    use_adapter: bool = True


def run(config: GenerateConfig) -> None:
    """``python -m trainer generate``, or on several ranks ``deepspeed --module trainer generate``."""
    world = worlds.read_world()
    device = worlds.choose_device(config.device, world)
    if world.size > 1:
        worlds.start_distributed(world, device, config.timeout_seconds)
    try:
        started = time.monotonic()
        folder = Path(config.output)
        export = find_text_export(config.export)
        claim(folder, config, export, world.rank)
        facts = generate(config, export, world.rank, world.size, device)
        if world.size > 1:
            collectives.gather_ids(torch.zeros(1, dtype=torch.int64, device=device))  # all parts are on disk
        if world.rank == 0:
            finish(folder, config, facts, seconds=time.monotonic() - started)
    finally:
        if world.size > 1:
            worlds.stop_distributed()


def claim(folder: Path, config: GenerateConfig, export: Path, rank: int) -> None:
    """Begin or continue the generation in ``folder``: by every rank, the first one there writes the request down.

    Raises
    ------
    CommandError
        The folder holds another generation; the first field that differs is named.
    """
    plain = {name: value for name, value in to_plain(config).items() if name not in FREE}
    plain["export_sha256"] = schema.sha256_file(export / "config.json")
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    request = folder / REQUEST
    if not request.is_file() and rank == 0:
        schema.write_json(request, plain)
    deadline = time.monotonic() + 60
    while not request.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    before = schema.read_json(request)
    for name, value in plain.items():
        if before.get(name) != value:
            raise CommandError(
                f"output: {folder} holds captions with {name} {before.get(name)!r}, now it is {value!r}: choose another folder"
            )


def generate(config: GenerateConfig, export: Path, rank: int, world_size: int, device: torch.device) -> dict[str, Any]:
    """Caption what is not captioned yet, this rank's share of it; returns facts for ``generate.json``."""
    folder, console = Path(config.output), Console(stderr=True, soft_wrap=True, highlight=False)
    decoder = load_text(export, device, base=config.base or None, precision=config.precision)
    loader = open_part(
        decoder.encoder, config.study or decoder.config["data"]["study"], config.split or decoder.config["split"], config.part
    )
    _check_unseen(decoder, loader)
    captions = StudyCaptions.open(loader.index)
    inputs, uncaptioned = gather(config, decoder, loader, captions, device)
    left_out: dict[str, str] = {}
    notes: list[str] = []
    if uncaptioned:
        notes.append(f"{uncaptioned} items of the part have no caption to compare with and were left out.")
    if "eeg" in config.arms and decoder.num_words and not decoder.config["prompt"]["concept_dropout"]:
        notes.append("The model never saw a prompt without words in training: arms without words are foreign to it.")
    if {"eeg+concept", "noise+word"} & set(config.arms) and not decoder.num_words:
        notes.append("The model never saw words in training: arms with words are foreign to it.")
    done = {(record["arm"], record["item"]) for record in _records(folder)}
    with Progress(console=console, transient=True, disable=rank > 0) as progress:
        for name in config.arms:
            todo = batches(inputs.items, config.batch_size, done, name, rank, world_size)
            bar = progress.add_task(name, total=len(todo))
            if not todo and all((name, int(item)) in done for item in inputs.items):
                continue
            try:
                arm = make_arm(name, config, decoder, inputs, device)
            except ValueError as error:
                left_out[name] = str(error)
                if rank == 0:
                    console.print(f"arm {name} is left out: {error}", markup=False)
                continue
            with (folder / PARTS / f"{name}.{rank}-of-{world_size}.jsonl").open("ab") as file:
                for rows in todo:
                    texts = say(arm, config, inputs, rows, device)
                    for record in records(arm, config, loader, captions, inputs, rows, texts):
                        file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                    progress.advance(bar)
    manifest = loader.index.manifest
    return {
        "study": str(loader.index.root),
        "fingerprint": manifest["fingerprint"],
        "split": loader.config.split,
        "split_hash": loader.split_hash,
        "part": config.part,
        "simulated": bool(manifest.get("preprocessing", {}).get("simulated", False)),
        "candidates": config.candidates,
        "num_items": len(inputs.items),
        "num_uncaptioned": uncaptioned,
        "base": decoder.config["base"]["name"],
        "stage": decoder.config["stage"]["name"],
        "step": decoder.config.get("step"),
        "left_out": left_out,
        "notes": notes,
    }


def gather(
    config: GenerateConfig, decoder: TextDecoder, loader: Loader, captions: StudyCaptions, device: torch.device
) -> tuple[Inputs, int]:
    """Everything the arms need of the part and of the training part; and how many items have no caption."""
    encoder = decoder.encoder
    arrays = collect(loader)
    items = np.arange(len(arrays))
    has = captions.has(arrays.stimulus_N)
    if not has.any():
        raise CommandError(f"{loader.index.root}: no stimulus of part {config.part!r} has a caption to compare with")
    chosen = items[has]
    if config.limit and config.limit < len(chosen):
        drawn = random.hash_numpy(_LIMIT, chosen)
        chosen = np.sort(chosen[np.argsort(drawn, kind="stable")[: config.limit]])
    mask = np.isin(items, chosen)
    arrays = arrays.where(mask)
    training = Loader(loader.index, loader.config, "train", seed=0)
    stimuli = training.stimuli[captions.has(training.stimuli)]
    names = loader.index.manifest["tables"]["concepts"]
    table = decoder.concepts if decoder.concepts is not None and config.candidates == "train" else None
    return Inputs(
        items=chosen,
        arrays=arrays,
        z_NP=_embed(encoder, arrays.eeg_NCT, arrays.subject_N, device),
        noise_NCT=arm_inputs.matched_noise(arrays.eeg_NCT, chosen, config.seed),
        table=table or build_concept_table(encoder, training if config.candidates == "train" else loader),
        train_captions=[captions.of(s)[0] for s in stimuli.tolist()],
        train_NP=encoder.embed_image(loader.gallery[stimuli]),
        train_concepts=[names[loader.index.manifest["tables"]["stimuli"][s]["concept"]] for s in stimuli.tolist()],
    ), int((~has).sum())


def make_arm(name: str, config: GenerateConfig, decoder: TextDecoder, inputs: Inputs, device: torch.device) -> Arm:
    """The arm's features, prompts or fixed texts.

    Raises
    ------
    ValueError
        The part cannot make this arm, in a sentence.
    """
    arrays, table = inputs.arrays, inputs.table
    eeg_NCT, z_NP = arrays.eeg_NCT, inputs.z_NP
    if name == "caption-prior":
        return Arm(name=name, concepts=[""] * len(z_NP), texts=[arm_inputs.typical_caption(inputs.train_captions)] * len(z_NP))
    if name == "nearest-caption":
        rows = arm_inputs.nearest(z_NP, inputs.train_NP).tolist()
        return Arm(name=name, concepts=[inputs.train_concepts[r] for r in rows], texts=[inputs.train_captions[r] for r in rows])
    if name.startswith("noise"):
        eeg_NCT = inputs.noise_NCT
        z_NP = _embed(decoder.encoder, eeg_NCT, arrays.subject_N, device)
    elif name.startswith("shuffled"):
        group = arrays.subject_N
        if name == "shuffled-within-concept":
            group = np.unique(np.stack([arrays.subject_N, arrays.concept_N]), axis=1, return_inverse=True)[1].reshape(-1)
        other = arm_inputs.deranged(group, arrays.stimulus_N, config.seed)
        eeg_NCT, z_NP = eeg_NCT[other], z_NP[other]
    elif name == "image":
        z_NP = decoder.encoder.embed_image(arrays.target_NE)
    count = config.num_words or max(1, decoder.num_words)
    predicted = table.predict(z_NP, count)
    concepts = [table.names[row[0]] for row in predicted.tolist()]
    words: list[list[str]] = [table.words(row) if name in WITH_WORDS else [] for row in predicted.tolist()]
    if name == "label-only":
        other_model = load_text(find_text_export(config.label_only), device, base=config.base or None, precision=config.precision)
        if other_model.reads_eeg:
            raise CommandError(
                f"label_only: {config.label_only} reads EEG (stage {other_model.config['stage']['name']}), expected stage label"
            )
        words = [(other_model.concepts or table).words(row) for row in (other_model.concepts or table).predict(z_NP, other_model.num_words)]
        return Arm(name=name, concepts=concepts, prompts=_prompts(other_model.prompter, words, config.style), decoder=other_model)
    if name == "keywords":
        prompter = Prompter(decoder.prompter.tokenizer, PromptConfig(instruction=KEYWORDS), 0, context_length(decoder.model.llm))
        prompter.end_ids = decoder.prompter.end_ids
        prompts = [prompter.encode(own) for own in words]
        return Arm(name=name, concepts=concepts, prompts=prompts, decoder=decoder, prompter=prompter, use_adapter=False)
    if not decoder.reads_eeg:
        raise ValueError("this model was trained without EEG (stage label), only label-only is its own")

    def features(rows: np.ndarray) -> Tensor:
        if name == "image":
            return decoder.image_features(torch.from_numpy(arrays.target_NE[rows]).to(device))
        if name == "concept-mean":
            means = np.stack([table.prefix_mean(int(c)) for c in predicted[rows, 0]]).astype(np.float32)
            points = torch.from_numpy(means).to(device)
            token = decoder.model.image_token
            return (points if token is None else token(points)).unsqueeze(1)
        return decoder.embed(torch.from_numpy(eeg_NCT[rows]).to(device), torch.from_numpy(arrays.subject_N[rows]).to(device))

    return Arm(name=name, concepts=concepts, prompts=_prompts(decoder.prompter, words, config.style), features=features, decoder=decoder)


def batches(items: np.ndarray, batch_size: int, done: set[tuple[str, int]], arm: str, rank: int, world_size: int) -> list[np.ndarray]:
    """This rank's batches, as rows of ``items``, without those that are done: batch b is rank ``b mod world_size``'s."""
    cut = [np.arange(first, min(first + batch_size, len(items))) for first in range(0, len(items), batch_size)]
    return [rows for b, rows in enumerate(cut) if b % world_size == rank and any((arm, int(items[r])) not in done for r in rows)]


def say(arm: Arm, config: GenerateConfig, inputs: Inputs, rows: np.ndarray, device: torch.device) -> list[str]:
    """Captions of some rows."""
    if arm.texts is not None:
        return [arm.texts[r] for r in rows]
    assert arm.decoder is not None
    assert arm.prompts is not None
    return arm.decoder.model.generate(
        None if arm.features is None else arm.features(rows),
        [arm.prompts[r] for r in rows],
        config.decoding,
        arm.prompter or arm.decoder.prompter,
        seed=config.seed,
        items=inputs.items[rows].tolist(),
        use_adapter=arm.use_adapter,
    )


def records(
    arm: Arm, config: GenerateConfig, loader: Loader, captions: StudyCaptions, inputs: Inputs, rows: np.ndarray, texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Lines of ``generations.jsonl``."""
    tables, found = loader.index.manifest["tables"], []
    for row, text in zip(rows.tolist(), texts, strict=True):
        number = int(inputs.arrays.stimulus_N[row])
        stimulus = tables["stimuli"][number]
        found.append(
            {
                "arm": arm.name,
                "item": int(inputs.items[row]),
                "stimulus": stimulus["id"],
                "subject": tables["subjects"][int(inputs.arrays.subject_N[row])],
                "image": stimulus.get("image") or "",
                "expected": captions.of(number),
                "generated": text,
                "concept_true": as_words(tables["concepts"][int(inputs.arrays.concept_N[row])]),
                "concept_predicted": as_words(arm.concepts[row]),
                "prompt": "" if arm.prompts is None else arm.prompts[row].text,
                "seed": config.seed,
            }
        )
    return found


def finish(folder: Path, config: GenerateConfig, facts: dict[str, Any], *, seconds: float) -> None:
    """Write all captions in one order, as JSON lines and as a table, and what was done."""
    found = {(record["arm"], record["item"]): record for record in _records(folder)}
    ordered = [found[key] for key in sorted(found, key=lambda key: (ARMS.index(key[0]), key[1]))]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in ordered)
    schema.write_atomically(folder / GENERATIONS, lines.encode("utf-8", "replace"))
    schema.write_atomically(folder / TABLE, as_csv(ordered).encode("utf-8", "replace"))
    arms = {arm: [r["generated"] for r in ordered if r["arm"] == arm] for arm in dict.fromkeys(r["arm"] for r in ordered)}
    plain = to_plain(config)
    counts = {arm: len(texts) for arm, texts in arms.items()}
    whole = {"config": plain, **facts, "records": counts, "seconds": round(seconds, 1)}
    schema.write_json(folder / FACTS, whole)
    table = Table("arm", "captions", "mean words", "distinct", "for example", title=str(folder))
    for arm, texts in arms.items():
        words = np.mean([len(text.split()) for text in texts])
        table.add_row(arm, str(len(texts)), f"{words:.1f}", f"{len(set(texts)) / len(texts):.2f}", _plain("\n".join(texts[:2])))
    console = Console(highlight=False)
    console.print(table)
    for line in [*facts["notes"], *(f"arm {arm} is left out: {why}" for arm, why in facts["left_out"].items())]:
        console.print(f"- {line}", soft_wrap=True, markup=False)


def as_csv(found: Sequence[dict[str, Any]]) -> str:
    """Records as a table; several expected captions are a JSON list. Any text survives the round trip through ``csv``."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    for record in found:
        writer.writerow(record | {"expected": json.dumps(record["expected"], ensure_ascii=False)})
    return buffer.getvalue()


def _records(folder: Path) -> list[dict[str, Any]]:
    return [record for path in sorted((folder / PARTS).glob("*.jsonl")) for record in read_lines(path) if set(COLUMNS) <= record.keys()]


def _prompts(prompter: Prompter, words: Sequence[Sequence[str]], style: Style | None) -> list[Prompt]:
    return [prompter.encode(own, style=style) for own in words]


def _embed(encoder: Any, eeg_NCT: np.ndarray, subject_N: np.ndarray, device: torch.device) -> np.ndarray:
    found = []
    for first in range(0, len(eeg_NCT), 256):
        rows = slice(first, first + 256)
        eeg_BCT = torch.from_numpy(np.ascontiguousarray(eeg_NCT[rows])).to(device)
        found.append(encoder.embed_prepared(eeg_BCT, torch.from_numpy(subject_N[rows]).to(device)).float().cpu().numpy())
    return np.concatenate(found)


def _check_unseen(decoder: TextDecoder, loader: Loader) -> None:
    """The text model itself must not have been trained on what is to be captioned as held out."""
    if loader.part == "train":
        return
    for split, seen in seen_trials(decoder.config, loader.index, loader.config.split, (loader.part,)).items():
        raise CommandError(
            f"{loader.index.root}: the text model was trained on {seen} of the trials that split {loader.config.split!r} calls "
            f"{loader.part} (training trials of {split!r}): expected a split whose {loader.part} trials it has not seen"
        )


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
