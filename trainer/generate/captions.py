"""A generation: the text model, the part, and each arm made ready to speak.

    part + training part -> Material -> what an arm shows (trainer.generate.arms) -> prefix features, prompts -> captions -> records

I: items to be captioned, B: items of a batch, K: predicted concepts, C: channels, T: time points, S: feature tokens, D: their width,
P: common space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from data_prep.contract.files import sha256_file, sha256_json
from trainer.artifacts.concepts import build_concept_table
from trainer.artifacts.encoder import Encoder, check_finite, subject_table
from trainer.artifacts.generations import SOURCE, GenerationFacts
from trainer.artifacts.guards import check_inputs, check_unseen, seen_trials
from trainer.artifacts.part import collect
from trainer.artifacts.seen import step_chosen_by, trained_not_known
from trainer.artifacts.text import TextDecoder, load_text
from trainer.artifacts.text_export import find_text_export
from trainer.data import random
from trainer.data.captions import StudyCaptions
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.generate.arms import AS_TRAINED, WITH_WORDS, ArmError, ArmInput, Material, arm_input
from trainer.generate.config import GenerateConfig
from trainer.generate.folder import LABEL_ONLY
from trainer.models.concepts import ConceptTable, as_words
from trainer.models.language.llm import context_length
from trainer.models.language.prompt import Prompt, PromptConfig, Prompter

KEYWORDS = "Write one short caption of a picture of this."
"""What the untuned model is asked, after the predicted words."""
_LIMIT = random.word("items of a limited generation")
_EMBED_ITEMS = 256
_EQUAL = 0.01
"""Difference in length, as a share, at which two trainings count as equally long."""


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """An arm, ready to speak: fixed ``texts``, or prompts and features by row of the items."""

    concepts: list[str]
    """Predicted concept of each item; empty where nothing is predicted."""
    decoder: TextDecoder
    texts: list[str] | None = None
    prompts: list[Prompt] | None = None
    features: Callable[[np.ndarray], Tensor] | None = None
    """(B, S, D) of the rows B; None: the prompt alone."""
    prompter: Prompter | None = None
    """Another than the decoder's."""
    use_adapter: bool = True
    first_line: bool = False
    """Keep no more than the first line: an untuned model that does not know where a caption ends would ramble on."""

    def say(self, rows: np.ndarray, items: np.ndarray, config: GenerateConfig) -> list[str]:
        """Captions of some rows; ``items`` are their numbers in the part."""
        if self.texts is not None:
            return [self.texts[row] for row in rows]
        assert self.prompts is not None
        texts = self.decoder.model.generate(
            None if self.features is None else self.features(rows),
            [self.prompts[row] for row in rows],
            config.decoding,
            self.prompter or self.decoder.prompter,
            seed=config.seed,
            items=items.tolist(),
            use_adapter=self.use_adapter,
        )
        return [next((line for line in text.splitlines() if line.strip()), "") for text in texts] if self.first_line else texts


