"""Tuning a language model to say what EEG shows: the task that the loop trains.

A step's path: this rank's items -> prepared and augmented EEG, image embeddings -> words of predicted concepts, prompts, one
caption each -> cut by length into micro-batches of token rows -> sum of the captions' cross-entropies
-> divided by the tokens of the whole step. So the loss is the mean over the step's caption tokens, however it was cut.

B: items of this rank or of a micro-batch, P: common space of EEG and images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.contract.cli import to_plain
from data_prep.contract.files import sha256_file
from trainer.artifacts.encoder import load_network, subject_table
from trainer.artifacts.export import find_export
from trainer.artifacts.guards import check_encoder
from trainer.artifacts.initial_text import InitialText
from trainer.artifacts.text import TextParts, write_text_export
from trainer.artifacts.text_export import ExportStage, TextTraining
from trainer.data import random
from trainer.data.batch import Batch, HostBatch
from trainer.data.captions import StudyCaptions
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.distributed import collectives
from trainer.distributed.world import World
from trainer.models.language.base import DTYPES, load_tokenizer, read_settings
from trainer.models.language.eeg_language_model import EEGLanguageModel, Source, TextOutput
from trainer.models.language.llm import context_length
from trainer.models.language.prompt import Prompter
from trainer.models.language.reference import base_reference
from trainer.models.language.rows import cut_by_length
from trainer.tasks.keep import training_loader
from trainer.tasks.sizes import check_sizes
from trainer.tasks.text.config import TextConfig
from trainer.tasks.text.initial_weights import initial_weights
from trainer.tasks.text.items import TextBatch, TextItems, text_batch
from trainer.tasks.text.model import build_parts, print_trainable
from trainer.tasks.text.targets import CaptionTargets
from trainer.tasks.text.validation import log_likelihood
from trainer.tasks.text.words import PromptWords
from trainer.training.task import BaseTask, say

_CAPTION, _NOISE, _MODALITY, _WORDS = (random.word(f"text {name}") for name in ("caption", "image noise", "image or EEG", "words left out"))
_TRUST = 0.2
"""Difference in how often predicted words are right, in training and on validation, of which the user is told."""
_SOURCES: dict[str, Source | None] = {"image": "image", "eeg": "eeg", "mixed": "both", "label": None}


class TextTask(BaseTask):
    """See :class:`trainer.training.task.Task`."""

    config: TextConfig

    frozen_elsewhere = True

    def __init__(self, config: TextConfig, world: World, device: torch.device) -> None:
        super().__init__()
        self.config, self.world, self.device, self.augmentation = config, world, device, config.stage.augment
        self.source = _SOURCES[config.stage.name]
        self.index = StudyIndex.open(Path(config.data.study), verify=config.data.verify)
        kept = self._open_parts()
        self.warn(check_sizes(config, world, self.loader, self.validation, learnt=["stimulus"], most_scored=config.stage.validation_items))
        settings = read_settings(config.base)
        num_prefix = config.prefix.num_tokens if self.source else 0
        self.prompter = Prompter(load_tokenizer(config.base), config.prompt, num_prefix, context_length(settings))
        self.subject_S = subject_table(self.index.manifest.tables.subjects, self.encoder, device)
        self.words = PromptWords(config, self.loader, self.encoder, self.subject_S)
        self.longest_prompt = self.prompter.encode(self.words.longest(self.prompter.reader))
        stimuli = np.unique(np.concatenate([part.stimuli for part in self._parts])).tolist()
        self.targets = CaptionTargets(self.captions, stimuli, self.prompter, self.longest_prompt, config.stage)
        self.base = base_reference(config.base, settings, self.prompter.tokenizer)
        if config.zero.stage == 3 and config.base.quantisation == "none":
            self.partitioned_dtype = DTYPES[config.base.dtype]
        self.encoder_sha256 = sha256_file(self.encoder_path / "model.safetensors")
        self.study = self._identity()
        self.remember_kept(kept)
        self.begin_with(self.encoder.export.origins)
        self.parts: TextParts | None = None

    # ---------------------------------------------------------------------------------------------------------- set-up

    def _open_parts(self) -> dict[str, Any] | None:
        """Encoder, captions, training and validation part; returns what ``data.select.keep`` has left, if it was used."""
        config = self.config
        loader, kept = training_loader(self.index, config.data, config.train.seed, self.device)
        self.encoder_path = find_export(config.encoder)
        self.encoder = load_network(self.encoder_path, self.device)
        self.warn(check_encoder(self.encoder, self.encoder_path, loader))
        self.captions = StudyCaptions.open(self.index)
        self.loader = self._captioned(loader)
        self.num_items = self.loader.num_items
        self.num_steps = config.train.num_steps(self.num_items)
        self.validation: Loader | None = None
        self.score_name: str | None = None
        if self.index.split(config.data.split).has("validation"):
            self.validation = self._captioned(Loader(self.index, config.data.unfiltered(), "validation", seed=config.train.seed))
            self.score_name = "image_log_likelihood" if self.source == "image" else "log_likelihood"
        return kept

    def _captioned(self, loader: Loader) -> Loader:
        """The part without stimuli that have no caption, where the config lets them be dropped."""
        count = self.captions.check(self.index, loader.stimuli, self.config.stage.missing_captions, loader.part)
        if not count:
            return loader
        keep = self.captions.has(loader.item_stimuli)
        self.notes.append(("captions missing", {"part": loader.part, "stimuli": count, "items_dropped": int((~keep).sum())}))
        say(self.world, f"{loader.part}: {count} stimuli without a caption are left out, with {int((~keep).sum())} items")
        return loader.narrowed(keep, "stage.missing_captions: drop")

    @property
    def _parts(self) -> list[Loader]:
        return [part for part in (self.loader, self.validation) if part is not None]

    def _identity(self) -> dict[str, str]:
        return {
            **self.loader.identity,
            "encoder_sha256": self.encoder_sha256,
            "base": str(self.base),
            "base_tokenizer": str(self.base.tokenizer),
            "base_quantisation": self.config.base.quantisation,
        }

    def check_start(self) -> None:
        """What ``init_from`` would bring, if anything, and how good the words in prompts are."""
        if self.config.init_from:
            initial = self._initial()
            self.notes.append(("init", initial.facts()))
            self.warn(initial.not_known)
        facts: dict[str, Any] = {"text": self.longest_prompt.text}
        if self.words.own_C is not None:
            facts["own_concept"] = "left out"
        elif self.words.concepts is not None:
            source: Source = "image" if self.source == "image" else "eeg"
            facts["words_right"] = right = self.words.share_right(self._parts, source, self.device)
            if right["train"] > right.get("validation", right["train"]) + _TRUST:
                said = f"{right['train']:.0%} of training items and {right['validation']:.0%} of validation items"
                say(self.world, f"the predicted words in prompts are right for {said}: the model may learn to trust them too much")
        self.notes.append(("prompt", facts))

    def start(self, model: nn.Module) -> None:
        """Bring the adapter and the projector of ``init_from``."""
        if self.config.init_from:
            initial = self._initial()
            assert isinstance(model, EEGLanguageModel)
            initial.copy_into(model)
            self.begin_with(initial.origins)

    def _initial(self) -> InitialText:
        reads = self.source is not None
        return initial_weights(self.config, self.index, base=self.base, encoder_sha256=self.encoder_sha256, reads=reads)

    def build_model(self) -> nn.Module:
        """Encoder, projector and base with its adapter; says what of them is trained, and refuses an adapter that is not."""
        self.parts = build_parts(self.config, self.encoder_path, self.source, self.subject_S[:1], self.device)
        if self.world.is_main:
            print_trainable(self.parts.model)
        return self.parts.model

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW, a tuned encoder at its own rate."""
        return self.config.optimizer.build(model, {"encoder.": self.config.encoder_lr_factor} if self.config.tune_encoder else None)

    # --------------------------------------------------------------------------------------------------------- training

    def prepare(self, host: HostBatch, step: int) -> list[TextBatch]:
        """Micro-batches of equal item count, short captions with short ones; a collective (the step's token count)."""
        items = self._items(host, step)
        accumulation, caption_tokens = self.config.train.forwards(self.world.size), sum(map(len, items.targets))
        num_tokens = collectives.sum_across(torch.full((1,), caption_tokens, device=self.device, dtype=torch.float64))
        weight = (accumulation * self.world.size / num_tokens).float().squeeze(0)
        return [self._batch(items.take(chosen), weight) for chosen in cut_by_length(items.lengths, accumulation)]

    def _items(self, host: HostBatch, step: int) -> TextItems:
        """What of each item is shown and said; every draw depends on item and data pass alone."""
        config, seed = self.config, self.config.train.seed
        batch = self.prepared(host)
        item_B, pass_B = host.item_B.numpy(), host.data_pass_B.numpy()

        def draw(operation: int) -> np.ndarray:
            return random.uniform_numpy(random.hash_numpy(seed, pass_B, item_B, operation))

        image_B = torch.from_numpy(draw(_MODALITY) < config.stage.image_share(step, self.num_steps)).to(self.device, non_blocking=True)
        words = self.words.of(batch, self.source, image_B, training=True)
        left_out = draw(_WORDS) < config.prompt.concept_dropout
        return TextItems(
            eeg_BCT=batch.eeg_BCT,
            subject_B=self.subject_S[batch.subject_B],
            target_BE=batch.target_BE,
            image_B=image_B,
            noise_BP=self._image_noise(batch),
            key_B=self.keys(batch),
            prompts=[self.prompter.encode([] if left else said) for left, said in zip(left_out, words, strict=True)],
            targets=self.targets.draw(host.stimulus_B.numpy(), random.hash_numpy(seed, pass_B, item_B, _CAPTION)),
        )

    def _image_noise(self, batch: Batch) -> Tensor | None:
        length, width = self.config.stage.image_noise, self.encoder.embedding_dim
        if not length or self.source not in ("image", "both"):
            return None
        key_B = random.hash_torch(self.config.train.seed, batch.data_pass_B, batch.item_B, _NOISE, device=self.device)
        noise_BP: Tensor = random.normal_torch(key_B, width) * (length / width**0.5)
        return noise_BP

    def _batch(self, items: TextItems, weight: Tensor) -> TextBatch:
        return text_batch(items, self.prompter, weight=weight, pack_length=self.config.stage.pack_length)

    def losses(self, model: Any, batch: TextBatch) -> dict[str, Tensor]:
        """Mean cross-entropy of the step's caption tokens, the share of them that was likeliest, and how long items are."""
        out = self._forward(model, batch, self.source)
        tokens = torch.full((), batch.num_tokens / len(batch), device=self.device)
        return {"loss": out.loss_sum * batch.weight, "token_accuracy": out.num_correct * batch.weight, "tokens_per_sample": tokens}

    def _forward(self, model: Any, batch: TextBatch, source: Source | None, num_items: int = 0) -> TextOutput:
        inputs: dict[str, Tensor | None] = {"key_B": batch.key_B}
        if source in ("eeg", "both"):
            inputs |= {"eeg_BCT": batch.eeg_BCT, "subject_B": batch.subject_B}
        if source in ("image", "both"):
            inputs |= {"target_BE": batch.target_BE, "noise_BP": batch.noise_BP}
        if source == "both":
            inputs["image_B"] = batch.image_B
        out: TextOutput = model(batch.rows, source=source, num_items=num_items, **inputs)
        return out

    # ------------------------------------------------------------------------------------------------------- validation

    def validate(self, model: Any) -> dict[str, float]:
        """Mean log-likelihood of a token of the validation part's first captions: through EEG (or its words), and through images.

        ``caption_log_likelihood`` is that of a whole caption through EEG, which bases that cut text into other tokens can be compared by.
        """
        if self.source is None:
            token, caption = self._log_likelihood(model, None)
            return {"log_likelihood": token, "caption_log_likelihood": caption}
        # Of the encoder's tokens and the image's only those are scored that the projector has learnt to read.
        shared = self.config.prefix.features == "embedding"
        scores = {}
        if shared or self.source != "image":
            scores["log_likelihood"], scores["caption_log_likelihood"] = self._log_likelihood(model, "eeg")
        if shared or self.source != "eeg":
            scores["image_log_likelihood"], _ = self._log_likelihood(model, "image")
        return scores

    def _log_likelihood(self, model: Any, source: Source | None) -> tuple[float, float]:
        def losses(batch: Batch) -> tuple[Tensor, Tensor]:
            ready = self._batch(self._shown(batch, source), torch.ones((), device=self.device))
            out = self._forward(model, ready, source, num_items=len(ready))
            return out.loss_B, torch.bincount(ready.rows.item_T, minlength=len(ready))

        assert self.validation is not None
        return log_likelihood(
            losses,
            self.validation,
            num_items=self.config.stage.validation_items,
            batch_size=self.config.train.validation_batch_size,
            world=self.world,
            device=self.device,
        )

    def _shown(self, batch: Batch, source: Source | None) -> TextItems:
        """Items as in use: words predicted from what is shown, the first caption."""
        image_B = torch.full((len(batch),), source == "image", device=self.device)
        return TextItems(
            eeg_BCT=batch.eeg_BCT,
            subject_B=self.subject_S[batch.subject_B],
            target_BE=batch.target_BE,
            image_B=image_B,
            prompts=[self.prompter.encode(said) for said in self.words.of(batch, source, image_B)],
            targets=self.targets.first(batch.stimulus_B.cpu().numpy()),
        )

    # ----------------------------------------------------------------------------------------------------------- export

    def export(self, weights: dict[str, Tensor], output: Path, step: int) -> None:
        """Adapter, projector, encoder and what is needed to apply them; not the base."""
        assert self.parts is not None
        config, stage = self.config, to_plain(self.config.stage)
        write_text_export(
            output,
            weights=weights,
            parts=self.parts,
            encoder=self.encoder_path,
            tuned=config.tune_encoder,
            concepts=self.words.concepts,
            training=TextTraining(
                **vars(self.lineage(step)),
                base=self.base,
                base_config=to_plain(config.base),
                adapter=to_plain(config.adapter),
                prefix=to_plain(config.prefix),
                prompt=to_plain(config.prompt),
                stage=ExportStage(**{name: stage.pop(name) for name in ("name", "captions", "missing_captions")}, rest=stage),
                data=to_plain(config.data),
                planned_steps=self.num_steps,
                planned_items=self.num_steps * config.train.global_batch_size,
            ),
            facts={name: value for name, value in self.facts().items() if name != "base"} | {"precision": config.train.precision},
        )
