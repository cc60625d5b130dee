"""A language model with a prefix trains as transformers would train it, reads what it is shown, and says the same alone or in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.tiny_llm import ARCHITECTURES, write_tiny_llm
from trainer.data import random
from trainer.models.contrastive import ContrastiveModel, ContrastiveModelConfig
from trainer.models.encoders import CnnTransformer
from trainer.models.language.adapter import AdapterConfig, attach_adapter
from trainer.models.language.base import BaseConfig, load_base, load_tokenizer
from trainer.models.language.decoding import DecodingConfig
from trainer.models.language.eeg_language_model import EEGLanguageModel
from trainer.models.language.llm import context_length
from trainer.models.language.prefix import PrefixConfig
from trainer.models.language.prompt import Prompt, PromptConfig, Prompter
from trainer.models.language.rows import TextRows, build_rows

K, P, E = 3, 12, 6  # prefix tokens, common space, image embedding
CAPTIONS = ["a red star on sand", "a large green disc", "a square", "a small blue ring in the top left"]
WORDS = [["star"], [], ["green disc", "ring"], ["small square of brick"]]


def tiny_encoder() -> ContrastiveModel:
    torch.manual_seed(3)
    encoder = CnnTransformer(
        dropout=0.0, d_model=16, num_layers=1, num_heads=2, feedforward=32, embedding_dim=16, conv_widths=[8, 16], pooling="mean",
        kernel_samples=[5, 3], dilations=[1, 1],
    )  # fmt: skip
    config = ContrastiveModelConfig(encoder=encoder, eeg_head="linear", eeg_head_dropout=0.0, image_head="linear", proj_dim=P)
    return config.build(n_chans=4, n_times=20, sfreq=100.0, num_subjects=2, embedding_dim=E, num_concepts=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder of tiny language models by architecture, made when first asked for."""
    return tmp_path_factory.mktemp("llm")


def folder_of(home: Path, architecture: str = "llama", **options: Any) -> Path:
    folder = home / "-".join([architecture, *(f"{name}{value}" for name, value in sorted(options.items()))])
    return folder if folder.is_dir() else write_tiny_llm(folder, architecture, texts=CAPTIONS, **options)


def tiny_model(
    folder: Path,
    *,
    reads: bool = True,
    tune_encoder: bool = False,
    adapter: bool = True,
    kind: Any = "mlp",
    features: Any = "embedding",
    precision: Any = "fp32",
    training: bool = True,
    dropout: float = 0.0,
    adapter_kind: Any = "lora",
) -> tuple[EEGLanguageModel, Prompter]:
    base = BaseConfig(name=str(folder), dtype="fp32")
    llm = load_base(base, "cpu", training=training)
    torch.manual_seed(1)
    if adapter:
        llm = attach_adapter(llm, AdapterConfig(kind=adapter_kind, r=4, alpha=8, dropout=dropout))
        for name, parameter in llm.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)  # an adapter that says something
    encoder = tiny_encoder() if reads else None
    projector = None
    if encoder is not None:
        width = P if features == "embedding" else encoder.encoder.token_dim
        projector = PrefixConfig(kind=kind, num_tokens=K, hidden=32, heads=4, features=features).build(width, 64, embedding_rms=0.5)
    model = EEGLanguageModel(
        encoder=encoder, tune_encoder=tune_encoder, projector=projector, llm=llm, features=features, precision=precision
    )
    prompter = Prompter(load_tokenizer(base), PromptConfig(instruction="what is it"), K if reads else 0, context_length(llm))
    return model.train(training), prompter


def tiny_rows(prompter: Prompter, pack_length: int | None = None) -> TextRows:
    prompts, targets = [prompter.encode(words) for words in WORDS], [prompter.target(caption) for caption in CAPTIONS]
    return build_rows(prompts, targets, prompter.num_prefix, pack_length=pack_length)


def seen(num_items: int = 4) -> dict[str, Tensor]:
    """EEG and images of some items."""
    generator = torch.Generator().manual_seed(5)
    return {
        "eeg_BCT": torch.randn(num_items, 4, 20, generator=generator),
        "subject_B": torch.arange(num_items) % 2,
        "target_BE": torch.randn(num_items, E, generator=generator),
    }


