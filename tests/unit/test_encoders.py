"""Encoders and the contrastive model: shapes, options, exact folding, refusals, and configs from the command line."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data_prep.contract import cli
from data_prep.contract.errors import ConfigError
from trainer.distributed import collectives
from trainer.losses import LossConfig
from trainer.models import encoders
from trainer.models.contrastive import ContrastiveModel, ContrastiveModelConfig
from trainer.models.encoders import ChannelNet, CnnTransformer, EEGProject, EncoderConfig, FlatLinear, TSConv
from trainer.tasks.contrastive.objective import contrastive_terms

FACTS = {"n_chans": 5, "n_times": 100, "sfreq": 100.0, "num_subjects": 3}
SMALL = CnnTransformer(d_model=16, num_layers=1, num_heads=2, feedforward=32, embedding_dim=12)


def small(**options: Any) -> CnnTransformer:
    return CnnTransformer(**{"d_model": 16, "num_layers": 1, "num_heads": 2, "feedforward": 32, "embedding_dim": 12, **options})


def build(**fields: Any) -> ContrastiveModel:
    loss = fields.pop("loss", None)
    config = ContrastiveModelConfig(**fields)
    return config.build(**FACTS, embedding_dim=20, num_concepts=4, loss=loss)  # type: ignore[arg-type]


def trial_batch(rows: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(rows, 5, 100), torch.tensor([0, 1, 2, -1, 0, 1])[:rows], torch.randn(rows, 20)


@pytest.mark.parametrize("norm", ["batch", "group", "layer"])
@pytest.mark.parametrize(
    ("config", "tokens", "embedding"),
    [
        (TSConv(), (6, 40), 240),
        (TSConv(num_filters=8, kernel_samples=11, pool_samples=20, stride_samples=10), (8, 8), 64),
        (SMALL, (100, 16), 12),
        (small(pooling="cls", time_code="learned"), (100, 16), 12),
        (small(pooling="max", downsample=3, time_code="none"), (33, 16), 12),
        (small(num_layers=0, conv_widths=[5], kernel_samples=[3], dilations=[2]), (100, 16), 12),
        (EEGProject(embedding_dim=24), (1, 24), 24),
        (FlatLinear(embedding_dim=7, num_windows=6), (1, 7), 7),
        (FlatLinear(embedding_dim=7, normalize_features=False), (1, 7), 7),
        (ChannelNet(), (2, 50), 512),
        (ChannelNet(temporal_filters=2, spatial_filters=3, residual_blocks=0, dilations=[1], embedding_dim=9), (48, 3), 9),
    ],
)
def test_shapes_and_gradients(config: EncoderConfig, tokens: tuple[int, int], embedding: int, norm: Any) -> None:
    encoder = config.build(**FACTS, norm=norm)  # type: ignore[arg-type]
    eeg, subject, _ = trial_batch()
    output = encoder(eeg, subject)
    assert output.tokens_BLD.shape == (6, *tokens)
    assert output.embedding_BE.shape == (6, embedding)
    assert (encoder.embedding_dim, encoder.token_dim) == (embedding, tokens[1])
    (output.embedding_BE.square().sum() + output.tokens_BLD.sum()).backward()
    assert all(parameter.grad is not None and parameter.ndim > 0 for parameter in encoder.parameters())


def registered(base: type[EncoderConfig] = EncoderConfig) -> list[type[EncoderConfig]]:
    """Encoders that a config can name without a path: what importing the package has made known."""
    direct = sorted(base.__subclasses__(), key=lambda one: one.__name__)
    found = [one for child in direct for one in (child, *registered(child))]
    return [one for one in found if one.__module__.startswith(encoders.__name__)]


def test_every_file_of_the_package_is_registered() -> None:
    names = {module.name for module in pkgutil.iter_modules(encoders.__path__)} - {"base"}
    assert names == {one.__module__.rpartition(".")[2] for one in registered()}


@pytest.mark.parametrize("encoder", registered())
def test_every_registered_encoder_keeps_the_promise(encoder: type[EncoderConfig]) -> None:
    """By its bare name and defaults: sizes as it says, a gradient for every weight, rows apart from each other."""
    torch.manual_seed(0)
    config = cli.parse(_Command, ["--model.encoder", encoder.__name__]).model.encoder
    assert config == encoder()
    built = config.build(**FACTS)  # type: ignore[arg-type]
    eeg, subject, _ = trial_batch()
    output = built(eeg, subject)
    assert output.embedding_BE.shape == (6, built.embedding_dim)
    assert (output.tokens_BLD.shape[0], output.tokens_BLD.shape[2]) == (6, built.token_dim)
    (output.embedding_BE.square().sum() + output.tokens_BLD.square().sum()).backward()
    assert [name for name, parameter in built.named_parameters() if parameter.grad is None] == []
    built.eval()
    whole = built(eeg, subject)
    for found, wanted in zip(built(eeg[2:4], subject[2:4]), whole, strict=True):
        torch.testing.assert_close(found, wanted[2:4], rtol=1e-4, atol=1e-5)
    assert not torch.equal(whole.embedding_BE[0], whole.embedding_BE[1])
    eeg_bf16 = eeg.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert built(eeg_bf16, subject).embedding_BE.isfinite().all()
    assert torch.equal(eeg_bf16, eeg), "the input is not written to"


def test_eeg_clip_sizes_are_the_defaults() -> None:
    encoder = CnnTransformer().build(**FACTS)  # type: ignore[arg-type]
    layers = encoder.get_submodule("layers")
    assert encoder.embedding_dim == 512
    assert sum(parameter.numel() for parameter in layers.parameters()) == 4 * 789_760


@pytest.mark.parametrize(("n_chans", "n_times", "tokens"), [(128, 440, 10), (63, 250, 4), (17, 100, 2), (4, 256, 5), (1, 7, 1), (2, 1, 1)])
def test_channelnet_fits_any_montage_and_window(n_chans: int, n_times: int, tokens: int) -> None:
    config = ChannelNet(temporal_filters=2, spatial_filters=4, embedding_dim=6)
    encoder = config.build(n_chans=n_chans, n_times=n_times, sfreq=100.0, num_subjects=1, norm="layer").eval()
    eeg = torch.randn(2, n_chans, n_times)
    output = encoder(eeg, torch.tensor([0, -1]))
    assert output.tokens_BLD.shape == (2, tokens, 4)
    assert output.embedding_BE.shape == (2, 6)
    assert not torch.equal(encoder(-eeg, torch.tensor([0, -1])).embedding_BE, output.embedding_BE)


def test_channelnet_has_the_published_sizes() -> None:
    encoder = ChannelNet().build(n_chans=128, n_times=440, sfreq=1000.0, num_subjects=6)
    kernels = [
        tuple(layer.get_submodule("convolution").weight.shape)
        for name in ("temporal", "spatial")
        for layer in encoder.get_submodule(name).children()
    ]
    assert kernels == [(10, 1, 1, 33)] * 4 + [(50, 40, height, 1) for height in (128, 64, 42, 32)]
    assert encoder.get_parameter("to_embedding.weight").shape == (512, 50 * 1 * 10)


def test_folded_convolution_and_pooling_equal_the_plain_ones() -> None:
    torch.manual_seed(0)
    for n_times, options in [(100, {}), (250, {}), (83, {"kernel_samples": 8, "pool_samples": 7, "stride_samples": 3})]:
        folded = TSConv(**options).build(n_chans=4, n_times=n_times, sfreq=250.0, num_subjects=1, norm="layer").temporal
        assert isinstance(folded, nn.Conv2d)
        config = TSConv(**options)
        eeg = torch.randn(3, 4, n_times)
        found = folded(eeg)
        plain = F.conv2d(eeg[:, None], folded.weight, folded.bias)
        wanted = F.avg_pool2d(plain, (1, config.pool_samples), (1, config.stride_samples))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        cotangent = torch.randn_like(wanted)
        parameters = list(folded.parameters())
        assert len(parameters) == 2
        for ours, theirs in zip(
            torch.autograd.grad(found, parameters, cotangent), torch.autograd.grad(wanted, parameters, cotangent), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "n_times", "message"),
    [
        (TSConv(), 74, "at least 75 time points, the data have n_times 74"),
        (CnnTransformer(), 8, "at least 9 time points, the data have n_times 8"),
        (FlatLinear(num_windows=12), 10, "num_windows 12, but the data have n_times 10"),
    ],
)
def test_windows_that_are_too_short_are_refused_with_both_values(config: EncoderConfig, n_times: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.build(n_chans=4, n_times=n_times, sfreq=100.0, num_subjects=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TSConv(dropout=1.0), r"TSConv\.dropout: 1"),
        (lambda: TSConv(stride_samples=0), r"TSConv\.stride_samples: 0"),
        (lambda: CnnTransformer(d_model=250), r"d_model: 250, expected an even multiple of num_heads 8"),
        (lambda: CnnTransformer(kernel_samples=[7, 4, 3]), "odd positive lengths"),
        (lambda: CnnTransformer(dilations=[1, 2]), "3 conv_widths, 3 kernel_samples and 2 dilations"),
        (lambda: CnnTransformer(pooling="last"), "pooling: 'last'"),  # type: ignore[arg-type]
        (lambda: CnnTransformer(pooling="cls", num_layers=0), "no layer would fill"),
        (lambda: ChannelNet(kernel_samples=32), r"ChannelNet\.kernel_samples: 32, expected an odd"),
        (lambda: ChannelNet(dilations=[]), r"ChannelNet\.dilations: \[\]"),
        (lambda: ChannelNet(spatial_layers=0), r"ChannelNet\.spatial_layers: 0"),
        (lambda: FlatLinear(num_windows=-1), r"num_windows: -1"),
        (lambda: ContrastiveModelConfig(eeg_head_dropout=1.5), r"model\.eeg_head_dropout: 1\.5"),
        (lambda: build(proj_dim=16), r"proj_dim: 16, but model\.image_head is none and the image embedding has 20"),
        (lambda: build(eeg_head="none"), r"model\.eeg_head: none, but its input has 240 dimensions and the common space 20"),
    ],
)
def test_contradictions_name_the_field(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("subject_layer", ["none", "linear"])
@pytest.mark.parametrize("eeg_head", ["linear", "mlp", "residual"])
def test_model_output(eeg_head: str, subject_layer: str) -> None:
    model = build(encoder=SMALL, eeg_head=eeg_head, image_head="mlp", proj_dim=9, subject_layer=subject_layer).eval()
    eeg, subject, target = trial_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(eeg, subject, target)
    assert output.z_eeg_BP.shape == output.z_image_BP.shape == (6, 9)
    assert output.z_eeg_BP.dtype == output.logit_scale.dtype == torch.float32
    torch.testing.assert_close(output.z_eeg_BP.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(output.z_image_BP.norm(dim=1), torch.ones(6))
    assert output.logit_scale.shape == (1,)
    assert float(output.logit_scale.detach()) == pytest.approx(1 / 0.07)
    plain = model(eeg, subject, target)
    torch.testing.assert_close(model.embed_eeg(eeg, subject), plain.z_eeg_BP)
    torch.testing.assert_close(model.embed_image(target), plain.z_image_BP)
    with pytest.raises(ValueError, match="5 channels x 90 time points, the model wants 5 x 100"):
        model.embed_eeg(eeg[:, :, :90], subject)


def test_logit_scale_is_clamped_in_forward_and_learnable() -> None:
    model = build(encoder=SMALL)
    model.log_logit_scale.data.fill_(10.0)
    assert float(model(*trial_batch()).logit_scale.detach()) == 100.0
    assert model.log_logit_scale.requires_grad
    fixed = build(encoder=SMALL, loss=LossConfig(learnable_temperature=False, temperature=0.1))
    assert not fixed.log_logit_scale.requires_grad
    assert float(fixed(*trial_batch()).logit_scale) == pytest.approx(10)


def test_unknown_subject_gets_the_mean_matrix() -> None:
    model = build(encoder=SMALL, subject_layer="linear").eval()
    assert model.subjects is not None
    model.subjects.mixing_SCC.data.normal_()
    eeg = torch.randn(2, 5, 100)
    mixed = model.subjects(eeg, torch.tensor([-1, 1]))
    torch.testing.assert_close(mixed[0], eeg[0] + model.subjects.mixing_SCC.mean(0) @ eeg[0])
    torch.testing.assert_close(mixed[1], eeg[1] + model.subjects.mixing_SCC[1] @ eeg[1])
    for wrong in (-2, 3):
        with pytest.raises(IndexError):
            model.subjects(eeg, torch.tensor([0, wrong]))


def test_every_loss_reaches_every_parameter() -> None:
    for name in ("info_nce", "siglip"):
        loss = LossConfig(name=name, mse_weight=0.1, cosine_weight=0.1, cross_entropy_weight=0.1)
        model = build(encoder=SMALL, image_head="linear", proj_dim=9, subject_layer="linear", loss=loss)
        ids = torch.tensor([0, 1, 2, 2, 3, 0])
        terms = contrastive_terms(
            model(*trial_batch()), ids, ids, loss, gather_rows=collectives.gather_rows, gather_ids=collectives.gather_ids, rank=0
        )
        assert list(terms) == ["loss", "contrastive", "mse", "cosine", "cross_entropy"]
        terms["loss"].backward()
        assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    with pytest.raises(ValueError, match="with 1 concepts"):
        ContrastiveModelConfig().build(**FACTS, embedding_dim=20, num_concepts=1, loss=LossConfig(cross_entropy_weight=1.0))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class _Command:
    """A command with a model."""

    model: ContrastiveModelConfig = field(default_factory=ContrastiveModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)


def test_configs_from_the_command_line() -> None:
    assert _Command().model.encoder == TSConv()
    config = cli.parse(
        _Command, ["--model.encoder", "CnnTransformer", "--model.encoder.pooling", "cls", "--model.encoder.conv_widths", "[8,8,8]"]
    )
    assert config.model.encoder == CnnTransformer(pooling="cls", conv_widths=[8, 8, 8])
    assert cli.from_plain(_Command, cli.to_plain(config)) == config
    assert cli.parse(_Command, ["--model.encoder", "tests.unit.test_encoders.MyEncoder"]).model.encoder == MyEncoder()
    for arguments, message in [
        (["--model.encoder", "TSConv", "--model.encoder.pooling", "cls"], "pooling"),
        (["--loss.positives", "image"], "positives"),
        (["--model.encoder", "CnnTransformer", "--model.encoder.d_model", "30"], "d_model: 30"),
    ]:
        with pytest.raises(ConfigError, match=message):
            cli.parse(_Command, arguments)


@dataclass(frozen=True, kw_only=True)
class MyEncoder(EncoderConfig):
    """A user's own encoder, named by import path."""
