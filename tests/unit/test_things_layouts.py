"""THINGS-EEG2 trials in every layout, dtype, pickle protocol, shape and order that they are passed on in: right, or one sentence."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.errors import StudyError
from data_prep.studies.things import BareArrays, ThingsReaderConfig, ThingsSource
from data_prep.studies.trials import TrialsConfig
from tests.helpers.things_files import (
    CH_NAMES,
    N_TIMES,
    TEST,
    TRAIN,
    eeg_of,
    official,
    times_of,
    ubp,
    write_dict,
    write_metadata,
    write_sparse,
)  # fmt: skip

TRAINING_FILE, TEST_FILE = "sub-01/preprocessed_eeg_training.npy", "sub-01/preprocessed_eeg_test.npy"
DTYPES = ("<f2", "<f4", ">f4", "<f8", "<i2", ">i4", "<u2")


def opened(root: Path, **changes: Any) -> ThingsSource:
    return ThingsReaderConfig(root=str(root), require_images=False, **changes).open()


def write(root: Path, train: Any, test: Any, *, subject: str = "01", **options: Any) -> Path:
    """Both files of a subject; ``train`` and ``test`` are arrays or whole contents."""
    write_metadata(root)
    for part, value in (("training", train), ("test", test)):
        content = value if isinstance(value, dict) else official(value)
        write_dict(root / f"sub-{subject}/preprocessed_eeg_{part}.npy", content, **options)
    return root


def expect(source: ThingsSource, train: np.ndarray, test: np.ndarray) -> None:
    assert len(source.samples) == len(train) + len(test)
    for number, wanted in enumerate([*train, *test]):
        found = source.eeg(number)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.asarray(wanted, np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("alone", "protocol"), [(False, 4), *((True, protocol) for protocol in range(6))])
def test_official_dicts_of_any_dtype_protocol_and_memory_order(tmp_path: Path, dtype: str, alone: bool, protocol: int) -> None:
    for order in ("C", "F"):
        train, test = (np.asarray(np.abs(30 * eeg), dtype, order=order) for eeg in (eeg_of(6, 4), eeg_of(3, 5, 1)))
        root = write(tmp_path / order, train, test, alone=alone, protocol=protocol)
        expect(opened(root), train, test)


@pytest.mark.parametrize("dtype", ["bool", "c8", "U3"])
def test_dtypes_that_are_no_signal_are_named(tmp_path: Path, dtype: str) -> None:
    write(tmp_path, eeg_of(6, 4).astype(dtype), eeg_of(3, 5))
    with pytest.raises(StudyError, match=r"preprocessed_eeg_training\.npy: EEG of dtype .*, expected real numbers"):
        opened(tmp_path)


# ------------------------------------------------------------------------------------------------- unequal repetitions


@pytest.mark.parametrize("filler", ["zeros", "not_a_number", "repeated"])
@pytest.mark.parametrize("where", ["end", "anywhere"])
def test_padding_is_left_out_and_counted(tmp_path: Path, filler: str, where: str) -> None:
    rng = np.random.default_rng(3)
    train, test = eeg_of(6, 4).astype(np.float32), eeg_of(3, 5, 1)
    kept = []
    for row in range(6):
        count = int(rng.integers(1, 5))
        own = np.arange(count) if where == "end" or filler == "repeated" else np.sort(rng.choice(4, count, replace=False))
        for rep in set(range(4)) - set(own.tolist()):
            train[row, rep] = {"zeros": 0.0, "not_a_number": np.nan, "repeated": train[row, own[0]]}[filler]
        kept.append(own)
    source = opened(write(tmp_path, train, test))
    assert [plan.n_reps for plan in source.samples] == [*map(len, kept), 5, 5, 5]
    for row, own in enumerate(kept):
        np.testing.assert_array_equal(source.eeg(row), train[row, own])
    said = source.facts.preprocessing.get("padding_left_out", {})
    assert said == ({TRAINING_FILE: {filler: 24 - sum(map(len, kept))}} if sum(map(len, kept)) < 24 else {})


def test_an_image_of_padding_alone_is_left_out_and_a_channel_or_a_point_of_zeros_is_no_padding(tmp_path: Path) -> None:
    train = eeg_of(6, 4)
    train[2] = 0
    train[3, :, 0] = 0
    train[4, 1, :, :20] = 0
    source = opened(write(tmp_path, train, eeg_of(3, 5)))
    assert [plan.stimulus for plan in source.samples] == [0, 1, 3, 4, 5, 6, 7, 8]
    assert source.facts.preprocessing["padding_left_out"] == {TRAINING_FILE: {"zeros": 4, "images_without_a_trial": 1}}
    np.testing.assert_allclose(source.eeg(3), train[4].astype(np.float32))


@pytest.mark.parametrize("form", ["object array", "list", "lists of trials", "object arrays of trials"])
@pytest.mark.parametrize("alone", [False, True])
def test_unequal_repetitions_as_lists(tmp_path: Path, form: str, alone: bool) -> None:
    rows = [eeg_of(1, reps, row)[0].astype(np.float32) for row, reps in enumerate((2, 3, 1, 4, 2, 3))]
    content: Any = list(rows)
    if form == "lists of trials":
        content = [list(row) for row in rows]
    elif form == "object arrays of trials":
        content = []
        for row in rows:
            content.append(np.empty(len(row), object))
            content[-1][:] = list(row)
    if form.startswith("object array"):
        content, items = np.empty(6, object), content
        content[:] = items
    expect(opened(write(tmp_path, official(content), eeg_of(3, 5), alone=alone)), rows, eeg_of(3, 5))  # type: ignore[arg-type]


@pytest.mark.parametrize(("item", "message"), [
    (np.zeros((2, 3, N_TIMES)), r"image 5 has trials of \(channels, times\) \(3, 24\), those before have \(4, 24\)"),
    (np.zeros((4, N_TIMES)), r"image 5 has trials of shape \(4, 24\), expected \(repetitions, channels, times\)"),
    ([np.zeros((4, N_TIMES)), np.zeros((4, 3))], "image 5 holds trials of shapes"),
    ("text", "image 5 has trials as a str"),
])  # fmt: skip
def test_lists_that_are_no_trials_are_refused(tmp_path: Path, item: Any, message: str) -> None:
    write(tmp_path, official([*eeg_of(5, 2), item]), eeg_of(3, 5), alone=True)
    with pytest.raises(StudyError, match=message):
        opened(tmp_path)


# --------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize("sfreq", [50.0, 100.0, 128.0, 200.0, 250.0, 256.0, 500.0, 512.0, 1000.0, 2048.0])
@pytest.mark.parametrize("unit", ["seconds", "milliseconds", "microseconds"])
def test_times_of_any_unit_give_the_rate(tmp_path: Path, sfreq: float, unit: str) -> None:
    n_times = int(1.2 * sfreq)
    times = times_of(n_times, sfreq, -0.2) * {"seconds": 1, "milliseconds": 1e3, "microseconds": 1e6}[unit]
    train, test = (eeg_of(n, 2, n_times=n_times) for n in (6, 3))
    source = opened(write(tmp_path, official(train, times=times), official(test, times=times)))
    assert source.facts.sfreq == pytest.approx(sfreq, abs=1e-3)
    assert source.facts.tmin == pytest.approx(-0.2)
    assert ("times_unit" in source.facts.preprocessing) == (unit != "seconds")


@pytest.mark.parametrize(("times", "options", "message"), [
    (np.arange(N_TIMES), {}, "they could be milliseconds at 1000 Hz, or time points"),
    (np.arange(N_TIMES) * 40.0, {}, "they could be milliseconds"),
    (np.arange(N_TIMES) * 1e8, {}, "they could be no unit that trials have"),
    (times_of(), {"expect_sfreq": 250.0}, "sampled at 100 Hz by its times, expect_sfreq is 250 Hz"),
])  # fmt: skip
def test_times_of_no_certain_unit_are_refused_unless_it_is_said(
    tmp_path: Path, times: np.ndarray, options: dict[str, Any], message: str
) -> None:
    write(tmp_path, official(eeg_of(6, 2), times=times), official(eeg_of(3, 2), times=times))
    if message == "they could be milliseconds":
        assert opened(tmp_path).facts.sfreq == 25.0
        return
    with pytest.raises(StudyError, match=message):
        opened(tmp_path, **options)
    if not options and times[1] > 1:
        with pytest.raises(StudyError, match="are 0 Hz, expected a rate that EEG is sampled at"):
            opened(tmp_path, times_unit="milliseconds")
    elif not options:
        assert opened(tmp_path, times_unit="milliseconds").facts.sfreq == 1000.0


def test_more_times_than_points_are_the_last_unless_a_field_says_the_first(tmp_path: Path) -> None:
    times = times_of(N_TIMES + 10)
    write(tmp_path, official(eeg_of(6, 2), times=times), official(eeg_of(3, 2), times=times))
    source = opened(tmp_path)
    assert source.facts.tmin == 0.06
    assert "34 times for 24 points of EEG" in source.facts.preprocessing["unclear"][0]
    assert opened(tmp_path, times_end="first").facts.tmin == -0.04
    assert "unclear" not in opened(tmp_path, times_end="first").facts.preprocessing
    assert opened(tmp_path, times_end="last").facts.tmin == 0.06


# ------------------------------------------------------------------------------------------------- channels


def test_channels_in_another_order_and_stim_channels_are_settled_by_name(tmp_path: Path) -> None:
    train, test = eeg_of(6, 2), eeg_of(3, 3)
    write(tmp_path, train, test)
    for seed, order in enumerate(itertools.islice(itertools.permutations([*CH_NAMES, "stim"]), 0, 120, 17)):
        where = [[*CH_NAMES, "stim"].index(name) for name in order]
        both = [np.concatenate([eeg, np.full_like(eeg[:, :, :1], 7)], axis=2)[:, :, where] for eeg in (train, test)]
        write(tmp_path, *(official(eeg, order) for eeg in both), subject=f"1{seed}")
    source = opened(tmp_path)
    assert source.facts.ch_names == list(CH_NAMES)
    assert source.facts.preprocessing["channels_left_out"] == ["stim"]
    for number, plan in enumerate(source.samples):
        wanted = train[plan.stimulus] if plan.stimulus < 6 else test[plan.stimulus - 6]
        np.testing.assert_allclose(source.eeg(number), wanted.astype(np.float32))
    chosen = opened(tmp_path, trials=TrialsConfig(channels=("Oz", "Pz")))
    np.testing.assert_allclose(chosen.eeg(9), train[0][:, [3, 0]].astype(np.float32))


def test_other_channels_are_refused_unless_the_config_settles_them(tmp_path: Path) -> None:
    write(tmp_path, eeg_of(6, 2), eeg_of(3, 2))
    write(tmp_path, *(official(eeg_of(n, 2, n_chans=5), [*CH_NAMES, "Cz"]) for n in (6, 3)), subject="02")
    with pytest.raises(StudyError, match=r"sub-02/preprocessed_eeg_training\.npy: has channel 'Cz' besides"):
        opened(tmp_path)
    assert opened(tmp_path, trials=TrialsConfig(channels=CH_NAMES)).facts.n_chans == 4
    with pytest.raises(StudyError, match=r"sub-01/preprocessed_eeg_training\.npy: lacks channel 'Cz'"):
        opened(tmp_path, trials=TrialsConfig(channels=("Cz",)))
    write(tmp_path, *(official(eeg_of(n, 2), ["Pz", "Pz", "O1", "Oz"]) for n in (6, 3)), subject="02")
    with pytest.raises(StudyError, match="has channel 'Pz' twice"):
        opened(tmp_path)


def test_channels_and_times_the_other_way_round_are_named(tmp_path: Path) -> None:
    write(tmp_path, eeg_of(6, 2).swapaxes(2, 3), eeg_of(3, 2).swapaxes(2, 3))
    with pytest.raises(StudyError, match=r"24 channels of EEG and 4 ch_names.*channels and times are the other way round"):
        opened(tmp_path)


# ------------------------------------------------------------------------------------------------- UBP and SAMGA


def write_ubp(
    root: Path, *, subject: str = "01", legacy: bool = False, tensors: bool = False, **changes: Any
) -> tuple[np.ndarray, np.ndarray]:
    import torch

    train, test = eeg_of(6, 4).astype(np.float16), eeg_of(3, 8, 1).astype(np.float16)
    sessions = np.tile([0, 0, 2, 2], (6, 1))
    contents = {
        "train": ubp(train, TRAIN, "train", sessions) | changes,
        "test": ubp(test, TEST, "test", np.tile(np.arange(8) // 2, (3, 1))),
    }
    for part, content in contents.items():
        file = root / f"sub-{subject}/{part}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        if tensors:
            content = {key: torch.from_numpy(value) if key in ("eeg", "label", "session") else value for key, value in content.items()}
        torch.save(content, file, pickle_protocol=5 if not legacy else 2, _use_new_zipfile_serialization=not legacy)
    return train, test


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_ubp_files_name_their_images_and_sessions(tmp_path: Path, tensors: bool, legacy: bool) -> None:
    train, test = write_ubp(tmp_path, tensors=tensors, legacy=legacy)
    source = opened(tmp_path)
    expect(source, train, test)
    assert [s.id for s in source.facts.stimuli] == [
        f"{part}_images/{folder}/{file}" for part, rows in (("training", TRAIN), ("test", TEST)) for folder, file in rows
    ]
    assert source.facts.concepts == ["aardvark", "abacus", "accordion", "zebra", "zither", "zucchini"]
    assert source.facts.sessions == ["01", "02", "03", "04"]
    assert source.samples[0].session == [0, 0, 2, 2]
    assert source.samples[6].session == [0, 0, 1, 1, 2, 2, 3, 3]
    assert source.facts.recordings[0] == "sub-01_ses-01_run-test"
    assert source.facts.tmin == 0.0
    assert source.facts.preprocessing["whitening_saw_test"] == "no"
    write_metadata(tmp_path)
    expect(opened(tmp_path), train, test)


@pytest.mark.parametrize(("changes", "message"), [
    ({"img": np.tile([[f"train_images/{f}/{n}"] for f, n in TRAIN[::-1]], (1, 4)).reshape(6, 4)}, r"row 0 has (img|label|text)"),
    ({"label": np.tile(np.array([0, 0, 1, 1, 1, 2])[:, None], (1, 4))}, "row 4 has label 1 and an image of 'accordion'"),
    ({"label": np.arange(24).reshape(6, 4)}, "row 0 has label '0' and '1' in its repetitions"),
    ({"text": np.array(["aardvark", "abacus", "abacus", "abacus", "accordion", "accordion"])}, "row 1 has text 'abacus'"),
    ({"session": np.full((6, 4), 0.5)}, "session holds values that are no numbers of sessions"),
    ({"session": np.full((6, 4), np.nan)}, "session holds values that are no numbers of sessions"),
    ({"label": np.arange(5)}, r"label of shape \(5,\) for 6 rows"),
])  # fmt: skip
def test_ubp_files_that_contradict_themselves_or_the_metadata_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_metadata(tmp_path)
    write_ubp(tmp_path, **changes)
    with pytest.raises(StudyError, match=message) as caught:
        opened(tmp_path)
    assert "train.pt" in str(caught.value)


def test_a_flipped_bit_in_the_trials_of_a_torch_file_is_found_when_they_are_read(tmp_path: Path) -> None:
    import torch

    write_metadata(tmp_path)
    for part, images, n_times in (("train", TRAIN, 90_000), ("test", TEST, 90_000)):
        sessions = np.zeros((len(images), 4))
        content = ubp(eeg_of(len(images), 4, n_times=n_times), images, part, sessions) | {"times": times_of(n_times, 5000.0)}
        (tmp_path / "sub-01").mkdir(exist_ok=True)
        torch.save(content, tmp_path / f"sub-01/{part}.pt")
    file = tmp_path / "sub-01/train.pt"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    source = opened(tmp_path)
    with pytest.raises(StudyError, match=r"train\.pt: .*CRC-32"):
        source.eeg(0)


@pytest.mark.parametrize("bare", [False, True])
def test_trials_by_concept_and_image(tmp_path: Path, bare: bool) -> None:
    train, test = eeg_of(6, 4).astype(np.float32), eeg_of(3, 5, 1).astype(np.float32)
    write_metadata(tmp_path)
    by_concept = {"train": train.reshape(3, 2, 4, 4, N_TIMES), "test": test.reshape(3, 1, 5, 4, N_TIMES)}
    for part, eeg in by_concept.items():
        file = tmp_path / f"sub-01/{part}.npy"
        file.parent.mkdir(exist_ok=True)
        if bare:
            np.save(file, eeg)
        else:
            write_dict(file, {"data": eeg, "ch_names": list(CH_NAMES), "times": times_of()}, alone=True)
    facts = BareArrays(sfreq=100.0, tmin=-0.04, ch_names=CH_NAMES) if bare else None
    expect(opened(tmp_path, bare=facts), train, test)
    np.save(tmp_path / "sub-01/train.npy", train.reshape(2, 3, 4, 4, N_TIMES))
    with pytest.raises(
        StudyError, match=r"train\.npy: 3 images a concept, but image_metadata\.npy lists images of 2 concepts in rows 0 to 2"
    ):
        opened(tmp_path, bare=BareArrays(sfreq=100.0, tmin=-0.04, ch_names=CH_NAMES))


def test_a_folder_of_two_layouts_or_of_none_is_refused(tmp_path: Path) -> None:
    write(tmp_path, eeg_of(6, 4), eeg_of(3, 5))
    write_ubp(tmp_path)
    with pytest.raises(StudyError, match="sub-01: holds files of the layouts official, ubp, expected one"):
        opened(tmp_path)
    assert opened(tmp_path, layout="ubp").samples[6].n_reps == 8
    assert opened(tmp_path, layout="official").samples[6].n_reps == 5
    (tmp_path / "sub-02").mkdir()
    with pytest.raises(StudyError, match="sub-02: holds none, expected preprocessed_eeg_training"):
        opened(tmp_path, subjects=("02",))
    (tmp_path / "image_metadata.npy").unlink()
    with pytest.raises(StudyError, match="does not name the images of its rows"):
        opened(tmp_path, layout="official", subjects=("01",))


# ------------------------------------------------------------------------------------------------- whitening, size


def test_the_manifest_says_whether_whitening_saw_the_test(tmp_path: Path) -> None:
    names = [f"O{i}" for i in range(17)]
    write(tmp_path, *(official(eeg_of(n, 2, n_chans=17), names) for n in (6, 3)))
    assert opened(tmp_path).facts.preprocessing["whitening_saw_test"] == "yes"
    assert opened(tmp_path, whitening="training").facts.preprocessing["whitening_saw_test"] == "no"
    write(tmp_path, eeg_of(6, 2), eeg_of(3, 2))
    assert opened(tmp_path).facts.preprocessing["whitening_saw_test"] == "unknown"


OPEN_AND_MEASURE = """
import sys
from pathlib import Path
from data_prep.studies.things import ThingsReaderConfig
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
before = peak()
source = ThingsReaderConfig(root=sys.argv[1], require_images=False).open()
print(source.facts.n_chans, len(source.facts.stimuli), before, peak())
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_subjects_of_eight_gigabytes_are_opened_by_their_headers(tmp_path: Path) -> None:
    train = [(f"{i // 10 + 1:05d}_c{i // 10}", f"c{i // 10}_{i % 10}.jpg") for i in range(16540)]
    test = [(f"{i + 1:05d}_t{i}", f"t{i}.jpg") for i in range(200)]
    write_metadata(tmp_path, train, test)
    names, times = [f"E{i}" for i in range(63)], [i / 250 - 0.2 for i in range(300)]
    for subject in range(1, 11):
        folder = tmp_path / f"sub-{subject:02d}"
        write_sparse(folder / "preprocessed_eeg_training.npy", (16540, 4, 63, 250), names, times, "<f8")
        write_sparse(folder / "preprocessed_eeg_test.npy", (200, 80, 63, 250), names, times, "<f8")
    assert (tmp_path / "sub-01/preprocessed_eeg_training.npy").stat().st_size > 8e9
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AND_MEASURE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    n_chans, stimuli, before, after = map(int, done.stdout.split())
    assert (n_chans, stimuli) == (63, 16740)
    assert after < 500, f"{after} MB resident ({before} before)"