def shown(source: str) -> dict[str, Tensor]:
    return {name: value for name, value in seen().items() if source == "both" or (name == "target_BE") == (source == "image")}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def loss_and_gradients(model: EEGLanguageModel, rows: TextRows, **inputs: Any) -> tuple[Any, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    out = model(rows, num_items=len(CAPTIONS), **inputs)
    out.loss_sum.backward()
    return out, gradients(model)


def by_transformers(model: EEGLanguageModel, prompter: Prompter, prefix_BKH: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of losses and gradients by the model's own forward with labels, an item at a time."""
    model.zero_grad(set_to_none=True)
    table, losses = model.llm.get_input_embeddings(), []
    for item, (words, caption) in enumerate(zip(WORDS, CAPTIONS, strict=True)):
        prompt, target = prompter.encode(words), prompter.target(caption)
        parts = [table(torch.tensor(prompt.before, dtype=torch.int64))]
        parts += [] if prefix_BKH is None else [prefix_BKH[item]]
        parts += [table(torch.tensor([*prompt.after, *target]))]
        embeds = torch.cat(parts).unsqueeze(0)
        labels = torch.tensor([[-100] * (embeds.shape[1] - len(target)) + target])
        losses.append(model.llm(inputs_embeds=embeds, labels=labels).loss * len(target))
    total = torch.stack(losses)
    total.sum().backward()
    return total.detach(), gradients(model)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-4 * value.norm() + 1e-7, name


# ---------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_are_transformers_own_padded_and_packed(home: Path, architecture: str) -> None:
    model, prompter = tiny_model(folder_of(home, architecture, chat=architecture != "llama", pad=architecture != "mistral"))
    features = model.features("image", target_BE=seen()["target_BE"])
    assert model.projector is not None
    expected, wanted = by_transformers(model, prompter, model.projector(features))
    for pack_length in (None, 80):
        rows = tiny_rows(prompter, pack_length)
        assert (len(rows.ids_ML) == 4) == (pack_length is None)
        out, found = loss_and_gradients(model, rows, source="image", target_BE=seen()["target_BE"])
        torch.testing.assert_close(out.loss_B, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.loss_sum.detach(), expected.sum(), rtol=1e-5, atol=1e-5)
        assert_same(found, wanted)


def scaled_llm(kind: str) -> Any:
    import transformers as t

    torch.manual_seed(0)
    sizes = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    if kind == "granite":
        return t.GraniteForCausalLM(t.GraniteConfig(**sizes, num_key_value_heads=2, logits_scaling=4.0))
    return t.CohereForCausalLM(t.CohereConfig(**sizes, num_key_value_heads=4, logit_scale=0.3))


@pytest.mark.parametrize("kind", ["granite", "cohere"])
def test_models_that_scale_their_logits_are_scaled(kind: str) -> None:
    llm = scaled_llm(kind).requires_grad_(False)
    model = EEGLanguageModel(encoder=None, tune_encoder=False, projector=None, llm=llm)
    rows = build_rows([Prompt([3, 4], [5], "")], [[20, 21, 2]], 0)
    labels = torch.tensor([[-100, -100, -100, 20, 21, 2]])
    expected = llm(input_ids=torch.tensor([[3, 4, 5, 20, 21, 2]]), labels=labels).loss * 3
    torch.testing.assert_close(model(rows).loss_sum, expected, rtol=1e-5, atol=1e-5)


def test_words_alone_without_encoder(home: Path) -> None:
    model, prompter = tiny_model(folder_of(home), reads=False)
    expected, wanted = by_transformers(model, prompter, None)
    out, found = loss_and_gradients(model, tiny_rows(prompter))
    torch.testing.assert_close(out.loss_B, expected, rtol=1e-5, atol=1e-5)
    assert_same(found, wanted)
    assert model.num_prefix == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_is_float32_and_close_in_bf16(home: Path, precision: str) -> None:
    exact, prompter = tiny_model(folder_of(home))
    model, _ = tiny_model(folder_of(home), precision=precision)
    rows = tiny_rows(prompter)
    out, wanted = model(rows, source="eeg", **shown("eeg")), exact(rows, source="eeg", **shown("eeg"))
    assert {value.dtype for value in out} == {torch.float32}
    torch.testing.assert_close(out.loss_sum, wanted.loss_sum, rtol=2e-2, atol=0)
    assert 0 <= out.num_correct <= rows.num_tokens


@pytest.mark.parametrize("pad", [True, False])
def test_captions_are_learnt_to_their_end(home: Path, pad: bool) -> None:
    """One prompt for all: what tells the captions apart comes through the prefix. Without a pad token, pad and end are one."""
    model, prompter = tiny_model(folder_of(home, pad=pad))
    assert pad or prompter.pad_id == prompter.end_id
    prompts = [prompter.encode()] * len(CAPTIONS)
    rows = build_rows(prompts, [prompter.target(caption) for caption in CAPTIONS], K)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(60):
        loss = model(rows, source="image", **shown("image")).loss_sum / rows.num_tokens
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    features = model.features("image", **shown("image"))
    assert model.generate(features, prompts, DecodingConfig(max_new_tokens=40), prompter) == CAPTIONS


# ---------------------------------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize("features", ["embedding", "tokens"])
def test_rows_of_a_mixed_batch_take_the_image_or_the_eeg(home: Path, features: str) -> None:
    model, prompter = tiny_model(folder_of(home), kind="resampler", features=features)
    rows, image_B = tiny_rows(prompter), torch.tensor([True, False, False, True])
    found = model(rows, source="both", image_B=image_B, num_items=4, **shown("both")).loss_B
    images, eeg = (model(rows, source=source, num_items=4, **shown(source)).loss_B for source in ("image", "eeg"))
    torch.testing.assert_close(found, torch.where(image_B, images, eeg), rtol=1e-5, atol=1e-5)
    assert (images - eeg).abs().min() > 1e-4


def test_images_alone_need_no_eeg_and_their_noise_keeps_them_on_the_sphere(home: Path) -> None:
    model, _ = tiny_model(folder_of(home))
    assert model.encoder is not None
    model.encoder.encoder.register_forward_pre_hook(lambda *_: pytest.fail("the EEG encoder ran"))
    target_BE = seen()["target_BE"]
    clean, noisy = (model.features("image", target_BE=target_BE, noise_BP=noise) for noise in (None, torch.full((4, P), 0.2)))
    assert clean.shape == (4, 1, P)
    for features in (clean, noisy):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(4, 1))
    assert not torch.allclose(clean, noisy, atol=1e-2)


@pytest.mark.parametrize("features", ["embedding", "tokens"])
@pytest.mark.parametrize("tuned", [False, True])
def test_what_is_trained(home: Path, tuned: bool, features: str) -> None:
    model, prompter = tiny_model(folder_of(home), tune_encoder=tuned, features=features)
    _, found = loss_and_gradients(model, tiny_rows(prompter), source="both", image_B=torch.tensor([True, False] * 2), **shown("both"))
    trained = {name.split(".")[0] for name, gradient in found.items() if gradient.norm() > 0}
    assert trained == {"projector", "llm"} | ({"encoder"} if tuned else set()) | ({"image_token"} if features == "tokens" else set())
    assert {name.split(".")[-2] for name in found if name.startswith("llm.")} <= {"default"}, "only the adapter"
    assert not any("image_head" in name or "logit_scale" in name for name in found)
    model.train()
    assert model.encoder is not None
    assert model.encoder.encoder.training is tuned, "a frozen encoder is never in train mode"
    assert model.projector is not None
    assert model.projector.training


def test_forward_uses_every_layer_through_its_own_forward(home: Path) -> None:
    """As under ZeRO 3: a layer's weights are there only while it runs."""
    for kind in ("linear", "mlp", "resampler"):
        model, prompter = tiny_model(folder_of(home), kind=kind)
        model.eval()
        rows = tiny_rows(prompter)
        with torch.no_grad():
            expected = model(rows, source="eeg", **shown("eeg")).loss_sum
        absent = hide_weights(model)
        with torch.no_grad():
            torch.testing.assert_close(model(rows, source="eeg", **shown("eeg")).loss_sum, expected)
        assert absent > 40
        assert all(p.numel() == 0 for p in model.parameters())


def hide_weights(model: nn.Module) -> int:
    """Leave every parameter empty, but for the time in which its own module runs; returns how many there are."""
    kept: dict[nn.Parameter, Tensor] = {p: p.data for p in model.parameters()}

    def bring(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = kept[parameter]

    def take(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.new_empty(0)

    for parameter in kept:
        parameter.ds_id = 0  # type: ignore[attr-defined]
    for module in model.modules():
        take(module)
        module.register_forward_pre_hook(bring)
        module.register_forward_hook(take)
    return len(kept)


# -------------------------------------------------------------------------------------------------------- generation


@pytest.fixture(scope="module")
def speaker(home: Path) -> tuple[EEGLanguageModel, Prompter]:
    return tiny_model(folder_of(home), training=False)


METHODS = [
    DecodingConfig(max_new_tokens=10, repetition_penalty=1.3),
    DecodingConfig(method="sample", max_new_tokens=10, temperature=0.9, top_p=0.95, top_k=60),
    DecodingConfig(method="beam", max_new_tokens=10, beams=3, repetition_penalty=1.2),
]


@pytest.mark.parametrize("decoding", METHODS, ids=lambda decoding: decoding.method)
@pytest.mark.parametrize("reads", [True, False])
def test_texts_are_the_same_alone_and_in_any_batch(home: Path, speaker: Any, reads: bool, decoding: DecodingConfig) -> None:
    model, prompter = speaker if reads else tiny_model(folder_of(home), reads=False, training=False)
    prompts = [prompter.encode(words) for words in WORDS]
    assert len({len(p.before) + len(p.after) for p in prompts}) > 2
    features = model.features("eeg", **shown("eeg")) if reads else None
    items = [11, 5, 8, 3]

    def say(chosen: list[int], seed: int = 0) -> list[str]:
        own = None if features is None else features[chosen]
        return model.generate(own, [prompts[i] for i in chosen], decoding, prompter, seed=seed, items=[items[i] for i in chosen])

    together = say([0, 1, 2, 3])
    assert [say([i])[0] for i in range(4)] == together
    assert say([2, 0]) == [together[2], together[0]]
    assert len(set(together)) > 1
    assert (say([0, 1, 2, 3], seed=1) != together) == (decoding.method == "sample")


def test_generation_begins_with_the_argmax_of_transformers_forward(speaker: Any) -> None:
    model, prompter = speaker
    prompts, features = [prompter.encode(words) for words in WORDS], model.features("eeg", **shown("eeg"))
    table, expected = model.llm.get_input_embeddings(), []
    with torch.no_grad():
        for prompt, prefix_KH in zip(prompts, model.projector(features), strict=True):
            after = table(torch.tensor(prompt.after))
            logits = model.llm(inputs_embeds=torch.cat([prefix_KH, after]).unsqueeze(0)).logits
            expected.append(prompter.decode([int(logits[0, -1].argmax())]))
    assert model.generate(features, prompts, DecodingConfig(max_new_tokens=1), prompter) == expected


def test_a_checkpoints_own_decoding_habits_are_dropped(home: Path, speaker: Any) -> None:
    from transformers import GenerationConfig

    model, prompter = tiny_model(folder_of(home), training=False)
    habits = GenerationConfig(
        repetition_penalty=3.0, no_repeat_ngram_size=1, min_new_tokens=9, suppress_tokens=list(range(0, 300, 2)), do_sample=True, top_k=3
    )
    model.llm.get_base_model().generation_config = habits
    prompts, features = [prompter.encode(words) for words in WORDS], model.features("eeg", **shown("eeg"))
    for decoding in METHODS:
        expected = speaker[0].generate(features, prompts, decoding, prompter)
        assert model.generate(features, prompts, decoding, prompter) == expected


def test_the_adapter_can_be_switched_off(home: Path, speaker: Any) -> None:
    model, prompter = speaker
    untuned, _ = tiny_model(folder_of(home), adapter=False, training=False)
    prompts, features = [prompter.encode(words) for words in WORDS], model.features("eeg", **shown("eeg"))
    tuned = model.generate(features, prompts, METHODS[0], prompter)
    base = model.generate(features, prompts, METHODS[0], prompter, use_adapter=False)
    assert base == untuned.generate(features, prompts, METHODS[0], prompter, use_adapter=False) != tuned
    assert model.generate(features, prompts, METHODS[0], prompter) == tuned, "and is on again"


@pytest.mark.parametrize(("adapter_kind", "checkpointing"), [("lora", False), ("lora", True), ("dora", False)])
def test_an_adapters_dropout_is_that_of_the_item_in_any_row_and_micro_batch(home: Path, adapter_kind: str, checkpointing: bool) -> None:
    """Padded, packed, and in micro-batches of another order: losses of each item, and summed gradients."""
    model, prompter = tiny_model(folder_of(home), dropout=0.3, adapter_kind=adapter_kind)
    if checkpointing:
        model.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False, "preserve_rng_state": False})
        model.llm.enable_input_require_grads()
    key_B, inputs = random.hash_torch(torch.arange(4)), shown("eeg")
    prompts, targets = [prompter.encode(words) for words in WORDS], [prompter.target(caption) for caption in CAPTIONS]

    def run(parts: list[list[int]], pack_length: int | None) -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad(set_to_none=True)
        loss_B = torch.zeros(4)
        for part in parts:
            rows = build_rows([prompts[i] for i in part], [targets[i] for i in part], K, pack_length=pack_length)
            mine = {name: value[part] for name, value in inputs.items()}
            out = model(rows, source="eeg", num_items=len(part), key_B=key_B[part], **mine)
            out.loss_sum.backward()
            loss_B[part] = out.loss_B
        return loss_B, gradients(model)

    before = torch.get_rng_state()
    expected, wanted = run([[0, 1, 2, 3]], None)
    for parts, pack_length in (([[0, 1, 2, 3]], 64), ([[3, 1], [0, 2]], 64), ([[2], [0, 3, 1]], None)):
        found, again = run(parts, pack_length)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert_same(again, wanted)
    assert torch.equal(torch.get_rng_state(), before), "something drew from torch's own stream"
    key_B = key_B + 1
    assert ((run([[0, 1, 2, 3]], None)[0] - expected).abs() > 1e-3).all(), "other keys, other masks"
