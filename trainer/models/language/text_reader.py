"""Text from data as token ids: what is spelled in it like a control token is read as letters.

A tokenizer looks for its added tokens (``<|im_end|>``, ``</s>``, ``[INST]``, ``<image>``) in all that it reads, and some vocabularies hold
them as pieces besides. In a caption or a concept's name they would end a turn, or stand for an image that is not there.
"""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Callable
from functools import cached_property
from typing import Any

from data_prep.contract.errors import CommandError


class TextReader:
    """Reads text with a tokenizer of transformers.

    What spells no control token is read as the tokenizer itself reads it; what does is read once more, by a copy that has none.

    Attributes
    ----------
    control : frozenset of int
        Ids of the tokenizer's special and added tokens, but for those that are nothing but white space.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self._named = tokenizer, _control(tokenizer)
        self.control = frozenset(self._named)

    def ids(self, text: str) -> list[int]:
        """Token ids of ``text``, none of them a control token's; but that of unknown characters, and pieces of one character.

        Raises
        ------
        CommandError
            It spells a control token that this tokenizer cannot but read as one.
        """
        ids = ids_of(self.tokenizer, text)
        if self.control.isdisjoint(ids):
            return ids
        ids = self._without_control(text)
        for number in self.control.intersection(ids) - {self.tokenizer.unk_token_id}:
            if len(name := self._named[number]) > 1:
                raise CommandError(f"{text[:60]!r} spells {name!r}, which the base's tokenizer cannot read as text: expected other words")
        return ids

    def sentence(self, text: str, max_length: int) -> list[int]:
        """The ids between the special tokens that the tokenizer puts around a text, cut to ``max_length`` tokens in all."""
        before, after = self._around
        return [*before, *self.ids(text)[: max_length - len(before) - len(after)], *after]

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        bare, whole = ids_of(self.tokenizer, "a"), list(self.tokenizer("a").input_ids)
        first = next(n for n in range(len(whole)) if whole[n : n + len(bare)] == bare)
        return whole[:first], whole[first + len(bare) :]

    @cached_property
    def _without_control(self) -> Callable[[str], list[int]]:
        tokenizer = self.tokenizer
        if hasattr(tokenizer, "backend_tokenizer"):
            backend = _backend_without(tokenizer.backend_tokenizer, self._named)
            return lambda text: list(backend.encode(text, add_special_tokens=False).ids)
        other = copy.copy(tokenizer)
        other.split_special_tokens = True
        if hasattr(tokenizer, "sp_model"):
            other.sp_model = _sentencepiece_without(tokenizer.sp_model, self._named)
        return lambda text: ids_of(other, text)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Token ids of what may name control tokens, such as a chat template's own text; nothing is put around it."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids) if text else []


def _control(tokenizer: Any) -> dict[int, str]:
    """Special and added tokens by id. White space is text, also where it is an added token (Gemma's line breaks)."""
    try:
        found = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    except NotImplementedError:  # Mistral's own tokenizer
        found = {}
    for number in tokenizer.all_special_ids:
        found.setdefault(number, str(tokenizer.convert_ids_to_tokens(number)))
    return {number: content for number, content in found.items() if not content.isspace()}


def _backend_without(backend: Any, control: dict[int, str]) -> Any:
    """A tokenizer of ``tokenizers`` that neither looks for added tokens nor has a control token among its model's pieces."""
    from tokenizers import Tokenizer

    spec = json.loads(backend.to_str())
    spec |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    model, unused = spec["model"], secrets.token_hex(16)

    def piece(number: int, name: str) -> str:
        # Under a name that stands in no text. Single characters stay: they are bytes, or letters, of other words.
        return f"{unused}{number}" if number in control and len(name) > 1 else name

    if isinstance(model["vocab"], dict):
        renamed = {name: piece(number, name) for name, number in model["vocab"].items()}
        model["vocab"] = {renamed[name]: number for name, number in model["vocab"].items()}
        if model.get("unk_token") in renamed:
            model["unk_token"] = renamed[model["unk_token"]]
        if "merges" in model:
            gone, inner = {old for old, new in renamed.items() if old != new}, len(model.get("continuing_subword_prefix") or "")
            pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
            model["merges"] = [[a, b] for a, b in pairs if gone.isdisjoint((a, b, a + b[inner:]))]
    else:
        model["vocab"] = [[piece(number, name), score] for number, (name, score) in enumerate(model["vocab"])]
    return Tokenizer.from_str(json.dumps(spec))


def _sentencepiece_without(model: Any, control: dict[int, str]) -> Any:
    """A model of ``sentencepiece`` that does not look for the symbols that its maker defined."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as messages

    spec = vars(messages)["ModelProto"].FromString(model.serialized_model_proto())
    for number, entry in enumerate(spec.pieces):
        if number in control and entry.type == entry.USER_DEFINED:
            entry.type = entry.UNUSED
    return sentencepiece.SentencePieceProcessor(model_proto=spec.SerializeToString())
