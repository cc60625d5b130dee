"""Small inputs that once went wrong in silence (``cases/`` of the shared data), each as a test of its kind, with made variants.

Every folder of ``cases/`` is named by a test, here or in another file.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.__main__ import COMMANDS
from data_prep.contract.audit import Audit
from data_prep.contract.cli import main
from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.manifest import Manifest
from data_prep.shards.check import check
from data_prep.shards.check import run as check_command
from data_prep.shards.measuring import MeasureConfig
from data_prep.shards.open import open_study
from data_prep.shards.verify import verify
from data_prep.shards.write import ShardConfig, write_study
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from data_prep.studies.cutting import CuttingConfig
from data_prep.studies.events import EventsConfig
from data_prep.studies.mne import MneReaderConfig
from data_prep.studies.muse import MuseReaderConfig
from data_prep.studies.things import ThingsReaderConfig
from tests.helpers import recordings
from tests.helpers.shared_data import shared_data
from tests.helpers.tiny_study import TinyReader, TinySource
from trainer.evaluate.embeddings import read_embeddings
from trainer.evaluate.same_rows import same_rows

few = settings(max_examples=8, deadline=None, derandomize=True)
NUM_TRAINING, NUM_TEST = 6, 2


def case(name: str) -> Path:
    return shared_data() / "cases" / name / "data"


def things(root: Path, output: Path, **measure: Any) -> ShardConfig:
    reader = ThingsReaderConfig(root=str(root), require_images=False)
    return ShardConfig(reader=reader, output=str(output), eeg_dtype="float32", measure=MeasureConfig(**measure))


def muse(root: Path, **fields: Any) -> Any:
    return MuseReaderConfig(root=str(root), reject_microvolts=None, **fields).open()


def kinds(config: ShardConfig) -> dict[str, str]:
    return {finding.kind: finding.level for finding in check(config).findings}


def zero_shot(root: Path) -> Audit:
    return write_split(SplitConfig(study=str(root), policy="zero-shot", num_validation_concepts=0))[1]


def audit_kinds(report: Audit) -> dict[str, str]:
    return {finding.kind: finding.level for finding in report.findings}


def made(root: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], *, seed: int = 0, scale: float = 10.0) -> Path:
    """THINGS-EEG2's layout of subjects 01 and 02; ``change`` takes and gives the arrays by file, (stimuli, reps, channels, times)."""
    random = np.random.default_rng(seed)
    sizes = {"training": (NUM_TRAINING, 3, 4, 30), "test": (NUM_TEST, 4, 4, 30)}
    arrays = {
        f"sub-{subject}/preprocessed_eeg_{part}.npy": (scale * random.normal(size=shape)).astype(np.float32)
        for subject in ("01", "02")
        for part, shape in sizes.items()
    }
    shutil.rmtree(root, ignore_errors=True)
    for name, eeg_NRCT in change(arrays).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        content = {"preprocessed_eeg_data": eeg_NRCT, "ch_names": ["Pz", "P3", "O1", "Oz"], "times": np.arange(-5, 25) / 100}
        np.save(root / name, np.array(content, dtype=object), allow_pickle=True)
    concepts = {"train": [f"{i // 2 + 1:05d}_{n}" for i, n in enumerate(["ant", "ant", "bee", "bee", "cow", "cow"])]}
    concepts["test"] = ["00001_dog", "00002_elk"]
    metadata = {f"{part}_img_{what}": [] for part in concepts for what in ("concepts", "files")}
    for part, folders in concepts.items():
        metadata[f"{part}_img_concepts"] = folders
        metadata[f"{part}_img_files"] = [f"{part}_{i}.jpg" for i in range(len(folders))]
    np.save(root / "image_metadata.npy", np.array(metadata, dtype=object), allow_pickle=True)
    (root / "study.json").write_text('{"unit": "microvolts"}')
    return root


# ----------------------------------------------------------------------------------------------------- units by level


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("t02c_train_uv_test_v", r"sub-01 \(test\)", r"sub-01 \(training\)"), ("t02d_one_subject_in_volts", "sub-02 .*", "sub-01 .*")],
)
def test_parts_in_two_units_are_refused_with_both_levels_and_what_they_look_like(tmp_path: Path, name: str, low: str, high: str) -> None:
    config = things(case(name), tmp_path / "s")
    message = rf"cases/{name}/data: {low} has a level of .*e-06 \(looks like volts\), {high} one of 9\.\d+ \(looks like microvolts\)"
    with pytest.raises(StudyError, match=message):
        write_study(config)
    assert not (tmp_path / "s").exists(), "refused before anything was written"
    assert kinds(config)["levels_apart"] == "problem"


