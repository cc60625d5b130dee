"""What is measured of trials, levels, pictures and names: pure functions, on made inputs of each kind."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from data_prep.measure.alike_names import alike_names
from data_prep.measure.content import equal_trials, is_copy, signatures
from data_prep.measure.electrodes import bridged_pairs, raw_faults
from data_prep.measure.levels import Level, farthest, level_of, looks_like
from data_prep.measure.pictures import alike_pictures, look_at
from data_prep.measure.trials import measure_samples, measure_trials

few = settings(max_examples=12, deadline=None, derandomize=True)


def noise(shape: tuple[int, ...], seed: int = 0, *, drift: bool = True) -> np.ndarray:
    """Trials in microvolts: white noise, and slow waves that all channels share in part."""
    random = np.random.default_rng(seed)
    eeg = random.normal(0, 8, shape)
    return eeg + random.normal(0, 2, (shape[0], 1, shape[2])).cumsum(-1) * drift


# ---------------------------------------------------------------------------------------------------------- levels


@few
@given(st.floats(1.0, 60.0), st.sampled_from(["volts", "millivolts", "microvolts"]))
def test_a_level_tells_its_unit(microvolts: float, unit: str) -> None:
    level = microvolts / {"volts": 1e6, "millivolts": 1e3, "microvolts": 1.0}[unit]
    assert looks_like(level) == unit


@few
@given(st.floats(0.5, 50.0), st.floats(1.0, 8.0), st.sampled_from([1e-6, 1e-3, 1e3, 1e6]))
def test_people_differ_by_less_than_units(level: float, between: float, unit: float) -> None:
    def apart(other: float) -> Any:
        return farthest({"a": Level(level=level, trials=9), "b": Level(level=other, trials=9)})

    assert apart(level * between).one_unit
    assert not apart(level * between * unit).one_unit
    assert farthest({"a": Level(level=level, trials=9), "b": Level(level=level * unit, trials=1)}) is None, "an artefact is no level"


def test_z_scores_beside_microvolts_are_told_by_their_even_channels() -> None:
    scored = level_of(np.full(20, 0.97), np.array([1.01, 0.98, 1.0, 0.99]))
    quiet = level_of(np.full(20, 0.97), np.array([0.5, 1.9, 1.0, 0.7]))
    loud = level_of(np.full(20, 12.0), np.array([9.0, 14.0, 20.0, 11.0]))
    assert not farthest({"a": scored, "b": loud}).one_unit  # type: ignore[union-attr]
    assert farthest({"a": quiet, "b": loud}).one_unit  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------------------- padding


@few
@given(st.integers(1, 5), st.integers(0, 4), st.sampled_from(["zeros", "nan", "constant", "repeated"]), st.integers(0, 99))
def test_padding_behind_trials_is_recognised_whatever_it_is(trials: int, more: int, kind: str, seed: int) -> None:
    eeg_RCT = noise((trials, 3, 40), seed).astype(np.float32)
    fill = {"zeros": np.zeros_like(eeg_RCT[0]), "nan": np.full_like(eeg_RCT[0], np.nan), "constant": np.full_like(eeg_RCT[0], -999.7)}
    padded_RCT = np.concatenate([eeg_RCT, *[fill.get(kind, eeg_RCT[-1])[None]] * more])
    measured = measure_trials(padded_RCT, 7)
    assert measured.padding == [None] * trials + [kind] * more
    assert (measured.rows["sample"] == 7).all()
    np.testing.assert_allclose(measured.rows["level"][:trials], np.median(eeg_RCT.std(-1), axis=1), rtol=1e-3)


def test_a_trial_with_some_values_missing_is_no_padding_and_a_dead_channel_is_found() -> None:
    eeg_RCT = noise((3, 4, 50)).astype(np.float32)
    eeg_RCT[0, 1, 7] = np.nan
    eeg_RCT[2, 3] = 5.3
    measured = measure_trials(eeg_RCT, 0)
    assert measured.padding == [None] * 3
    assert np.argwhere(measured.flat_RC).tolist() == [[2, 3]]
    assert np.isnan(measured.std_RC[0, 1])


@few
@given(st.sampled_from([np.float32, np.float64, np.float16]), st.sampled_from([(1, 9), (17, 100), (64, 250)]), st.integers(0, 99))
def test_what_is_measured_of_a_sample_does_not_depend_on_those_beside_it(dtype: Any, shape: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    eeg = [(noise((n, *shape), seed + n) * 10.0 ** random.integers(-5, 2)).astype(dtype) for n in random.integers(1, 6, 7)]
    eeg[0][-1], eeg[1][0], eeg[2][0, 0] = 0, np.nan, 3.7
    eeg[3][0, 0, 0], eeg[4][0] = np.inf, -999.7
    eeg[5] = np.asfortranarray(eeg[5]) if seed % 2 else eeg[5]
    masked = [None, None, np.arange(shape[0]) % 2 * np.ones((len(eeg[2]), 1)) > 0, None, None, None, None]
    together = list(measure_samples(eeg, range(7), masked))
    for i, found in enumerate(together):
        alone = measure_trials(eeg[i], i, masked[i])
        assert found.padding == alone.padding
        assert found.rows.tobytes() == alone.rows.tobytes()
        for name in ("flat_RC", "std_RC", "lowest_RC", "highest_RC"):
            np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
        np.testing.assert_array_equal(found.highest_RC, eeg[i].max(-1))
        flat_RC = np.ptp(np.where(np.isfinite(eeg[i]), eeg[i], np.arange(shape[1])), axis=-1) == 0
        hidden_RC = masked[i]
        np.testing.assert_array_equal(found.flat_RC, flat_RC if hidden_RC is None else flat_RC & ~hidden_RC)


def test_volts_have_a_level_too() -> None:
    measured = measure_trials((noise((2, 4, 50)) * 1e-6).astype(np.float32), 0)
    assert measured.padding == [None, None]
    assert measured.rows["level"] == pytest.approx(1.2e-5, rel=0.5)


# --------------------------------------------------------------------------------------------------------- content

COPIES = {
    "exact": lambda x: x,
    "in volts": lambda x: x * 1e-6,
    "an offset": lambda x: x + 40,
    "float16": lambda x: x.astype(np.float16),
    "text of two decimals": lambda x: np.round(x, 2),
    "z-scored by channel": lambda x: (x - x.mean((0, 2), keepdims=True)) / x.std((0, 2), keepdims=True),
    "z-scored by trial": lambda x: (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True),
    "channels in another order": lambda x: x[:, [3, 0, 4, 2, 1]],
    "channels the other way round, in volts and float16": lambda x: (x[:, ::-1] * 1e-2).astype(np.float16),
    "channels in another order, an offset each": lambda x: np.round(x[:, [1, 0, 2, 4, 3]] + np.arange(5)[:, None], 2),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_found_whatever_its_unit_offset_or_precision(copy: str) -> None:
    eeg_RCT = noise((30, 5, 80))
    copied_RCT = COPIES[copy](eeg_RCT[10:20])
    found = equal_trials(np.concatenate([signatures(eeg_RCT), signatures(copied_RCT)]))
    assert found.trial.tolist() == [*range(10, 20), *range(30, 40)]
    assert found.twin.tolist() == [*range(30, 40), *range(10, 20)]
    assert all(is_copy(one, other) for one, other in zip(eeg_RCT[10:20], copied_RCT, strict=True))


@few
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(20, 200))
def test_trials_that_differ_have_no_twin(seed: int, n_chans: int, n_times: int) -> None:
    assert not len(equal_trials(signatures(noise((200, n_chans, n_times), seed))).trial)


@few
@given(st.integers(0, 1000), st.sampled_from([2, 5, 17, 64, 128]), st.sampled_from([40, 100, 300]), st.floats(-6, 6))
def test_a_copy_is_found_whichever_name_a_channel_has(seed: int, n_chans: int, n_times: int, exponent: float) -> None:
    random = np.random.default_rng(seed)
    eeg_RCT = noise((12, n_chans, n_times), seed)
    copied_RCT = eeg_RCT[4:8][:, random.permutation(n_chans)] * 10.0**exponent * random.uniform(0.5, 2, (n_chans, 1)) + 3.0
    found = equal_trials(np.concatenate([signatures(eeg_RCT), signatures(copied_RCT)]))
    assert found.trial.tolist() == [*range(4, 8), *range(12, 16)]
    assert found.twin.tolist() == [*range(12, 16), *range(4, 8)]
    assert all(is_copy(one, other) for one, other in zip(eeg_RCT[4:8], copied_RCT, strict=True))


def test_a_trial_that_holds_a_channel_of_another_twice_is_no_copy() -> None:
    one_CT = noise((1, 5, 80))[0]
    assert not is_copy(one_CT, one_CT[[0, 1, 2, 3, 3]])
    assert not is_copy(one_CT, np.concatenate([one_CT[:4], noise((1, 1, 80), 7)[0]]))
    assert is_copy(one_CT[[0, 1, 2, 3, 3]], one_CT[[3, 0, 1, 3, 2]])


def test_trials_of_line_noise_alone_may_look_alike_and_are_no_copies() -> None:
    seconds_T = np.arange(250) / 250
    phase_R11 = np.random.default_rng(0).uniform(0, 2 * np.pi, (1500, 1, 1))
    hum = 200 * np.sin(2 * np.pi * 50 * seconds_T + phase_R11) + noise((1500, 8, 250), drift=False) / 4
    found = equal_trials(signatures(hum))
    assert len(found.trial), "nothing to tell apart: make the hum louder"
    assert not any(is_copy(hum[a], hum[b]) for a, b in zip(found.trial, found.twin, strict=True))


def test_too_little_to_tell_trials_apart_equals_nothing() -> None:
    assert not signatures(noise((4, 2, 10))).any()
    assert not len(equal_trials(np.zeros((4, 8), np.int16)).trial)


# ------------------------------------------------------------------------------------------------------ electrodes


@few
@given(st.integers(0, 2), st.integers(0, 5), st.sampled_from(["flat", "stuck", "railed"]), st.sampled_from([128.0, 250.0, 1000.0]))
def test_a_fault_of_an_electrode_is_found_in_its_trial(channel: int, trial: int, fault: str, sfreq: float) -> None:
    n_times = round(0.6 * sfreq)
    raw_BCT = np.round(noise((6, 3, n_times), trial), 1)
    recorded_CT = raw_BCT.transpose(1, 0, 2).reshape(3, -1)
    place = slice(n_times // 3, n_times // 3 + max(round(0.11 * sfreq), 9))
    if fault == "flat":
        raw_BCT[trial, channel] = 3.2
    else:
        raw_BCT[trial, channel, place] = recorded_CT[channel].max() + 100 if fault == "railed" else 0.3
    recorded_CT = raw_BCT.transpose(1, 0, 2).reshape(3, -1)
    found = raw_faults(raw_BCT, sfreq, recorded_CT.min(1), recorded_CT.max(1))
    for name in ("flat", "stuck", "railed"):
        assert np.flatnonzero(getattr(found, f"{name}_B")).tolist() == ([trial] if name == fault else []), name


def test_coarse_steps_are_no_fault_and_a_known_limit_is_one_point() -> None:
    raw_BCT = np.round(noise((40, 4, 256), drift=False) / 4) * 4
    extremes = raw_BCT.min((0, 2)), raw_BCT.max((0, 2))
    found = raw_faults(raw_BCT, 256.0, *extremes)
    assert not (found.flat_B | found.stuck_B | found.railed_B).any()
    raw_BCT[7, 2, 100] = -1000.0
    assert np.flatnonzero(raw_faults(raw_BCT, 256.0, *extremes, 999.0).railed_B).tolist() == [7]
    none = raw_faults(raw_BCT[:0], 256.0, *extremes)
    assert len(none.flat_B) == len(none.stuck_B) == len(none.railed_B) == 0


@few
@given(st.integers(0, 99), st.floats(0.0, 0.02))
def test_electrodes_that_gel_joins_are_one_signal(seed: int, amplifier: float) -> None:
    eeg_BCT = noise((12, 6, 120), seed) + 50 * noise((12, 1, 120), seed + 1)[:, :1] * 0.01
    eeg_BCT[:, 4] = eeg_BCT[:, 1] + amplifier * noise((12, 1, 120), seed + 2, drift=False)[:, 0]
    assert bridged_pairs(eeg_BCT) == {(1, 4): 1.0}
    assert bridged_pairs(eeg_BCT[:, [0, 1, 2, 3]]) == {}


# -------------------------------------------------------------------------------------------------------- pictures


def picture(seed: int) -> Image.Image:
    """Something like a photograph: soft patches of light and a few things with edges."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (6, 6, 3), np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(coarse)
    for _ in range(5):
        x, y, size = random.integers(0, 80, 3).tolist()
        draw.ellipse((x, y, x + 6 + size // 3, y + 6 + size // 2), fill=tuple(random.integers(0, 255, 3).tolist()))
    return coarse


def as_jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file)


NEAR = {
    "saved as JPEG": as_jpeg,
    "scaled": lambda image: image.resize((150, 150)),
    "smaller": lambda image: image.resize((64, 64)),
    "grey": lambda image: image.convert("L"),
    "softened": lambda image: image.filter(ImageFilter.GaussianBlur(0.8)),
    "brighter": lambda image: image.point(lambda value: min(255, int(value * 1.1))),
}


@pytest.mark.parametrize("change", NEAR)
def test_a_copy_of_a_picture_is_near_whatever_was_done_to_its_file(change: str) -> None:
    pictures = [look_at(picture(seed)) for seed in range(40)]
    found = alike_pictures([*pictures, look_at(NEAR[change](picture(11)))])
    assert [(pair.first, pair.second) for pair in found] == [(11, 40)]
    assert not found[0].equal


def test_equal_pixels_are_equal_and_pictures_that_differ_are_no_pair() -> None:
    pictures = [look_at(picture(seed)) for seed in range(150)]
    assert alike_pictures(pictures) == []
    found = alike_pictures([*pictures, pictures[3], pictures[3]])
    assert [(pair.first, pair.second, pair.equal) for pair in found] == [(3, 150, True), (3, 151, True)]
    plain = [look_at(Image.new("RGB", (20, 20), (value, value, value))) for value in (0, 90, 255)]
    assert alike_pictures(plain) == [], "empty pictures have nothing to compare"


# ----------------------------------------------------------------------------------------------------------- names


@few
@given(st.text("abcdefgzäé", min_size=4, max_size=8), st.sampled_from(["upper", "title", "plural", "nfd", "_2", " 03", "-"]))
def test_spellings_of_one_name_are_a_group(name: str, change: str) -> None:
    import unicodedata

    other = {
        "upper": name.upper(),
        "title": name.title(),
        "plural": f"{name}s",
        "nfd": unicodedata.normalize("NFD", name),
        "-": f"{name}_",
    }.get(change, f"{name}{change}")
    groups = alike_names([name, other, "something else"])
    assert groups == ([sorted({name, other})] if other != name else [])


def test_names_that_differ_are_no_group() -> None:
    assert alike_names(["bat1", "bat2", "class 1", "class 2", "1", "2", "glass", "grass", "bus", "bud", "dress", "cat", "car"]) == []