class Generation:
    """The model, the part and everything that arms are made from.

    Attributes
    ----------
    items : np.ndarray
        Numbers, in the part, of the items to be captioned: (I,), ascending.
    request : dict
        What the captions depend on.
    facts : GenerationFacts
        What is known of them before the first is said.
    notes : list of str
        What a reader of the captions must know.
    """

    def __init__(self, config: GenerateConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        export = find_text_export(config.export)
        self.decoder = load_text(export, device, base=config.base or None, precision=config.precision)
        if not self.decoder.reads_eeg:
            raise CommandError(
                f"export: {export} was trained in stage label, without EEG: expected a model with a prefix; it is for label_only"
            )
        self.loader = open_text_part(self.decoder, export, config)
        label_export = find_text_export(config.label_only) if "label-only" in config.arms else None
        self.label_not_known: tuple[str, ...] = ()
        self.label = None if label_export is None else self._open_label_only(label_export)
        self.captions = StudyCaptions.open(self.loader.index)
        self.arrays = collect(self.loader)
        self.notes: list[str] = []
        self.items = self._choose_items()
        self.subject_S = subject_table(self.loader.index.manifest.tables.subjects, self.decoder.encoder, device)
        prompt = self.decoder.export.read_prompt()
        self.always_words = bool(prompt.concepts and not prompt.concept_dropout)
        self.with_words = (*WITH_WORDS, *(AS_TRAINED if self.always_words else ()))
        self.training = Loader(self.loader.index, self.loader.config, "train", seed=0)
        self.material = self._material()
        self._tables: dict[int, ConceptTable] = {}
        self._note_training()
        manifest = self.loader.index.manifest
        seen = seen_trials((*self.decoder.encoder.export.origins, *self.decoder.export.origins), self.loader.index, self.loader.rows)
        if seen.chosen and config.part == "test":
            self.notes.append(step_chosen_by("the text model", seen.chosen))
        data = to_plain(self.loader.config)
        self.request: dict[str, Any] = {
            **{name: to_plain(getattr(config, name)) for name in ("part", "candidates", "num_words", "style", "decoding", "seed", "limit")},
            **{name: getattr(config, name) for name in ("batch_size", "precision")},
            "fingerprint": manifest.fingerprint,
            "trials_hash": manifest.trials_hash,
            "embedding_sha256": manifest.embedding(self.loader.config.embedding).sha256,
            "split_hash": self.loader.split_hash,
            "data": {name: data[name] for name in ("split", "embedding", "select", "transform", "normalise")},
            "num_items": len(self.items),
            "export": digest(export),
        }
        if label_export is not None:
            self.request[LABEL_ONLY] = digest(label_export)
        self.facts = GenerationFacts(
            study=str(self.loader.index.root),
            fingerprint=manifest.fingerprint,
            split=self.loader.config.split,
            split_hash=self.loader.split_hash,
            part=config.part,
            simulated=manifest.simulated,
            unit=manifest.signal.unit,
            trials_hash=manifest.trials_hash,
            trained_trials=seen.known_count,
            trained_not_known=seen.not_known,
            candidates=config.candidates,
            num_items=len(self.items),
            num_uncaptioned=self.num_uncaptioned,
            base=self.decoder.export.base.name,
            stage=self.decoder.export.stage.name,
            trained_on=self.decoder.export.trained_on,
            with_words=self.with_words,
            model=self.request["export"],
            step=self.decoder.export.step,
            notes=tuple(self.notes),
            config=to_plain(config),
        )

    # ------------------------------------------------------------------------------------------------------ one arm

    def speaker(self, name: str) -> Speaker:
        """An arm, ready to speak.

        Raises
        ------
        ArmError
            The part or the model cannot make it, in a sentence.
        """
        decoder, table = self.decoder, self._table(self.decoder)
        self._check_readable(name)
        shown = arm_input(name, self.material, lambda z_IP: table.points(table.predict(z_IP, 1)[:, 0]))
        if shown.texts is not None:
            return Speaker(concepts=shown.concepts or [""] * len(self.items), decoder=decoder, texts=shown.texts)
        assert shown.z_IP is not None
        if name == "label-only":
            return self._label_only(shown.z_IP)
        ids_IK = table.predict(shown.z_IP, self._num_words(decoder))
        concepts = [table.names[row[0]] for row in ids_IK.tolist()]
        words = [table.words(row) if name in self.with_words else [] for row in ids_IK.tolist()]
        if name == "keywords":
            prompter = Prompter(decoder.prompter.tokenizer, PromptConfig(instruction=KEYWORDS), 0, context_length(decoder.model.llm))
            prompter.end_ids = decoder.prompter.end_ids
            prompts = [prompter.encode(own) for own in words]
            return Speaker(concepts=concepts, decoder=decoder, prompts=prompts, prompter=prompter, use_adapter=False, first_line=True)
        prompts = [decoder.prompter.encode(own, style=self.config.style) for own in words]
        return Speaker(concepts=concepts, decoder=decoder, prompts=prompts, features=self._features(shown))

    def records(self, arm: str, speaker: Speaker, rows: np.ndarray, texts: list[str]) -> list[dict[str, Any]]:
        """What is written down of some rows."""
        tables, arrays, found = self.loader.index.manifest.tables, self.arrays, []
        told = {name: getattr(self.facts, name) for name in SOURCE}
        source = told | {"study": Path(self.facts.study or "").name}
        for row, text in zip(rows.tolist(), texts, strict=True):
            item = int(self.items[row])
            stimulus = int(arrays.stimulus_N[item])
            about = tables.stimuli[stimulus]
            found.append(
                {
                    "arm": arm,
                    "item": item,
                    "stimulus": about.id,
                    "subject": tables.subjects[int(arrays.subject_N[item])],
                    "image": about.image or "",
                    "expected": self.captions.of(stimulus),
                    "generated": text,
                    "concept_true": as_words(tables.concepts[int(arrays.concept_N[item])]),
                    "concept_predicted": as_words(speaker.concepts[row]),
                    "prompt": "" if speaker.prompts is None else speaker.prompts[row].text,
                    "seed": self.config.seed,
                    **source,
                }
            )
        return found

    def _features(self, shown: ArmInput) -> Callable[[np.ndarray], Tensor]:
        decoder, subject_I = self.decoder, self.arrays.subject_N[self.items]

        @torch.no_grad()
        def features(rows: np.ndarray) -> Tensor:
            if shown.point_IP is not None:
                point_BP = torch.from_numpy(shown.point_IP[rows]).to(self.device)
                token = decoder.model.image_token
                return (point_BP if token is None else token(point_BP)).unsqueeze(1)
            assert shown.eeg_ICT is not None
            eeg_BCT = torch.from_numpy(shown.eeg_ICT[rows]).to(self.device)
            return decoder.embed(eeg_BCT, self.subject_S[torch.from_numpy(subject_I[rows]).to(self.device)])

        return features

    def _label_only(self, z_IP: np.ndarray) -> Speaker:
        label = self.label
        assert label is not None
        self._check_equal(label)
        if label.export.encoder.sha256 != self.decoder.export.encoder.sha256:
            # Its words were predicted by its own encoder in training.
            arrays = self.arrays
            z_IP = self._embed_by(label.encoder, arrays.eeg_NCT[self.items], arrays.subject_N[self.items])
        table = self._table(label)
        ids_IK = table.predict(z_IP, self._num_words(label)).tolist()
        prompts = [label.prompter.encode(table.words(row), style=self.config.style) for row in ids_IK]
        return Speaker(concepts=[table.names[row[0]] for row in ids_IK], decoder=label, prompts=prompts)

    def _check_equal(self, label: TextDecoder) -> None:
        # Of steps, those that were planned: each model then keeps the step that did best on validation.
        ours, theirs = self.decoder.export.planned(), label.export.planned()
        for name in ours:
            own, other = ours[name], theirs[name]
            if own is None or other is None or abs(own - other) > _EQUAL * own:  # passes of several stages are rounded to whole steps each
                found = f"the label-only model was trained for {other or 'unknown'} {name}, the model for {own or 'unknown'}"
                raise ArmError(f"{found} in all of its stages: expected as many")
        for name in ("adapter", "split_hash"):
            if getattr(self.decoder.export, name) != getattr(label.export, name):
                raise ArmError(f"the label-only model has another {name.replace('_', ' ')} than the model, expected the same")

    def _check_readable(self, name: str) -> None:
        # With the encoder's tokens as features, images and EEG go in through different doors, and training may have used one only.
        if self.decoder.model.image_token is None:
            return
        if name in ("image", "concept-mean") and not self.decoder.export.reads_images:
            raise ArmError("the model reads the encoder's tokens and was last trained in stage eeg: it cannot read an image")
        if name.startswith(("eeg", "noise", "shuffled")) and "eeg" not in self.decoder.export.trained_on:
            raise ArmError("the model reads the encoder's tokens and was trained in stage image: it has never been shown EEG")

    def _num_words(self, decoder: TextDecoder) -> int:
        return self.config.num_words or max(1, decoder.num_words)

    def _table(self, decoder: TextDecoder) -> ConceptTable:
        """Candidates for the words of a model."""
        if self.config.candidates == "train" and decoder.concepts is not None:
            return decoder.concepts
        if id(decoder) not in self._tables:
            loader = self.training if self.config.candidates == "train" else self.loader
            self._tables[id(decoder)] = build_concept_table(decoder.encoder, loader)
        return self._tables[id(decoder)]

    # ------------------------------------------------------------------------------------------------------- set-up

    def _choose_items(self) -> np.ndarray:
        config, index, stimulus_N = self.config, self.loader.index, self.arrays.stimulus_N
        has_N = self.captions.has(stimulus_N)
        self.num_uncaptioned = int((~has_N).sum())
        missing = config.missing_captions or self.decoder.export.stage.missing_captions
        if self.num_uncaptioned and (missing == "refuse" or not has_N.any()):
            first = index.manifest.tables.stimuli[int(stimulus_N[~has_N][0])].id
            raise CommandError(
                f"{index.root}: {self.num_uncaptioned} of {len(has_N)} items of part {config.part!r} have no caption to compare with "
                f"(first {first!r}): caption them, or set missing_captions: drop to leave them out"
            )
        if self.num_uncaptioned:
            self.notes.append(f"{self.num_uncaptioned} items of the part have no caption to compare with and were left out.")
        items = np.flatnonzero(has_N)
        if config.limit and config.limit < len(items):
            self.notes.append(f"{config.limit} of {len(items)} items are captioned, a fixed choice (limit).")
            items = np.sort(items[np.argsort(random.hash_numpy(_LIMIT, items), kind="stable")[: config.limit]])
        return items

    def _material(self) -> Material:
        arrays, tables, encoder = self.arrays, self.loader.index.manifest.tables, self.decoder.encoder
        stimuli = self.training.stimuli[self.captions.has(self.training.stimuli)]
        if not len(stimuli):
            raise CommandError(f"{self.loader.index.root}: no training stimulus of split {self.loader.config.split!r} has a caption")
        captions = [self.captions.of(stimulus) for stimulus in stimuli.tolist()]
        learnt = 1 if self.decoder.export.stage.captions == "first" else None
        return Material(
            items=self.items,
            eeg_NCT=arrays.eeg_NCT,
            image_NP=encoder.embed_image(arrays.target_NE),
            subject_N=arrays.subject_N,
            stimulus_N=arrays.stimulus_N,
            concept_N=arrays.concept_N,
            train_MP=encoder.embed_image(self.training.gallery[stimuli]),
            train_captions=captions,
            train_concepts=[tables.concepts[tables.stimuli[stimulus].concept] for stimulus in stimuli.tolist()],
            prior=[caption for own in captions for caption in own[:learnt]],
            embed=lambda eeg_ICT, subject_I: self._embed_by(encoder, eeg_ICT, subject_I),
            seed=self.config.seed,
        )

    def _embed_by(self, encoder: Encoder, eeg_ICT: np.ndarray, subject_I: np.ndarray) -> np.ndarray:
        found = []
        for first in range(0, len(eeg_ICT), _EMBED_ITEMS):
            rows = slice(first, first + _EMBED_ITEMS)
            subject_B = self.subject_S[torch.from_numpy(subject_I[rows]).to(self.device)]
            z_BP = encoder.embed_prepared(torch.from_numpy(eeg_ICT[rows]).to(self.device), subject_B).float()
            check_finite(z_BP, first)
            found.append(z_BP.cpu().numpy())
        return np.concatenate(found)

    def _open_label_only(self, export: Path) -> TextDecoder:
        config, decoder = self.config, self.decoder
        label = load_text(export, self.device, base=config.base or None, precision=config.precision)
        if label.reads_eeg:
            raise CommandError(f"label_only: {export} reads EEG (stage {label.export.stage.name}), expected a model trained in stage label")
        ours, theirs = (model.export.base for model in (decoder, label))
        if ours.fingerprint != theirs.fingerprint or ours.name != theirs.name:
            raise CommandError(f"label_only: {export} has the base {theirs.name}, the model {ours.name}: expected the same base")
        check_inputs(label.encoder, export / "encoder", self.loader)
        check_unseen(label.encoder.export, self.loader, "the label-only model's encoder")
        self.label_not_known = check_unseen(label.export, self.loader, "the label-only model").not_known
        return label

    def _note_training(self) -> None:
        arms = set(self.config.arms)
        if self.label_not_known:
            self.notes.append(trained_not_known("the label-only model", self.label_not_known))
        if {"eeg+concept", "noise+word"} & arms and not self.decoder.num_words:
            self.notes.append("The model never saw words in training: arms with words (eeg+concept, noise+word) are foreign to it.")
        if self.always_words:
            if {"eeg", "noise"} & arms:
                self.notes.append("The model never saw a prompt without words in training: the arms eeg and noise are foreign to it.")
            if more := [name for name in AS_TRAINED if name in arms]:
                self.notes.append(f"Prompts of {', '.join(more)} have words, too, as in training: those predicted from what the arm shows.")
        if "image" not in self.decoder.export.trained_on and {"image", "concept-mean"} & arms:
            self.notes.append("The model was never trained on images: the arms image and concept-mean are foreign to it.")
        elif self.decoder.export.stage.name == "eeg" and "image" in arms:
            self.notes.append("The model was trained on images first and on EEG last: what it forgot of images lowers the image arm.")
        if "eeg" not in self.decoder.export.trained_on:
            self.notes.append("The model was trained on images only: EEG is foreign to it.")
        if self.decoder.export.tune_encoder:
            self.notes.append(
                "The encoder was tuned with the language model: nearest-caption, concept-mean and predicted words come from the tuned one."
            )


def open_text_part(decoder: TextDecoder, export: Path, config: GenerateConfig) -> Loader:
    """The part to be captioned, as the model's training read its own, all repetitions averaged.

    Raises
    ------
    CommandError, StudyError
        A study that does not fit the encoder; a part without trials, or with trials that the encoder or the model has learnt from.
    """
    changes = {name: value for name, value in (("study", config.study), ("split", config.split)) if value}
    data = decoder.export.data_config(**changes, repetitions="mean")
    loader = Loader(StudyIndex.open(data.study), data, config.part, seed=0)
    check_inputs(decoder.encoder, export / "encoder", loader)
    check_unseen(decoder.encoder.export, loader)
    check_unseen(decoder.export, loader, "the text model")
    return loader


def digest(export: Path) -> str:
    """Identity of a text export: a hash over all of its files."""
    files = sorted(path for path in export.rglob("*") if path.is_file())
    return sha256_json({path.relative_to(export).as_posix(): sha256_file(path) for path in files})
