"""Prompts: what stands before and after the prefix tokens that carry EEG, and where a caption ends.

With a chat template the prefix tokens open the user's turn; a tokenizer without one gets the documented plain form
``<eeg> INSTRUCTION CAPTION``. The same code makes the prompts of training and of generation. Control tokens come from the template alone:
where a caption, a word or an instruction spells one, it is text (:mod:`trainer.models.language.text_reader`).

K: prefix tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from data_prep.contract.errors import CommandError
from trainer.models.language.text_reader import TextReader, ids_of

Style = Literal["basic", "detailed", "creative"]
STYLES = {
    "basic": "Describe in one sentence what the person sees.",
    "detailed": "Describe in detail what the person sees: its colours, its background and what happens.",
    "creative": "Describe what the person sees in a vivid and engaging way.",
}
MARK = "<eeg>"
"""Stands for the prefix tokens where a prompt is written down."""
_CUT, _SYSTEM = "\ue000", "\ue001"  # private use; and not white space, which templates trim


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """What the language model is told."""

    style: Style = "basic"
    """Instruction: ``basic`` one sentence, ``detailed`` colours, background and actions, ``creative`` engaging."""
    instruction: str | None = None
    """Own instruction instead of the style's; may be empty. Control tokens that it spells are text, as everywhere."""
    system: str | None = None
    """System turn of a chat template; null: the template's own default, empty: an empty turn."""
    template: Literal["auto", "chat", "plain"] = "auto"
    """``chat``: the tokenizer's chat template; ``plain``: prefix, instruction, caption; ``auto``: chat where there is a template."""
    concepts: int = 0
    """Words of this many predicted concepts go into the prompt, in training as in use; 0: none."""
    own_concept: Literal["auto", "keep", "leave_out"] = "auto"
    """Whether a training item's own concept is among the candidates. ``auto``: left out where the split holds out whole concepts: there
    the words of a test item can only be of other concepts, and in training they should be no better."""
    concept_dropout: float = 0.0
    """Share of training items whose prompt leaves the words out, so that the model works with and without."""

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ValueError(f"prompt.style: {self.style!r}, expected {', '.join(STYLES)}")
        if self.template not in ("auto", "chat", "plain"):
            raise ValueError(f"prompt.template: {self.template!r}, expected auto, chat or plain")
        if self.concepts < 0:
            raise ValueError(f"prompt.concepts: {self.concepts}, expected 0 or more")
        if self.own_concept not in ("auto", "keep", "leave_out"):
            raise ValueError(f"prompt.own_concept: {self.own_concept!r}, expected auto, keep or leave_out")
        if not 0 <= self.concept_dropout <= 1:
            raise ValueError(f"prompt.concept_dropout: {self.concept_dropout}, expected 0 to 1")


class Prompt(NamedTuple):
    """Token ids on both sides of the prefix, and the whole as text."""

    before: list[int]
    after: list[int]
    text: str


