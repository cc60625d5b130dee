"""EEG whose level lies orders from what an encoder was trained on is refused, with both numbers, wherever it comes in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.files import read_json, write_json
from tests.distributed.training import write_split
from tests.helpers.tiny_study import write_tiny_study
from trainer.artifacts.encoder import Encoder, load_encoder
from trainer.artifacts.encoder_export import write_export
from trainer.artifacts.level import Level, check_part, check_trials, measure_level
from trainer.artifacts.part import open_part
from trainer.data.batch import Normalise
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoders import TSConv
from trainer.training.lineage import Lineage

MODEL = ContrastiveModelConfig(encoder=TSConv(num_filters=3, kernel_samples=3, pool_samples=4, stride_samples=2))
MICROVOLTS = 12.0


def make_study(folder: Path, noise: float = MICROVOLTS, **facts: Any) -> Path:
    root = write_tiny_study(folder, n_stimuli=12, n_test=4, n_subjects=2, noise=noise, **facts)
    write_split(root, "tiny", train={"stimulus": list(range(8))}, test={"stimulus": [8, 9, 10, 11]})
    return root


def make_encoder(study: Path, output: Path, normalise: Normalise = "none") -> Encoder:
    loader = Loader(
        StudyIndex.open(study), DataConfig(study=str(study), split="tiny", embedding="tiny", normalise=normalise), "train", seed=0
    )
    torch.manual_seed(0)
    sizes = {"n_chans": loader.n_chans, "n_times": loader.n_times, "sfreq": loader.sfreq, "embedding_dim": loader.embedding_dim}
    built = MODEL.build(**sizes, num_subjects=loader.num_subjects, num_concepts=9, loss=LossConfig())
    lineage = Lineage(step=7, split_hash=loader.split_hash, fingerprint=loader.fingerprint)
    write_export(output, weights=built.state_dict(), model=MODEL, loss=LossConfig(), loader=loader, lineage=lineage)
    return load_encoder(output)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("level") / "study")


@pytest.fixture(scope="module")
def encoders(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    folder = tmp_path_factory.mktemp("encoders")
    return {name: make_encoder(study, folder / name, name) for name in ("none", "channel_zscore", "trial_zscore")}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trials_BRCT(study: Path) -> np.ndarray:
    """All repetitions of each test stimulus."""
    loader = Loader(StudyIndex.open(study), DataConfig(study=str(study), split="tiny", embedding="tiny"), "test", seed=0)
    return next(loader.sequential(64)).repetitions_RCT.numpy().astype(np.float64).reshape(-1, 4, 4, 20)


def zscored(x: np.ndarray, axis: int | tuple[int, ...], ddof: int = 0) -> np.ndarray:
    return (x - x.mean(axis=axis, keepdims=True)) / x.std(axis=axis, keepdims=True, ddof=ddof)


def with_channel(x: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    changed = x.copy()
    changed[1, 2] = make(changed[1, 2])
    return changed


ODD: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "volts": (lambda x: x * 1e-6, r"trial 0 has a level of .*e-05 .* 1.* microvolts: expected .*these are volts: multiply by 1e6"),
    "millivolts": (lambda x: x * 1e-3, r"trial 0 has a level of 0\.01.* microvolts: .*these are millivolts: multiply by 1e3"),
    "nanovolts": (lambda x: x * 1e3, r"trial 0 has a level of 1.*e\+04 .* microvolts: .*these are nanovolts: multiply by 1e-3"),
    "raw counts": (lambda x: x * 2.0**24, r"trial 0 has a level of .* microvolts"),
    "tiny": (lambda x: x * 1e-30, r"trial 0 has a level of .* microvolts"),
    "subnormal": (lambda x: x * 1e-44, r"trial 0 "),
    "huge": (lambda x: x * 1e30, r"trial 0 has a level of .*e\+31 .* microvolts"),
    "all 1e30": (lambda x: np.full_like(x, 1e30), r"trial 0 is constant, the encoder was trained on 1.* microvolts"),
    "zeros": (np.zeros_like, r"trial 0 is constant"),
    "constant": (lambda x: x * 0 + 3.3, r"trial 0 is constant"),
    "a constant in each channel": (lambda x: x * 0 + np.arange(4)[:, None], r"trial 0 is constant"),
    "swallowed by an offset": (lambda x: x + 1e30, r"trial 0 is constant"),
    "an offset": (lambda x: x - 50_000, r"trial 0 reaches 5e\+04 .*offset"),
    "z-scored by channel": (lambda x: zscored(x, -1), r"trial 0 is z-scored .* 1.* microvolts"),
    "z-scored by one less": (lambda x: zscored(x, -1, ddof=1), r"trial 0 is z-scored"),
    "z-scored by trial": (lambda x: zscored(x, (-2, -1)), r"trial 0 is z-scored"),
    "z-scored over its trials": (lambda x: zscored(x, (0, -1)), r"z-scored over its trials .* microvolts"),
    "the last in volts": (lambda x: np.concatenate([x[:-1], x[-1:] * 1e-6]), r"trial 7 has a level of"),
    "a dead channel": (lambda x: with_channel(x, np.zeros_like), r"trial 1 has a constant in channel AF8, .* microvolts there"),
    "a railed channel": (lambda x: with_channel(x, lambda y: y * 0 - 187_500), r"trial 1 has a constant in channel AF8"),
    "a channel in volts": (lambda x: with_channel(x, lambda y: y * 1e-6), r"trial 1 has a level of .* in channel AF8, .* microvolts there"),
    "a spike": (lambda x: with_channel(x, lambda y: np.r_[y[:-1], 1e30]), r"trial 1 has a level of .* in channel AF8"),
    "one value is not finite": (lambda x: with_channel(x, lambda y: np.r_[y[:-1], np.nan]), r"trial 1 has values that are not finite"),
    "beyond float32": (lambda x: with_channel(x, lambda y: y * 1e200), r"trial 1 has values that are not finite"),
}  # fmt: skip


@pytest.mark.parametrize("title", ODD)
@pytest.mark.parametrize("normalise", ["none", "channel_zscore", "trial_zscore"])
def test_what_lies_orders_away_is_refused_with_both_numbers(
    encoders: dict[str, Encoder], trials_BRCT: np.ndarray, title: str, normalise: str
) -> None:
    make, says = ODD[title]
    eeg_BCT = make(trials_BRCT[:, 0])
    for given in (eeg_BCT, eeg_BCT.tolist(), eeg_BCT[:, None]):
        with pytest.raises(UserError, match=rf"^EEG (of |is ){says}|^EEG is {says}") as caught:
            encoders[normalise].embed(given)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("seed", range(6))
def test_any_factor_of_a_thousand_or_more_is_refused_and_what_persons_differ_by_is_not(
    encoders: dict[str, Encoder], trials_BRCT: np.ndarray, seed: int
) -> None:
    random = np.random.default_rng(seed)
    for _ in range(20):
        factor = 10.0 ** (random.uniform(3, 30) * random.choice([-1, 1]))
        with pytest.raises(UserError, match=r"^EEG of trial \d+.* has a level of .* microvolts"):
            encoders["none"].embed(trials_BRCT * factor)
    for _ in range(20):
        encoder = encoders[str(random.choice(list(encoders)))]
        person = trials_BRCT * random.uniform(0.3, 3.5, (8, 1, 1, 1)) + random.uniform(-60, 60, (8, 1, 4, 1))
        assert np.isfinite(encoder.embed(person)).all()


def test_averages_of_many_repetitions_are_believed(encoders: dict[str, Encoder], study: Path) -> None:
    random = np.random.default_rng(3)
    for repetitions in (2, 4, 80, 400):
        average = random.standard_normal((5, repetitions, 4, 20)).mean(axis=1) * MICROVOLTS + random.standard_normal((5, 4, 20))
        assert encoders["none"].embed(average).shape == (5, encoders["none"].embedding_dim)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int16", "int64", "lists", "tuples", "list of arrays", "one by one"])
def test_any_type_of_numbers_gives_the_same(encoders: dict[str, Encoder], trials_BRCT: np.ndarray, kind: str) -> None:
    whole = np.round(trials_BRCT)
    encoder = encoders["channel_zscore"]
    for eeg in (whole[:, 0], whole, whole[:, :1]):
        expected = encoder.embed(eeg)
        if kind == "one by one":
            found = np.concatenate([encoder.embed(eeg[i : i + 1]) for i in range(len(eeg))])
        else:
            makers = {"lists": eeg.tolist, "tuples": lambda e=eeg: tuple(map(tuple, e.tolist())), "list of arrays": lambda e=eeg: list(e)}
            found = encoder.embed(makers[kind]() if kind in makers else eeg.astype(kind))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_list_of_texts_is_refused_before_it_is_an_array_of_the_longest(encoders: dict[str, Encoder]) -> None:
    rows = [[["x" * 100_000, *[""] * 19] for _ in range(4)] for _ in range(400)]  # 12 GB as an array of texts
    with pytest.raises(UserError, match=r"^EEG has values of type text, expected numbers"):
        encoders["none"].embed(rows)


def test_repetitions_that_are_padded_are_refused(encoders: dict[str, Encoder], trials_BRCT: np.ndarray) -> None:
    for padding in (0.0, np.nan):
        padded = trials_BRCT.copy()
        padded[3, 2:] = padding
        with pytest.raises(UserError, match=r"^EEG of trial 3(, repetition 2, is constant| has values that are not finite)"):
            encoders["none"].embed(padded)


def test_an_encoder_of_zscores_takes_no_microvolts(tmp_path: Path, trials_BRCT: np.ndarray) -> None:
    root = make_study(tmp_path / "study", noise=0.01)
    encoder = make_encoder(root, tmp_path / "export")
    file = tmp_path / "export" / "config.json"
    config = read_json(file)
    config["signal"]["unit"] = config["level"]["unit"] = "zscore"
    write_json(file, config)
    encoder = load_encoder(tmp_path / "export")
    encoder.embed(zscored(trials_BRCT, -1))
    encoder.embed(trials_BRCT / MICROVOLTS)
    for factor in (1.0, 1e3, 1e-3, 1e-6):
        with pytest.raises(UserError, match=r"^EEG of trial 0.* has a level of .*, the encoder was trained on .* z-scores: expected"):
            encoder.embed(trials_BRCT * factor)


def test_the_level_is_that_of_the_training_part(study: Path, encoders: dict[str, Encoder], tmp_path: Path) -> None:
    loader = Loader(StudyIndex.open(study), DataConfig(study=str(study), split="tiny", embedding="tiny"), "train", seed=0)
    eeg_RCT = next(loader.sequential(64)).repetitions_RCT.numpy().astype(np.float64)
    level_R = np.median(eeg_RCT.std(axis=-1), axis=1)
    found = encoders["none"].export.level
    assert found is not None
    assert (found.unit, found.trials) == ("microvolts", len(eeg_RCT))
    np.testing.assert_allclose((found.median, found.low, found.high), np.quantile(level_R, (0.5, 0.01, 0.99)), rtol=1e-6)
    np.testing.assert_allclose([c[0] for c in found.channels], np.median(eeg_RCT.std(axis=-1), axis=0), rtol=1e-6)
    assert measure_level(loader) == found == encoders["trial_zscore"].export.level


def test_another_study_in_another_unit_is_refused_by_subject(study: Path, encoders: dict[str, Encoder], tmp_path: Path) -> None:
    assert open_part(encoders["none"], str(study), None, "test").num_samples == 8
    louder = make_study(tmp_path / "louder", noise=2.5 * MICROVOLTS)
    assert open_part(encoders["none"], str(louder), None, "test").num_samples == 8, "another amplifier's noise"
    far = make_study(tmp_path / "far", noise=4000 * MICROVOLTS, eeg_dtype="float32", allow=("level",))
    with pytest.raises(CommandError, match=r"far: EEG of subject 01 has a level of .*e\+04 .*, the encoder was trained on 1.* microvolts"):
        open_part(encoders["none"], str(far), None, "test")


def test_an_export_without_a_level_says_so_and_works(
    study: Path, encoders: dict[str, Encoder], trials_BRCT: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = make_encoder(study, tmp_path / "export").embed(trials_BRCT)
    assert "level" not in capsys.readouterr().err
    file = tmp_path / "export" / "config.json"
    write_json(file, {name: value for name, value in read_json(file).items() if name != "level"})
    old = load_encoder(tmp_path / "export")
    assert "export does not say the level of the EEG it was trained on" in capsys.readouterr().err
    assert np.array_equal(old.embed(trials_BRCT), expected)
    assert np.isfinite(old.embed(trials_BRCT * 1e-3)).all()
    with pytest.raises(UserError, match="trial 0 is constant: expected a signal"):
        old.embed(trials_BRCT[:, 0] * 0)
    open_part(old, str(study), None, "test")


def test_a_channel_that_was_dead_in_training_may_be_dead() -> None:
    channels = ((10.0, 5.0, 20.0), (10.0, 5.0, 20.0), (0.0, 0.0, 0.0))
    level, names = Level(unit="microvolts", trials=9, median=10, low=5, high=20, peak=80, channels=channels), ("Oz", "Pz", "Cz")
    signal = 10 * np.random.default_rng(0).standard_normal((3, 1, 3, 50))
    check_trials(signal, level, names)
    check_trials(signal * np.array([1, 1, 0])[:, None], level, names)
    with pytest.raises(UserError, match=r"constant in channel Pz"):
        check_trials(signal * np.array([1, 0, 1])[:, None], level, names)


def test_nothing_is_asked_of_a_part_where_the_level_is_unknown(study: Path) -> None:
    loader = Loader(StudyIndex.open(study), DataConfig(study=str(study), split="tiny", embedding="tiny"), "train", seed=0)
    check_part(loader, None, "the encoder")


@pytest.mark.parametrize("size", [0, -1, 1.5, "3", True, None])
def test_a_batch_of_no_size_is_refused_instead_of_answered_by_nothing(
    encoders: dict[str, Encoder], trials_BRCT: np.ndarray, size: Any
) -> None:
    with pytest.raises(UserError, match=r"^batch_size is .*, expected at least 1"):
        encoders["none"].embed(trials_BRCT, batch_size=size)


def test_what_lies_under_a_mask_is_not_taken_for_eeg(encoders: dict[str, Encoder], trials_BRCT: np.ndarray) -> None:
    whole = np.ma.masked_array(trials_BRCT, mask=np.zeros(trials_BRCT.shape, bool))
    assert np.array_equal(encoders["none"].embed(whole), encoders["none"].embed(trials_BRCT))
    masked = whole.copy()
    masked[1, 2, 3, 4] = np.ma.masked
    for given in (masked, list(masked), [[list(repetition) for repetition in trial] for trial in masked]):
        with pytest.raises(UserError, match=r"^EEG has masked values, expected numbers"):
            encoders["none"].embed(given)


@pytest.mark.parametrize("label", ["01 ", " 01", "01\n", "０１", "01\u200b"])
def test_what_is_wrong_with_a_label_is_seen(encoders: dict[str, Encoder], trials_BRCT: np.ndarray, label: str) -> None:
    with pytest.raises(UserError, match=r"^subject is .* expected one of 01, 02") as caught:
        encoders["none"].embed(trials_BRCT, label)
    assert "subject is '01'" not in str(caught.value)
