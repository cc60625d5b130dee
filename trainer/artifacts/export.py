"""``config.json`` of an exported encoder as a value, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.contract.cli import from_plain
from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json
from data_prep.contract.manifest import Embedding
from data_prep.contract.records import FLAT, check_format, from_json, write_record
from data_prep.contract.words import as_given, short
from trainer.artifacts.level import Level
from trainer.data.batch import Normalise
from trainer.data.config import DataConfig
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModel, ContrastiveModelConfig
from trainer.models.encoding.likelihood import EncodingSizes, LikelihoodModel
from trainer.training.lineage import Lineage
from trainer.training.run_folder import RunFolder

FORMAT_VERSION = 1
CONFIG = "config.json"
Metric = Literal["cosine", "likelihood"]


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Sizes that a model was built for."""

    n_chans: int
    n_times: int
    sfreq: float
    """Hz."""
    num_subjects: int
    embedding_dim: int
    """Of the image embedding."""
    num_concepts: int
    positions: tuple[tuple[float, ...], ...] | None = None
    """Electrode positions that the encoder is given, metres; None: it was trained without."""


@dataclass(frozen=True, kw_only=True)
class ExportSignal:
    """The EEG that an encoder expects, before the transform that lies beside it."""

    unit: str
    """``microvolts`` or ``zscore``."""
    sfreq: float
    """Sampling rate, Hz."""
    tmin: float
    """Time of the first point from stimulus onset, seconds."""
    n_times: int
    ch_names: tuple[str, ...]
    positions: tuple[tuple[float, ...], ...] | None = None
    """Electrode positions in metres, a row a channel; None where the study has none."""

    def __str__(self) -> str:
        shown = ", ".join(self.ch_names[:4]) + (", …" if len(self.ch_names) > 4 else "")
        return f"channels {shown} at {self.sfreq:g} Hz from {self.tmin:g} s, in {self.unit}"


@dataclass(frozen=True, kw_only=True)
class ExportEmbedding(Embedding):
    """The image embedding that an encoder was aligned with."""

    name: str
    """In its study."""


@dataclass(frozen=True, kw_only=True)
class WithData(Lineage):
    """An export that says which data it was trained on."""

    data: Mapping[str, Any]
    """:class:`DataConfig` of training, plain."""

    def data_config(self, **changes: Any) -> DataConfig:
        """The data config of training, with ``changes`` such as ``study`` (a copy elsewhere) or ``split``.

        Without its choice of correctly classified trials: whatever is scored is scored on all trials.
        """
        config: DataConfig = from_plain(DataConfig, {**self.data, **changes})
        return config.unfiltered()


@dataclass(frozen=True, kw_only=True)
class Export(WithData):
    """What an exported encoder is, and was trained on.

    Configs stay plain, as they were written: one may name a class that is not importable here.
    """

    format_version: int = FORMAT_VERSION
    metric: Metric = "cosine"
    """How a trial is compared with an image: ``cosine`` of their embeddings (what says nothing, as earlier versions, means that), or
    ``likelihood``, by their squared distance in the coordinates of an encoding model (:mod:`trainer.models.encoding.likelihood`)."""
    model: Mapping[str, Any]
    """:class:`ContrastiveModelConfig`; nothing where the metric is likelihood."""
    loss: Mapping[str, Any]
    """:class:`LossConfig`; nothing where the metric is likelihood."""
    encoding: EncodingSizes | None = None
    """The models where the metric is likelihood."""
    build: ModelSizes
    signal: ExportSignal
    preprocessing: Mapping[str, Any]
    """What was done to the signal when it was sharded."""
    transform: str | None
    """File of the split's transform, fitted on its training rows; None: there is none."""
    normalise: Normalise
    embedding: ExportEmbedding
    embedding_dim: int
    """Of the common space."""
    stimulus_level: str
    """``image`` or ``class``."""
    concepts: tuple[str, ...]
    subjects: tuple[str, ...]
    """Of the study, in the order of the model's tables."""
    trained_subjects: tuple[str, ...]
    trained_concepts: tuple[str, ...] = ()
    """Of them, those in the training part; empty: not known."""
    level: Level | None = None
    """How large the EEG was that it was trained on; None: written by an earlier version, which did not say."""
    facts: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)
    """What else the training says of its data, such as ``embedding_sha256``."""

    def model_config(self) -> ContrastiveModelConfig:
        """Config of the model; fields newer than the export get their defaults."""
        found: ContrastiveModelConfig = from_plain(ContrastiveModelConfig, self.model)
        return found

    def build_model(self) -> ContrastiveModel | LikelihoodModel:
        """The model, with random weights or none."""
        if self.encoding is not None:
            features = self.build.n_chans * self.build.n_times
            return LikelihoodModel(self.encoding, num_features=features, embedding_dim=self.build.embedding_dim)
        return self.model_config().build(**vars(self.build), loss=_built_with(self.loss))


