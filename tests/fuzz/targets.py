"""The parsers of files that come from somebody else, each with good inputs to begin from."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data_prep.contract import cli, safe_load
from data_prep.contract.arrays import read_archive, read_array
from data_prep.contract.config_file import read_fields
from data_prep.contract.errors import UserError
from data_prep.contract.files import read_json, sha256_file
from data_prep.contract.images import open_image
from data_prep.contract.manifest import read_manifest
from data_prep.contract.open_study import read_study
from data_prep.contract.records import read_record
from data_prep.contract.split import assign_parts, read_split
from data_prep.embed.command import EmbedConfig
from data_prep.embed.efficientnet_lite0 import lite0_transform
from data_prep.embed.imported import ImportedConfig
from data_prep.shards.reindex import rebuild_tables
from data_prep.shards.write import ShardConfig, write_study
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import run as run_split
from data_prep.splits.transforms import write_transform
from data_prep.studies.base import Stimulus, StudyFacts
from data_prep.studies.captions import read_captions
from data_prep.studies.muse_files import read_csv
from tests.fuzz.harness import Target
from tests.helpers import generations
from tests.helpers.tiny_study import TinyEmbedding, TinyReader
from trainer.artifacts.export import Export
from trainer.artifacts.generations import GenerationFacts, read_generations
from trainer.artifacts.text_export import TextExport
from trainer.data.batch import Transform
from trainer.evaluate.embeddings import read_embeddings
from trainer.models.concepts import FILE as CONCEPTS
from trainer.models.concepts import ConceptTable
from trainer.serve import web
from trainer.training.checkpoint import Seal
from trainer.training.completed import Completed

FEATURES = np.arange(1, 61, dtype=np.float32).reshape(12, 5)
STIMULI = [Stimulus(id=f"s{i}.jpg", concept=i // 2, image=f"train/s{i}.jpg", part=None) for i in range(12)]
FACTS = StudyFacts(
    stimulus_level="image", unit="zscore", sfreq=100.0, tmin=0.0, n_times=4, ch_names=["A"], subjects=["01"], sessions=["unknown"],
    stimuli=STIMULI, concepts=[f"c{i}" for i in range(6)], recordings=["unknown"],
)  # fmt: skip
WRITTEN_BEFORE = read_json(Path(__file__).parents[1] / "helpers" / "format_1.json")
EEG = {"preprocessed_eeg_data": np.zeros((2, 3, 4, 5)), "ch_names": ["Pz", "Oz"], "times": np.linspace(0, 1, 5), "set": {1, 2}, "b": b"x"}


def written(write: Callable[[io.BytesIO], Any]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def npy(value: Any) -> bytes:
    return written(lambda buffer: np.save(buffer, value, allow_pickle=True))


def npz(**arrays: Any) -> bytes:
    return (
        written(lambda buffer: np.savez_compressed(buffer, **arrays))
        if len(arrays) % 2
        else written(lambda buffer: np.savez(buffer, **arrays))
    )


def _pickled() -> list[bytes]:
    return [pickle.dumps(EEG, protocol) for protocol in range(6)] + [
        npy(np.array(EEG, dtype=object)),
        npy(np.array([[1, "x"], [None, FEATURES]], dtype=object)),
    ]


def _tensors(zipped: bool) -> list[bytes]:
    values = [
        {"features": torch.from_numpy(FEATURES), "names": ["a"]},
        [torch.ones(3).bfloat16(), torch.eye(2).t()],
        torch.nn.Linear(2, 2).state_dict(),
    ]
    return [written(lambda buffer, value=value: torch.save(value, buffer, _use_new_zipfile_serialization=zipped)) for value in values]


def _images() -> list[bytes]:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "EPS")
    return [written(lambda buffer, kind=kind: picture.save(buffer, format=kind)) for kind in kinds] + [
        written(lambda buffer: picture.convert("I;16").save(buffer, format="PNG"))
    ]


def files() -> Iterator[Target]:
    """Parsers of one file by itself."""
    tables = [npz(features=FEATURES, names=np.array([s.id for s in STIMULI])), npz(features=FEATURES)]
    pairs = [npz(eeg=np.eye(4), image=np.eye(4), ids=np.array(list("abcd"))), npz(eeg=np.eye(4), img=np.eye(4))]
    captions = [
        json.dumps({s.image: ["a cat", "ein Hund"] for s in STIMULI}).encode(),
        json.dumps([["x"]] * 12).encode(),
        json.dumps({s.id: "only" for s in STIMULI}).encode(),
    ]
    configs = [
        b"study: s\nname: x\nembedding: {class_path: ImportedConfig, init_args: {path: f.npy}}\n",
        b"a: &a {study: s}\n<<: *a\nname: x\nembedding:\n  class_path: ImportedConfig\n  init_args:\n    path: 'f'\n    order: names\n",
    ]
    rows = "".join(f"{i / 256},{i % 7},{i % 5},{i % 3},{i % 11},0,{int(i == 9)}\n" for i in range(40))
    yield Target(name="pickle", suffix=".pkl", seeds=_pickled(), read=safe_load.load)
    yield Target(name="torch-zip", suffix=".pt", seeds=_tensors(True), read=safe_load.load)
    yield Target(name="torch-legacy", suffix=".pt", seeds=_tensors(False), read=safe_load.load)
    yield Target(name="npz", suffix=".npz", seeds=tables, read=read_archive)
    yield Target(
        name="npy",
        suffix=".npy",
        seeds=[npy(FEATURES), npy(FEATURES.T), npy(np.array(["a", "bc"])), npy(np.zeros((0, 3), ">i2"))],
        read=read_array,
    )
    yield Target(name="image", suffix=".jpg", seeds=_images(), read=lambda path: lite0_transform(open_image(path)))
    yield Target(name="captions", suffix=".json", seeds=captions, read=lambda path: read_captions(path, STIMULI))
    yield Target(name="yaml", suffix=".yaml", seeds=configs, read=read_fields)
    yield Target(
        name="config", suffix=".yaml", seeds=configs, names_fields=True, read=lambda path: cli.parse(EmbedConfig, ["--config", str(path)])
    )
    yield Target(name="embeds", suffix=".npz", seeds=pairs, read=read_embeddings)
    yield Target(name="features", suffix=".npz", seeds=[*tables, *_tensors(True), npy(FEATURES), npy(FEATURES[:, None])], read=_imported)
    yield Target(name="names", suffix=".npy", seeds=[npy(np.array([s.id for s in STIMULI]))], read=_named)
    yield Target(name="muse-csv", suffix=".csv", seeds=[b"timestamps,TP9,AF7,AF8,TP10,Right AUX,Marker0\n" + rows.encode()],
                 read=lambda path: read_csv(path, ("TP9", "AF7", "AF8", "TP10")))  # fmt: skip

    yield Target(name="request", suffix=".json", seeds=[b'{"inputs": [[[1.0, 2, -3e5]]], "params": {"top_k": 3}}'], read=_request)
    for name, kind in (
        ("encoder/config.json", Export), ("text/config.json", TextExport), ("manifest.json", Seal), ("completed.json", Completed),
        ("generate.json", GenerationFacts),
    ):  # fmt: skip
        seeds = [json.dumps(WRITTEN_BEFORE[name]).encode()]
        yield Target(name=f"record-{kind.__name__}", suffix=".json", seeds=seeds, read=partial(read_record, kind=kind, written_by="us"))


def _request(path: Path) -> None:
    """A body of a served model, as far as it is read before there is a model."""
    try:
        web._read("application/json", path.read_bytes(), "EEG", web.Limits())
    except web._Refused as refused:
        raise UserError(f"{path.name}: {refused}") from refused


def _imported(path: Path) -> None:
    ImportedConfig(path=str(path)).compute(FACTS)


def _named(path: Path) -> None:
    table = path.with_name("table.npy")
    np.save(table, FEATURES)
    ImportedConfig(path=str(table), names=str(path), order="names").compute(FACTS)


def study(folder: Path) -> Iterator[Target]:
    """Parsers of files inside a study or an export, where the rest of it is whole. The file takes its place under its own name."""
    root = folder / "study"
    write_study(ShardConfig(output=str(root), reader=TinyReader(), embeddings={"tiny": TinyEmbedding()}, samples_per_shard=40))
    run_split(SplitConfig(study=str(root), policy="zero-shot", name="zero"))
    manifest, opened = read_manifest(root), read_study(root)
    transform = write_transform(root, "white", {
        "subject": np.zeros(1, np.int32), "session": np.zeros(1, np.int32), "matrix": np.eye(4, dtype=np.float32)[None],
        "mean": np.zeros((1, 4), np.float32), "split_hash": np.array("h"), "kind": np.array("zscore"),
    })  # fmt: skip

    def placed(name: str, read: Callable[[], Any], root: Path = root) -> Target:
        place = root / name
        whole = place.read_bytes()

        def at_its_place(path: Path) -> Any:
            shutil.copyfile(path, place)
            if name == "manifest.json":  # sealed, as whoever wrote it would
                (root / "manifest.sha256").write_text(f"{sha256_file(place)}  manifest.json\n")
            try:
                return read()
            except Exception as error:
                if place.name in str(error) or str(root) in str(error):  # it, or the file that contradicts it
                    raise type(error)(f"{path.name}: {error}") from error
                raise
            finally:
                place.write_bytes(whole)
                if name == "manifest.json":
                    (root / "manifest.sha256").write_text(f"{sha256_file(place)}  manifest.json\n")

        return Target(name=name.replace("/", "-"), suffix=place.suffix, seeds=[whole], read=at_its_place)

    shard = manifest.shards[0].name
    yield placed("manifest.json", lambda: read_study(root))
    yield placed("splits/zero.json", lambda: assign_parts(read_split(root, manifest, "zero"), opened.table))
    yield placed(f"{shard}.index.npy", lambda: read_study(root))
    yield placed(f"{shard}.tar", lambda: rebuild_tables(root / f"{shard}.tar", manifest))
    yield placed(f"transforms/{transform.name}", lambda: Transform.read(transform, split_hash="h", channels=range(4), n_chans=4))
    captions = generations.write(folder / "captions", generations.records(3))
    yield placed("generations.jsonl", lambda: read_generations([captions]), captions)
    yield placed("generate.json", lambda: read_generations([captions]), captions)
    (root / CONCEPTS).write_bytes(npz(names=np.array(["a", "b"]), image=np.eye(2), eeg=np.eye(2)))
    yield placed(CONCEPTS, lambda: ConceptTable.read(root))
