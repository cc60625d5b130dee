"""``config.json`` of a text export as a value, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from data_prep.contract.cli import from_plain
from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.files import read_json
from data_prep.contract.records import FLAT, check_format, from_json, write_record
from trainer.artifacts.export import CONFIG, WithData, exported
from trainer.data.captions import Missing
from trainer.models.language.adapter import AdapterConfig
from trainer.models.language.base import BaseConfig
from trainer.models.language.prefix import PrefixConfig
from trainer.models.language.prompt import PromptConfig
from trainer.models.language.reference import BaseReference
from trainer.training.lineage import Origin

FORMAT_VERSION = 1
KIND: Literal["text"] = "text"


@dataclass(frozen=True, kw_only=True)
class ExportStage:
    """What the model read and learnt to say in its last training."""

    name: Literal["image", "eeg", "mixed", "label"]
    captions: Literal["all", "first"]
    missing_captions: Missing
    rest: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)
    """The other fields of the stage's config."""


@dataclass(frozen=True, kw_only=True)
class ExportEncoder:
    """The encoder beside it."""

    sha256: str
    """Of its weights' file."""
    facts: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)
    """Some of its own ``config.json``, to be read without opening it."""


@dataclass(frozen=True, kw_only=True)
class TextTraining(WithData):
    """How a text model was trained. Configs stay plain, as they were written."""

    base: BaseReference
    base_config: Mapping[str, Any]
    adapter: Mapping[str, Any]
    prefix: Mapping[str, Any]
    prompt: Mapping[str, Any]
    stage: ExportStage
    planned_steps: int | None = None
    planned_items: int | None = None
    """Length of the last training as it was planned."""


@dataclass(frozen=True, kw_only=True)
class TextExport(TextTraining):
    """What an exported text model is, and was trained on."""

    format_version: int = FORMAT_VERSION
    kind: Literal["text"] = KIND
    tune_encoder: bool
    encoder: ExportEncoder
    num_prefix: int
    """Prefix tokens; 0: a label-only model."""
    reads_images: bool = False
    """Whether an image's embedding may stand where the EEG's features do."""
    embedding_rms: float
    """Scale of the base's token embeddings, which the projector was built with."""
    concepts: tuple[str, ...] | None
    """Candidates for words in the prompt; None: it has no words."""
    facts: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)
    """What else the training says of its data."""

    @property
    def own(self) -> Origin:
        """The export's own training."""
        return replace(super().own, stage=self.stage.name, planned_steps=self.planned_steps, planned_items=self.planned_items)

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages that its weights went through, oldest first: the last is the run's own."""
        return tuple(origin.stage for origin in self.origins if origin.stage is not None)

    @property
    def trained_on(self) -> tuple[str, ...]:
        """What its prefix was made from in any stage of its training: of ``image`` and ``eeg``."""
        return tuple(source for source in ("image", "eeg") if {source, "mixed"} & {*self.stages})

    def planned(self) -> dict[str, int | None]:
        """Steps and items of all stages together, as they were planned; None where an export does not tell."""
        found: dict[str, int | None] = {}
        for name in ("steps", "items"):
            counts = [getattr(origin, f"planned_{name}") for origin in self.origins if origin.stage is not None]
            found[name] = None if None in counts else sum(counts)
        return found

    def read_base(self) -> BaseConfig:
        """Config of the base as it was in training."""
        found: BaseConfig = from_plain(BaseConfig, self.base_config)
        return found

    def read_adapter(self) -> AdapterConfig:
        """Config of the adapter; fields newer than the export get their defaults, here and below."""
        found: AdapterConfig = from_plain(AdapterConfig, self.adapter)
        return found

    def read_prefix(self) -> PrefixConfig:
        """Config of the projector."""
        found: PrefixConfig = from_plain(PrefixConfig, self.prefix)
        return found

    def read_prompt(self) -> PromptConfig:
        """Config of the prompt."""
        found: PromptConfig = from_plain(PromptConfig, self.prompt)
        return found


def is_text_export(folder: Path) -> bool:
    """Whether the export in a folder is a text model's."""
    return _is_text(read_json(folder / CONFIG))


def _is_text(found: Any) -> bool:
    return isinstance(found, Mapping) and found.get("kind") == KIND


def read_text_export(folder: Path) -> TextExport:
    """``config.json`` of a text export.

    Raises
    ------
    StudyError, CommandError
        One sentence naming the file, and the field that is missing or of another kind.
    """
    path = folder / CONFIG
    found = read_json(path)
    if not _is_text(found):
        raise CommandError(f"{path}: not a text export (an encoder's?): expected the export of a text run")
    check_format(found, FORMAT_VERSION, str(path))
    export = from_json(TextExport, found, str(path), written_by="a text training")
    try:
        for read in (export.read_base, export.read_adapter, export.read_prefix, export.read_prompt):
            read()
    except UserError as error:
        raise CommandError(f"{path}: {error}") from error
    return export


def write_text_config(folder: Path, export: TextExport) -> None:
    """Write ``config.json``."""
    write_record(folder / CONFIG, export)


def find_text_export(path: str | Path) -> Path:
    """Folder of the text export that ``path`` means: itself, or the run that has it.

    Raises
    ------
    CommandError
        Neither is there.
    """
    return exported(path, "a text export, or the folder of a run that has one")
