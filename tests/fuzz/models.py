"""Parsers of models and checkpoints that come from somebody else, and of what a server and a judge are sent."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from data_prep.contract import cli
from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.records import read_record
from data_prep.contract.seal import SEALS, Broken, broken_seals, seal_all
from tests.fuzz.harness import Target
from tests.fuzz.targets import at_its_place
from tests.helpers.tiny_text import write_tiny_text
from tests.unit.test_base_llm import write_gguf
from tests.unit.test_generate import export_model
from tests.unit.test_text_metrics import write_dictionary
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.text import load_text
from trainer.artifacts.weights import read_weights
from trainer.callbacks.mlflow_points import points_of
from trainer.distributed.weights_only import weights_only
from trainer.evaluate.text import judge, wordnet
from trainer.models.language.base import BaseConfig, load_base, load_tokenizer, read_settings
from trainer.models.language.gguf_header import check_header
from trainer.models.language.reference import _add_safetensors, weights_fingerprint
from trainer.serve import web
from trainer.serve.params import LABELS, read_params
from trainer.serve.registered import Registered
from trainer.tasks.contrastive.config import ContrastiveConfig
from trainer.tasks.text.config import TextConfig
from trainer.training import settle
from trainer.training.run_folder import RunFolder, read_lines
from trainer.training.state import TrainState

CONFIGS = Path(__file__).parents[2] / "configs"
LINES = [
    {"event": "start", "time": "2026-01-01T00:00:00.000+00:00", "world_size": 1, "checkpoint": None},
    {"event": "tracking", "run_id": "0" * 32},
    {"event": "resume", "resumed_at": 3, "wound_back_from": 6, "checkpoint": "step-00000003"},
    {"step": 3, "loss": 0.5, "validation_top1": 0.25},
    {"step": 4, "loss": 0.25, "items": [1, 2, 3]},
]


def models(folder: Path) -> Iterator[Target]:
    """Everything that belongs to a model."""
    folder.mkdir(parents=True, exist_ok=True)
    yield from _of_a_text_model(folder)
    yield from _of_a_run(folder)
    yield from _of_the_web(folder)
    write_gguf(folder / "tiny.gguf")
    yield Target(name="gguf", suffix=".gguf", seeds=[(folder / "tiny.gguf").read_bytes()], read=_gguf)
    yield Target(name="wordnet", suffix=".zip", seeds=_dictionaries(folder), read=_wordnet, inputs=10)


def _of_a_text_model(folder: Path) -> Iterator[Target]:
    write_tiny_text(folder)
    export, base = export_model(folder, "model"), folder / "base"
    (folder / "model").rename(folder / "export")
    export = folder / "export"
    config = BaseConfig(name=str(base), dtype="fp32")
    for name in ("config.json", "model.safetensors"):
        yield at_its_place(base, name, prefix="base-", read=lambda: _use_base(config), inputs=6)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        yield at_its_place(base, name, prefix="base-", read=lambda: load_tokenizer(config), inputs=6)
    split = folder / "split"
    shutil.copytree(base, split)
    (split / "model.safetensors").rename(split / "model-1.safetensors")
    names = read_weights(split / "model-1.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "model-1.safetensors")}
    (split / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = replace(config, name=str(split))
    yield at_its_place(split, "model.safetensors.index.json", lambda: _use_base(sharded), prefix="base-", inputs=6)
    for name in ("config.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "projector.safetensors"):
        yield at_its_place(export, name, lambda: load_text(export), prefix="export-", seal=seal_all, inputs=3)
    encoder = folder / "encoder"
    for name in ("config.json", "model.safetensors"):
        yield at_its_place(encoder, name, lambda: load_encoder(encoder), prefix="encoder-", seal=seal_all, inputs=10)
    yield at_its_place(encoder, SEALS, lambda: _none(broken_seals(encoder)))
    weights = [save({"a": torch.ones(2, 3), "b": torch.ones(3).bfloat16()}), save({"s": torch.tensor(1.0), "e": torch.ones(0)})]
    yield Target(name="safetensors", suffix=".safetensors", seeds=weights, read=_weights)


def _use_base(config: BaseConfig) -> None:
    weights_fingerprint(config)
    read_settings(config)
    load_base(config, "cpu", training=False)


def _weights(path: Path) -> None:
    """By our reader, which tells a base from others, and by the library's."""
    _add_safetensors(path, hashlib.sha256())
    read_weights(path)


def _none(faults: Iterator[Broken]) -> None:
    for fault in faults:
        raise UserError(str(fault))


