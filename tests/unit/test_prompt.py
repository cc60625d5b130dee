"""Prompts: the same ids in training and in use, around the prefix, for templates as the families have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_prep.contract.errors import CommandError
from tests.helpers.tiny_llm import write_tiny_llm
from trainer.models.language.base import BaseConfig, load_tokenizer
from trainer.models.language.prompt import STYLES, PromptConfig, Prompter
from trainer.models.language.rows import build_rows

# The shape of the families' own templates, with this tokenizer's tokens.
LLAMA3 = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n\n' }}{% endif %}"
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] | trim + '<|pad|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>model\n{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tokenizers")
    write_tiny_llm(home / "plain", layers=1)
    write_tiny_llm(home / "chat", layers=1, chat=True)
    write_tiny_llm(home / "no_pad", layers=1, pad=False)
    return home


def prompter(
    home: Path, kind: str = "plain", *, num_prefix: int = 4, max_length: int = 256, template: str | None = None, **config: Any
) -> Prompter:
    tokenizer = load_tokenizer(BaseConfig(name=str(home / kind)))
    if template is not None:
        tokenizer.chat_template = template
    return Prompter(tokenizer, PromptConfig(**config), num_prefix, max_length)


def test_plain_prompts_are_prefix_instruction_caption(home: Path) -> None:
    made = prompter(home, instruction="Caption:")
    prompt = made.encode()
    assert (prompt.before, prompt.text) == ([], "<eeg> Caption:")
    assert made.tokenizer.decode(prompt.after) == "Caption:"
    assert made.tokenizer.decode([*prompt.after, *made.target("a red star")]) == "Caption: a red star<|end|>"
    assert prompter(home, num_prefix=0, instruction="Caption:").encode().text == "Caption:"
    assert prompter(home, instruction="").encode().after == []


@pytest.mark.parametrize("style", ["basic", "detailed", "creative"])
def test_styles_are_instructions_and_can_be_changed_in_use(home: Path, style: Any) -> None:
    trained = prompter(home, style=style)
    assert trained.encode().text == f"<eeg> {STYLES[style]}"
    assert prompter(home).encode(style=style) == trained.encode()
    assert prompter(home).encode().text.endswith(STYLES["basic"])  # asking once changes nothing


def test_words_stand_before_the_instruction(home: Path) -> None:
    made = prompter(home, instruction="Caption:", concepts=2)
    assert made.encode(["red striped star", "disc"]).text == "<eeg> It may be: red striped star, disc. Caption:"
    assert made.encode().text == "<eeg> Caption:"


def test_chat_prompts_put_the_prefix_into_the_users_turn(home: Path) -> None:
    made = prompter(home, "chat", instruction="Caption:")
    prompt = made.encode()
    assert prompt.text == "<|start|>user\n<eeg>Caption:<|end|>\n<|start|>assistant\n"
    assert made.tokenizer.decode(prompt.before) == "<|start|>user\n"
    assert made.tokenizer.decode(prompt.after) == "Caption:<|end|>\n<|start|>assistant\n"
    assert prompt.before[0] == made.tokenizer.convert_tokens_to_ids("<|start|>")  # a token, not its letters
    assert made.tokenizer.decode(made.target("a star")) == "a star<|end|>"
    assert prompter(home, "chat", template=None, instruction="Caption:", num_prefix=0).encode().text == prompt.text.replace("<eeg>", "")


def test_the_system_turn_is_the_templates_own_an_own_or_empty(home: Path) -> None:
    assert "system" not in prompter(home, "chat").encode().text
    assert prompter(home, "chat", system="You see.").encode().text.startswith("<|start|>system\nYou see.<|end|>\n<|start|>user\n<eeg>")
    assert prompter(home, "chat", system="").encode().text.startswith("<|start|>system\n<|end|>\n<|start|>user\n<eeg>")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (LLAMA3, "<|start|>user\n\n<eeg>Caption:<|end|><|start|>assistant\n\n"),
        (GEMMA, "<|start|>user\n<eeg>Caption:<|pad|>\n<|start|>model\n"),
        (MISTRAL, "[INST] <eeg>Caption: [/INST]"),
    ],
    ids=["llama3", "gemma", "mistral"],
)
def test_templates_of_the_families(home: Path, template: str, text: str) -> None:
    made = prompter(home, template=template, instruction="Caption:")
    assert made.encode().text == text
    assert "\ue000" not in made.tokenizer.decode([*made.encode().before, *made.encode().after])


def test_an_instruction_models_end_of_turn_ends_a_caption_too(home: Path) -> None:
    end, turn_end = load_tokenizer(BaseConfig(name=str(home / "plain"))).convert_tokens_to_ids(["<|end|>", "<|pad|>"])
    gemma = prompter(home, template=GEMMA)
    assert gemma.end_ids == [end, turn_end]
    star = gemma.target("a star")
    assert star[-1] == end
    assert gemma.decode([*star[:-1], turn_end, *gemma.target("and more")]) == "a star"
    assert prompter(home, template=LLAMA3).end_ids == [end]
    assert prompter(home, template=MISTRAL).end_ids == [end]
    assert prompter(home).end_ids == [end]


@pytest.mark.parametrize(
    "caption", ["a red star", 'say "hi", it\'s', "two\nlines", "snow ❄️ and 🧱, naïve", "  kept inside:  two blanks  ", ""]
)
def test_captions_survive_being_tokens(home: Path, caption: str) -> None:
    for kind in ("plain", "chat"):
        made = prompter(home, kind)
        assert made.decode([*made.target(caption), *made.target("something else")]) == caption.strip()


def test_pad_that_is_the_end_token_hides_no_end_from_the_loss(home: Path) -> None:
    made = prompter(home, "no_pad")
    assert made.pad_id == made.end_id
    captions = ["a red star", "a large blue disc on the snow"]
    for pack_length in (None, 160):
        rows = build_rows([made.encode()] * 2, [made.target(caption) for caption in captions], 4, pack_length=pack_length)
        for item, caption in enumerate(captions):
            assert rows.label_T[rows.item_T == item].tolist() == made.target(caption)  # all of it, the end included, nothing else


def test_what_exceeds_the_context_is_refused(home: Path) -> None:
    with pytest.raises(CommandError, match=r"prompt: \d+ tokens with its 4 prefix tokens, expected fewer than the model's context of 20"):
        prompter(home, max_length=20, instruction="describe what the person sees " * 5).encode()
    made = prompter(home, max_length=20, instruction="Caption:")
    with pytest.raises(CommandError, match="exceeds the model's context of 20"):
        made.target("a large red star on the snow " * 5)
    room = 20 - 4 - len(made.encode().after)
    made.check(made.encode(), [5] * room)
    with pytest.raises(CommandError, match="prompt and caption have 21 tokens, the model's context is 20"):
        made.check(made.encode(), [5] * (room + 1))


def test_templates_that_cannot_serve_are_refused_in_a_sentence(home: Path) -> None:
    with pytest.raises(CommandError, match="has no chat template: use plain or auto"):
        Prompter(load_tokenizer(BaseConfig(name=str(home / "plain"))), PromptConfig(template="chat"), 4, 256)
    with pytest.raises(CommandError, match=r"prompt\.system: .* \(System role not supported\)"):
        prompter(home, template=GEMMA, system="You see.").encode()
    with pytest.raises(CommandError, match="does not render the user's turn once"):
        prompter(home, template="{% for m in messages %}{{ m['role'] }}{% endfor %}").encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style": "poetic"}, "prompt.style: 'poetic', expected basic, detailed, creative"),
        ({"template": "own"}, "prompt.template"),
        ({"concepts": -1}, "prompt.concepts: -1"),
        ({"concept_dropout": 1.5}, "prompt.concept_dropout: 1.5"),
    ],
)
def test_configs_refuse_what_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptConfig(**changes)
