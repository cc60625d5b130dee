"""Tuning a language model to say what EEG shows: the task that the loop trains.

A step's path: this rank's items -> prepared and augmented EEG, image embeddings -> words of predicted concepts, prompts, one
caption each -> cut by length into ``train.accumulation`` micro-batches of token rows -> sum of the captions' cross-entropies
-> divided by the tokens of the whole step. So the loss is the mean over the step's caption tokens, however it was cut.

B: items of this rank or of a micro-batch, E: image embedding dimension, P: common space of EEG and images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from data_prep.contract import schema
from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from data_prep.contract.files import sha256_file
from trainer.artifacts.concepts import build_concept_table
from trainer.artifacts.encoder import load_encoder, subject_table
from trainer.artifacts.export import find_export
from trainer.artifacts.guards import check_encoder, check_held_out
from trainer.artifacts.initial_text import InitialText, init_weights
from trainer.artifacts.text import TextParts, TextSettings, write_text_export
from trainer.artifacts.text_export import ExportStage, find_text_export
from trainer.data import random
from trainer.data.augment import augment
from trainer.data.batch import Batch, HostBatch
from trainer.data.captions import StudyCaptions
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.distributed import collectives
from trainer.distributed.world import World
from trainer.models.concepts import ConceptTable, as_words
from trainer.models.language import base as base_llm
from trainer.models.language.eeg_language_model import EEGLanguageModel, Source
from trainer.models.language.prompt import Prompt, Prompter
from trainer.models.language.rows import TextRows, build_rows, cut_by_length
from trainer.tasks.keep import training_loader
from trainer.tasks.text.config import StageConfig, TextConfig
from trainer.training.task import BaseTask, say

__all__ = ["StageConfig", "TextBatch", "TextConfig", "TextTask"]

_CAPTION, _NOISE, _MODALITY, _WORDS = (random.word(f"text {name}") for name in ("caption", "image noise", "image or EEG", "words left out"))
_WORD_ITEMS = 512
_TRUST = 0.2
"""Difference in how often predicted words are right, in training and on validation, of which the user is told."""
_SOURCES: dict[str, Source | None] = {"image": "image", "eeg": "eeg", "mixed": "both", "label": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextBatch:
    """A micro-batch on its device."""

    rows: TextRows
    eeg_BCT: Tensor
    subject_B: Tensor
    """Rows of the encoder's own table of subjects, -1 unknown."""
    target_BE: Tensor
    image_B: Tensor
    """bool: items that take their image."""
    noise_BP: Tensor | None
    weight: Tensor
    """What a sum over this micro-batch's tokens is multiplied with, such that the mean over ranks and micro-batches is the mean over the
    step's tokens: ``ranks * accumulation / tokens of the step``."""
    num_tokens: int = 0
    """Tokens that are read: prompts, prefixes and captions, without padding."""

    def __len__(self) -> int:
        return len(self.subject_B)