@few
@given(st.sampled_from([1e-6, 1e-3, 1e3]), st.sampled_from(["sub-01", "sub-02", "training", "test"]), st.floats(3, 40), st.integers(0, 99))
def test_a_part_in_another_unit_is_refused_and_people_who_differ_are_not(
    tmp_path_factory: pytest.TempPathFactory, factor: float, where: str, level: float, seed: int
) -> None:
    def scaled(by: float) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
        return lambda arrays: {name: eeg * np.float32(by if where in name else 1) for name, eeg in arrays.items()}

    folder = tmp_path_factory.mktemp("units")
    with pytest.raises(StudyError, match=r"times as much: expected one unit"):
        write_study(things(made(folder / "in", scaled(factor), seed=seed, scale=level), folder / "out"))
    found = kinds(things(made(folder / "in", scaled(5.0), seed=seed, scale=level), folder / "out"))
    assert found.get("levels_apart") is None
    assert found["levels_differ"] == "info"


def test_a_level_that_its_unit_cannot_have_is_refused_or_allowed_and_then_audited(tmp_path: Path) -> None:
    root = made(tmp_path / "in", lambda arrays: {name: eeg * np.float32(1e-6) for name, eeg in arrays.items()})
    with pytest.raises(StudyError, match=r"has a level of .* microvolts .*, expected 0\.2 to 2000: its numbers look like volts"):
        write_study(things(root, tmp_path / "s"))
    manifest = write_study(things(root, tmp_path / "s", allow=("level",)))
    assert [each["kind"] for each in manifest.measured["findings"] if each["level"] == "problem"] == ["level"]
    assert audit_kinds(zero_shot(tmp_path / "s"))["level"] == "caution"


def test_one_subject_in_volts_m02_volts_is_refused_and_a_field_converts() -> None:
    with pytest.raises(
        StudyError, match=r"subject1.*csv: its EEG read as microvolts has a level of .*e-05 µV .*: they look like volts \(unit, "
    ):
        muse(case("m02_volts"))
    source = muse(case("m02_volts"), unit_by_subject={"01": "volts"})
    levels = [count["level_microvolts"] for count in source.facts.preprocessing["trials_by_recording"]]
    assert max(levels) < 2 * min(levels)


# ------------------------------------------------------------------------------------------------------------ padding


def left_out(manifest: Manifest) -> dict[str, int]:
    """Repetitions that are padding, whether the reader saw it or the writer."""
    counts = [manifest.measured.get("lost", {}), *manifest.preprocessing.get("padding_left_out", {}).values()]
    found = {"nan": 0, "zeros": 0, "constant": 0, "repeated": 0}
    for reasons in counts:
        for reason, count in reasons.items():
            found[{"not_a_number": "nan"}.get(reason, reason)] = found.get({"not_a_number": "nan"}.get(reason, reason), 0) + count
    return {reason: count for reason, count in found.items() if count and reason != "images_without_a_trial"}


@pytest.mark.parametrize(("name", "reason"), [("t03_zero_padded_repetitions", "zeros"), ("t03b_nan_padded_repetitions", "nan")])
def test_padded_repetitions_are_no_trials(tmp_path: Path, name: str, reason: str) -> None:
    manifest = write_study(things(case(name), tmp_path / "s"))
    assert left_out(manifest) == {reason: 10}
    study = open_study(tmp_path / "s")
    assert len(study.table) == 22
    for sample in range(len(study.samples)):
        eeg_RCT = study.eeg(sample)
        assert np.isfinite(eeg_RCT).all()
        assert (np.ptp(eeg_RCT, axis=-1) > 0).all()
        assert len(study.description(sample)["trial"]) == len(eeg_RCT)


