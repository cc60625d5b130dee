"""Augmentation does what its fields say, and does it to an item alike in any batch."""

from __future__ import annotations

import pytest
import torch

from trainer.data.augment import AugmentConfig, augment

SFREQ = 100.0
EEG_CLIP = AugmentConfig(noise=0.01, time_shift_ms=20, time_mask_probability=0.2, channel_drop_probability=0.1)


def batch(items: int = 64, n_chans: int = 5, n_times: int = 101) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    eeg = torch.randn((items, n_chans, n_times), generator=torch.Generator().manual_seed(0)) * 10 + 3
    return eeg, torch.arange(items) * 7, torch.full((items,), 2)


def run(config: AugmentConfig, eeg, item, data_pass, seed: int = 5) -> torch.Tensor:
    return augment(eeg, item, data_pass, seed=seed, sfreq=SFREQ, config=config)


def test_off_by_default():
    eeg, item, data_pass = batch()
    assert not AugmentConfig().enabled
    assert run(AugmentConfig(), eeg, item, data_pass) is eeg


def test_an_item_alone_equals_the_item_in_a_batch():
    eeg, item, data_pass = batch()
    together = run(EEG_CLIP, eeg, item, data_pass)
    for i in (0, 17, 63):
        assert torch.equal(run(EEG_CLIP, eeg[i : i + 1], item[i : i + 1], data_pass[i : i + 1])[0], together[i])
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(run(EEG_CLIP, eeg[shuffled], item[shuffled], data_pass[shuffled]), together[shuffled])


def test_every_pass_item_and_seed_differs_and_the_input_is_left_alone():
    eeg, item, data_pass = batch()
    before = eeg.clone()
    config = AugmentConfig(noise=0.1)
    first = run(config, eeg, item, data_pass)
    assert not torch.equal(first, run(config, eeg, item, data_pass + 1))
    assert not torch.equal(first, run(config, eeg, item, data_pass, seed=6))
    same_eeg = run(config, eeg[:1].repeat(2, 1, 1), item[:2], data_pass[:2])
    assert not torch.equal(same_eeg[0], same_eeg[1])
    assert torch.equal(eeg, before)


def test_noise_is_a_fraction_of_each_channel_s_deviation():
    eeg, item, data_pass = batch(items=200)
    eeg[:, 1] *= 100
    noise = run(AugmentConfig(noise=0.25), eeg, item, data_pass) - eeg
    ratio = noise.std(dim=(0, 2)) / eeg.std(dim=2).mean(dim=0)
    assert torch.allclose(ratio, torch.full((5,), 0.25), atol=0.01)


def test_time_shift_moves_by_milliseconds_between_points_and_holds_the_edges():
    _, item, data_pass = batch(items=500)
    ramp = torch.arange(101.0).expand(500, 2, 101).contiguous()
    shifted = run(AugmentConfig(time_shift_ms=35), ramp, item, data_pass)
    shift = (ramp - shifted)[:, 0, 50]  # of a ramp, in points: at most 35 ms * 100 Hz = 3.5
    assert 3.3 < shift.max() <= 3.5
    assert -3.5 <= shift.min() < -3.3
    assert abs(shift.mean()) < 0.3
    assert (shift != shift.round()).float().mean() > 0.9
    expected = (ramp - shift[:, None, None]).clamp(0, 100)
    assert torch.allclose(shifted, expected, atol=1e-4)


def test_time_mask_hits_its_share_of_items_with_one_stretch_of_its_length():
    _, item, data_pass = batch(items=2000)
    ones = torch.ones(2000, 3, 101)
    masked = run(AugmentConfig(time_mask_probability=0.2, time_mask_ms=150), ones, item, data_pass)
    lengths = (masked == 0).sum(dim=2)
    assert set(lengths.unique().tolist()) == {0, 15}
    assert (lengths == lengths[:, :1]).all()
    assert abs((lengths[:, 0] > 0).float().mean() - 0.2) < 0.03
    edges = (masked[:, 0].diff(dim=1).abs() > 0).sum(dim=1)
    assert edges.max() <= 2
    assert (masked[:, 0, 0] == 0).any()
    assert (masked[:, 0, -1] == 0).any()


def test_channel_drop_hits_its_share_and_never_all_channels():
    _, item, data_pass = batch(items=3000)
    dropped = run(AugmentConfig(channel_drop_probability=0.1), torch.ones(3000, 8, 4), item, data_pass)
    whole = (dropped == 0).all(dim=2)
    assert torch.equal(whole, (dropped == 0).any(dim=2))
    assert abs(whole.float().mean() - 0.1) < 0.01
    hard = run(AugmentConfig(channel_drop_probability=0.9), torch.ones(3000, 2, 4), item, data_pass)
    assert not (hard == 0).all(dim=(1, 2)).any()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise", -0.1),
        ("time_shift_ms", float("nan")),
        ("time_mask_ms", 0),
        ("time_mask_probability", 1.2),
        ("channel_drop_probability", -1),
    ],
)
def test_fields_that_cannot_be_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"augment.{field} is {value}"):
        AugmentConfig(**{field: value})