def _built_with(loss: Mapping[str, Any]) -> LossConfig:
    """What of a saved loss the model is built from. Losses of a user's own leave nothing in it, and their classes need not be importable
    where it is loaded; one of them may have been the only loss."""
    own = {name: value for name, value in loss.items() if name != "terms"}
    if not any(value for name, value in own.items() if name.endswith("_weight")):
        own["contrastive_weight"] = 1.0
    found: LossConfig = from_plain(LossConfig, own)
    return found


def read_export(folder: Path) -> Export:
    """``config.json`` of an exported encoder.

    Raises
    ------
    StudyError, CommandError
        One sentence naming the file, and the field that is missing or of another kind.
    """
    path = folder / CONFIG
    if not path.is_file() and (folder / "export" / CONFIG).is_file():
        raise CommandError(f"{folder}: a run folder, expected the export in it: {folder / 'export'}")
    found = read_json(path)
    check_format(found, FORMAT_VERSION, str(path))
    export = from_json(Export, found, str(path), written_by="a training")
    if (wrong := _contradiction(export)) is not None:
        raise CommandError(f"{path}: {wrong}")
    return export


def _contradiction(export: Export) -> str | None:
    """What of an export cannot be, or cannot be together, in a sentence; None: all can."""
    build, signal, level = export.build, export.signal, export.level
    for name, least in (("n_chans", 1), ("n_times", 1), ("num_subjects", 0), ("embedding_dim", 1), ("num_concepts", 0)):
        if not least <= getattr(build, name) < 2**31:
            return f"build.{name}: {getattr(build, name)}, expected {least} or more, in 31 bits"
    if (export.metric == "likelihood") != (export.encoding is not None):
        has = "no encoding" if export.encoding is None else "an encoding"
        return f"metric: {export.metric}, expected {'cosine' if export.encoding is None else 'likelihood'} of what has {has}"
    if export.encoding is not None and (fault := export.encoding.fault) is not None:
        return fault
    channels = len(signal.ch_names)
    width = export.model.get("proj_dim") or build.embedding_dim if export.encoding is None else export.encoding.num_directions
    expected: dict[str, tuple[Any, Sequence[Any]]] = {
        "signal.unit": (signal.unit, ("microvolts", "zscore")),
        "signal.n_times": (signal.n_times, (build.n_times,)),
        "signal.sfreq": (signal.sfreq, (build.sfreq,)),
        "stimulus_level": (export.stimulus_level, ("image", "class")),
        "number of signal.ch_names": (len(set(signal.ch_names)), (build.n_chans if export.transform is None else channels,)),
        "number of subjects": (len(set(export.subjects)), (build.num_subjects,)),
        "embedding_dim": (export.embedding_dim, (width,)),
    }
    if export.encoding is not None:
        expected["number of encoding.model_of_subject"] = (len(export.encoding.model_of_subject), (build.num_subjects,))
    if not build.sfreq > 0:
        return f"build.sfreq: {build.sfreq}, expected a positive number"
    if level is not None:
        expected["level.unit"] = (level.unit, (signal.unit,))
        expected["number of level.channels"] = (len(level.channels), (channels,))
        rows = [(level.median, level.low, level.high), *level.channels]
        if not all(0 <= low <= median <= high for median, low, high in rows) or level.peak < 0 or level.trials < 1:
            return "level: holds no levels, expected positive numbers, each low below its median and that below its high"
    for name, (value, wanted) in expected.items():
        if value not in wanted:
            return f"{name}: {short(value)}, expected {' or '.join(map(str, wanted))} by the rest of it"
    for name in ("subjects", "concepts"):
        if unknown := sorted({*getattr(export, f"trained_{name}")} - {*getattr(export, name)}):
            return f"trained_{name}: {as_given(unknown[0])}, which is none of its {name}"
    return None


def write_config(folder: Path, export: Export) -> None:
    """Write ``config.json``."""
    write_record(folder / CONFIG, export)


def find_export(path: str | Path) -> Path:
    """Folder of the encoder that ``path`` means: an export, a run that has one, or a text export, which has its own encoder.

    Raises
    ------
    CommandError
        None of these.
    """
    folder = exported(path, "an export, or the folder of a run that has validated")
    inner = folder / "encoder"
    return inner if (inner / CONFIG).is_file() else folder


def exported(path: str | Path, expected: str) -> Path:
    """``path`` itself or the export in it, whichever has a ``config.json``.

    Raises
    ------
    CommandError
        Neither has one; ``expected`` says what would do.
    """
    path = Path(path)
    for folder in (path, path / "export", *_best_of_run(path)):
        if (folder / CONFIG).is_file():
            return folder
    raise CommandError(f"{path}: has neither {CONFIG} nor export/{CONFIG}: expected {expected}")


def _best_of_run(path: Path) -> list[Path]:
    """Where a run folder's export comes from: it is there, too, while ``export/`` is being replaced, or after a kill at that."""
    best = RunFolder(path).pointed("best") if path.is_dir() else None
    return [] if best is None else [best / "export"]