@few
@given(st.sampled_from(["zeros", "nan", "constant", "repeated"]), st.lists(st.integers(1, 3), min_size=NUM_TRAINING, max_size=NUM_TRAINING))
def test_padding_of_any_kind_is_dropped_and_counted(tmp_path_factory: pytest.TempPathFactory, kind: str, shown: list[int]) -> None:
    def padded(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        eeg_NRCT = arrays["sub-01/preprocessed_eeg_training.npy"]
        for stimulus, count in enumerate(shown):
            fill = {"zeros": 0.0, "nan": np.nan, "constant": -999.0, "repeated": eeg_NRCT[stimulus, count - 1]}[kind]
            eeg_NRCT[stimulus, count:] = fill
        return arrays

    folder = tmp_path_factory.mktemp("padded")
    manifest = write_study(things(made(folder / "in", padded), folder / "out"))
    missing = sum(3 - count for count in shown)
    found = left_out(manifest)
    assert sum(found.values()) == missing
    assert {*found} <= {kind, "repeated"} if kind == "constant" else {*found} <= {kind}
    study = open_study(folder / "out")
    assert study.samples["n_reps"][:NUM_TRAINING].tolist() == shown
    assert manifest.quality.trials == 2 * (3 * NUM_TRAINING + 4 * NUM_TEST) - missing


@dataclass(frozen=True, kw_only=True)
class PaddedReader(TinyReader):
    """A reader that leaves padding to the writer: of sample 3 the last repetition, of sample 5 all, in one way each."""

    fill: str = "zeros"
    """What it is padded with."""

    def open(self) -> TinySource:
        source, fill = TinySource(self), self.fill
        sound = source.eeg

        def eeg(i: int) -> np.ndarray:
            eeg_RCT = sound(i)
            value = {"zeros": 0.0, "nan": np.nan, "constant": 4.2, "repeated": eeg_RCT[0]}[fill]
            if i in (3, 5):
                eeg_RCT[-1:] = value
            if i == 5 and fill != "repeated":
                eeg_RCT[:] = value
            return eeg_RCT

        source.eeg = eeg  # type: ignore[method-assign]
        return source


@pytest.mark.parametrize("fill", ["zeros", "nan", "constant", "repeated"])
def test_what_a_reader_leaves_in_the_writer_drops_and_check_says(tmp_path: Path, capsys: pytest.CaptureFixture[str], fill: str) -> None:
    config = ShardConfig(reader=PaddedReader(fill=fill), output=str(tmp_path / "s"), samples_per_shard=2)
    manifest = write_study(config)
    assert manifest.measured["lost"] == {fill: 2 if fill == "repeated" else 5}
    assert verify(tmp_path / "s") == []
    assert open_study(tmp_path / "s").eeg(3).shape[0] == 3
    assert check_command(config) == 0
    assert f"can be sharded; left out: {2 if fill == 'repeated' else 5} {fill}" in capsys.readouterr().out


def test_a_stimulus_of_which_all_is_padding_was_not_seen(tmp_path: Path) -> None:
    def padded(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays["sub-02/preprocessed_eeg_training.npy"][2] = 0
        return arrays

    config = things(made(tmp_path / "in", padded), tmp_path / "s")
    manifest = write_study(ShardConfig(**{**vars(config), "samples_per_shard": 1}))
    assert sum(shard.rows for shard in manifest.shards) == 2 * (NUM_TRAINING + NUM_TEST) - 1
    before = (tmp_path / "s" / "manifest.json").read_bytes()
    again = write_study(ShardConfig(**{**vars(config), "samples_per_shard": 1}))
    assert (tmp_path / "s" / "manifest.json").read_bytes() == before
    assert again.fingerprint == manifest.fingerprint
    assert verify(tmp_path / "s") == []


def test_a_subject_of_whom_nothing_stays_is_refused(tmp_path: Path) -> None:
    root = made(tmp_path / "in", lambda arrays: {name: eeg * np.float32("sub-01" in name) for name, eeg in arrays.items()})
    with pytest.raises(StudyError, match=r"subject 02 |sub-02|no trial"):
        write_study(things(root, tmp_path / "s"))
    assert not (tmp_path / "s" / "manifest.json").exists()


# ----------------------------------------------------------------------------------------------------- dead electrodes


def test_an_electrode_that_is_off_for_half_of_m14_channel_zero_from_half() -> None:
    source = muse(case("m14_channel_zero_from_half"))
    total = source.facts.preprocessing["trials"]
    assert (total["marked"], total["flat"], total["stuck"], total["kept"], len(source.samples)) == (11, 5, 1, 5, 5)


def test_a_dead_channel_loses_its_trials_and_a_channel_that_is_none_is_refused(tmp_path: Path) -> None:
    def some(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays["sub-01/preprocessed_eeg_training.npy"][1:3, 0, 2] = 7.5
        return arrays

    manifest = write_study(things(made(tmp_path / "in", some), tmp_path / "s"))
    assert manifest.measured["lost"] == {"flat": 2}

    def most(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name in arrays:
            arrays[name][:, :, 2] *= "sub-01" in name
        return arrays

    with pytest.raises(StudyError, match=r"channel O1 of subject 02 does not move in 100% of the trials"):
        write_study(things(made(tmp_path / "in2", most), tmp_path / "s2"))


@pytest.mark.parametrize("still", [slice(22, None), slice(0, 6)])
def test_trials_that_were_filled_up_to_a_length_are_said(tmp_path: Path, still: slice) -> None:
    def filled(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for eeg in arrays.values():
            eeg[..., still] = 0
        return arrays

    found = kinds(things(made(tmp_path / "in", filled), tmp_path / "s"))
    assert found["padded_in_time"] == "caution"


def test_a_channel_under_two_names_is_said(tmp_path: Path) -> None:
    def bridged(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name, eeg in arrays.items():
            if "sub-02" in name:
                eeg[:, :, 3] = eeg[:, :, 1] + 0.01 * eeg[:, :, 0]
        return arrays

    found = check(things(made(tmp_path / "in", bridged), tmp_path / "s")).findings
    assert [each.message for each in found if each.kind == "bridged"] == [
        "channels P3 and Oz of subject 02 are one signal but for noise: bridged by gel, or one electrode under two names"
    ]


@pytest.mark.parametrize("bridged", [True, False])
@pytest.mark.parametrize("form", ["fif", "edf"])
def test_bridged_electrodes_are_told_by_the_raw_signal_not_by_what_a_filter_leaves(tmp_path: Path, form: str, bridged: bool) -> None:
    """Below 10 Hz channels 1 and 3 of the second recording are always one; before the filter only where gel joins them."""
    names = ("Fz", "Cz", "Pz", "Oz", "O1")
    for subject in ("1", "2"):
        eeg_CT = recordings.signal(int(subject), n_chans=5)
        eeg_CT += np.random.default_rng(int(subject)).normal(0, 2, (5, eeg_CT.shape[1])).cumsum(1) * 0.2
        eeg_CT += 200 * np.sin(2 * np.pi * 60 * np.arange(eeg_CT.shape[1]) / recordings.SFREQ)  # hum at the reference makes no bridge
        if subject == "2":
            fast_T = np.random.default_rng(9).normal(0, 8, eeg_CT.shape[1] // 2).repeat(2) * np.tile([1, -1], eeg_CT.shape[1] // 2)
            eeg_CT[3] = eeg_CT[1] + (0.02 if bridged else 1.0) * fast_T
        write = recordings.write_fif if form == "fif" else recordings.write_edf
        write(tmp_path / f"sub-{subject}.{form}", eeg_CT, names)
    trials = CuttingConfig(band_hz=(0.5, 10.0), reference=("average",), tmin=-0.1, tmax=0.4)
    reader = MneReaderConfig(root=str(tmp_path), files=f"sub-{{subject}}.{form}", events=EventsConfig(source="annotations"), trials=trials)
    found = check(ShardConfig(reader=reader, output=str(tmp_path / "s"))).findings
    said = [each.message.split(", in ")[0] for each in found if each.kind == "bridged"]
    assert said == ["channels Cz and Oz of sub-02_ses-01_run-01 are one raw signal but for noise"] * bridged


# ------------------------------------------------------------------------------------------------------- equal content


def test_a_copied_subject_t05_subject_is_a_copy_is_told_by_the_audit_or_dropped(tmp_path: Path) -> None:
    manifest = write_study(things(case("t05_subject_is_a_copy"), tmp_path / "s"))
    worst = manifest.measured["findings"][0]
    assert (worst["kind"], worst["level"], worst["pairs"]) == ("equal_subjects", "problem", 40)
    assert "repetition 1 of sub-02_stim-000000 holds the signal of repetition 1 of sub-01_stim-000000" in worst["message"]
    split = SplitConfig(study=str(tmp_path / "s"), policy="subject", num_validation_subjects=0, unseen_stimuli=False)
    report = write_split(split)[1]
    assert audit_kinds(report)["equal_trials"] == "problem"
    assert report.verdict == "unsound"
    assert audit_kinds(zero_shot(tmp_path / "s"))["equal_subjects"] == "caution", "as two people, they are one"
    with pytest.raises(StudyError, match=r"subject 02, 03 has no trial left: in the study 40 equal_trials"):
        write_study(things(case("t05_subject_is_a_copy"), tmp_path / "d", drop=("equal_trials",)))


def test_a_recording_and_its_copy_m09b_same_recording_twice(tmp_path: Path) -> None:
    root = case("m09b_same_recording_twice")

    def config(name: str, **measure: Any) -> ShardConfig:
        reader = MuseReaderConfig(root=str(root), reject_microvolts=None)
        return ShardConfig(reader=reader, output=str(tmp_path / name), measure=MeasureConfig(**measure))

    with pytest.raises(StudyError, match=r"holds the signal of sub-01_ses-01_run-\d+_trial-00000"):
        write_study(config("refused"))
    kept = write_study(config("kept", allow=("equal_trials",)))
    dropped = write_study(config("dropped", drop=("equal_trials",)))
    twins = dropped.measured["lost"]["equal_trials"]
    assert twins > 0
    assert dropped.quality.trials == kept.quality.trials - twins
    split = SplitConfig(
        study=str(tmp_path / "kept"), policy="recording", test_recordings=["sub-01_ses-01_run-04"], num_validation_recordings=0
    )
    assert audit_kinds(write_split(split)[1])["equal_trials"] == "problem"
    sound = SplitConfig(study=str(tmp_path / "dropped"), policy="recording", num_validation_recordings=0)
    assert "equal_trials" not in audit_kinds(write_split(sound)[1])


@pytest.mark.long
@few
@given(st.permutations(range(5)), st.sampled_from([1.0, 0.1, 3.0]), st.sampled_from(["fif", "edf"]))
def test_a_recording_and_its_copy_whose_channels_have_each_others_names(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], factor: float, form: str
) -> None:
    root = tmp_path_factory.mktemp("s")
    eeg_CT, names = recordings.signal(n_chans=5), ("Fz", "Cz", "Pz", "Oz", "O1")
    write = recordings.write_fif if form == "fif" else recordings.write_edf
    for subject, signal_CT in (("1", eeg_CT), ("2", factor * eeg_CT[order])):
        write(root / f"sub-{subject}.{form}", signal_CT, names)
    trials = CuttingConfig(band_hz=(0.5, 40.0), tmin=-0.1, tmax=0.4)
    events = EventsConfig(source="annotations")
    reader = MneReaderConfig(root=str(root), files=f"sub-{{subject}}.{form}", events=events, trials=trials)
    if order == sorted(order) and factor == 1.0:
        with pytest.raises(StudyError, match="holds the signal of"):
            reader.open()
        return
    found = {each.kind: each for each in check(ShardConfig(reader=reader, output=str(root / "s"))).findings}
    assert found["equal_subjects"].level == "problem"
    assert "order of channels" in found["equal_subjects"].message


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact": lambda eeg: eeg,
    "twice as large": lambda eeg: 2 * eeg,
    "an offset": lambda eeg: eeg + np.float32(3),
    "float16": lambda eeg: eeg.astype(np.float16).astype(np.float32),
    "channels in another order": lambda eeg: 0.5 * eeg[..., [2, 0, 3, 1], :],
}


@pytest.mark.long
@few
@given(st.sampled_from(sorted(COPIES)), st.integers(0, NUM_TEST - 1), st.integers(0, NUM_TRAINING - 1), st.sampled_from(["01", "02"]))
def test_a_single_test_trial_that_is_a_training_trial_is_found(
    tmp_path_factory: pytest.TempPathFactory, how: str, test: int, training: int, subject: str
) -> None:
    def copied(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        theirs = arrays["sub-01/preprocessed_eeg_training.npy"][training, 1]
        arrays[f"sub-{subject}/preprocessed_eeg_test.npy"][test, 2] = COPIES[how](theirs)
        return arrays

    folder = tmp_path_factory.mktemp("copied")
    root = made(folder / "in", copied)
    if subject == "01":
        with pytest.raises(StudyError, match="holds the signal of"):
            write_study(things(root, folder / "refused"))
    write_study(things(root, folder / "out", allow=("equal_trials",)))
    report = zero_shot(folder / "out")
    assert audit_kinds(report)["equal_trials"] == "problem"
    dropped = write_study(things(root, folder / "dropped", drop=("equal_trials",)))
    assert dropped.measured["lost"] == {"equal_trials": 1}
    assert "equal_trials" not in audit_kinds(zero_shot(folder / "dropped"))


def test_test_pictures_that_are_training_pictures_t11_test_pictures_are_training_pictures(tmp_path: Path) -> None:
    manifest = write_study(things(case("t11_test_pictures_are_training_pictures"), tmp_path / "s"))
    assert len(manifest.measured["images"]["equal"]) == 2
    report = zero_shot(tmp_path / "s")
    assert audit_kinds(report)["equal_images"] == "problem"
    assert "they are no new images" in next(each.message for each in report.findings if each.kind == "equal_images")


def test_a_concept_in_two_spellings_t08k_same_concept_other_case_is_warned_of(tmp_path: Path) -> None:
    manifest = write_study(things(case("t08k_same_concept_other_case"), tmp_path / "s"))
    assert "'Zebra', 'zebra'" in manifest.measured["findings"][0]["message"]
    report = zero_shot(tmp_path / "s")
    assert audit_kinds(report)["concepts_alike"] == "caution"
    assert report.verdict == "caution"


# --------------------------------------------------------------------------------------- the Muse reader's own columns


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("m01_ms_timestamps", {"time_unit": "milliseconds"}),
        ("m03_marker_held_500ms", {"marker_rows_held": 1397}),
        ("m04b_marker_rows_doubled", {"rows_written_twice": 11}),
        ("m07c_blank_where_no_marker", None),
        ("m10d_column_named_timestamp", None),
    ],
)
def test_what_the_muse_reader_makes_of_it_are_the_eleven_trials_of_m00_base(name: str, said: dict[str, Any] | None) -> None:
    base = muse(case("m00_base"))
    source = muse(case(name), **({"time_column": "timestamp"} if name.startswith("m10d") else {}))
    assert [sample.onset_seconds for sample in source.samples] == [sample.onset_seconds for sample in base.samples]
    assert len(source.samples) == 11
    for i in range(11):
        np.testing.assert_allclose(source.eeg(i), base.eeg(i), atol=1e-3)
    assert source.facts.preprocessing["trials_by_recording"][0].get("file") == said


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("m07_header_without_marker", {}, r"csv: 0 marker columns, expected exactly one .* \(marker_column names another\)"),
        ("m07d_empty_cells", {}, r"csv: not a table of numbers .*: column 'TP9' has an empty cell in data row 1"),
        ("m10d_column_named_timestamp", {}, r"csv: no column 'timestamps', its columns are .* \(time_column names another\)"),
        (
            "m10c_mindmonitor",
            {"channels": ("RAW_TP9", "RAW_AF7", "RAW_AF8", "RAW_TP10"), "time_column": "TimeStamp", "marker_column": "Elements"},
            r"csv: no stimulus onset: column 'Elements' is 0 in all 600 rows",
        ),
    ],
)
def test_what_the_muse_reader_cannot_use_is_one_sentence(name: str, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StudyError, match=sentence) as caught:
        muse(case(name), **fields)
    assert "\n" not in str(caught.value)


def test_an_upper_case_ending_is_a_recording_m09_upper_case_ext() -> None:
    assert len(muse(case("m09_upper_case_ext")).facts.recordings) == 2


@few
@given(st.sampled_from([1.0, 1e3, 1e6]), st.integers(1, 120), st.sampled_from(["", "0", " ", "0.0"]), st.integers(1, 3))
def test_any_clock_and_any_marker_that_is_held_give_the_onsets(
    tmp_path_factory: pytest.TempPathFactory, per_second: float, held: int, blank: str, doubled: int
) -> None:
    random = np.random.default_rng(held)
    rows = []
    onsets = list(range(300, 1500, 200))
    for point in range(1600):
        code = next((1 + i % 2 for i, onset in enumerate(onsets) if onset <= point < onset + held), None)
        cells = [f"{(1.6e9 + point / 256) * per_second:.4f}", *(f"{value:.2f}" for value in random.normal(0, 10, 4)), str(code or blank)]
        rows += [",".join(cells)] * (doubled if point % 700 == 0 else 1)
    file = tmp_path_factory.mktemp("clock") / "subject1" / "session1" / "a.CSV"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(["timestamps,TP9,AF7,AF8,TP10,Marker", *rows]) + "\n")
    source = muse(file.parents[2])
    assert [sample.onset_seconds[0] for sample in source.samples] == [round(onset / 256, 4) for onset in onsets]
    assert [sample.stimulus for sample in source.samples] == [0, 1] * 3


# --------------------------------------------------------------------------------------------- embeddings to be scored


def test_a_truncated_archive_v02_truncated_npz_is_one_sentence() -> None:
    with pytest.raises((CommandError, StudyError), match=r"e\.npz: not an archive of plain arrays \(\.npz\): truncated") as caught:
        read_embeddings(case("v02_truncated_npz") / "e.npz")
    assert "\n" not in str(caught.value)


def test_rows_without_ids_are_grouped_but_for_rounding_v06_no_ids_last_bits_differ() -> None:
    pairs = read_embeddings(case("v06_no_ids_last_bits_differ") / "e.npz")
    assert len(np.unique(pairs.ids_Q)) == 20
    assert pairs.rounded > 0


@few
@given(st.integers(2, 30), st.integers(1, 5), st.integers(4, 300), st.floats(1e-8, 2e-4))
def test_rows_of_one_image_chain_to_one_whatever_rounding_left(images: int, rows: int, dim: int, rounding: float) -> None:
    random = np.random.default_rng(dim)
    image_QP = np.repeat(random.normal(size=(images, dim)), rows, axis=0)
    image_QP *= 1 + rounding * random.uniform(-1, 1, image_QP.shape)
    found = same_rows(image_QP.astype(np.float32))
    assert len(np.unique(found)) == images
    assert (found.reshape(images, rows) == found.reshape(images, rows)[:, :1]).all()


def test_both_arrays_of_images_v10_both_image_and_img_are_refused() -> None:
    with pytest.raises(CommandError, match=r"e\.npz: has both image and img: expected one of the two"):
        read_embeddings(case("v10_both_image_and_img") / "e.npz")


# --------------------------------------------------------------------------------------------------- the command check


def test_check_says_what_shard_would_refuse_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["check", "--reader", "ThingsReaderConfig", "--reader.require_images", "false", "--output", str(tmp_path / "s")]
    assert main("python -m data_prep", "", COMMANDS, [*argv, "--reader.root", str(case("t02d_one_subject_in_volts"))]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "refused" in said
    assert "levels_apart" in said
    assert "would be refused" in said
    assert main("python -m data_prep", "", COMMANDS, [*argv, "--reader.root", str(case("t03_zero_padded_repetitions"))]) == 0
    assert "can be sharded" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_check_finds_what_the_manifest_says(tmp_path: Path) -> None:
    def odd(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays["sub-01/preprocessed_eeg_training.npy"][4, 1:] = 0
        arrays["sub-02/preprocessed_eeg_test.npy"][0, 3, 1] = 2
        return {name: eeg * np.float32(12 if "02" in name else 1) for name, eeg in arrays.items()}

    config = things(made(tmp_path / "in", odd), tmp_path / "s")
    manifest: Manifest = write_study(config)
    assert check(config).plain() == manifest.measured
    assert {each["kind"] for each in manifest.measured["findings"]} - {"padding"} == {"flat_trials", "levels_differ"}


# ----------------------------------------------------------------------------------------------------------- all cases


def test_every_case_is_named_by_a_test() -> None:
    tests = Path(__file__).parents[1]
    text = "\n".join(file.read_text() for folder in ("unit", "integration", "fuzz") for file in (tests / folder).glob("*.py"))
    folders = sorted(folder.name for folder in (shared_data() / "cases").iterdir() if folder.is_dir())
    by_kind = [name for name in folders if name.startswith("fuzz_")]  # test_fuzz.py takes all of a kind
    assert all(f'"{"_".join(name.split("_")[:2])}_' in text for name in by_kind)
    assert [name for name in folders if name not in by_kind and name not in text] == []
