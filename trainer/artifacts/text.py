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

from data_prep.contract.errors import CommandError
from data_prep.contract.files import refuse_links_out, sha256_file, write_atomically
from data_prep.contract.records import to_json
from data_prep.contract.seal import say_edited, seal_all
from data_prep.contract.words import short
from trainer.artifacts.encoder import WEIGHTS, NetworkEncoder, check_finite, load_network
from trainer.artifacts.export import CONFIG, read_export, write_config
from trainer.artifacts.text_export import ExportEncoder, TextExport, TextTraining, find_text_export, read_text_export, write_text_config
from trainer.artifacts.weights import read_weights
from trainer.models.concepts import ConceptTable
from trainer.models.language.adapter import check_adapter_config
from trainer.models.language.base import for_use, load_base, load_tokenizer, read_settings
from trainer.models.language.decoding import DecodingConfig
from trainer.models.language.eeg_language_model import EEGLanguageModel
from trainer.models.language.llm import context_length, hidden_size
from trainer.models.language.prefix import PrefixConfig
from trainer.models.language.prompt import Prompter
from trainer.models.language.quiet import quiet
from trainer.models.language.reference import base_reference, check_base

ADAPTER, PROJECTOR, ENCODER = "adapter", "projector.safetensors", "encoder"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PROJECTOR_PARTS = ("projector.", "image_token.")
_OF_ENCODER = ("signal", "build", "embedding", "embedding_dim", "stimulus_level", "subjects", "trained_subjects", "trained_concepts")


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
    training: TextTraining,
    facts: Mapping[str, Any],
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
    training
        How it was trained, and the trainings before it.
    facts
        What else is to be kept of it, such as hashes of what it read.
    """
    output.mkdir(parents=True)
    model = parts.model
    if hasattr(model.llm, "peft_config"):
        _write_adapter(output / ADAPTER, model.llm, weights)
    projector = {name: value for name, value in weights.items() if name.startswith(PROJECTOR_PARTS)}
    if projector:
        _save(projector, output / PROJECTOR)
    refuse_links_out(encoder)
    (output / ENCODER).mkdir()
    for file in sorted(encoder.iterdir()):
        if file.is_file():
            shutil.copyfile(file, output / ENCODER / file.name)
    own = read_export(encoder)
    if tuned:
        changed = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
        whole = read_weights(encoder / WEIGHTS)
        _save({name: changed.get(name, value) for name, value in whole.items()}, output / ENCODER / WEIGHTS)
        # It has now seen this run's training trials as well; a stage is the text model's alone.
        write_config(output / ENCODER, replace(own, started_from=(*own.started_from, training.own)))
    if concepts is not None:
        concepts.write(output)
    plain = to_json(own)
    export = TextExport(
        **vars(training),
        tune_encoder=tuned,
        encoder=ExportEncoder(sha256=sha256_file(output / ENCODER / WEIGHTS), facts={name: plain.get(name) for name in _OF_ENCODER}),
        num_prefix=model.num_prefix,
        reads_images=model.image_token is None or any(name.startswith("image_token.") for name in projector),
        embedding_rms=parts.embedding_rms,
        concepts=None if concepts is None else tuple(concepts.names),
        facts=facts,
    )
    write_text_config(output, export)
    seal_all(output / ENCODER)
    seal_all(output)


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


def trained_parameters(export: Path) -> int:
    """Weights of adapter and projector."""
    files = [file for file in (export / ADAPTER / ADAPTER_WEIGHTS, export / PROJECTOR) if file.is_file()]
    return sum(value.numel() for file in files for value in read_weights(file).values())


class TextDecoder:
    """A tuned text model in eval mode; make it with :func:`load_text`.

    Attributes
    ----------
    export : TextExport
        ``config.json``.
    encoder : NetworkEncoder
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
        export: TextExport,
        encoder: NetworkEncoder,
        model: EEGLanguageModel,
        prompter: Prompter,
        concepts: ConceptTable | None,
        device: torch.device,
    ) -> None:
        self.export, self.encoder, self.prompter, self.concepts, self.device = export, encoder, prompter, concepts, device
        self.model = model.eval()
        self.num_words = export.read_prompt().concepts

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
        eeg: np.ndarray | Sequence[Any],
        subject: str | Sequence[str | None] | None = None,
        session: str | Sequence[str | None] | None = None,
        *,
        decoding: DecodingConfig | None = None,
        seed: int = 0,
        batch_size: int = 16,
    ) -> list[str]:
        """Captions of trials, given as :meth:`Encoder.embed` takes them: (B, C, T), or (B, R, C, T) repeated trials to be averaged."""
        said: list[str] = []
        for first, eeg_BCT, subject_B, _ in self.encoder.prepared(eeg, subject, session, batch_size=batch_size):
            words = self.words(self.encoder.embed_prepared(eeg_BCT, subject_B).cpu().numpy()) if self.num_words else [[]] * len(eeg_BCT)
            features = self.embed(eeg_BCT, subject_B) if self.reads_eeg else None
            if features is not None:
                check_finite(features, first)
            said += self.model.generate(
                features,
                [self.prompter.encode(own) for own in words],
                decoding or DecodingConfig(),
                self.prompter,
                seed=seed,
                items=range(first, first + len(eeg_BCT)),
            )
        return said

    @torch.no_grad()
    def check_reads(self, where: Path, eeg: np.ndarray, subject: str = "", session: str = "") -> None:
        """Refuse a model that makes no numbers of a trial (1, C, T): no embedding, or no prefix for the language model.

        Raises
        ------
        CommandError
            Names ``where``, the export.
        """
        self.encoder.check_embeds(where, eeg, subject, session)
        for _, eeg_BCT, subject_B, _ in self.encoder.prepared(eeg, subject or None, session or None, batch_size=1):
            if self.model.projector is None:
                return
            prefix_BKH = self.model.projector(self.embed(eeg_BCT, subject_B))
            if not torch.isfinite(prefix_BKH).all():
                raise CommandError(f"{where}: not to be used, its prefix of a trial is not finite: the training had failed")