def _of_a_run(folder: Path) -> Iterator[Target]:
    state = {
        "module": torch.nn.Linear(3, 2).state_dict(), "global_steps": 3, "ds_config": {"zero_optimization": {"stage": 1}},
        "param_shapes": [{"weight": torch.Size([2, 3])}], "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}, "lr": None,
    }  # fmt: skip
    for zipped in (True, False):
        file = folder / "state.pt"
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
        yield Target(name=f"checkpoint-{'zip' if zipped else 'legacy'}", suffix=".pt", seeds=[file.read_bytes()], read=_checkpoint)
    lines = "".join(json.dumps(line) + "\n" for line in LINES).encode()
    yield Target(name="lines", suffix=".jsonl", seeds=[lines], read=_lines, refuses=False)
    grades = "".join(json.dumps({"question": f"{n:064x}", "score": n}) + "\n" for n in range(4)).encode()
    yield Target(name="judge-kept", suffix=".jsonl", seeds=[grades], read=partial(judge._read_answers, config=_JUDGE), refuses=False)
    yield Target(name="pointer", suffix="", seeds=[b"step-00000003\n"], read=lambda path: RunFolder(path.parent).pointed(path.name))
    for name, kind, places in (("contrastive", ContrastiveConfig, "contrastive"), ("text", TextConfig, "text")):
        seeds = [path.read_bytes() for path in sorted((CONFIGS / places).glob("*.yaml"))[:2]]
        yield Target(name=f"config-{name}", suffix=".yaml", seeds=seeds, names_fields=True, inputs=3, read=partial(_config, kind))
    registered = {
        "model_uri": "models:/a/1",
        "name": "a",
        "version": "1",
        "run_id": "b",
        "tracking_uri": "sqlite:///c",
        "files_sha256": "d",
    }
    seeds = [json.dumps(registered).encode()]
    yield Target(name="record-Registered", suffix=".json", seeds=seeds, read=partial(read_record, kind=Registered, written_by="us"))


def _config(kind: type, path: Path) -> None:
    cli.parse(kind, ["--config", str(path)])


def _checkpoint(path: Path) -> None:
    with weights_only():
        torch.load(path, map_location="cpu")


def _lines(path: Path) -> None:
    """As a run that goes on reads them, and MLflow gets them."""
    read_lines(path)
    points_of(path.read_bytes().decode("utf-8", "replace").split("\n"))
    for name in ("events.jsonl", "metrics.jsonl", "items.jsonl"):
        shutil.copyfile(path, path.with_name(name))
    folder = RunFolder(path.parent)
    settle.tracking_run(folder, TrainState(), num_steps=3, elsewhere=False)
    settle.tracked_before(folder)
    settle._cut(folder, "metrics.jsonl", 3)


def _gguf(path: Path) -> None:
    """The header, and what passes it once more in the library's own reader, which must come to an end with it."""
    check_header(path)
    from gguf import GGUFReader

    try:
        GGUFReader(path)
    except Exception as error:  # in the process that converts it, whose end is one sentence
        raise CommandError(f"{path}: {error!r}".replace("\n", " ")) from error


def _dictionaries(folder: Path) -> list[bytes]:
    files = write_dictionary(folder / "dictionary")
    for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        with zipfile.ZipFile(folder / f"{kind}.zip", "w", kind) as archive:
            for file in sorted(files.iterdir()):
                archive.write(file, f"wordnet/{file.name}")
    return [(folder / f"{kind}.zip").read_bytes() for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)]


def _wordnet(path: Path) -> None:
    found = wordnet.find_wordnet(str(path))
    assert found is not None
    wordnet.open_wordnet(found).synsets("thing")


_JUDGE = judge.JudgeConfig(endpoint="http://127.0.0.1:9/v1", model="m")


def _of_the_web(folder: Path) -> Iterator[Target]:
    encoder = load_encoder(folder / "encoder")
    sizes, subject = (2, len(encoder.signal.ch_names), encoder.signal.n_times), encoder.export.subjects[0]
    trials = (10 * np.random.default_rng(0).standard_normal(sizes)).round(3)
    bodies = [{"inputs": trials.tolist(), "params": {"subject": subject}}, {"instances": trials[:, None].tolist()}]

    def answer(path: Path) -> None:
        """As the server answers a request with an encoder."""
        try:
            inputs, params = web._read("application/json", path.read_bytes(), encoder.expects, web.Limits())
            given = read_params(params, LABELS, encoder.export.subjects)
            encoder.embed(inputs, given["subject"] or None, given["session"] or None)
        except (web._Refused, ValueError) as refused:
            raise UserError(f"{path.name}: {refused}") from refused

    yield Target(name="request-answered", suffix=".json", seeds=[json.dumps(body).encode() for body in bodies], read=answer)
    said = {"choices": [{"message": {"role": "assistant", "content": 'Grade: {"score": 4, "why": "near"}'}}], "usage": {"total_tokens": 9}}
    yield Target(name="judge-answer", suffix=".json", seeds=[json.dumps(said).encode()], read=_judged)


def _judged(path: Path) -> None:
    try:
        judge._grade(path.read_bytes(), "judge")
    except judge._NoGrade as error:
        raise UserError(f"{path.name}: no grade") from error
