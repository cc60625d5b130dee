"""MindBigData, digits and ImageNet: what is read, what is counted as lost, and what is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.contract import cli
from data_prep.contract.errors import StudyError
from data_prep.shards.open import open_study
from data_prep.shards.write import ShardConfig, write_study
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from data_prep.studies.mindbigdata import MindBigDataReaderConfig, MindBigDataSource
from data_prep.studies.mindbigdata_imagenet import MindBigDataImageNetReaderConfig
from data_prep.studies.mindbigdata_signals import DEVICES
from data_prep.studies.trials import TrialsConfig
from tests.helpers.mindbigdata import CHANNELS, event_lines, write_imagenet, write_mnist
from tests.helpers.readme import ROOT
from tests.helpers.shared_data import shared_data


def opened(file: Path, **options: Any) -> MindBigDataSource:
    return MindBigDataReaderConfig(path=str(file), **options).open()


def parsed(line: str) -> np.ndarray:
    return np.array([float(each) for each in line.split("\t")[6].split(",")])


@pytest.mark.parametrize("device", list(CHANNELS))
def test_every_device_with_its_channels_rate_and_unit(tmp_path: Path, device: str) -> None:
    lines = write_mnist(tmp_path / "x.txt", device)
    source = opened(tmp_path / "x.txt")
    facts, n_chans = source.facts, len(CHANNELS[device])
    assert [name.casefold() for name in facts.ch_names] == [name.casefold() for name in CHANNELS[device]]
    assert (facts.sfreq, facts.stimulus_level, facts.unit) == (DEVICES[device].sfreq, "class", "microvolts")
    assert facts.concepts == [str(digit) for digit in range(10)]
    assert len(source.samples) == 40
    for i, plan in enumerate(source.samples):
        raw_CT = np.stack([parsed(line) for line in lines[i * n_chans : (i + 1) * n_chans]]) * DEVICES[device].microvolts
        np.testing.assert_allclose(source.eeg(i)[0], raw_CT - raw_CT.mean(1, keepdims=True), atol=1e-3)
        assert facts.concepts[plan.stimulus] == lines[i * n_chans].split("\t")[4]
    if device != "MW":
        assert source.samples[3].trial == [103]


def test_events_that_are_not_whole_are_dropped_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)

    def event(number: int, code: int = 3, length: int | None = None) -> list[str]:
        return event_lines("IN", number, code, first_id=10 * number, rng=rng, length=length)

    missing, twice, constant, other_size, text, codes = (event(number) for number in range(201, 207))
    twice.append(twice[0])
    constant[1] = "\t".join([*constant[1].split("\t")[:6], ",".join(["4200.0"] * 256)])
    other_size[2] = other_size[2].replace("\t256\t", "\t260\t")
    text[4] = text[4].rsplit(",", 1)[0] + ",?"
    codes[0] = codes[0].replace("\t3\t256", "\t4\t256")
    bad = [
        *missing[:-1],
        *twice,
        *constant,
        *other_size,
        *text,
        *codes,
        *event(207, -1),
        *event(208, 3, 120),
        *event_lines("MU", 209, 3, first_id=1, rng=rng),
    ]
    write_mnist(tmp_path / "IN.txt", extra=bad)
    with pytest.raises(StudyError, match="holds lines of IN, MU, expected one device, or its code in the field device"):
        opened(tmp_path / "IN.txt")
    source = opened(tmp_path / "IN.txt", device="IN")
    assert len(source.samples) == 40
    assert source.facts.n_times == 256
    assert source.facts.preprocessing["trials"] == {
        "in_file": 48, "of_other_devices": 1, "channel_missing": 1, "channel_twice": 1, "flat": 1, "size_contradicts": 1, "no_numbers": 1,
        "codes_differ": 1, "no_digit": 1, "too_short": 1, "kept": 40,
    }  # fmt: skip


def test_lines_of_an_event_may_come_in_any_order_and_between_others(tmp_path: Path) -> None:
    lines = write_mnist(tmp_path / "a.txt", events=6)
    shuffled = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]
    (tmp_path / "b.txt").write_text("\n".join(shuffled) + "\n")
    a, b = opened(tmp_path / "a.txt", parts=2), opened(tmp_path / "b.txt", parts=2)
    place = {plan.trial[0]: i for i, plan in enumerate(b.samples)}
    for i, plan in enumerate(a.samples):
        np.testing.assert_array_equal(a.eeg(i), b.eeg(place[plan.trial[0]]))


def test_windows_line_ends_blank_lines_and_a_cut_last_line(tmp_path: Path) -> None:
    lines = write_mnist(tmp_path / "IN.txt", events=12)
    whole = "\r\n".join(lines) + "\r\n\r\n"
    (tmp_path / "IN.txt").write_bytes(whole.encode())
    before = opened(tmp_path / "IN.txt")
    (tmp_path / "IN.txt").write_bytes((whole + lines[0][:14]).encode())
    after = opened(tmp_path / "IN.txt")
    assert after.facts.preprocessing["trials"] == {**before.facts.preprocessing["trials"], "cut_last_line": 1}
    np.testing.assert_array_equal(before.eeg(3), after.eeg(3))


def test_length_is_measured_or_stated(tmp_path: Path) -> None:
    write_mnist(tmp_path / "IN.txt", events=100, lengths=lambda event: 90 if event < 3 else 250 + event % 7)
    source = opened(tmp_path / "IN.txt")
    assert source.facts.n_times == 250
    assert source.facts.preprocessing["trials"]["too_short"] == 3
    assert opened(tmp_path / "IN.txt", n_times=90).facts.preprocessing["trials"]["kept"] == 100
    with pytest.raises(StudyError, match="not one of 100 events has 300 time points"):
        opened(tmp_path / "IN.txt", n_times=300)
    cut = opened(tmp_path / "IN.txt", channels=("Pz", "AF3"), trials=TrialsConfig(resample_hz=64.0))
    assert (cut.facts.ch_names, cut.facts.sfreq, cut.eeg(0).shape) == (["Pz", "AF3"], 64.0, (1, 2, 125))


def test_parts_stand_for_recordings_and_a_split_holds_whole_ones_out(tmp_path: Path) -> None:
    write_mnist(tmp_path / "IN.txt", events=100)
    reader = MindBigDataReaderConfig(path=str(tmp_path / "IN.txt"))
    write_study(ShardConfig(reader=reader, output=str(tmp_path / "study")))
    study = open_study(tmp_path / "study")
    assert len(study.manifest.tables.recordings) == 10
    _, audit = write_split(SplitConfig(study=str(tmp_path / "study"), policy="recording"))
    assert [audit.parts[part]["trials"] for part in ("train", "validation", "test")] == [80, 10, 10]
    [finding] = [finding for finding in audit.findings if finding.kind == "recordings_not_known"]
    assert finding.level == "caution"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\t2\tIN\tAF3\t0\t3", "line 6 has 6 fields, expected 7 with tabs between"),
        ("1 2 IN AF3 0 3 1,2,3", "line 6 has 1 fields"),
        ("1\tx\tIN\tAF3\t0\t3\t1,2,3", "line 6 has event 'x', expected a whole number"),
        ("1\t2\tXX\tAF3\t0\t3\t1,2,3", "line 6 has device 'XX', expected one of MW, EP, MU, IN"),
        ("1\t2\tIN\tAF3\t12\t3\t1,2,3", "line 6 has code 12, expected a digit, or -1 for none"),
        ("1\t-2\tIN\tAF3\t1\t3\t1,2,3", "line 6 has event -2"),
    ],
)
def test_lines_that_cannot_be(tmp_path: Path, line: str, message: str) -> None:
    write_mnist(tmp_path / "IN.txt", events=1, extra=[line])
    with pytest.raises(StudyError, match=message):
        opened(tmp_path / "IN.txt", parts=1)


def test_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such file"):
        opened(tmp_path / "absent.txt")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(StudyError, match="holds no line"):
        opened(tmp_path / "empty.txt")
    (tmp_path / "long.txt").write_text("1\t2\tIN\tAF3\t0\t3\t" + "1," * 600_000)
    with pytest.raises(StudyError, match=r"line 1 has more than 1,048,576 bytes"):
        opened(tmp_path / "long.txt")
    write_mnist(tmp_path / "IN.txt", events=3)
    with pytest.raises(StudyError, match="channels has 'Oz', device IN has AF3, AF4, T7, T8, Pz"):
        opened(tmp_path / "IN.txt", channels=("Oz",))
    with pytest.raises(StudyError, match="3 events in 10 parts"):
        opened(tmp_path / "IN.txt")
    with pytest.raises(StudyError, match="expected MU"):
        opened(tmp_path / "IN.txt", device="MU")
    with pytest.raises(StudyError, match=r"expected 0\.2 to 2000 µV"):
        opened(tmp_path / "IN.txt", parts=1, microvolts_per_unit=1e6)


def test_case_s04_mindbigdata() -> None:
    file = shared_data() / "cases/s04_mindbigdata/data/IN.txt"
    with pytest.raises(StudyError, match=r"no whole event of device EP, expected channels .* once each, with a digit: 1 channel_missing"):
        opened(file)
    with pytest.raises(StudyError, match="1 size_contradicts"):
        opened(file, channels=("AF3",), parts=1)


# ------------------------------------------------------------------------------------------------------------ ImageNet


def imagenet(root: Path, **options: Any):
    return MindBigDataImageNetReaderConfig(root=str(root), **options).open()


def test_a_file_is_a_trial_its_name_says_image_and_session(tmp_path: Path) -> None:
    files = write_imagenet(tmp_path)
    source = imagenet(tmp_path)
    facts = source.facts
    assert (facts.sfreq, facts.n_times, facts.ch_names) == (128.0, 384, ["AF3", "AF4", "T7", "T8", "Pz"])
    assert facts.concepts == ["n00007846", "German shepherd", "n09835506"]
    assert facts.sessions == ["20", "21", "22", "23"]
    assert facts.recordings == ["sub-01_ses-20", "sub-01_ses-21", "sub-01_ses-22", "sub-01_ses-23"]
    for i, plan in enumerate(source.samples):
        stimulus = facts.stimuli[plan.stimulus]
        [file] = [file for file in files if f"_{stimulus.id}_" in file.name]
        rows = [np.array(line.split(",")[1:], float) for line in file.read_text().splitlines()]
        np.testing.assert_allclose(source.eeg(i)[0], np.stack([row - row.mean() for row in rows]), atol=1e-3)
        assert file.stem.endswith(f"_{facts.sessions[plan.session[0]]}")


def test_an_image_shown_in_two_sessions_is_one_sample_of_two_repetitions(tmp_path: Path) -> None:
    [first, *_] = write_imagenet(tmp_path)
    again = first.with_name(first.name.replace("_1_20.csv", "_2_23.csv"))
    again.write_bytes(first.read_bytes())
    source = imagenet(tmp_path)
    assert sorted(plan.n_reps for plan in source.samples)[-2:] == [1, 2]


def test_trials_that_are_not_whole_are_dropped_and_counted(tmp_path: Path) -> None:
    files = write_imagenet(tmp_path, sessions=5)
    rows = files[0].read_text().splitlines()
    files[0].write_text("\n".join(rows[:4]))
    files[1].write_text("\n".join([*rows, rows[0]]))
    files[2].write_text("\n".join([*rows[:4], "Pz," + ",".join(["1.5"] * 384)]))
    files[3].write_text("\n".join([*rows[:4], "Pz,1.0,x"]))
    files[4].write_text("\n".join(row[: len(row) // 2].rsplit(",", 1)[0] for row in rows))
    (tmp_path / f"._{files[5].name}").write_bytes(b"x")
    (tmp_path / "notes.csv").write_text("x")
    files[6].rename(files[6].with_suffix(".CSV"))
    source = imagenet(tmp_path, n_times=380)
    assert source.facts.preprocessing["trials"] == {
        "in_folder": 25, "other_names": 1, "channel_missing": 1, "channel_twice": 1, "flat": 1, "no_numbers": 1, "too_short": 1, "kept": 20,
    }  # fmt: skip


def test_photographs_are_found_or_refused(tmp_path: Path) -> None:
    files = write_imagenet(tmp_path / "eeg", sessions=1)
    names = ["_".join(file.name.split("_")[3:5]) for file in files]
    for name in names[1:]:
        (tmp_path / "images" / name.split("_")[0]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name.split("_")[0] / f"{name}.JPEG")
    with pytest.raises(StudyError, match=rf"has no photo of '{names[0]}' \(1 of 5 are missing\)"):
        imagenet(tmp_path / "eeg", images=str(tmp_path / "images"))
    source = imagenet(tmp_path / "eeg", images=str(tmp_path / "images"), images_missing="drop")
    assert len(source.samples) == source.facts.preprocessing["trials"]["kept"] == 4
    assert {str(stimulus.image).rsplit("/", 1)[1] for stimulus in source.facts.stimuli} == {f"{name}.JPEG" for name in names[1:]}


def test_the_shipped_config_reads_its_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in write_imagenet(tmp_path / "data/MindBigData-Imagenet")[1:]:
        name = "_".join(file.name.split("_")[3:5])
        folder = tmp_path / "data/ILSVRC2013/train" / name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / f"{name}.JPEG")
    monkeypatch.chdir(tmp_path)
    config = cli.parse(ShardConfig, ["--config", str(ROOT / "configs/data_prep/shard_mindbigdata_imagenet.yaml")])
    source = config.reader.open()
    assert source.facts.preprocessing["trials"] == {"in_folder": 20, "without_image": 1, "kept": 19}


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such folder"):
        imagenet(tmp_path / "absent")
    (tmp_path / "a.csv").write_text("AF3,1,2")
    with pytest.raises(StudyError, match=r"holds a\.csv, expected MindBigData_Imagenet_DEVICE_SYNSET_IMAGE_REPEAT_SESSION\.csv"):
        imagenet(tmp_path)
    (tmp_path / "MindBigData_Imagenet_Insight_n1_2_1_3.csv").write_text("AF3,1,2")
    with pytest.raises(StudyError, match="no whole trial, expected channels AF3, AF4, T7, T8, Pz once each"):
        imagenet(tmp_path)
    (tmp_path / "MindBigData_Imagenet_Other_n1_2_1_3.csv").write_text("AF3,1,2")
    with pytest.raises(StudyError, match="holds files of insight, other, expected one of"):
        imagenet(tmp_path)