def load_text(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    base: str | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    trust: Sequence[str] = (),
) -> TextDecoder:
    """Load a text export. Nothing in it is executed.

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
    trust
        As :func:`~trainer.artifacts.encoder.load_encoder` has it, for the encoder.

    Raises
    ------
    CommandError, StudyError
        One sentence: not a text export, files missing, another base than the adapter's.
    """
    folder, device = find_text_export(path), torch.device(device)
    export = read_text_export(folder)
    base_config = for_use(export.read_base(), precision)
    if base is not None:
        base_config = replace(base_config, name=base, revision=None)
    settings = read_settings(base_config)
    tokenizer = load_tokenizer(base_config)
    check_base(export.base, base_reference(base_config, settings, tokenizer), str(folder))
    llm = load_base(base_config, device, training=False)
    if export.read_adapter().kind != "none":
        llm = _with_adapter(llm, folder / ADAPTER)
    encoder = load_network(folder / ENCODER, device, trust=trust)
    prefix = export.read_prefix()
    model = EEGLanguageModel(
        encoder=encoder.model if export.num_prefix else None,
        tune_encoder=False,
        projector=_projector(prefix, encoder, llm, export.embedding_rms) if export.num_prefix else None,
        llm=llm,
        features=prefix.features,
        precision=precision,
        device=device,
    )
    if export.num_prefix:
        load_projector(model, folder / PROJECTOR)
    if base_config.quantisation == "none":
        model.to(device)
    elif model.projector is not None:
        model.projector.to(device)
        if model.image_token is not None:
            model.image_token.to(device)
    prompter = Prompter(tokenizer, export.read_prompt(), export.num_prefix, context_length(settings))
    concepts = ConceptTable.read(folder) if export.concepts is not None else None
    say_edited(folder)
    return TextDecoder(export, encoder, model, prompter, concepts, device)


def _with_adapter(llm: Any, folder: Path) -> Any:
    file = folder / ADAPTER_WEIGHTS
    # Read here first: peft would look for a missing file on its hub, and leaves what a file lacks at its random start.
    saved = read_weights(file)
    check_adapter_config(folder / "adapter_config.json")
    try:
        with quiet():
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


def _projector(prefix: PrefixConfig, encoder: NetworkEncoder, llm: Any, embedding_rms: float) -> Any:
    width = encoder.model.proj_dim if prefix.features == "embedding" else encoder.model.encoder.token_dim
    return prefix.build(width, hidden_size(llm), embedding_rms)


def load_projector(model: EEGLanguageModel, file: Path) -> None:
    """Put an export's projector into ``model``.

    Raises
    ------
    CommandError
        The file is damaged, or of another projector.
    """
    wanted = {name for name in model.state_dict() if name.startswith(PROJECTOR_PARTS)}
    saved = read_weights(file)
    # An image's token is trained in stages that show images only.
    missing = {name for name in wanted - saved.keys() if not name.startswith("image_token.")}
    if odd := sorted(missing | (saved.keys() - wanted)):
        raise CommandError(f"{file}: not the projector that {CONFIG} describes ({odd[0]} is not on both sides)")
    try:
        model.load_state_dict(saved, strict=False)
    except RuntimeError as error:
        raise CommandError(f"{file}: not the projector that {CONFIG} describes ({short(error, 200)})") from error
