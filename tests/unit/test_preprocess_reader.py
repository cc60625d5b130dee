"""Preprocessing as a reader's config asks for it: what comes out, what the manifest says, and that it is the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest

from data_prep.contract import cli
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import read_manifest
from data_prep.preprocess import linear
from data_prep.preprocess.autorejection import AutorejectConfig
from data_prep.preprocess.bad_channels import BadChannelsConfig
from data_prep.preprocess.eyes import EyesConfig
from data_prep.preprocess.montage import MontageConfig
from data_prep.preprocess.positions import info_of
from data_prep.shards.open import open_study
from data_prep.shards.write import ShardConfig, write_study
from data_prep.studies.cutting import CuttingConfig
from data_prep.studies.events import EventsConfig
from data_prep.studies.mne import MneReaderConfig
from data_prep.studies.recordings_study import RecordingsSource
from tests.helpers import heads
from tests.helpers.readme import PAGES, ROOT, files

SFREQ, N_TIMES = 250.0, 10_000
ONSETS = tuple(range(500, 9_500, 300))


def write(
    file: Path, names: tuple[str, ...] = heads.NAMES, *, seed: int = 0, marked: tuple[str, ...] = (), places: bool = True, eog: bool = True
) -> Path:
    """A recording of 40 s with blinks, 50 Hz and, where there is a P3, a loose electrode there."""
    random = np.random.default_rng(seed)
    eeg_CT = heads.smooth_field(N_TIMES, names, seed=seed) + random.normal(0, 0.5, (len(names), N_TIMES))
    blink_T = heads.blinks(N_TIMES)
    eeg_CT += heads.blink_topography(names)[:, None] * blink_T + 20 * np.sin(2 * np.pi * 50 * np.arange(N_TIMES) / SFREQ)
    if "P3" in names:
        eeg_CT[names.index("P3")] += random.normal(0, 300, N_TIMES)
    eyes = {"VEOG": "eog"} if eog else {}
    info = info_of(names, SFREQ, np.array(list(heads.places(names).values())) if places else None, eyes)
    raw = mne.io.RawArray(1e-6 * np.vstack([eeg_CT, blink_T + random.normal(0, 3, N_TIMES)][: 1 + eog]), info, verbose="error")
    raw.set_annotations(mne.Annotations([onset / SFREQ for onset in ONSETS], 0.0, [("left", "right")[i % 2] for i in range(len(ONSETS))]))
    raw.info["bads"] = list(marked)
    raw.save(file, verbose="error")
    return file


def reader(root: Path, trials: CuttingConfig, **changes: Any) -> MneReaderConfig:
    return MneReaderConfig(
        root=str(root), files="sub-{subject}_raw.fif", events=EventsConfig(source="annotations"), trials=trials, **changes
    )


def trials_of(source: RecordingsSource) -> np.ndarray:
    return np.concatenate([source.eeg(i) for i in range(len(source.samples))])


EVERYTHING = CuttingConfig(
    band_hz=(1.0, 40.0),
    notch_hz=(50.0,),
    notch_harmonics=True,
    filter="fir",
    bad_channels=BadChannelsConfig(find=("flat", "deviation", "hf_noise"), by_recording={"sub-01_.*": ("T8",)}),
    eyes=EyesConfig(method="regression"),
    reference=("average",),
    tmin=-0.2,
    tmax=0.8,
    resample_hz=100.0,
    baseline_seconds=(-0.2, 0.0),
    reject_microvolts=200.0,
    autoreject=AutorejectConfig(num_interpolate=(1, 2), consensus=(0.5, 1.0), folds=3),
    robust_scaling=True,
    clamp_sd=6.0,
)


def test_every_step_is_done_and_said_and_the_bytes_are_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / "sub-01_raw.fif", marked=("O2",))
    config = reader(tmp_path / "raw", EVERYTHING)
    first = write_study(ShardConfig(reader=config, output=str(tmp_path / "one"), samples_per_shard=16))
    monkeypatch.setattr(linear, "LARGE_BYTES", 1_000)  # the second time, signals lie in files
    second = write_study(ShardConfig(reader=config, output=str(tmp_path / "two"), samples_per_shard=16))
    assert first.fingerprint == second.fingerprint
    assert first.signal.unit == "zscore"
    said = read_manifest(tmp_path / "one").preprocessing
    assert said["filter"] == "fir"
    assert said["notch_harmonics"] is True
    assert said["eyes"]["method"] == "regression"
    assert set(said["libraries"]) == {"mne", "scipy", "pyprep", "autoreject"}
    (counts,) = said["trials_by_recording"]
    assert counts["bad_channels"]["T8"] == ["named"]
    assert counts["bad_channels"]["O2"] == ["marked"]
    assert "deviation" in counts["bad_channels"]["P3"]
    assert counts["eyes"]["channels"] == ["VEOG"]
    assert counts["autoreject"]["trials"] == counts["autorejected"]
    assert set(counts["scaling"]["robust_sd"]) == set(heads.NAMES)
    assert sum(said["trials"][name] for name in said["trials"] if name != "marked") == said["trials"]["marked"] == len(ONSETS)
    eeg_BCT = np.concatenate([open_study(tmp_path / "one").eeg(i) for i in range(first.quality.trials)]).astype(np.float64)
    assert np.abs(eeg_BCT).max() <= 6.01
    np.testing.assert_allclose(np.median(eeg_BCT, axis=(0, 2)), 0, atol=0.01)


def test_a_good_channel_beside_a_dead_one_is_kept_and_the_dead_one_is_no_reason_to_lose_trials(tmp_path: Path) -> None:
    file = write(tmp_path / "sub-01_raw.fif")
    raw = mne.io.read_raw(file, preload=True, verbose="error")
    raw._data[heads.NAMES.index("Cz")] = 3e-6
    raw.save(file, overwrite=True, verbose="error")
    plain = CuttingConfig(band_hz=(1.0, 40.0))
    with pytest.raises(StudyError, match="channel Cz is constant in all 10,000 points"):
        reader(tmp_path, plain).open()
    config = BadChannelsConfig(find=("flat",), names=("P3",))
    source = reader(tmp_path, CuttingConfig(band_hz=(1.0, 40.0), bad_channels=config)).open()
    assert source.facts.preprocessing["trials_by_recording"][0]["bad_channels"] == {"Cz": ["flat"], "P3": ["named"]}
    assert len(source.samples) == len(ONSETS)
    eeg_BCT = trials_of(source)
    around = eeg_BCT[:, [heads.NAMES.index(name) for name in ("FC1", "FC2", "CP1", "CP2")]].mean(1)
    assert np.corrcoef(eeg_BCT[:, heads.NAMES.index("Cz")].ravel(), around.ravel())[0, 1] > 0.95


@pytest.mark.long
def test_ica_by_config_removes_the_blink_and_names_the_component(tmp_path: Path) -> None:
    write(tmp_path / "sub-01_raw.fif")
    common: dict[str, Any] = {"band_hz": (1.0, 40.0), "bad_channels": BadChannelsConfig(names=("P3",))}
    before = trials_of(reader(tmp_path, CuttingConfig(**common)).open())
    config = EyesConfig(method="ica", algorithm="fastica", num_components=8)
    source = reader(tmp_path, CuttingConfig(**common, eyes=config)).open()
    after, frontal = trials_of(source), heads.NAMES.index("Fp1")
    assert np.ptp(after[:, frontal], axis=1).max() < 0.5 * np.ptp(before[:, frontal], axis=1).max()
    (removed,) = source.facts.preprocessing["trials_by_recording"][0]["eyes"]["removed"]
    assert removed["follows"] == "VEOG"
    assert removed["score"] > 0.8


def test_devices_with_other_electrodes_make_one_study_and_masked_targets_are_zero(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / "sub-01_raw.fif", eog=False)
    write(tmp_path / "raw" / "sub-02_raw.fif", ("TP9", "AF7", "AF8", "TP10"), seed=1, eog=False)
    alone = CuttingConfig(band_hz=(1.0, 40.0))
    with pytest.raises(StudyError, match=r"expected the same; see channels\.pick"):
        reader(tmp_path / "raw", alone).open()
    montage = MontageConfig(channels=("AF7", "AF8", "Cz", "Oz", "Pz", "C3"), max_distance_metres=0.04)
    config = reader(tmp_path / "raw", CuttingConfig(band_hz=(1.0, 40.0), montage=montage))
    manifest = write_study(ShardConfig(reader=config, output=str(tmp_path / "study")))
    assert manifest.signal.ch_names == ["AF7", "AF8", "Cz", "Oz", "Pz", "C3"]
    assert manifest.signal.positions is not None
    by_recording = {each["recording"]: each["montage"] for each in manifest.preprocessing["trials_by_recording"]}
    assert [each["masked"] for each in by_recording.values()] == [[], ["Cz", "Oz", "Pz", "C3"]]
    study = open_study(tmp_path / "study")
    for i, sample in enumerate(study.samples):
        zero_C = (study.eeg(i) == 0).all(axis=(0, 2)).tolist()
        assert zero_C == ([False] * 6 if sample["subject"] == 0 else [False, False, True, True, True, True])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"bad_channels": BadChannelsConfig(by_recording={"sub-1_.*": ("Cz",)})},
            "'sub-1_.*' fits no recording; there are sub-01_ses-01_run-01",
        ),
        ({"bad_channels": BadChannelsConfig(names=("Cz",))}, r"sub-01_raw\.fif: channels Fp1.* have no position, which interpolation"),
        ({"eyes": EyesConfig(method="regression")}, r"sub-01_raw\.fif: eyes: there is no channel of type eog"),
        ({"reference": ("rest",)}, r"sub-01_raw\.fif: channels Fp1.* have no position, which reference: \[rest\] needs"),
        ({"montage": MontageConfig(channels=("Cz",))}, r"sub-01_raw\.fif: channels Fp1.* have no position, which montage needs"),
        ({"notch_hz": (125.0,)}, r"sub-01_raw\.fif: notch_hz is 125.0 Hz, expected above 0 and below the Nyquist frequency of 125 Hz"),
        (
            {"filter": "fir", "band_hz": (0.01, 40.0)},
            r"sub-01_raw\.fif: points 0 to 10,000 last 40 s, a filter of these edges needs at least 330",
        ),
        ({"reference": ("M1", "M2")}, r"sub-01_raw\.fif: channels \['M1', 'M2'\] are not among"),
    ],
)
def test_a_step_that_a_recording_cannot_take_is_one_sentence(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    write(tmp_path / "sub-01_raw.fif", places=False, eog=False)
    with pytest.raises((StudyError, ValueError), match=said):
        reader(tmp_path, CuttingConfig(**({"band_hz": (1.0, 40.0)} | config))).open()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"band_hz": (1.0, 60.0), "resample_hz": 100.0},
            "resample_hz is 100 with band_hz up to 60 Hz, expected a band below half of the new rate",
        ),
        ({"baseline_seconds": (-0.5, 0.0)}, "baseline_seconds is -0.5..0.0 s, expected a window inside tmin..tmax"),
        ({"notch_harmonics": True}, "notch_harmonics is true and notch_hz is empty"),
        ({"reference": ("average", "Cz")}, r"expected \[average\] alone, or names of channels"),
        ({"reference": ("Cz", "Cz")}, "expected each name once"),
        ({"clamp_sd": 0.0}, "clamp_sd is 0.0, expected above 0"),
    ],
)
def test_steps_that_contradict_each_other_are_refused_before_anything_is_read(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CuttingConfig(**config)


def test_what_the_file_marks_as_bad_is_said_and_nothing_is_changed_by_default(tmp_path: Path) -> None:
    write(tmp_path / "sub-01_raw.fif", marked=("O2",))
    said = reader(tmp_path, CuttingConfig()).open().facts.preprocessing
    assert said["trials_by_recording"][0]["marked_bad"] == ["O2"]
    assert not {"filter", "eyes", "montage", "bad_channels", "autoreject", "robust_scaling", "clamp_sd", "libraries"} & set(said)


@pytest.mark.long
def test_the_config_of_the_readme_cleans_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "configs/data_prep/shard_cleaned.yaml"
    assert files(*PAGES)[name] == (ROOT / name).read_text()
    monkeypatch.chdir(tmp_path)
    for session in ("01", "02"):
        folder = tmp_path / "recordings" / "sub-01" / f"ses-{session}"
        folder.mkdir(parents=True)
        file = write(folder / "run_raw.fif", seed=int(session), places=False)
        raw = mne.io.read_raw(file, preload=True, verbose="error")
        raw.annotations.description = np.array(
            [{"left": "Stimulus/1", "right": "Stimulus/2"}[text] for text in raw.annotations.description]
        )
        raw.save(file, overwrite=True, verbose="error")
    write_study(cli.parse(ShardConfig, ["--config", str(ROOT / name)]))
    manifest = read_manifest(tmp_path / "studies" / "cleaned")
    assert manifest.signal.ch_names == ["Fz", "Cz", "Pz", "P7", "P3", "P4", "P8", "O1", "Oz", "O2"]
    assert (manifest.signal.unit, manifest.signal.sfreq, manifest.signal.n_times) == ("zscore", 125.0, 125)
    first, second = manifest.preprocessing["trials_by_recording"]
    assert first["bad_channels"]["T8"] == ["named"]
    assert "T8" not in second["bad_channels"]
    for counts in (first, second):
        assert "deviation" in counts["bad_channels"]["P3"]
        assert [each["follows"] for each in counts["eyes"]["removed"]] == ["VEOG"]
        assert counts["montage"]["masked"] == []
