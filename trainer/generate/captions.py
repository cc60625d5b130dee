"""A generation: the text model, the part, and each arm made ready to speak.

    part + training part -> Material -> what an arm shows (trainer.generate.arms) -> prefix features, prompts -> captions -> records

I: items to be captioned, B: items of a batch, K: predicted concepts, C: channels, T: time points, S: feature tokens, D: their width,
P: common space.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from trainer.artifacts.concepts import build_concept_table
from trainer.artifacts.encoder import Encoder, check_finite, subject_table
from trainer.artifacts.generations import SOURCE, GenerationFacts
from trainer.artifacts.guards import seen_trials
from trainer.artifacts.part import collect
from trainer.artifacts.seen import step_chosen_by, trained_not_known
from trainer.artifacts.text import TextDecoder, load_text
from trainer.artifacts.text_export import find_text_export
from trainer.data import random
from trainer.data.captions import StudyCaptions
from trainer.data.loader import Loader
from trainer.generate.arms import AS_TRAINED, WITH_WORDS, ArmInput, Material, arm_input
from trainer.generate.config import GenerateConfig
from trainer.generate.folder import LABEL_ONLY
from trainer.generate.models import digest, open_label_only, open_text_part, refuse_unequal, refuse_unreadable
from trainer.generate.notes import training_notes
from trainer.generate.speaker import Speaker
from trainer.models.concepts import ConceptTable, as_words
from trainer.models.language.llm import context_length
from trainer.models.language.prompt import PromptConfig, Prompter

KEYWORDS = "Write one short caption of a picture of this."
"""What the untuned model is asked, after the predicted words."""
_LIMIT = random.word("items of a limited generation")
_EMBED_ITEMS = 256


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
        self.label: TextDecoder | None = None
        if label_export is not None:
            self.label, self.label_not_known = open_label_only(self.decoder, self.loader, label_export, config, device)
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
        if self.label_not_known:
            self.notes.append(trained_not_known("the label-only model", self.label_not_known))
        self.notes += training_notes(self.decoder.export, config.arms, num_words=self.decoder.num_words, always_words=self.always_words)
        manifest = self.loader.index.manifest
        seen = seen_trials((*self.decoder.encoder.export.origins, *self.decoder.export.origins), self.loader.index, self.loader.rows)
        if seen.chosen and config.part == "test":
            self.notes.append(step_chosen_by("the text model", seen.chosen))
        data = to_plain(self.loader.config)
        self.request: dict[str, Any] = {
            **{name: to_plain(getattr(config, name)) for name in ("part", "candidates", "num_words", "style", "decoding", "seed", "limit")},
            **{name: getattr(config, name) for name in ("batch_size", "precision")},
            **self.loader.identity,
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
        refuse_unreadable(self.decoder, name)
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
        refuse_unequal(self.decoder, label)
        if label.export.encoder.sha256 != self.decoder.export.encoder.sha256:
            # Its words were predicted by its own encoder in training.
            arrays = self.arrays
            z_IP = self._embed_by(label.encoder, arrays.eeg_NCT[self.items], arrays.subject_N[self.items])
        table = self._table(label)
        ids_IK = table.predict(z_IP, self._num_words(label)).tolist()
        prompts = [label.prompter.encode(table.words(row), style=self.config.style) for row in ids_IK]
        return Speaker(concepts=[table.names[row[0]] for row in ids_IK], decoder=label, prompts=prompts)

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
