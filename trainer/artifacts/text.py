"""A tuned text model as a folder: adapter, projector, encoder, and a reference to the base it belongs to.

::

    EXPORT/  config.json  projector.safetensors  [concepts.npz]
             adapter/     a PEFT folder, which ``PeftModel.from_pretrained(base, EXPORT/adapter)`` loads by itself
             encoder/     an encoder as :func:`trainer.artifacts.encoder.load_encoder` reads it

``load_text(path).caption(eeg)`` needs neither a launcher nor the study; the base is loaded from where it was, or from ``base``.

B: trials, R: repetitions, C: channels, T: time points, S: feature tokens, D: their width, E: image embeddings, P: common space.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from data_prep.contract.cli import from_plain, to_plain
from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json, sha256_file, write_atomically, write_json
from data_prep.contract.words import short
from trainer.artifacts.encoder import CONFIG, ORIGIN, Encoder, lineage, load_encoder
from trainer.artifacts.weights import read_weights
from trainer.models.concepts import ConceptTable
from trainer.models.language import base as base_llm
from trainer.models.language.base import AdapterConfig, BaseConfig
from trainer.models.language.decoding import DecodingConfig
from trainer.models.language.eeg_language_model import EEGLanguageModel
from trainer.models.language.prefix import PrefixConfig
from trainer.models.language.prompt import PromptConfig, Prompter

FORMAT_VERSION = 1
KIND = "text"
ADAPTER, PROJECTOR, ENCODER, WEIGHTS = "adapter", "projector.safetensors", "encoder", "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PROJECTOR_PARTS = ("projector.", "image_token.")


@dataclass(frozen=True, kw_only=True)
class TextParts:
    """What an export needs of the model beside its trained weights."""

    model: EEGLanguageModel
    embedding_rms: float
    """Scale of the base's token embeddings, which the projector was built with."""


# ----------------------------------------------------------------------------------------------------------- writing


def write_text_export(
    output: Path,
    *,
    weights: dict[str, Tensor],
    parts: TextParts,
    encoder: Path,
    tuned: bool,
    concepts: ConceptTable | None,
    config: dict[str, Any],
) -> None:
    """Write a text model into the new folder ``output``.

    Parameters
    ----------
    weights
        Trained parameters and buffers by name in :class:`EEGLanguageModel`, float32 on the CPU.
    parts
        The model that was trained; only its structure is read.
    encoder
        Export of the encoder; its weights are replaced by those in ``weights`` where ``tuned``.
    concepts
        Candidates for words in the prompt, where it has any.
    config
        Becomes ``config.json``: ``base`` (:func:`base_llm.base_reference`), ``base_config``, ``adapter``, ``prefix``, ``prompt``,
        ``stage``, ``data`` and where the model comes from (``fingerprint, split, split_hash, started_from, step, ...``).
    """
    output.mkdir(parents=True)
    model = parts.model
    if hasattr(model.llm, "peft_config"):
        _write_adapter(output / ADAPTER, model.llm, weights)
    projector = {name: value for name, value in weights.items() if name.startswith(_PROJECTOR_PARTS)}
    if projector:
        _save(projector, output / PROJECTOR)
    (output / ENCODER).mkdir()
    for file in sorted(encoder.iterdir()):
        if file.is_file():
            shutil.copyfile(file, output / ENCODER / file.name)
    facts = {name: config.get(name) for name in ORIGIN}
    if tuned:
        changed = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
        whole = read_weights(encoder / WEIGHTS)
        _save({name: changed.get(name, value) for name, value in whole.items()}, output / ENCODER / WEIGHTS)
        own = read_json(encoder / CONFIG)
        # It has now seen this run's training trials as well.
        write_json(output / ENCODER / CONFIG, own | {"started_from": [*own.get("started_from", []), facts]})
    if concepts is not None:
        concepts.write(output)
    own = read_json(output / ENCODER / CONFIG)
    names = ("signal", "build", "embedding", "embedding_dim", "stimulus_level", "subjects", "trained_subjects", "trained_concepts")
    config = {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        **config,
        "tune_encoder": tuned,
        "encoder": {"sha256": sha256_file(output / ENCODER / WEIGHTS), **{name: own.get(name) for name in names}},
        "num_prefix": model.num_prefix,
        "reads_images": model.image_token is None or any(name.startswith("image_token.") for name in projector),
        "embedding_rms": parts.embedding_rms,
        "concepts": None if concepts is None else list(concepts.names),
    }
    write_json(output / CONFIG, config)


