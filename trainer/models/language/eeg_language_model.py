"""A language model that reads EEG: encoder -> projector -> K prefix tokens among the words of a prompt -> caption.

Everything of a training step happens inside :meth:`EEGLanguageModel.forward`, which is what DeepSpeed wraps; submodules are
used through their own forward, since under ZeRO 3 weights are there only then.

B: items, C: channels, T: time points, S: feature tokens, D: their width, P: common space, K: prefix tokens, M: rows of tokens,
L: columns, H: hidden size, N: supervised tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.data import random
from trainer.distributed.batch_norm import GlobalBatchNorm
from trainer.distributed.precision import Precision, autocast
from trainer.models.contrastive import ContrastiveModel
from trainer.models.dropout import DropoutKeys
from trainer.models.language import kernels
from trainer.models.language.decoding import DecodingConfig, drop_habits
from trainer.models.language.head import score_tokens
from trainer.models.language.llm import plain_llm
from trainer.models.language.prefix import Projector
from trainer.models.language.prompt import Prompt, Prompter
from trainer.models.language.rows import TextRows

Source = Literal["eeg", "image", "both"]


class TextOutput(NamedTuple):
    """Forward result, float32."""

    loss_sum: Tensor
    """Sum of the cross-entropies of all supervised tokens: whoever calls it divides."""
    num_correct: Tensor
    """Supervised tokens that were the likeliest."""
    loss_B: Tensor
    """The sum by item, without gradient."""


class EEGLanguageModel(nn.Module):
    """See the module; without encoder and projector it reads words only.

    Parameters
    ----------
    encoder
        Contrastive model whose common space images share; None for words only.
    tune_encoder
        Whether the encoder is trained; if not it stays in eval mode and gets no gradient.
    projector
        Features to prefix tokens; None for words only.
    llm
        Causal language model of transformers, with or without a PEFT adapter.
    features
        ``embedding`` (the common space) or ``tokens`` of the encoder.
    """

    def __init__(
        self,
        *,
        encoder: ContrastiveModel | None,
        tune_encoder: bool,
        projector: Projector | None,
        llm: Any,
        features: Literal["embedding", "tokens"] = "embedding",
        precision: Precision = "fp32",
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        assert (encoder is None) == (projector is None), "a projector reads an encoder"
        self.encoder, self.projector, self.llm = encoder, projector, llm
        self.tune_encoder, self.feature_kind, self.precision = tune_encoder, features, precision
        self.device_type = torch.device(device)
        # In the image stage an image is a single token of the encoder's width.
        self.image_token: nn.Linear | None = None
        if encoder is not None:
            for parameter in encoder.parameters():
                parameter.requires_grad_(False)
            if tune_encoder:
                for module in (encoder.subjects, encoder.encoder, *([encoder.eeg_head] if features == "embedding" else [])):
                    if module is not None:
                        module.requires_grad_(True)
            if features == "tokens":
                self.image_token = nn.Linear(encoder.proj_dim, encoder.encoder.token_dim)
        self._item_dropouts = DropoutKeys((name, module) for name, module in self.named_modules() if not name.startswith("llm."))
        self._token_dropouts = DropoutKeys(llm.named_modules())

    @property
    def num_prefix(self) -> int:
        """K; 0 without a projector."""
        return 0 if self.projector is None else self.projector.num_tokens

    def train(self, mode: bool = True) -> EEGLanguageModel:
        """As usual, but statistics of the encoder's normalisation stay as they are, and a frozen encoder in eval mode altogether."""
        super().train(mode)
        if self.encoder is not None:
            for module in self.encoder.modules():
                if not self.tune_encoder or isinstance(module, GlobalBatchNorm):
                    module.training = False
        for module in self.llm.modules():
            # In eval mode 4-bit layers pack their weights anew for some CPUs, which is wrong once ZeRO 3 has cut them up.
            if type(module).__module__.startswith("bitsandbytes"):
                module.training = True
        return self

    def features(
        self,
        source: Source,
        *,
        eeg_BCT: Tensor | None = None,
        subject_B: Tensor | None = None,
        target_BE: Tensor | None = None,
        image_B: Tensor | None = None,
        noise_BP: Tensor | None = None,
    ) -> Tensor:
        """What the projector reads: (B, S, D).

        Parameters
        ----------
        source
            ``eeg``, ``image``, or ``both``: the rows of ``image_B`` take the image, the others the EEG.
        eeg_BCT, subject_B
            Prepared EEG and subject ids, for ``eeg`` and ``both``.
        target_BE
            Image embeddings, for ``image`` and ``both``.
        noise_BP
            Added to unit-norm image features, which are normalised again: crosses the gap between modalities.
        """
        assert self.encoder is not None, "a model of words has no features"
        image_BSD = eeg_BSD = None
        if source != "eeg":
            assert target_BE is not None
            with torch.no_grad():
                image_BP = self.encoder.embed_image(target_BE)
                if noise_BP is not None:
                    image_BP = F.normalize(image_BP + noise_BP, dim=-1)
            image_BSD = (image_BP if self.image_token is None else self.image_token(image_BP)).unsqueeze(1)
        if source != "image":
            assert eeg_BCT is not None
            assert subject_B is not None
            with torch.set_grad_enabled(self.tune_encoder and torch.is_grad_enabled()):
                if self.feature_kind == "embedding":
                    eeg_BSD = self.encoder.embed_eeg(eeg_BCT, subject_B).unsqueeze(1)
                else:
                    eeg_BSD = self.encoder.encode(eeg_BCT, subject_B).tokens_BLD
        if image_BSD is None:
            assert eeg_BSD is not None
            return eeg_BSD
        if eeg_BSD is None:
            return image_BSD
        assert image_B is not None
        return torch.where(image_B[:, None, None], image_BSD.to(eeg_BSD.dtype), eeg_BSD)

    def forward(
        self,
        rows: TextRows,
        source: Source | None = None,
        eeg_BCT: Tensor | None = None,
        subject_B: Tensor | None = None,
        target_BE: Tensor | None = None,
        image_B: Tensor | None = None,
        noise_BP: Tensor | None = None,
        num_items: int = 0,
        key_B: Tensor | None = None,
    ) -> TextOutput:
        """Cross-entropy of the captions in ``rows``, given EEG or image features (see :meth:`features`; none without ``source``).

        Dropout is a function of ``key_B``, a hash for each item (int64), and in the language model of a token's position in its item;
        None: it draws from torch's stream.
        """
        self._item_dropouts.set(key_B)
        self._token_dropouts.set(
            None if key_B is None else random.hash_torch(key_B[rows.item_ML], rows.position_ML, device=key_B.device).flatten()
        )
        with autocast(self.precision, self.device_type):
            prefix_BKH = None
            if source is not None:
                assert self.projector is not None
                features_BSD = self.features(
                    source, eeg_BCT=eeg_BCT, subject_B=subject_B, target_BE=target_BE, image_B=image_B, noise_BP=noise_BP
                )
                prefix_BKH = self.projector(features_BSD)
            embeds_MLH = self._embed(rows.ids_ML, rows.slot_N, prefix_BKH)
            where = kernels.packing(rows.position_ML)
            hidden_MLH = self._body(inputs_embeds=embeds_MLH, position_ids=rows.position_ML, use_cache=False, **where).last_hidden_state
            # Only supervised positions, as a matrix: the head is the widest layer, and a strided slice would copy its weight.
            loss_N, correct_N = score_tokens(self._plain, hidden_MLH.flatten(0, 1).index_select(0, rows.target_T), rows.label_T)
        with torch.no_grad():
            loss_B = loss_N.new_zeros(num_items).index_add_(0, rows.item_T, loss_N.detach()) if num_items else loss_N.new_zeros(0)
            num_correct = correct_N.sum().float()
        return TextOutput(loss_N.sum(), num_correct, loss_B)

    @torch.no_grad()
    def generate(
        self,
        features_BSD: Tensor | None,
        prompts: Sequence[Prompt],
        decoding: DecodingConfig,
        prompter: Prompter,
        *,
        seed: int = 0,
        items: Sequence[int] | None = None,
        use_adapter: bool = True,
    ) -> list[str]:
        """Captions of a batch, each as if it were made alone (in float32; bf16 rounds by batch).

        Decoding settings that the checkpoint brought are dropped.

        Parameters
        ----------
        features_BSD
            From :meth:`features`; None: the prompts alone.
        prompts
            One an item.
        seed, items
            What sampling depends on; ``items`` are numbers of the items, their positions by default.
        use_adapter
            False: the base as it came, untuned.
        """
        device = next(self.llm.parameters()).device
        with autocast(self.precision, self.device_type):
            prefix_BKH = None
            if features_BSD is not None:
                assert self.projector is not None
                prefix_BKH = self.projector(features_BSD.to(device))
            embeds, masks = [], []
            num_prefix = 0 if prefix_BKH is None else prefix_BKH.shape[1]
            lengths = [len(p.before) + num_prefix + len(p.after) for p in prompts]
            width = max(lengths)
            for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
                ids = [prompter.pad_id] * (width - length) + [*prompt.before, *([prompter.pad_id] * num_prefix), *prompt.after]
                first = width - length + len(prompt.before)
                slots = torch.arange(first, first + num_prefix, device=device)
                own = None if prefix_BKH is None else prefix_BKH[number : number + 1]
                embeds.append(self._embed(torch.tensor([ids], device=device), slots, own))
                masks.append(torch.arange(width, device=device) >= width - length)
            options = decoding.options(seed=seed, items=range(len(prompts)) if items is None else items, device=device)
            untuned = not use_adapter and hasattr(self.llm, "disable_adapter")
            drop_habits(self._plain)
            with self.llm.disable_adapter() if untuned else contextlib.nullcontext():
                found = self.llm.generate(
                    inputs_embeds=torch.cat(embeds),
                    attention_mask=torch.stack(masks).long(),
                    pad_token_id=prompter.pad_id,
                    eos_token_id=prompter.end_ids,
                    use_cache=True,
                    **options,
                )
        return [prompter.decode(ids) for ids in found.tolist()]

    @property
    def _plain(self) -> Any:
        return plain_llm(self.llm)

    def _body(self, **inputs: Any) -> Any:
        # The decoder without its head; PEFT's layers are inside it.
        return self._plain.get_decoder()(**inputs)

    def _embed(self, ids_ML: Tensor, slot_N: Tensor, prefix_BKH: Tensor | None) -> Tensor:
        """Token embeddings with the prefix in its slots; through the embedding module, so that its own scaling (Gemma) is applied."""
        table = self._plain.get_input_embeddings()
        embeds_MLH: Tensor = table(ids_ML)
        if prefix_BKH is None or not len(slot_N):
            return embeds_MLH
        flat = embeds_MLH.flatten(0, 1).index_copy(0, slot_N, prefix_BKH.flatten(0, 1).to(embeds_MLH.dtype))
        return flat.view(embeds_MLH.shape)
