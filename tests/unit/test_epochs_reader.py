"""The reader ``epochs``: trials that others have cut, from any of their formats; what cannot be right is one sentence."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract import cli
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import read_manifest
from data_prep.shards.write import ShardConfig, run
from data_prep.studies.channels import ChannelsConfig
from data_prep.studies.continuous import Events
from data_prep.studies.cut_eeglab import describe, open_described
from data_prep.studies.cut_files import CutFile
from data_prep.studies.cut_study import CutSource
from data_prep.studies.epochs import EpochsReaderConfig
from data_prep.studies.event_names import EventsNaming, name_events
from data_prep.studies.trials import TrialsConfig
from tests.helpers import cut_trials as made
from tests.helpers import recordings
from tests.helpers.cut_trials import CH_NAMES, CODES, EVENT_ID, N_TIMES
from tests.helpers.readme import PAGES, ROOT, files
from tests.helpers.shared_data import shared_data

EEG = list(CH_NAMES[:3])
NAMES = {code: name for name, code in EVENT_ID.items()}
FACE_HOUSE = {"face/.*": "face", "house": "house"}
SIDES = ["left", "right"] * 8


EVENTS = ("names", "column", "where", "concept_column", "test_where", "lookup")


def study(root: Path, files: str = "sub-{subject}-epo.fif", **changes: Any) -> CutSource:
    events = EventsNaming(**{name: changes.pop(name) for name in EVENTS if name in changes})
    return EpochsReaderConfig(root=str(root), files=files, events=events, **changes).open()


def refused(match: str) -> Any:
    return pytest.raises(StudyError, match=match)


def counts(source: CutSource, i: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = source.facts.preprocessing["trials_by_recording"][i]
    return found


# ------------------------------------------------------------------------------------------------------------- FIF


def test_trials_of_a_fif_file_are_microvolts_named_by_their_events(tmp_path: Path) -> None:
    eeg_BCT = made.trials()
    made.write_fif(tmp_path / "sub-01-epo.fif", eeg_BCT)
    source = study(tmp_path, names=FACE_HOUSE)
    facts = source.facts
    assert (facts.unit, facts.sfreq, facts.tmin, facts.n_times, facts.ch_names) == ("microvolts", 100.0, -0.2, N_TIMES, EEG)
    assert facts.concepts == ["face", "house"]
    assert [facts.concepts[sample.stimulus] for sample in source.samples] == ["house" if code == 3 else "face" for code in CODES]
    assert [sample.onset_seconds for sample in source.samples] == [[0.5 + 2 * i] for i in range(len(CODES))]
    for i in range(len(CODES)):
        np.testing.assert_allclose(source.eeg(i)[0], eeg_BCT[i, :3], atol=1e-4)
    assert counts(source)["left_out_channels"] == {"EOG": "eog"}
    assert counts(source)["names_without_trials"] == ["rest"]
    assert study(tmp_path, names=FACE_HOUSE).source_hash == source.source_hash


def test_a_name_of_several_levels_is_a_class_or_matched_by_a_pattern(tmp_path: Path) -> None:
    made.write_fif(tmp_path / "sub-01-epo.fif", made.trials())
    assert study(tmp_path).facts.concepts == ["face/famous", "face/other", "house"]
    with pytest.raises(ValueError, match="is matched by 'face/\\.\\*' and '\\.\\*/other'"):
        study(tmp_path, names={"face/.*": "face", ".*/other": "other"})


def test_a_recording_in_several_files_is_one_whatever_its_parts_are_called(tmp_path: Path) -> None:
    eeg_BCT = made.trials(num_trials=30, n_times=6000)
    whole = made.mne_epochs(eeg_BCT, codes=[1, 3] * 15)
    whole.save(tmp_path / "preprocessed_P1-epo.fif", fmt="single", split_size="2MB", verbose="error")
    parts = sorted(path.name for path in tmp_path.iterdir())
    assert len(parts) > 1
    source = study(tmp_path, "preprocessed_P{subject}-epo.fif")
    assert len(source.samples) == 30
    np.testing.assert_allclose(source.eeg(29)[0], eeg_BCT[29, :3], atol=1e-3)
    with refused(
        r"preprocessed_P1-epo-1\.fif: is part 1 of preprocessed_P1-epo\.fif: let 'files' match the first part of each recording alone"
    ):
        study(tmp_path, "preprocessed_P{subject}-epo*.fif")
    before = source.source_hash
    (tmp_path / parts[0]).touch()
    last = tmp_path / "preprocessed_P1-epo-1.fif"
    content = bytearray(last.read_bytes())
    content[-4000] ^= 1
    last.write_bytes(bytes(content))
    assert study(tmp_path, "preprocessed_P{subject}-epo.fif").source_hash != before, "a later part belongs to the source"
    last.unlink()
    with refused(r"goes on in preprocessed_P1-epo-1\.fif, which is not beside it"):
        study(tmp_path, "preprocessed_P{subject}-epo.fif")
    (tmp_path / "preprocessed_P1-epo.fif").rename(tmp_path / "preprocessed_P1-epo-2.fif")
    with refused(r"by its name a later part of preprocessed_P1-epo\.fif, which is not beside it"):
        study(tmp_path, "preprocessed_P{subject}-epo-2.fif")


def test_metadata_name_images_labels_and_what_is_left_out(tmp_path: Path) -> None:
    eeg_BCT = made.trials()
    images = [f"{'dog' if i % 2 else 'cat'}/{i % 4}.jpg" for i in range(16)]
    metadata = {
        "image": images,
        "trial_type": ["exp"] * 12 + ["catch"] * 4,
        "session_nr": [1.0] * 8 + [2.0] * 8,
        "subject": ["sub-7"] * 16,
        "rt": [float("nan")] * 16,
    }
    made.write_fif(tmp_path / "all-epo.fif", eeg_BCT, metadata=metadata)
    source = study(tmp_path, "*-epo.fif", stimulus_level="image", column="image", where={"trial_type": "exp"}, session_column="session_nr")
    facts = source.facts
    assert (facts.subjects, facts.sessions) == (["07"], ["01", "02"])
    assert facts.recordings == ["sub-07_ses-01_run-01", "sub-07_ses-02_run-01"]
    assert [stimulus.id for stimulus in facts.stimuli] == ["cat/0.jpg", "cat/2.jpg", "dog/1.jpg", "dog/3.jpg"]
    assert [sample.trial for sample in source.samples] == [[0, 4, 8], [2, 6, 10], [1, 5, 9], [3, 7, 11]]
    assert [sample.session for sample in source.samples] == [[0, 0, 1]] * 4
    np.testing.assert_allclose(source.eeg(2)[1], eeg_BCT[5, :3], atol=1e-4)
    assert counts(source)["events"] == {"found": 16, "named": 12, "outside_where": 4, "trials": 16}


def test_dropped_trials_keep_their_numbers_and_are_counted_by_reason(tmp_path: Path) -> None:
    eeg_BCT = made.trials()
    eeg_BCT[5, 0, 10] = 900.0
    made.write_fif(tmp_path / "sub-01-epo.fif", eeg_BCT, reject={"eeg": 500e-6})
    source = study(tmp_path)
    assert [sample.trial[0] for sample in source.samples] == [i for i in range(16) if i != 5]
    assert counts(source)["dropped_before"] == {"Fz": 1}
    table = "trial,image\n" + "".join(f"{i},{i}\n" for i in range(16))
    (tmp_path / "trials.csv").write_text(table)
    named = study(tmp_path, table="trials.csv", column="image")
    assert named.facts.concepts == sorted(str(i) for i in range(16) if i != 5), "rows before drops are found by the trials' numbers"
    (tmp_path / "trials.csv").write_text(table + "16,16\n")
    with refused(r"trials\.csv: has 17 rows, .*sub-01-epo\.fif 15 trials of 16 before some were dropped: expected as many"):
        study(tmp_path, table="trials.csv", column="image")


def test_a_table_that_contradicts_the_files_own_columns_is_refused(tmp_path: Path) -> None:
    made.write_fif(tmp_path / "sub-01-epo.fif", made.trials(), metadata={"image_nr": [float(i) for i in range(16)]})
    (tmp_path / "sub-01.csv").write_text("image_nr,picture\n" + "".join(f"{i}.0,p{i}\n" for i in range(16)))
    source = study(tmp_path, table="sub-{subject}.csv", column="picture")
    assert counts(source)["table_agrees_in"] == ["image_nr"]
    shuffled = [*range(1, 16), 0]
    (tmp_path / "sub-01.csv").write_text("image_nr,picture\n" + "".join(f"{i}.0,p{i}\n" for i in shuffled))
    with refused(r"sub-01\.csv: column 'image_nr' has '1\.0' for trial 0, .* says '0': expected the same"):
        study(tmp_path, table="sub-{subject}.csv", column="picture")


def test_crop_resampling_baseline_picks_and_renames(tmp_path: Path) -> None:
    eeg_BCT = made.trials()
    made.write_fif(tmp_path / "sub-01-epo.fif", eeg_BCT, ch_names=["EEG Fz-Ref", "EEG Cz-Ref", "EEG Oz-Ref", "VEOG"], ch_types="eeg")
    channels = ChannelsConfig(rename={"EEG (.*)-Ref": "\\1"}, pick=("Oz", "Fz"), montage="standard_1005")
    trials = TrialsConfig(tmin=0.0, tmax=0.5, baseline_seconds=(-0.2, 0.0))
    source = study(tmp_path, channels=channels, trials=trials)
    facts = source.facts
    assert (facts.ch_names, facts.tmin, facts.n_times) == (["Oz", "Fz"], 0.0, 50)
    assert facts.positions is not None
    expected = eeg_BCT[3, [2, 0]] - eeg_BCT[3, [2, 0], :20].mean(-1, keepdims=True)
    np.testing.assert_allclose(source.eeg(3)[0], expected[:, 20:70], atol=1e-3)
    halved = study(tmp_path, channels=channels, trials=TrialsConfig(resample_hz=50.0)).facts
    assert (halved.sfreq, halved.n_times) == (50.0, 50)


def test_filters_and_a_baseline_of_the_source_stand_in_the_manifest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for subject, edge in (("01", 40.0), ("02", 30.0)):
        mne_epochs = made.mne_epochs(made.trials(int(subject)), baseline=(None, 0))
        with mne_epochs.info._unlock():
            mne_epochs.info["highpass"], mne_epochs.info["lowpass"] = 0.1, edge
        mne_epochs.save(tmp_path / f"sub-{subject}-epo.fif", verbose="error")
    source = study(tmp_path)
    assert [counts(source)[name] for name in ("highpass_hz", "lowpass_hz", "baseline_seconds")] == [0.1, 40.0, [-0.2, 0.0]]
    assert source.facts.preprocessing["filters_differ"] is True
    assert "differ in filters or baseline" in caplog.text


def test_trials_built_from_an_array_have_no_onsets(tmp_path: Path) -> None:
    made.write_fif(tmp_path / "sub-01-epo.fif", made.trials(), timed=False)
    assert {sample.onset_seconds[0] for sample in study(tmp_path).samples} == {None}


@pytest.mark.parametrize(
    ("scale", "said"), [(1.0, "they look like microvolts"), (1e-3, "they look like millivolts"), (1e-9, "expected 0.2 to 2000")]
)
def test_a_level_that_eeg_cannot_have_is_refused(tmp_path: Path, scale: float, said: str) -> None:
    eeg_BCT = made.trials()
    made.write_fif(tmp_path / "sub-01-epo.fif", eeg_BCT, scale=scale)
    with refused(f"sub-01-epo.fif: its EEG read as volts has a level of .*{said}"):
        study(tmp_path)
    if scale == 1.0:
        source = study(tmp_path, channels=ChannelsConfig(unit="microvolts"))
        np.testing.assert_allclose(source.eeg(0)[0], eeg_BCT[0, :3], atol=1e-3)


def test_standardised_signals_in_fif_are_z_scores_when_it_is_said(tmp_path: Path) -> None:
    made.write_fif(tmp_path / "sub-01-epo.fif", made.trials() / 10, scale=1.0)
    with refused(r"or they are z-scores \(zscore: source\)"):
        study(tmp_path)
    assert study(tmp_path, zscore="source").facts.unit == "zscore"
    made.write_fif(tmp_path / "volts" / "sub-01-epo.fif", made.trials())
    with refused(r"they are no z-scores"):
        study(tmp_path / "volts", zscore="source")


@pytest.mark.parametrize("broken", ["channel", "window", "rate"])
def test_files_must_have_one_shape(tmp_path: Path, broken: str) -> None:
    made.write_fif(tmp_path / "sub-01-epo.fif", made.trials())
    options: dict[str, Any] = {"rate": {"sfreq": 128.0}}.get(broken, {})
    names = ("Fz", "Cz", "Pz", "EOG") if broken == "channel" else CH_NAMES
    made.write_fif(tmp_path / "sub-02-epo.fif", made.trials(1, n_times=90 if broken == "window" else 100), ch_names=names, **options)
    said = {"channel": "lacks Oz", "window": "its trials have n_times 90", "rate": "its trials have sfreq 128"}[broken]
    with refused(f"sub-02-epo.fif: {said}"):
        study(tmp_path)


def test_other_fif_files_are_refused_by_what_they_hold(tmp_path: Path) -> None:
    mne_epochs = made.mne_epochs(made.trials())
    mne_epochs.average().save(tmp_path / "sub-01-ave.fif", verbose="error")
    with refused(r"sub-01-ave\.fif: holds averages, expected trials: an average has lost them"):
        study(tmp_path, "sub-{subject}-ave.fif")
    recordings.write_fif(tmp_path / "sub-01_raw.fif", recordings.signal())
    with refused(r"sub-01_raw\.fif: holds a continuous recording, expected cut trials \(MNE Epochs\): the reader mne cuts it"):
        study(tmp_path, "sub-{subject}_raw.fif")
    for name, content, said in (
        ("a.pkl", b"\x80\x04.", "is a pickle"),
        ("a.edf", b"0       ", "is EDF, expected cut trials .*: the reader mne takes it"),
    ):
        (tmp_path / name).write_bytes(content)
        with refused(said):
            study(tmp_path, name.replace("a", "{subject}"))
    np.save(tmp_path / "b.npy", np.zeros((2, 3)))
    with refused("is NumPy array, expected cut trials of FIF or EEGLAB: the reader arrays takes it"):
        study(tmp_path, "{subject}.npy")


def test_a_file_cut_short_or_altered_is_one_sentence(tmp_path: Path) -> None:
    whole = made.write_fif(tmp_path / "whole" / "sub-01-epo.fif", made.trials()).read_bytes()
    file = tmp_path / "sub-01-epo.fif"
    random = np.random.default_rng(0)
    for _ in range(25):
        content = bytearray(whole)
        for place in random.integers(0, 6000, 4):
            content[place] = random.integers(256)
        file.write_bytes(bytes(content))
        with contextlib.suppress(StudyError):
            study(tmp_path)
    for size in (0, 3, 1000, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"sub-01-epo\.fif"):
            study(tmp_path)
    file.unlink()
    packed = tmp_path / "sub-01-epo.fif.gz"
    packed.write_bytes(gzip.compress(whole))
    assert len(study(tmp_path, "sub-{subject}-epo.fif.gz").samples) == len(CODES)


def test_two_names_of_one_code_are_refused(tmp_path: Path) -> None:
    file = made.write_fif(tmp_path / "sub-01-epo.fif", made.trials())
    file.write_bytes(file.read_bytes().replace(b"rest:9", b"rest:3"))
    with refused(r"sub-01-epo\.fif: .*(are named 'house' and 'rest', expected one name|duplicate values)"):
        study(tmp_path)


# --------------------------------------------------------------------------------------------------------- THINGS-MEG


def things_meg(root: Path, *, tesla: bool = False) -> np.ndarray:
    """Two participants as THINGS-MEG has them: magnetometers whose numbers are z-scores, attributes of every trial in a table."""
    random = np.random.default_rng(0)
    rows = [("exp", f"images_meg/{c}/{c}_0{i}.jpg") for c in ("abacus", "zebra") for i in range(1, 4)]
    rows += [("test", f"images_test_meg/{c}_13s.jpg") for c in ("coat_rack", "drum") for _ in range(3)] + [
        ("catch", "images_catch_meg/x.jpg")
    ]
    eeg_BCT = random.normal(0, 1, (len(rows), 3, 281)) * (1e-13 if tesla else 1.0)
    for participant in (1, 2):
        order = random.permutation(len(rows))
        metadata = {
            "trial_type": [rows[i][0] for i in order],
            "session_nr": [1 + j // 7 for j in range(len(rows))],
            "image_path": [rows[i][1] for i in order],
        }
        folder = root / "derivatives" / "preprocessed"
        signal_BCT = eeg_BCT if participant == 1 else random.permuted(eeg_BCT, axis=2)
        made.write_fif(
            folder / f"preprocessed_P{participant}-epo.fif", signal_BCT, codes=[1] * len(rows), event_id={"1": 1}, metadata=metadata,
            ch_names=["MLC11-1609", "MLO12-1609", "MRO13-1609"], ch_types="mag", sfreq=200.0, tmin=-0.1, scale=1.0,
        )  # fmt: skip
        (root / "sourcedata").mkdir(exist_ok=True)
        lines = ["".join(f"{metadata[name][j]}," for name in metadata) + f"{j}" for j in range(len(rows))]
        (root / "sourcedata" / f"sample_attributes_P{participant}.csv").write_text(
            "\n".join(["trial_type,session_nr,image_path,row", *lines]) + "\n"
        )
    return eeg_BCT


def test_the_config_of_things_meg_shards_its_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "configs/data_prep/shard_things_meg.yaml"
    monkeypatch.chdir(tmp_path)
    eeg_BCT = things_meg(tmp_path / "data" / "things-meg")
    config = cli.parse(ShardConfig, ["--config", str(ROOT / name), "--reader.init_args.stimuli", "null", "--embeddings", "{}"])
    run(config)
    manifest = read_manifest(tmp_path / config.output)
    assert (manifest.signal.unit, manifest.signal.n_times, manifest.signal.sfreq, manifest.signal.tmin) == ("zscore", 200, 200.0, 0.0)
    assert manifest.signal.ch_names == ["MLC11-1609", "MLO12-1609", "MRO13-1609"]
    assert manifest.tables.sessions == ["01", "02"]
    parts = {stimulus.id: stimulus.part for stimulus in manifest.tables.stimuli}
    assert parts["zebra/zebra_02.jpg"] == "training"
    assert parts["coat_rack/coat_rack_13s.jpg"] == "test"
    assert len(parts) == 8
    first = manifest.preprocessing["trials_by_recording"][0]
    assert first["table_agrees_in"] == ["trial_type", "session_nr", "image_path"]
    source = config.reader.open()
    np.testing.assert_allclose(source.eeg(0)[0], eeg_BCT[source.samples[0].trial[0], :, 20:220], atol=1e-5)


def test_magnetic_sensors_are_z_scored_by_a_rule_that_is_said_or_refused(tmp_path: Path) -> None:
    things_meg(tmp_path, tesla=True)
    pattern = "derivatives/preprocessed/preprocessed_P{subject}-epo.fif"
    with pytest.raises(ValueError, match="sensors is mag, whose unit is tesla, a study is in microvolts or z-scores"):
        EpochsReaderConfig(root=str(tmp_path), files=pattern, sensors="mag")
    with refused("they are no z-scores"):
        study(tmp_path, pattern, sensors="mag", zscore="source", column="image_path")
    with refused(r"has no EEG channel; it has MLC11-1609 \(mag\)"):
        study(tmp_path, pattern, column="image_path")
    source = study(tmp_path, pattern, sensors="mag", zscore="trial", column="image_path")
    eeg_CT = source.eeg(4)[0]
    np.testing.assert_allclose(eeg_CT.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(eeg_CT.std(-1), 1, atol=1e-5)
    assert source.facts.preprocessing["zscore"] == "trial"
    assert source.facts.positions is None


# ------------------------------------------------------------------------------------------------------------ EEGLAB


@pytest.mark.parametrize("form", ["inside", "elsewhere", "7.3"])
def test_eeglab_trials_are_named_by_the_event_that_they_were_cut_around(tmp_path: Path, form: str) -> None:
    eeg_BCT = made.trials()
    file = tmp_path / "sub-01.set"
    if form == "7.3":
        made.write_eeglab_73(file, eeg_BCT, SIDES)
    else:
        beside = {"inside": None, "elsewhere": "C:\\data\\sub-01.fdt"}[form]
        made.write_eeglab(file, eeg_BCT, SIDES, beside=beside)
    source = study(tmp_path, "sub-{subject}.set", column="side", where={"type": "square"})
    facts = source.facts
    assert facts.concepts == ["left", "right"]
    assert [facts.concepts[sample.stimulus] for sample in source.samples] == SIDES
    assert (facts.tmin, facts.n_times, facts.sfreq, facts.ch_names) == (-0.2, N_TIMES, 100.0, EEG)
    assert facts.positions is not None
    np.testing.assert_allclose(facts.positions[0], [-0.005, 0.08, 0.03], atol=1e-6)
    for i in (0, 7, 15):
        np.testing.assert_allclose(source.eeg(i)[0], eeg_BCT[i, :3], atol=1e-3)
    assert source.samples[3].onset_seconds == [round(100 * 7 / 100.0, 4)], "from the table of the events before they were cut"


def test_the_real_epochs_of_eeglab() -> None:
    root = shared_data() / "formats" / "EEGLAB"
    if not root.is_dir():
        pytest.skip(f"no real EEGLAB files at {root}")
    source = study(root, "visual_attention/eeglab_data_epoch{subject}_ica.set", column="position", where={"type": "square"})
    assert (len(source.samples), source.facts.n_chans, source.facts.n_times) == (80, 30, 384)
    shown = [sample.stimulus for sample in source.samples]
    assert [shown.count(0), shown.count(1)] == [40, 40]
    import mne

    theirs = mne.read_epochs_eeglab(root / "visual_attention" / "eeglab_data_epochs_ica.set", verbose="error")
    np.testing.assert_allclose(source.eeg(41)[0], 1e6 * theirs.get_data(picks="eeg")[41], atol=1e-3)
    places = [channel["loc"][:3] for channel in theirs.info["chs"] if channel["kind"] == 2]
    np.testing.assert_allclose(source.facts.positions, places, atol=2e-6)


def opened(file: Path, folder: Path) -> CutFile:
    """What the process of its own reads, in this one."""
    folder.mkdir(exist_ok=True)
    describe(file, folder)
    return open_described(file, folder, None)


def test_eeglab_files_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    eeg_BCT = made.trials()
    file = tmp_path / "sub-01.set"
    made.write_eeglab(file, eeg_BCT, SIDES, beside="sub-01.fdt")
    signal = tmp_path / "sub-01.fdt"
    whole = signal.read_bytes()
    signal.write_bytes(whole[:-4])
    with refused(r"sub-01\.fdt: has 25,596 bytes, sub-01\.set says 4 channels, 100 points and 16 trials: expected 25,600"):
        opened(file, tmp_path / "a")
    signal.unlink()
    with refused(r"its signal is in sub-01\.fdt, which is not beside it"):
        opened(file, tmp_path / "a")
    for change, said in (
        ({"srate": np.zeros(0)}, r"EEG\.srate is .*, expected a number"),
        ({"pnts": 50}, r"EEG\.data has shape"),
        ({"nbchan": 3}, r"EEG\.chanlocs has 4 channels, EEG\.nbchan says 3"),
        ({"xmin": 0.5}, "none of its .* events is at latency 0"),
    ):
        made.write_eeglab(file, eeg_BCT, SIDES, changes=change)
        with refused(said):
            opened(file, tmp_path / "a")
    recordings.write_eeglab(file, recordings.signal())
    with refused(r"sub-01\.set: holds a continuous recording, expected cut trials: the reader mne cuts it"):
        opened(file, tmp_path / "a")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with refused(r"sub-01\.set"):
        study(tmp_path, "sub-{subject}.set", column="side")


def test_two_events_at_one_onset_are_refused_unless_a_pattern_leaves_one(tmp_path: Path) -> None:
    eeg_BCT = made.trials()
    rows = made.eeglab_struct(eeg_BCT, SIDES)["event"]
    twins = [{**event, "side": "both", "type": "sound"} for event in rows if event["side"] in ("left", "right")]
    made.write_eeglab(tmp_path / "sub-01.set", eeg_BCT, SIDES, changes={"event": [*rows, *twins]})
    cut = opened(tmp_path / "sub-01.set", tmp_path / "a")
    events = Events(point_N=np.asarray(cut.trial_N), columns=cut.columns)
    with refused(r"'left' and 'both' are both shown in trial 0, expected one stimulus at a time: see events\.where and events\.names"):
        name_events(events, EventsNaming(column="side"), cut.file, at="in trial")
    assert name_events(events, EventsNaming(column="side", where={"type": "square"}), cut.file, at="in trial").name_N == SIDES


# --------------------------------------------------------------------------------------------- braindecode and MOABB


MAPPING = {"feet": 0, "left_hand": 1}
TARGETS = [0, 1] * 8


def test_windows_that_braindecode_saved_have_their_subjects_and_their_place_in_the_trial(tmp_path: Path) -> None:
    described = [({"subject": subject, "session": "0train", "run": "0"}, made.trials(subject)) for subject in (1, 2)]
    made.write_braindecode(tmp_path, described, TARGETS, mapping=MAPPING, offset=-50)
    source = study(tmp_path, "*/*-epo.fif", column="target_name")
    facts = source.facts
    assert (facts.subjects, facts.sessions, facts.concepts) == (["01", "02"], ["0train"], ["feet", "left_hand"])
    assert facts.tmin == -0.5, "a window begins trial_start_offset_samples before the onset, whatever its own clock says"
    assert [facts.concepts[sample.stimulus] for sample in source.samples[:4]] == ["feet", "left_hand", "feet", "left_hand"]
    np.testing.assert_allclose(source.eeg(0)[0], described[0][1][0, :3], atol=1e-4)
    assert counts(source)["raw_preproc_kwargs"] == ["filter"]


def test_an_offset_counted_at_another_rate_than_the_windows_have_now(tmp_path: Path) -> None:
    made.write_braindecode(tmp_path, [({"subject": 1}, made.trials())], TARGETS, mapping=MAPPING, offset=-100, rate=250.0)
    assert study(tmp_path, "*/*-epo.fif").facts.tmin == -0.4


@pytest.mark.parametrize("windows", ["refuse", "first", "each"])
def test_several_windows_of_a_trial_are_one_by_what_the_config_says(tmp_path: Path, windows: Any) -> None:
    made.write_braindecode(tmp_path, [({"subject": 1}, made.trials(num_trials=32))], TARGETS, mapping=MAPPING, windows=2, offset=-20)
    if windows == "refuse":
        with refused(r"its trials have several windows \(i_window_in_trial up to 1\): say windows: first or windows: each"):
            study(tmp_path, "*/*-epo.fif")
        return
    source = study(tmp_path, "*/*-epo.fif", windows=windows)
    assert (len(source.samples), source.facts.tmin) == ((16, -0.2) if windows == "first" else (32, 0.0))


def test_what_braindecode_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    recordings.write_fif(tmp_path / "0" / "0-raw.fif", recordings.signal())
    (tmp_path / "0" / "metadata_df.pkl").write_bytes(b"\x80\x04.")
    with refused(r"metadata_df\.pkl: windows that braindecode keeps as a pickle beside a continuous recording"):
        study(tmp_path, "*/*-epo.fif")


def test_fixed_length_windows_have_no_onset(tmp_path: Path) -> None:
    made.write_braindecode(tmp_path, [({"subject": 1}, made.trials())], TARGETS, mapping=MAPPING)
    (tmp_path / "0" / "window_kwargs.json").write_text(json.dumps([["create_fixed_length_windows", {"mapping": None}]]))
    with refused("its windows have a fixed length and no onset"):
        study(tmp_path, "*/*-epo.fif")


def test_the_folder_in_which_moabb_keeps_trials(tmp_path: Path) -> None:
    for subject in (1, 2):
        for session in ("0train", "1test"):
            folder = tmp_path / f"sub-{subject}" / f"ses-{session}" / "eeg"
            name = f"sub-{subject}_ses-{session}_task-imagery_run-0_desc-0a1b_epo.fif"
            made.write_fif(folder / name, made.trials(10 * subject + len(session)))
    facts = study(tmp_path, "sub-{subject}/ses-{session}/eeg/*_run-{run}_desc-*_epo.fif").facts
    assert (facts.subjects, facts.sessions) == (["01", "02"], ["0train", "1test"])
    assert facts.recordings[0] == "sub-01_ses-0train_run-00"


def test_labels_that_would_fall_together_are_refused(tmp_path: Path) -> None:
    made.write_fif(tmp_path / "a-epo.fif", made.trials(), metadata={"subject": ["a-b", "ab"] * 8})
    assert study(tmp_path, "*-epo.fif", column="event").facts.subjects == ["ab"]
    shutil.rmtree(tmp_path)
    made.write_fif(tmp_path / "a-epo.fif", made.trials(), metadata={"who": ["é"] * 16})
    with refused("subject 'é' is no label, expected letters and digits"):
        study(tmp_path, "*-epo.fif", subject_column="who", column="event")
    with refused("whose trials they are is not said"):
        study(tmp_path, "*-epo.fif", column="event")


def test_the_config_of_the_readme_shards_cut_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "configs/data_prep/shard_epochs.yaml"
    assert files(*PAGES)[name] == (ROOT / name).read_text()
    monkeypatch.chdir(tmp_path)
    from PIL import Image

    for image in ("faces/a.jpg", "faces/b.jpg", "houses/c.jpg"):
        (tmp_path / "photographs" / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photographs" / image)
    shown = [("a", "b", "c")[i % 3] for i in range(16)]
    names = ("Fz", "Cz", "Oz", "VEOG")
    for subject in ("01", "02"):
        made.write_fif(
            tmp_path / "trials" / f"sub-{subject}-epo.fif", made.trials(int(subject)), metadata={"photograph": shown}, ch_names=names
        )
    run(cli.parse(ShardConfig, ["--config", str(ROOT / name)]))
    manifest = read_manifest(tmp_path / "studies" / "epochs")
    assert [stimulus.image for stimulus in manifest.tables.stimuli] == ["faces/a.jpg", "faces/b.jpg", "houses/c.jpg"]
    assert (manifest.signal.unit, manifest.signal.sfreq, manifest.quality.trials) == ("microvolts", 50.0, 32)