def _save(weights: dict[str, Tensor], file: Path) -> None:
    save_file({name: value.contiguous() for name, value in weights.items()}, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors writes for the owner only


def _write_adapter(folder: Path, llm: Any, weights: dict[str, Tensor]) -> None:
    from peft import get_peft_model_state_dict

    own = {name.removeprefix("llm."): value for name, value in weights.items() if name.startswith("llm.")}
    (name,) = llm.peft_config
    found = get_peft_model_state_dict(llm, state_dict=own, adapter_name=name, save_embedding_layers=False)
    folder.mkdir()
    _save(found, folder / ADAPTER_WEIGHTS)
    plain = {**llm.peft_config[name].to_dict(), "inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in plain.items()}
    write_atomically(folder / "adapter_config.json", (json.dumps(plain, indent=1, sort_keys=True, default=str) + "\n").encode())


# ----------------------------------------------------------------------------------------------------------- reading


def find_text_export(path: str | Path) -> Path:
    """Folder of the text export that ``path`` means: itself, or the run that has it.

    Raises
    ------
    CommandError
        Neither is a text export.
    """
    path = Path(path)
    for folder in (path, path / "export"):
        if (folder / CONFIG).is_file():
            return folder
    raise CommandError(f"{path}: has neither {CONFIG} nor export/{CONFIG}: expected a text export, or the folder of a run that has one")


def read_text_config(path: Path) -> dict[str, Any]:
    """``config.json`` of a text export, checked for its format."""
    config = read_json(path / CONFIG)
    if not isinstance(config, dict) or config.get("kind") != KIND:
        raise CommandError(f"{path / CONFIG}: not a text export (an encoder's?): expected the export of a text run")
    if config.get("format_version") != FORMAT_VERSION:
        raise CommandError(f"{path / CONFIG}: format version {config.get('format_version')!r}, expected {FORMAT_VERSION}")
    return config


def trained_parameters(export: Path) -> int:
    """Weights of adapter and projector."""
    files = [file for file in (export / ADAPTER / ADAPTER_WEIGHTS, export / PROJECTOR) if file.is_file()]
    return sum(value.numel() for file in files for value in read_weights(file).values())


def stages(config: Mapping[str, Any]) -> list[str]:
    """Stages that a text export's weights went through, oldest first: the last is the run's own."""
    return [*(origin["stage"] for origin in config.get("started_from", []) if "stage" in origin), config["stage"]["name"]]


def planned(config: Mapping[str, Any]) -> dict[str, int | None]:
    """Steps and items of all stages together, as they were planned; None where an export does not tell."""
    found: dict[str, int | None] = {}
    for name in ("planned_steps", "planned_items"):
        counts = [run.get(name) for run in [*config.get("started_from", []), config] if "stage" in run]
        found[name] = None if None in counts else sum(counts)
    return found


class TextDecoder:
    """A tuned text model in eval mode; make it with :func:`load_text`.

    Attributes
    ----------
    config : dict
        ``config.json``.
    encoder : Encoder
        What reads EEG; its model is also that of :attr:`model`.
    model : EEGLanguageModel
    prompter : Prompter
    concepts : ConceptTable or None
        Candidates for words in the prompt, where the model was trained with words.
    num_words : int
        Words in a prompt.
    device : torch.device
    """

    def __init__(
        self,
        config: dict[str, Any],
        encoder: Encoder,
        model: EEGLanguageModel,
        prompter: Prompter,
        concepts: ConceptTable | None,
        device: torch.device,
    ) -> None:
        self.config, self.encoder, self.prompter, self.concepts, self.device = config, encoder, prompter, concepts, device
        self.model = model.eval()
        self.num_words: int = config["prompt"]["concepts"]

    @property
    def reads_eeg(self) -> bool:
        """Whether there is a prefix; a label-only model reads nothing but words."""
        return self.model.projector is not None

    @torch.no_grad()
    def embed(self, eeg_BCT: Tensor, subject_B: Tensor) -> Tensor:
        """What the projector reads of prepared EEG (:meth:`Loader.prepare`): (B, S, D); ``subject_B`` as :meth:`Encoder.embed_prepared`."""
        return self.model.features("eeg", eeg_BCT=eeg_BCT, subject_B=self.encoder.known(subject_B))

    def words(self, z_BP: np.ndarray) -> list[list[str]]:
        """Words that the prompt of each embedding has: those of the nearest concepts, none where the model was trained without."""
        if self.concepts is None:
            return [[] for _ in range(len(z_BP))]
        return [self.concepts.words(ids) for ids in self.concepts.predict(z_BP, self.num_words).tolist()]

    def caption(
        self,
        eeg: np.ndarray,
        subject: str | Sequence[str] | None = None,
        session: str | Sequence[str] | None = None,
        *,
        decoding: DecodingConfig | None = None,
        seed: int = 0,
        batch_size: int = 16,
    ) -> list[str]:
        """Captions of trials, given as :meth:`Encoder.embed` takes them: (B, C, T), or (B, R, C, T) repeated trials to be averaged."""
        said: list[str] = []
        for first, eeg_BCT, subject_B in self.encoder.prepared(eeg, subject, session, batch_size=batch_size):
            words = self.words(self.encoder.embed_prepared(eeg_BCT, subject_B).cpu().numpy()) if self.num_words else [[]] * len(eeg_BCT)
            said += self.model.generate(
                self.embed(eeg_BCT, subject_B) if self.reads_eeg else None,
                [self.prompter.encode(own) for own in words],
                decoding or DecodingConfig(),
                self.prompter,
                seed=seed,
                items=range(first, first + len(eeg_BCT)),
            )
        return said


def load_text(
    path: str | Path, device: str | torch.device = "cpu", *, base: str | None = None, precision: Literal["fp32", "bf16"] = "fp32"
) -> TextDecoder:
    """Load a text export.

    Parameters
    ----------
    path
        Export folder, or the run folder that has it.
    device
        Where it computes.
    base
        Another place of the same base model; null: where it was in training.
    precision
        ``bf16`` keeps the base in bfloat16 and computes under autocast.

    Raises
    ------
    CommandError, StudyError
        One sentence: not a text export, files missing, another base than the adapter's.
    """
    folder, device = find_text_export(path), torch.device(device)
    config = read_text_config(folder)
    base_config: BaseConfig = from_plain(BaseConfig, config["base_config"])
    base_config = base_llm.for_use(base_config, precision)
    if base is not None:
        base_config = replace(base_config, name=base, revision=None)
    settings = base_llm.read_settings(base_config)
    base_llm.check_base(config["base"], base_llm.base_reference(base_config, settings), str(folder))
    llm = base_llm.load_base(base_config, device, training=False)
    if config["adapter"]["kind"] != "none":
        llm = _with_adapter(llm, folder / ADAPTER)
    encoder = load_encoder(folder / ENCODER, device)
    prefix: PrefixConfig = from_plain(PrefixConfig, config["prefix"])
    model = EEGLanguageModel(
        encoder=encoder.model if config["num_prefix"] else None,
        tune_encoder=False,
        projector=_projector(prefix, encoder, llm, config) if config["num_prefix"] else None,
        llm=llm,
        features=prefix.features,
        precision=precision,
        device=device,
    )
    if config["num_prefix"]:
        _load_projector(model, folder / PROJECTOR)
    if base_config.quantisation == "none":
        model.to(device)
    elif model.projector is not None:
        model.projector.to(device)
        if model.image_token is not None:
            model.image_token.to(device)
    prompt: PromptConfig = from_plain(PromptConfig, config["prompt"])
    prompter = Prompter(base_llm.load_tokenizer(base_config), prompt, config["num_prefix"], base_llm.context_length(settings))
    concepts = ConceptTable.read(folder) if config["concepts"] is not None else None
    return TextDecoder(config, encoder, model, prompter, concepts, device)


def _with_adapter(llm: Any, folder: Path) -> Any:
    file = folder / ADAPTER_WEIGHTS
    # Read here first: peft would look for a missing file on its hub, and leaves what a file lacks at its random start.
    saved = read_weights(file)
    try:
        with base_llm.quiet():
            from peft import PeftModel, get_peft_model_state_dict

            model = PeftModel.from_pretrained(llm, str(folder), autocast_adapter_dtype=False)
            odd = sorted(get_peft_model_state_dict(model, save_embedding_layers=False).keys() ^ saved.keys())
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        # torch says what it finds in the weights, the others what they find in the adapter's config.
        where = file if isinstance(error, RuntimeError) else folder
        raise CommandError(f"{where}: not the adapter that {CONFIG} describes ({short(error, 200)})") from error
    if odd:
        raise CommandError(f"{file}: not the adapter that {CONFIG} describes ({odd[0]} is not on both sides)")
    return model


def _projector(prefix: PrefixConfig, encoder: Encoder, llm: Any, config: dict[str, Any]) -> Any:
    width = encoder.model.proj_dim if prefix.features == "embedding" else encoder.model.encoder.token_dim
    return prefix.build(width, base_llm.hidden_size(llm), config["embedding_rms"])


def _load_projector(model: EEGLanguageModel, file: Path) -> None:
    wanted = {name for name in model.state_dict() if name.startswith(_PROJECTOR_PARTS)}
    saved = read_weights(file)
    # An image's token is trained in stages that show images only.
    missing = {name for name in wanted - saved.keys() if not name.startswith("image_token.")}
    if odd := sorted(missing | (saved.keys() - wanted)):
        raise CommandError(f"{file}: not the projector that {CONFIG} describes ({odd[0]} is not on both sides)")
    try:
        model.load_state_dict(saved, strict=False)
    except RuntimeError as error:
        raise CommandError(f"{file}: not the projector that {CONFIG} describes ({short(error, 200)})") from error


# ------------------------------------------------------------------------------------------------- beginning with one


@dataclass(frozen=True, kw_only=True)
class InitialText:
    """Adapter and projector of an earlier text run, checked against a new one; make it with :func:`init_weights`."""

    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]
    """For ``events.jsonl``: what is taken, what begins anew."""

    @property
    def lineage(self) -> list[dict[str, Any]]:
        """Data that the weights come from, oldest first, and how they were trained on them."""
        plan = {name: self.config.get(name) for name in ("planned_steps", "planned_items")}
        return lineage(self.config, **plan, stage=self.config["stage"]["name"])

    def copy_into(self, model: EEGLanguageModel) -> None:
        """Put the weights into ``model``, before DeepSpeed wraps it."""
        if "adapter" in self.facts["taken"]:
            from peft import set_peft_model_state_dict

            weights = read_weights(self.path / ADAPTER / ADAPTER_WEIGHTS)
            with base_llm.quiet():
                result = set_peft_model_state_dict(model.llm, weights)
            lost = [name for name in result.missing_keys if "lora_" in name] + list(result.unexpected_keys)
            if lost:
                raise CommandError(f"init_from: {self.path / ADAPTER} and this run's adapter differ in {lost[0]}")
        if "projector" in self.facts["taken"]:
            _load_projector(model, self.path / PROJECTOR)


def init_weights(path: Path, *, base: dict[str, Any], adapter: AdapterConfig, prefix: PrefixConfig, reads: bool) -> InitialText:
    """Weights for a run that begins with those of the text export ``path``.

    Parameters
    ----------
    base
        The new run's base, by :func:`base_llm.base_reference`.
    adapter, prefix
        The new run's.
    reads
        Whether the new run has a projector; a label-only one has none.

    Raises
    ------
    CommandError
        One sentence with both sides: another base, adapter or projector.
    """
    config = read_text_config(path)
    base_llm.check_base(config["base"], base, f"init_from: {path}")
    taken, new = [], []
    for name, ours, there in (
        ("adapter", to_plain(adapter), config["adapter"]["kind"] != "none"),
        ("prefix", to_plain(prefix), bool(config["num_prefix"])),
    ):
        wanted = reads if name == "prefix" else adapter.kind != "none"
        part = "projector" if name == "prefix" else name
        if not wanted:
            continue
        if not there:
            new.append(part)
            continue
        for field, value in ours.items():
            if field != "dropout" and config[name][field] != value:
                raise CommandError(f"init_from: {path} was trained with {name}.{field} {config[name][field]}, this run has {value}")
        taken.append(part)
    if not taken:
        raise CommandError(f"init_from: {path} has neither an adapter nor a projector for this run")
    facts = {"path": str(path), "step": config.get("step"), "stage": config["stage"]["name"], "taken": taken, "new": new}
    return InitialText(path=path, config=config, facts=facts)