class Prompter:
    """Turns instructions and captions into token ids.

    Parameters
    ----------
    tokenizer
        With an end token.
    config
        Style, template, words.
    num_prefix
        K; 0 where the model reads words only.
    max_length
        Context of the model in tokens.
    """

    def __init__(self, tokenizer: Any, config: PromptConfig, num_prefix: int, max_length: int) -> None:
        self.tokenizer, self.config, self.num_prefix, self.max_length = tokenizer, config, num_prefix, max_length
        self.reader = TextReader(tokenizer)
        self.chat = bool(tokenizer.chat_template) if config.template == "auto" else config.template == "chat"
        if self.chat and not tokenizer.chat_template:
            raise CommandError("prompt.template: chat, but this tokenizer has no chat template: use plain or auto")
        self.end_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_id
        # An untuned instruction model ends its turn, which need not be the tokenizer's end token (Gemma); captions end with the latter.
        self.end_ids = [self.end_id, *({self._turn_end()} - {None, self.end_id} if self.chat else ())]
        self._cache: dict[tuple[str, ...], Prompt] = {}

    def encode(self, words: Sequence[str] = (), *, style: Style | None = None) -> Prompt:
        """The prompt with the words of predicted concepts, if any.

        Raises
        ------
        CommandError
            It does not leave room for a single token of a caption.
        """
        key = (style or "", *words)
        if key not in self._cache:
            prompt = self._encode(self._said(words, style))
            length = len(prompt.before) + self.num_prefix + len(prompt.after)
            if length >= self.max_length:
                raise CommandError(
                    f"prompt: {length} tokens with its {self.num_prefix} prefix tokens, "
                    f"expected fewer than the model's context of {self.max_length}"
                )
            self._cache[key] = prompt
        return self._cache[key]

    def target(self, caption: str) -> list[int]:
        """Token ids of a caption, with the end token.

        Raises
        ------
        CommandError
            Longer than the model's context, or not to be read as text.
        """
        text = caption if self.chat else " " + caption
        ids = [*self.reader.ids(text), self.end_id]
        if len(ids) + self.num_prefix >= self.max_length:
            raise CommandError(f"a caption of {len(ids)} tokens ({caption[:40]!r}…) exceeds the model's context of {self.max_length}")
        return ids

    def check(self, prompt: Prompt, target: list[int]) -> int:
        """Tokens of a prompt and caption together; refuses what is too long."""
        length = len(prompt.before) + self.num_prefix + len(prompt.after) + len(target)
        if length > self.max_length:
            raise CommandError(f"prompt and caption have {length} tokens, the model's context is {self.max_length}: shorten one of them")
        return length

    def decode(self, ids: Sequence[int]) -> str:
        """Text up to the first end token."""
        kept: list[int] = []
        for token in ids:
            if token in self.end_ids:
                break
            kept.append(int(token))
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()

    def _said(self, words: Sequence[str], style: Style | None) -> str:
        instruction = STYLES[style] if style else self.config.instruction
        instruction = STYLES[self.config.style] if instruction is None else instruction
        hint = f"It may be: {', '.join(words)}." if words else ""
        return " ".join(part for part in (hint, instruction) if part)

    def _encode(self, said: str) -> Prompt:
        mark = MARK if self.num_prefix else ""
        if not self.chat:
            start = (
                [] if self.tokenizer.bos_token_id is None or self.tokenizer.bos_token_id == self.end_id else [self.tokenizer.bos_token_id]
            )
            return Prompt(start, self.reader.ids(said), " ".join(part for part in (mark, said) if part))
        # Rendered around a mark, then cut: the turn's own tokens stand on both sides of the prefix.
        system = self.config.system or ""
        own, rendered = self._turns(_SYSTEM if system else "", "").split(_CUT), self._turns(system, said).split(_CUT)
        if len(own) != 2:
            raise CommandError("prompt.template: this tokenizer's chat template does not render the user's turn once: use plain")
        whole = [self._ids(part) for part in rendered]
        if [self._control(ids) for ids in whole] == [self._control(self._ids(part)) for part in own]:
            before, after = whole
            return Prompt(before, after, mark.join(rendered))
        # What was said spells a control token: it is read apart from the template's text.
        before, after = (self._filled(part, system) for part in own)
        first, last = (part.replace(_SYSTEM, system) for part in own)
        return Prompt(before, self.reader.ids(said) + after, first + mark + said + last)

    def _turns(self, system: str, said: str) -> str:
        """The prompt as the template has it, with a mark before what is said, and a system turn if the config has one."""
        turns = [] if self.config.system is None else [{"role": "system", "content": system}]
        return self._rendered([*turns, {"role": "user", "content": _CUT + said}], add_generation_prompt=True)

    def _filled(self, part: str, system: str) -> list[int]:
        """Token ids of a part of the template, ``system`` in the place of its mark."""
        first, *others = (self._ids(text) for text in part.split(_SYSTEM))
        return sum(([*self.reader.ids(system), *ids] for ids in others), first)

    def _control(self, ids: list[int]) -> list[int]:
        return [number for number in ids if number in self.reader.control]

    def _rendered(self, turns: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            return str(self.tokenizer.apply_chat_template(turns, add_generation_prompt=add_generation_prompt, tokenize=False))
        except TemplateError as error:
            what = "prompt.system" if turns[0]["role"] == "system" else "prompt.template"
            raise CommandError(f"{what}: this tokenizer's chat template refuses it ({error})") from error

    def _turn_end(self) -> int | None:
        """The special token after what the assistant said, where the template has one."""
        text = self._rendered([{"role": "user", "content": "?"}, {"role": "assistant", "content": _CUT}], add_generation_prompt=False)
        ids = self._ids(text.split(_CUT)[-1].strip()) if _CUT in text else []
        return ids[0] if ids and ids[0] in self.tokenizer.all_special_ids else None

    def _ids(self, text: str) -> list[int]:
        return ids_of(self.tokenizer, text)