class TextTask(BaseTask):
    """See :class:`trainer.training.task.Task`."""

    config: TextConfig

    frozen_elsewhere = True

    def __init__(self, config: TextConfig, world: World, device: torch.device) -> None:
        super().__init__()
        self.config, self.world, self.device = config, world, device
        self.index = StudyIndex.open(Path(config.data.study))
        loader, kept = training_loader(self.index, config.data, config.train.seed, device)
        self.encoder_path = find_export(config.encoder)
        self.encoder = load_encoder(self.encoder_path, device)
        check_encoder(self.encoder, self.encoder_path, loader)
        self.captions = StudyCaptions.open(self.index)
        self.loader = self._captioned(loader)
        self.num_items = self.loader.num_items
        self.num_steps = config.train.num_steps(self.num_items)
        self.source = _SOURCES[config.stage.name]
        self.validation: Loader | None = None
        self.score_name: str | None = None
        if self.index.split(config.data.split).has("validation"):
            self.validation = self._captioned(Loader(self.index, config.data.unfiltered(), "validation", seed=config.train.seed))
            self.score_name = "image_log_likelihood" if self.source == "image" else "log_likelihood"
        settings = base_llm.read_settings(config.base)
        num_prefix = config.prefix.num_tokens if self.source else 0
        tokenizer = base_llm.load_tokenizer(config.base)
        self.prompter = Prompter(tokenizer, config.prompt, num_prefix, base_llm.context_length(settings))
        self.concepts: ConceptTable | None = None
        self.own_C: np.ndarray | None = None
        """Rows of the study's concepts in ``concepts``, where an item's own is no candidate."""
        if config.prompt.concepts:
            self.concepts = build_concept_table(self.encoder, self.loader)
            if leaves_own_out(config, self.index):
                self.own_C = self.concepts.rows(self.index.manifest.tables.concepts)
            most = len(self.concepts.names) - (self.own_C is not None)
            if config.prompt.concepts > most:
                found = f"prompt.concepts: {config.prompt.concepts}, but the training part has {len(self.concepts.names)} concepts"
                other = ", of which an item's own is left out" if self.own_C is not None else ""
                raise CommandError(f"{found}{other}: expected at most {most}")
        self.targets = self._tokenise()
        self.base = base_llm.base_reference(config.base, settings)
        if config.zero.stage == 3 and config.base.quantisation == "none":
            self.partitioned_dtype = base_llm.DTYPES[config.base.dtype]
        self.subject_S = subject_table(self.index.manifest.tables.subjects, self.encoder, device)
        self.encoder_sha256 = sha256_file(self.encoder_path / "model.safetensors")
        self.study = {
            "fingerprint": self.index.manifest.fingerprint,
            "split_hash": self.loader.split_hash,
            "embedding_sha256": self.index.manifest.embedding(config.data.embedding).sha256,
            "encoder_sha256": self.encoder_sha256,
            "base": str(self.base["fingerprint"] or f"{config.base.name}@{config.base.revision}"),
            "base_quantisation": config.base.quantisation,
        }
        if kept is not None:
            self.study["kept_sha256"] = kept.pop("sha256")
            self.notes.append(("kept", kept))
        self.started_from = self.encoder.export.origins
        self.parts: TextParts | None = None

    # ---------------------------------------------------------------------------------------------------------- set-up

    def check_start(self) -> None:
        """What ``init_from`` would bring, if anything."""
        if self.config.init_from:
            self.notes.append(("init", self._initial().facts()))
        facts: dict[str, Any] = {"text": self.prompter.encode(self._most_words()).text}
        if self.own_C is not None:
            facts["own_concept"] = "left out"
        elif self.concepts is not None:
            facts["words_right"] = right = self._words_right()
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
            self.started_from += tuple(origin for origin in initial.origins if origin not in self.started_from)

    def build_model(self) -> nn.Module:
        """Encoder, projector and base with its adapter; says what of them is trained, and refuses an adapter that is not."""
        config = self.config
        base = base_llm.load_base(config.base, self.device, training=True)
        rms = base_llm.embedding_rms(base)
        # Adapter and projector begin alike whatever loading the base drew: at any ZeRO stage, quantised or not.
        torch.manual_seed(config.train.seed)
        llm = base_llm.attach_adapter(base, config.adapter)
        encoder = projector = None
        if self.source is not None:
            # A copy of its own: ZeRO 3 cuts it up, while self.encoder goes on predicting words.
            encoder = load_encoder(self.encoder_path, self.device).model
            width = encoder.proj_dim if config.prefix.features == "embedding" else encoder.encoder.token_dim
            projector = config.prefix.build(width, base_llm.hidden_size(base), rms)
        model = EEGLanguageModel(
            encoder=encoder,
            tune_encoder=config.tune_encoder,
            projector=projector,
            llm=llm,
            features=config.prefix.features,
            precision=config.train.precision,
            device=self.device,
        )
        if model.image_token is not None and self.source == "eeg":
            model.image_token.requires_grad_(False)  # no image passes through it
        if config.tune_encoder:
            self._freeze_unread(model)
        base_llm.check_trainable(model, config.adapter)
        if self.world.is_main:
            print_trainable(model)
        self.parts = TextParts(model=model, embedding_rms=rms)
        return model

    def _freeze_unread(self, model: EEGLanguageModel) -> None:
        """Train no part of the encoder that what the projector reads does not pass, such as what follows its tokens."""
        assert model.encoder is not None
        trained = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
        eeg_BCT = torch.zeros(1, self.loader.n_chans, self.loader.n_times, device=self.device)
        read = model.features("eeg", eeg_BCT=eeg_BCT, subject_B=self.subject_S[:1])
        for parameter, gradient in zip(trained, torch.autograd.grad(read.sum(), trained, allow_unused=True), strict=True):
            parameter.requires_grad_(gradient is not None)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW, a tuned encoder at its own rate."""
        return self.config.optimizer.build(model, {"encoder.": self.config.encoder_lr_factor} if self.config.tune_encoder else None)

    # --------------------------------------------------------------------------------------------------------- training

    def prepare(self, host: HostBatch, step: int) -> list[TextBatch]:
        """Micro-batches of equal item count, short captions with short ones; a collective (the step's token count)."""
        config, seed, accumulation = self.config, self.config.train.seed, self.config.train.accumulation
        batch = self.loader.prepare(host, self.device)
        eeg_BCT = augment(batch.eeg_BCT, batch.item_B, batch.data_pass_B, seed=seed, sfreq=self.loader.sfreq, config=config.stage.augment)
        batch = replace(batch, eeg_BCT=eeg_BCT)
        item_B, pass_B = host.item_B.numpy(), host.data_pass_B.numpy()

        def draw(operation: int) -> np.ndarray:
            return random.uniform_numpy(random.hash_numpy(seed, pass_B, item_B, operation))

        image_B = torch.from_numpy(draw(_MODALITY) < config.stage.image_share(step, self.num_steps)).to(self.device)
        subject_B = self.subject_S[batch.subject_B]
        words = self._words(self.source, batch, image_B, training=True)
        left_out = draw(_WORDS) < config.prompt.concept_dropout
        prompts = [self.prompter.encode([] if left else said) for left, said in zip(left_out, words, strict=True)]
        targets = self._draw_targets(host.stimulus_B.numpy(), random.hash_numpy(seed, pass_B, item_B, _CAPTION))
        noise_BP = None
        if config.stage.image_noise and self.source in ("image", "both"):
            key_B = random.hash_torch(seed, batch.data_pass_B, batch.item_B, _NOISE, device=self.device)
            width = self.encoder.embedding_dim
            noise_BP = random.normal_torch(key_B, width) * (config.stage.image_noise / width**0.5)
        num_tokens = collectives.sum_across(torch.tensor([sum(map(len, targets))], device=self.device, dtype=torch.float64))
        weight = (accumulation * self.world.size / num_tokens).float().squeeze(0)
        lengths = [len(p.before) + len(p.after) + len(t) for p, t in zip(prompts, targets, strict=True)]
        parts = []
        for chosen in cut_by_length(lengths, accumulation):
            number = torch.tensor(chosen, device=self.device)
            parts.append(
                TextBatch(
                    rows=self._rows([prompts[i] for i in chosen], [targets[i] for i in chosen]),
                    eeg_BCT=batch.eeg_BCT[number],
                    subject_B=subject_B[number],
                    target_BE=batch.target_BE[number],
                    image_B=image_B[number],
                    noise_BP=None if noise_BP is None else noise_BP[number],
                    weight=weight,
                    num_tokens=sum(lengths[i] + self.prompter.num_prefix - 1 for i in chosen),
                )
            )
        return parts

    def losses(self, model: Any, batch: TextBatch) -> dict[str, Tensor]:
        """Mean cross-entropy of the step's caption tokens, the share of them that was likeliest, and how long items are."""
        out = self._forward(model, batch, self.source)
        tokens = torch.full((), batch.num_tokens / len(batch), device=self.device)
        return {"loss": out.loss_sum * batch.weight, "token_accuracy": out.num_correct * batch.weight, "tokens_per_sample": tokens}

    def _forward(self, model: Any, batch: TextBatch, source: Source | None, num_items: int = 0) -> Any:
        inputs: dict[str, Tensor | None] = {}
        if source in ("eeg", "both"):
            inputs |= {"eeg_BCT": batch.eeg_BCT, "subject_B": batch.subject_B}
        if source in ("image", "both"):
            inputs |= {"target_BE": batch.target_BE, "noise_BP": batch.noise_BP}
        if source == "both":
            inputs["image_B"] = batch.image_B
        return model(batch.rows, source=source, num_items=num_items, **inputs)

    def _rows(self, prompts: Sequence[Prompt], targets: Sequence[list[int]]) -> TextRows:
        for prompt, target in zip(prompts, targets, strict=True):
            self.prompter.check(prompt, target)
        return build_rows(prompts, targets, self.prompter.num_prefix, pack_length=self.config.stage.pack_length).to(self.device)

    def _draw_targets(self, stimulus_B: np.ndarray, bits_B: np.ndarray) -> list[list[int]]:
        every = [self.targets[s] for s in stimulus_B.tolist()]
        if self.config.stage.captions == "first":
            return [own[0] for own in every]
        return [own[bits % len(own)] for own, bits in zip(every, bits_B.tolist(), strict=True)]

    @torch.no_grad()
    def _words(self, source: Source | None, batch: Batch, image_B: Tensor, *, training: bool = False) -> list[list[str]]:
        """Words of the concepts predicted from what each item shows: always predicted, in training as in use."""
        if self.concepts is None:
            return [[] for _ in range(len(batch))]
        model, target_BE = self.encoder.model, batch.target_BE
        z_BP = model.embed_image(target_BE) if source == "image" else model.embed_eeg(batch.eeg_BCT, self.subject_S[batch.subject_B])
        if source == "both":
            z_BP = torch.where(image_B[:, None], model.embed_image(target_BE), z_BP)
        own_B = self.own_C[batch.concept_B.cpu().numpy()] if training and self.own_C is not None else None
        ids_BK = self.concepts.predict(z_BP.cpu().numpy(), self.config.prompt.concepts, without_B=own_B)
        return [self.concepts.words(ids) for ids in ids_BK.tolist()]

    def _words_right(self) -> dict[str, float]:
        """Share of items whose true concept is among the predicted words, by part, on up to ``_WORD_ITEMS`` of them.

        An encoder knows the trials it was trained on: words may be better in training than in use.
        """
        tables, found = self.index.manifest.tables, {}
        source: Source = "image" if self.source == "image" else "eeg"
        for loader in (self.loader, self.validation):
            if loader is not None:
                batch = loader.prepare(loader.samples_batch(evenly_spread(loader.num_samples, _WORD_ITEMS)), self.device)
                image_B = torch.zeros(len(batch), dtype=torch.bool, device=self.device)
                words = self._words(source, batch, image_B)
                true = [as_words(tables.concepts[concept]) for concept in batch.concept_B.tolist()]
                found[loader.part] = float(np.mean([name in own for name, own in zip(true, words, strict=True)]))
        return found

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

    @torch.no_grad()
    def _log_likelihood(self, model: Any, source: Source | None) -> tuple[float, float]:
        """Means by token and by caption.

        All ranks score slices of equal length (ZeRO 3 needs equally many forwards); items that fill up the last slice do not count.
        """
        validation, batch_size = self.validation, self.config.train.validation_batch_size
        assert validation is not None
        chosen = evenly_spread(validation.num_samples, self.config.stage.validation_items)
        count = len(chosen)
        share = -(-count // self.world.size)
        mine = chosen[(self.world.rank * share + np.arange(share)) % count]
        sums = []
        for first in range(0, share, batch_size):
            batch = validation.prepare(validation.samples_batch(mine[first : first + batch_size]), self.device)
            ready = self._validation_batch(batch, source)
            out = self._forward(model, ready, source, num_items=len(ready))
            tokens_B = torch.bincount(ready.rows.item_T, minlength=len(ready))
            sums.append(torch.stack([out.loss_B.double(), tokens_B.double()], dim=1))
        total = collectives.gather_ids(torch.cat(sums))[:count].sum(dim=0)
        # Rank 0's number for all: ranks on other hardware might round differently, and then part ways.
        token, caption = collectives.gather_ids(-torch.stack([total[0] / total[1], total[0] / count])).tolist()[:2]
        return token, caption

    def _validation_batch(self, batch: Batch, source: Source | None) -> TextBatch:
        image_B = torch.full((len(batch),), source == "image", device=self.device)
        words = self._words(source, batch, image_B)
        targets = [self.targets[s][0] for s in batch.stimulus_B.tolist()]
        return TextBatch(
            rows=self._rows([self.prompter.encode(said) for said in words], targets),
            eeg_BCT=batch.eeg_BCT,
            subject_B=self.subject_S[batch.subject_B],
            target_BE=batch.target_BE,
            image_B=image_B,
            noise_BP=None,
            weight=torch.ones((), device=self.device),
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
            concepts=self.concepts,
            settings=TextSettings(
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
            lineage=self.lineage(step),
            facts={name: value for name, value in self.facts().items() if name != "base"} | {"precision": config.train.precision},
        )

    # ---------------------------------------------------------------------------------------------------------- details

    def _captioned(self, loader: Loader) -> Loader:
        """The part without stimuli that have no caption, where the config lets them be dropped."""
        count = self.captions.check(self.index, loader.stimuli, self.config.stage.missing_captions, loader.part)
        if not count:
            return loader
        keep = self.captions.has(loader.item_stimuli)
        self.notes.append(("captions missing", {"part": loader.part, "stimuli": count, "items_dropped": int((~keep).sum())}))
        say(self.world, f"{loader.part}: {count} stimuli without a caption are left out, with {int((~keep).sum())} items")
        return loader.narrowed(keep, "stage.missing_captions: drop")

    def _tokenise(self) -> dict[int, list[list[int]]]:
        """Token ids of the captions of both parts' stimuli; what is too long for the model is found here, before training."""
        loaders = [loader for loader in (self.loader, self.validation) if loader is not None]
        prompt, pack_length = self.prompter.encode(self._most_words()), self.config.stage.pack_length
        targets: dict[int, list[list[int]]] = {}
        known: dict[str, list[int]] = {}
        for stimulus in np.unique(np.concatenate([loader.stimuli for loader in loaders])).tolist():
            for caption in self.captions.of(stimulus):
                if caption not in known:
                    known[caption] = self.prompter.target(caption)
                    length = self.prompter.check(prompt, known[caption])
                    if pack_length is not None and length - 1 > pack_length:  # the last token is only predicted
                        raise CommandError(
                            f"stage.pack_length: {pack_length}, but {caption[:40]!r}… and its prompt have {length - 1} tokens"
                        )
            targets[stimulus] = [known[caption] for caption in self.captions.of(stimulus)]
        return targets

    def _most_words(self) -> list[str]:
        if self.concepts is None:
            return []
        names = [self.concepts.words([number])[0] for number in range(len(self.concepts.names))]
        tokens = self.prompter.tokenizer(names, add_special_tokens=False).input_ids
        longest = sorted(range(len(names)), key=lambda number: (len(tokens[number]), len(names[number])), reverse=True)
        return [names[number] for number in longest[: self.config.prompt.concepts]]

    def _initial(self) -> InitialText:
        path = find_text_export(self.config.init_from)
        initial = init_weights(path, base=self.base, adapter=self.config.adapter, prefix=self.config.prefix, reads=self.source is not None)
        check_held_out(initial.export, self.index, self.config.data.split, f"init_from: {path}", "weights that have")
        theirs = initial.export.encoder.sha256
        if "projector" not in initial.taken or theirs == self.encoder_sha256:
            return initial
        if initial.export.tune_encoder:
            raise CommandError(f"init_from: {path} tuned its encoder, expected it as this run's: --encoder {self.config.init_from}")
        return replace(initial, other_encoder=theirs)


def evenly_spread(total: int, most: int) -> np.ndarray:
    """Numbers below ``total``, at most ``most`` of them (0: all), evenly spread: int64."""
    count = min(most or total, total)
    return np.arange(count) * total // count


def leaves_own_out(config: TextConfig, index: StudyIndex) -> bool:
    """Whether words of training items are predicted among other concepts than their own: see ``PromptConfig.own_concept``."""
    if config.prompt.own_concept != "auto":
        return config.prompt.own_concept == "leave_out"
    train, *held_out = (np.unique(index.table.concept[index.rows(config.data.split, part)]) for part in schema.PARTS)
    held = np.concatenate(held_out)
    return len(held) > 0 and not np.isin(held, train).any()


def print_trainable(model: nn.Module) -> None:
    """A table of parameters by part."""
    table = Table("part", "trained", "all", "share")
    for part, trained, total in base_llm.trainable_table(model):
        table.add_row(part, f"{trained:,}", f"{total:,}", f"{100 * trained / max(total, 1):.2f} %")
    Console(stderr=True, soft_wrap=True, highlight=False).print(table)
