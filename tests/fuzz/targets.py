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
from data_prep.splits.official import read_parts
from data_prep.splits.split import run as run_split
from data_prep.splits.transforms import write_transform
from data_prep.studies.base import Stimulus, StudyFacts
from data_prep.studies.bdd import BddReaderConfig
from data_prep.studies.captions import read_captions
from data_prep.studies.cutting import CuttingConfig
from data_prep.studies.eegcvpr40_files import read_trials
from data_prep.studies.mindbigdata import MindBigDataReaderConfig
from data_prep.studies.mindbigdata_imagenet import MindBigDataImageNetReaderConfig
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

    yield from _seed_layouts()
    yield Target(name="request", suffix=".json", seeds=[b'{"inputs": [[[1.0, 2, -3e5]]], "params": {"top_k": 3}}'], read=_request)
    for name, kind in (
        ("encoder/config.json", Export), ("text/config.json", TextExport), ("manifest.json", Seal), ("completed.json", Completed),
        ("generate.json", GenerationFacts),
    ):  # fmt: skip
        seeds = [json.dumps(WRITTEN_BEFORE[name]).encode()]
        yield Target(name=f"record-{kind.__name__}", suffix=".json", seeds=seeds, read=partial(read_record, kind=kind, written_by="us"))


def _seed_layouts() -> Iterator[Target]:
    """Files that EEG-CLIP, Thought2Text and its pretraining data have."""
    trial = {"eeg": torch.ones(4, 6), "image": 0, "label": 0, "subject": 1}
    pth = {"dataset": [trial, {**trial, "image": 1}], "labels": ["n02106662"], "images": ["n02106662_1", "n02106662_2"]}
    splits = {"splits": [{"train": [0, 1], "val": [2], "test": torch.tensor([3])}]}
    channels = ("AF3", "AF4", "T7", "T8", "PZ")
    digits = "".join(f"{i}\t7\tIN\t{name}\t3\t6\t4200.5,4201,4199.25,4203,4198,{4200 + i}\n" for i, name in enumerate(channels))
    image = "".join(f"{name},4200.5,4201,4199.25,{4200 + i}\n" for i, name in enumerate(channels))
    rows = "".join(
        f"{i % 128}, {4200 + i % 7}, {4210 + i % 5}, {i % 3}, {i % 4}, {i % 6}, {i // 20 % 2}, {i // 20 % 2}, 100\n" for i in range(60)
    )
    bdd = f"COUNTER, AF3, T7, Pz, T8, AF4, MARKERS['Blank','Image'], TICK, ContactQuality\n{rows}"
    yield Target(name="eegcvpr40", suffix=".pth", seeds=[written(lambda b: torch.save(pth, b))], read=_trials_of)
    yield Target(
        name="official-split", suffix=".pth", seeds=[written(lambda b: torch.save(splits, b))], read=lambda path: read_parts(path, 0)
    )
    yield Target(name="mindbigdata", suffix=".txt", seeds=[digits.encode()],
                 read=lambda path: MindBigDataReaderConfig(path=str(path), parts=1).open().eeg(0))  # fmt: skip
    yield Target(name="mindbigdata-imagenet", suffix=".csv", seeds=[image.encode()], read=_mindbigdata_image)
    yield Target(name="bdd", suffix=".csv", seeds=[bdd.encode()], read=_bdd_record)


def _trials_of(path: Path) -> None:
    found = read_trials(path, 4)
    for each in found.trials:
        found.eeg(each)


def _in_a_folder_of_its_own(path: Path, name: str, read: Callable[[Path], Any]) -> None:
    """Read a file that is known by its name and folder."""
    folder = path.with_name("own") / "study" / "Image-Blank"
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / name
    shutil.copyfile(path, place)
    try:
        read(place)
    except UserError as error:
        raise type(error)(f"{path.name}: {error}") from error
    finally:
        place.unlink()


def _mindbigdata_image(path: Path) -> None:
    name = "MindBigData_Imagenet_Insight_n09835506_15262_1_20.csv"
    _in_a_folder_of_its_own(path, name, lambda place: MindBigDataImageNetReaderConfig(root=str(place.parent)).open().eeg(0))


def _bdd_record(path: Path) -> None:
    trials = CuttingConfig(band_hz=None, tmin=0.0, tmax=0.1)
    _in_a_folder_of_its_own(path, "a.csv", lambda place: BddReaderConfig(root=str(place.parent.parent), trials=trials).open())


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


def at_its_place(
    root: Path, name: str, read: Callable[[], Any], *, prefix: str = "", seal: Callable[[Path], Any] | None = None, **options: Any
) -> Target:
    """``root/name`` under its own name, where the rest is whole; ``seal``: hashes are made anew, as by whoever wrote it."""
    place = root / name
    whole = place.read_bytes()

    def placed(path: Path) -> Any:
        shutil.copyfile(path, place)
        try:
            if seal is not None:
                seal(root)
            return read()
        except Exception as error:
            if place.name in str(error) or str(root) in str(error):  # it, or the file that contradicts it
                raise type(error)(f"{path.name}: {error}") from error
            raise
        finally:
            place.write_bytes(whole)
            if seal is not None:
                seal(root)

    return Target(name=prefix + name.replace("/", "-"), suffix=place.suffix, seeds=[whole], read=placed, **options)


def _seal_manifest(root: Path) -> None:
    (root / "manifest.sha256").write_text(f"{sha256_file(root / 'manifest.json')}  manifest.json\n")


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

    shard = manifest.shards[0].name
    placed = partial(at_its_place, root)
    yield placed("manifest.json", lambda: read_study(root), seal=_seal_manifest)
    yield placed("splits/zero.json", lambda: assign_parts(read_split(root, manifest, "zero"), opened.table))
    yield placed(f"{shard}.index.npy", lambda: read_study(root))
    yield placed(f"{shard}.tar", lambda: rebuild_tables(root / f"{shard}.tar", manifest))
    yield placed(f"transforms/{transform.name}", lambda: Transform.read(transform, split_hash="h", channels=range(4), n_chans=4))
    captions = generations.write(folder / "captions", generations.records(3))
    yield at_its_place(captions, "generations.jsonl", lambda: read_generations([captions]))
    yield at_its_place(captions, "generate.json", lambda: read_generations([captions]))
    (root / CONCEPTS).write_bytes(npz(names=np.array(["a", "b"]), image=np.eye(2), eeg=np.eye(2)))
    yield placed(CONCEPTS, lambda: ConceptTable.read(root))
