"""Texts through models of transformers: the text towers of CLIP and SigLIP, folders of sentence-transformers, and any encoder, pooled.

No code of a model's own is run. How a folder of sentence-transformers pools, it says itself; SigLIP reads texts padded to its full length,
as it was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json
from data_prep.embed.text_encoder import LoadedTextEncoder, TextEncoderConfig
from data_prep.embed.transformers import not_loaded
from data_prep.embed.weights import folder_hash, on_device, state_hash

_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}


@dataclass(frozen=True, kw_only=True)
class TransformersTextConfig(TextEncoderConfig):
    """A text encoder of transformers, from its folder or by hub name."""

    model: str
    """Folder of the model, or its hub name (a hub must be in reach)."""
    pooling: Literal["own", "mean", "cls", "max"] = "own"
    """``own``: text features where the model has them (CLIP, SigLIP), else what ``1_Pooling/config.json`` says, else the mean of tokens."""

    def known(self) -> dict[str, Any] | None:
        if not Path(self.model).is_dir():
            return None
        import transformers

        names = {"model": self._name(), "pooling": self.pooling, "transformers": str(transformers.__version__)}
        return {**names, "weights_sha256": folder_hash(Path(self.model))}

    def load(self) -> LoadedTextEncoder:
        import torch
        from transformers import AutoModel, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, trust_remote_code=False)
            model = AutoModel.from_pretrained(self.model, trust_remote_code=False).float()
        except Exception as error:  # transformers, torch and the hub client raise many kinds
            raise not_loaded(self.model, error) from error
        pooling = "features" if self.pooling == "own" and hasattr(model, "get_text_features") else self._pooling()
        target = on_device(model, self.device)
        longest = _longest(model, tokenizer, Path(self.model))
        siglip = str(getattr(model.config, "model_type", "")).startswith("siglip")

        def encode(texts: list[str]) -> Any:
            tokens = tokenizer(
                texts, padding="max_length" if siglip else True, truncation=True, max_length=longest, return_tensors="pt"
            ).to(target)
            with torch.inference_mode():
                if pooling == "features":
                    kept = {
                        name: tokens[name]
                        for name in ("input_ids", "attention_mask")
                        if name in tokens and not (siglip and name != "input_ids")
                    }
                    found = model.get_text_features(**kept)
                    return getattr(found, "pooler_output", found).float().cpu().numpy()
                tower = getattr(model, "text_model", model)
                return _pooled(tower(**tokens).last_hidden_state.float(), tokens["attention_mask"], pooling).cpu().numpy()

        return LoadedTextEncoder(
            encode=encode,
            too_long=lambda text: len(tokenizer(text)["input_ids"]) > longest,
            provenance={
                "model": self._name(),
                "layer": "text features" if pooling == "features" else f"last hidden states, {pooling} of tokens",
                "weights_sha256": folder_hash(Path(self.model)) if Path(self.model).is_dir() else state_hash(model),
                "transform": f"{type(tokenizer).__name__}, {longest} tokens{', padded' if siglip else ''}",
            },
        )

    def _pooling(self) -> str:
        if self.pooling != "own":
            return self.pooling
        path = Path(self.model) / "1_Pooling" / "config.json"
        if not path.is_file():
            return "mean"
        settings = read_json(path)
        asked = sorted(_MODES.get(name, name) for name, on in settings.items() if name.startswith("pooling_mode_") and on is True)
        if len(asked) != 1 or asked[0] not in _MODES.values():
            raise StudyError(f"{path}: pools by {' and '.join(asked) or 'nothing'}, expected one of {', '.join(_MODES.values())}")
        return str(asked[0])

    def _name(self) -> str:
        return f"transformers {Path(self.model).name if Path(self.model).is_dir() else self.model}"


def _longest(model: Any, tokenizer: Any, folder: Path) -> int:
    """Tokens that the model reads."""
    settings = getattr(model.config, "text_config", model.config)
    limits = [getattr(settings, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    own = folder / "sentence_bert_config.json"
    if own.is_file():
        limits.append(read_json(own).get("max_seq_length"))
    found = [limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**6]
    return min(found, default=512)


def _pooled(tokens_BLE: Any, mask_BL: Any, pooling: str) -> Any:
    mask = mask_BL.unsqueeze(-1).to(tokens_BLE.dtype)
    if pooling == "cls":
        return tokens_BLE[:, 0]
    if pooling == "max":
        return tokens_BLE.masked_fill(mask == 0, float("-inf")).amax(1)
    return (tokens_BLE * mask).sum(1) / mask.sum(1).clamp(min=1)
