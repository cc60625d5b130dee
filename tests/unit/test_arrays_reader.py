"""The reader ``arrays``: numpy and a table, whatever the format and the order of sides; what cannot be right is one sentence."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract import cli
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import read_manifest
from data_prep.shards.write import ShardConfig, run
from data_prep.studies.arrays import ArraysReaderConfig
from data_prep.studies.channels import ChannelsConfig
from data_prep.studies.cut_study import CutSource
from data_prep.studies.event_names import EventsNaming
from data_prep.studies.trials import TrialsConfig
from tests.helpers.readme import PAGES, ROOT, files

NAMES = ("Fz", "Cz", "Pz", "Oz")
NUM, TIMES = 12, 30
SHOWN = [f"{'cat' if i % 2 else 'dog'}/{i % 4}.jpg" for i in range(NUM)]
FACTS: dict[str, Any] = {"sfreq": 100.0, "tmin": -0.1, "unit": "microvolts", "ch_names": NAMES}
CLASSES = ["left", "right", "rest"] * 4


def trials(seed: int = 0, shape: tuple[int, int, int] = (NUM, len(NAMES), TIMES)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 10, shape).astype(np.float32)


def write_table(file: Path, **columns: Any) -> None:
    names = list(columns)
    lines = [",".join(names), *(",".join(str(columns[name][i]) for name in names) for i in range(len(columns[names[0]])))]
    file.write_text("\n".join(lines) + "\n")


def study(root: Path, files: str = "sub-{subject}.npy", **changes: Any) -> CutSource:
    return ArraysReaderConfig(**{"root": str(root), "files": files, **FACTS, **changes}).open()


def refused(match: str) -> Any:
    return pytest.raises(StudyError, match=match)


def test_the_config_of_the_readme_shards_arrays_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "configs/data_prep/shard_arrays.yaml"
    assert files(*PAGES)[name] == (ROOT / name).read_text()
    assert len([line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]) <= 12
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arrays").mkdir()
    for subject in ("01", "02"):
        np.save(tmp_path / "arrays" / f"sub-{subject}.npy", trials(int(subject)))
        write_table(
            tmp_path / "arrays" / f"sub-{subject}.csv",
            image=SHOWN,
            session=[1 + i // 6 for i in range(NUM)],
            onset=[2.0 * i for i in range(NUM)],
        )
    run(cli.parse(ShardConfig, ["--config", str(ROOT / name)]))
    manifest = read_manifest(tmp_path / "studies" / "arrays")
    assert [stimulus.id for stimulus in manifest.tables.stimuli] == sorted(set(SHOWN))
    assert (manifest.tables.subjects, manifest.tables.sessions, manifest.tables.concepts) == (["01", "02"], ["01", "02"], ["cat", "dog"])
    source = ArraysReaderConfig(
        root="arrays",
        files="sub-{subject}.npy",
        table="sub-{subject}.csv",
        sfreq=250.0,
        tmin=-0.2,
        unit="microvolts",
        ch_names=NAMES,
        stimulus_level="image",
    ).open()
    sample = source.samples[0]
    assert (sample.trial, sample.onset_seconds, sample.session) == ([1, 5, 9], [2.0, 10.0, 18.0], [0, 0, 1])
    np.testing.assert_array_equal(source.eeg(0), trials(1)[[1, 5, 9]])


def _mat(file: Path, eeg_BCT: np.ndarray) -> None:
    from scipy.io import savemat

    savemat(file, {"X": eeg_BCT, "y": np.array(CLASSES, dtype=object)}, do_compression=True)


def _mat73(file: Path, eeg_BCT: np.ndarray) -> None:
    """MATLAB's sides stand in HDF5 the other way round."""
    import h5py

    with h5py.File(file, "w", userblock_size=512) as content:
        for name, value in (("X", eeg_BCT.transpose()), ("y", np.array([[CLASSES.index(name) for name in CLASSES]], np.float64))):
            content.create_dataset(name, data=value).attrs["MATLAB_class"] = np.bytes_(b"double")
    with file.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def _hdf5(file: Path, eeg_BCT: np.ndarray) -> None:
    import h5py

    with h5py.File(file, "w") as content:
        content.create_dataset("group/X", data=eeg_BCT, chunks=(2, 4, 30), compression="gzip")
        content.create_dataset("group/y", data=np.array(CLASSES, dtype=h5py.string_dtype()))


FORMATS: dict[str, tuple[Callable[[Path, np.ndarray], Any], str, str]] = {
    "npz": (lambda file, eeg: np.savez(file, X=eeg, y=CLASSES), "sub-01.npz", "value"),
    "npz compressed": (lambda file, eeg: np.savez_compressed(file, X=eeg, y=CLASSES), "sub-01.npz", "value"),
    "npy of a dict": (lambda file, eeg: np.save(file, np.array({"X": eeg, "y": CLASSES}, dtype=object)), "sub-01.npy", "value"),
    "pickle": (lambda file, eeg: file.write_bytes(pickle.dumps({"X": eeg, "y": CLASSES})), "sub-01.pkl", "value"),
    "mat": (_mat, "sub-01.mat", "value"),
    "mat 7.3": (_mat73, "sub-01.mat", "value"),
    "hdf5": (_hdf5, "sub-01.h5", "group/y"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_signal_and_labels_in_one_file_of_any_format(tmp_path: Path, name: str) -> None:
    write, file, column = FORMATS[name]
    write(tmp_path / file, trials())
    source = study(tmp_path, file.replace("01", "{subject}"), events=EventsNaming(column=column))
    shown = [source.facts.concepts[sample.stimulus] for sample in source.samples]
    assert shown == ([str(["left", "right", "rest"].index(label)) for label in CLASSES] if name == "mat 7.3" else CLASSES)
    for i in (0, 5, NUM - 1):
        np.testing.assert_array_equal(source.eeg(i)[0], trials()[i])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("form", ["C", "F", "hdf5"])
def test_sides_in_any_order_are_told_by_their_counts(tmp_path: Path, order: tuple[int, ...], form: Any) -> None:
    turned = trials().transpose(order)
    write_table(tmp_path / "t.csv", label=CLASSES)
    if form == "hdf5":
        import h5py

        with h5py.File(tmp_path / "sub-01.h5", "w") as content:
            content["X"] = turned
    else:
        np.save(tmp_path / "sub-01.npy", np.asarray(turned, order=form))
    source = study(tmp_path, "sub-{subject}.*", table="t.csv")
    for i in (0, NUM - 1):
        np.testing.assert_array_equal(source.eeg(i)[0], trials()[i])
    said = [("trials", "channels", "times")[side] for side in order]
    assert source.facts.preprocessing["trials_by_recording"][0]["axes"] == said
    same = study(tmp_path, "sub-{subject}.*", table="t.csv", axes=tuple(said))
    np.testing.assert_array_equal(same.eeg(3), source.eeg(3))
    if order != (0, 1, 2):
        with refused("it does not fit 4 ch_names and 12 rows of the table"):
            study(tmp_path, "sub-{subject}.*", table="t.csv", axes=("trials", "channels", "times"))


def test_sides_that_fit_several_orders_are_refused_until_they_are_said(tmp_path: Path) -> None:
    eeg = trials(0, (4, 4, 4))
    np.save(tmp_path / "sub-01.npy", eeg)
    write_table(tmp_path / "t.csv", label=CLASSES[:4])
    with refused(
        r"has shape \(4, 4, 4\), which fits more than one order of trials, channels and times with 4 ch_names and 4 rows of the table"
    ):
        study(tmp_path, table="t.csv")
    source = study(tmp_path, table="t.csv", axes=("times", "trials", "channels"))
    np.testing.assert_array_equal(source.eeg(2)[0], eeg[:, 2, :].T)


def test_rows_must_be_as_many_as_trials(tmp_path: Path) -> None:
    np.save(tmp_path / "sub-01.npy", trials())
    for count in (NUM - 1, NUM + 1):
        write_table(tmp_path / "t.csv", label=[*CLASSES, "more"][:count])
        with refused(rf"sub-01\.npy: its array has shape \(12, 4, 30\), which does not fit 4 ch_names and {count} rows of the table"):
            study(tmp_path, table="t.csv")
        with refused(r"t\.csv: has|does not fit"):
            study(tmp_path, table="t.csv", axes=("trials", "channels", "times"))
    with refused(r"nowhere\.csv: no such file, expected a table"):
        study(tmp_path, table="nowhere.csv")


@pytest.mark.parametrize("form", ["tsv", "json rows", "json columns", "json of pandas", "npz", "npy"])
def test_tables_of_several_forms(tmp_path: Path, form: str) -> None:
    np.save(tmp_path / "sub-01.npy", trials())
    rows = [{"label": label, "session": 2.0} for label in CLASSES]
    contents: dict[str, tuple[str, Any]] = {
        "tsv": ("t.tsv", "label\tsession\n" + "".join(f"{label}\t2\n" for label in CLASSES)),
        "json rows": ("t.json", json.dumps(rows)),
        "json columns": ("t.json", json.dumps({"label": CLASSES, "session": [2] * NUM})),
        "json of pandas": (
            "t.json",
            json.dumps({"label": {str(i): x for i, x in enumerate(CLASSES)}, "session": {str(i): 2 for i in range(NUM)}}),
        ),
    }
    if form in contents:
        name, text = contents[form]
        (tmp_path / name).write_text(text)
    elif form == "npz":
        name = "t.npz"
        np.savez(tmp_path / name, label=CLASSES, session=np.full(NUM, 2.0), other=np.zeros((3, 3)))
    else:
        name = "label.npy"
        np.save(tmp_path / name, np.array(CLASSES))
    source = study(tmp_path, "sub-*{subject}.npy", table=name)
    assert [source.facts.concepts[sample.stimulus] for sample in source.samples] == CLASSES
    assert source.facts.sessions == (["01"] if form == "npy" else ["02"])


def test_moabbs_cached_arrays_and_their_events(tmp_path: Path) -> None:
    folder = tmp_path / "sub-1" / "ses-0train" / "eeg"
    folder.mkdir(parents=True)
    stem = "sub-1_ses-0train_task-imagery_run-0_desc-0a1b"
    np.save(folder / f"{stem}_array.npy", trials())
    codes = [1 + i % 2 for i in range(NUM)]
    (folder / f"{stem}_events.eve").write_text("".join(f"{500 + 300 * i} 0 {code}\n" for i, code in enumerate(codes)))
    source = study(
        tmp_path,
        "sub-{subject}/ses-{session}/eeg/*_run-{run}_desc-*_array.npy",
        table="sub-{subject}_ses-{session}_task-imagery_run-{run}_desc-0a1b_events.eve",
        events=EventsNaming(column="code", names={"1": "feet", "2": "left_hand"}),
    )
    assert source.facts.recordings == ["sub-01_ses-0train_run-00"]
    assert [source.facts.concepts[sample.stimulus] for sample in source.samples[:2]] == ["feet", "left_hand"]


# ------------------------------------------------------------------------------------------- what the file itself says


def test_facts_of_the_file_need_no_words_and_contradictions_are_refused(tmp_path: Path) -> None:
    times = -0.1 + np.arange(TIMES) / 100
    own = {"X": trials(), "y": CLASSES, "ch_names": list(NAMES), "times": times}
    np.savez(tmp_path / "sub-01.npz", **own)
    bare = {"sfreq": None, "tmin": None, "ch_names": None}
    facts = study(tmp_path, "sub-{subject}.npz", **bare).facts
    assert (facts.sfreq, facts.tmin, facts.ch_names) == (100.0, -0.1, list(NAMES))
    for change, said in (
        ({"sfreq": 250.0}, r"its own sfreq is 100, the config says 250: expected the same"),
        ({"tmin": 0.0}, r"its own tmin is -0\.1, the config says 0"),
        ({"ch_names": ("Fz", "Cz", "Oz", "Pz")}, r"its own ch_names are Fz, Cz, Pz, Oz, the config says Fz, Cz, Oz, Pz"),
    ):
        with refused(said):
            study(tmp_path, "sub-{subject}.npz", **change)
    np.savez(tmp_path / "sub-01.npz", **{**own, "fs": 128.0})
    with refused("its fs is 128 Hz, its times say 100 Hz"):
        study(tmp_path, "sub-{subject}.npz", **bare)
    np.savez(tmp_path / "sub-01.npz", **{**own, "times": 1000 * times})
    found = study(tmp_path, "sub-{subject}.npz", **bare)
    assert (found.facts.sfreq, found.facts.tmin) == (100.0, -0.1)
    assert found.facts.preprocessing["trials_by_recording"][0]["times_are_in"] == "milliseconds"
    np.savez(tmp_path / "sub-01.npz", **{**own, "times": times[:-1]})
    with refused("29 times for 30 points of EEG"):
        study(tmp_path, "sub-{subject}.npz", **bare)
    np.savez(tmp_path / "sub-01.npz", X=trials(), y=CLASSES)
    for lacking, said in (("ch_names", "has no ch_names"), ("sfreq", "does not say its sfreq"), ("tmin", "does not say its tmin")):
        with refused(said):
            study(tmp_path, "sub-{subject}.npz", **{lacking: None})


def test_names_of_channels_from_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "sub-01.npz", X=trials(), y=CLASSES)
    for name, text in (
        ("c.txt", "Fz\nCz\n\nPz\nOz\n"),
        ("c.json", json.dumps(NAMES)),
        ("c.tsv", "name\ttype\n" + "".join(f"{n}\tEEG\n" for n in NAMES)),
    ):
        (tmp_path / name).write_text(text)
        source = study(tmp_path, "sub-{subject}.npz", ch_names=None, ch_names_file=name, channels=ChannelsConfig(pick=("Oz", "Fz")))
        np.testing.assert_array_equal(source.eeg(0)[0], trials()[0, [3, 0]])


def test_two_arrays_or_two_columns_that_may_be_meant_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "sub-01.npz", X=trials(), eeg=trials(1), y=CLASSES)
    with refused(r"sub-01\.npz: holds X \(12, 4, 30\), eeg \(12, 4, 30\), y \(12,\), expected one, or its name in 'variable'"):
        study(tmp_path, "sub-{subject}.npz")
    np.testing.assert_array_equal(study(tmp_path, "sub-{subject}.npz", variable="eeg").eeg(0)[0], trials(1)[0])
    with refused("has no array 'Z'"):
        study(tmp_path, "sub-{subject}.npz", variable="Z")
    np.savez(tmp_path / "sub-01.npz", X=trials(), y=CLASSES, label=CLASSES[::-1])
    with refused(r"of its columns label, y may each name the stimulus, expected one, or its name in events\.column"):
        study(tmp_path, "sub-{subject}.npz")
    np.savez(tmp_path / "sub-01.npz", X=trials(), image=SHOWN, stimulus=SHOWN)
    with refused("of its columns image, stimulus may each name the stimulus"):
        study(tmp_path, "sub-{subject}.npz", stimulus_level="image")
    np.savez(tmp_path / "sub-01.npz", X=trials(), rows=np.arange(NUM))
    with refused(
        r"of its columns none is called class, label, labels, y, trial_type, expected one, or its name in events\.column; it has rows, file"
    ):
        study(tmp_path, "sub-{subject}.npz")


@pytest.mark.parametrize("seed", range(3))
def test_labels_that_differ_by_a_rounding_are_no_ids(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(1.0, 5.0), 3)
    np.savez(tmp_path / "sub-01.npz", X=trials(), y=labels)
    assert study(tmp_path, "sub-{subject}.npz").facts.concepts == ["1", "2", "3", "4"]
    np.savez(tmp_path / "sub-01.npz", X=trials(), y=labels + random.normal(0, 1e-7, NUM))
    with refused("which differ by a rounding: expected ids or names"):
        study(tmp_path, "sub-{subject}.npz")
    np.savez(tmp_path / "sub-01.npz", X=trials(), y=labels / 8)
    assert study(tmp_path, "sub-{subject}.npz").facts.concepts == ["0.125", "0.25", "0.375", "0.5"]


def test_arrays_that_are_no_trials_are_refused(tmp_path: Path) -> None:
    for array, said in (
        (np.zeros((4, 2, 3, 5), np.float32), r"expected an array of trials with three sides"),
        (trials() > 0, "expected an array of trials with three sides"),
        (trials().astype(complex), "expected an array of trials with three sides"),
    ):
        np.save(tmp_path / "sub-01.npy", array)
        with refused(said):
            study(tmp_path)
    (tmp_path / "sub-01.npy").write_bytes((tmp_path / "sub-01.npy").read_bytes()[:200])
    with refused(r"sub-01\.npy"):
        study(tmp_path)
    (tmp_path / "sub-01.npz").write_bytes(b"PK\3\4 cut short")
    with refused(r"sub-01\.npz: not an archive"):
        study(tmp_path, "sub-{subject}.npz")
    (tmp_path / "sub-01.pkl").write_bytes(pickle.dumps(subprocess.Popen))
    with refused(r"sub-01\.pkl: refused"):
        study(tmp_path, "sub-{subject}.pkl")


@pytest.mark.parametrize(("unit", "scale"), [("volts", 1e-6), ("millivolts", 1e-3), ("nanovolts", 1e3)])
def test_units_are_converted_and_one_that_cannot_be_is_refused(tmp_path: Path, unit: Any, scale: float) -> None:
    np.savez(tmp_path / "sub-01.npz", X=trials().astype(np.float64) * scale, y=CLASSES)
    np.testing.assert_allclose(study(tmp_path, "sub-{subject}.npz", unit=unit).eeg(0)[0], trials()[0], rtol=1e-5)
    with refused(f"read as microvolts has a level of .*they look like {unit}"):
        study(tmp_path, "sub-{subject}.npz")


def test_z_scores_whole_numbers_and_magnetic_sensors(tmp_path: Path) -> None:
    np.savez(tmp_path / "sub-01.npz", X=trials() / 10, y=CLASSES)
    assert study(tmp_path, "sub-{subject}.npz", unit="zscore").facts.unit == "zscore"
    np.savez(tmp_path / "sub-01.npz", X=np.round(trials()).astype(np.int16), y=CLASSES)
    np.testing.assert_array_equal(study(tmp_path, "sub-{subject}.npz").eeg(0)[0], np.round(trials()[0]))
    np.savez(tmp_path / "sub-01.npz", X=trials() * 1e-14, y=CLASSES)
    with pytest.raises(ValueError, match="unit is tesla, a study is in microvolts or z-scores"):
        study(tmp_path, "sub-{subject}.npz", unit="tesla")
    source = study(tmp_path, "sub-{subject}.npz", unit="tesla", zscore="trial", trials=TrialsConfig(tmin=0.0))
    np.testing.assert_allclose(source.eeg(0)[0].std(-1), 1.0, atol=1e-4)


def test_values_that_are_no_numbers_and_dead_channels_are_refused(tmp_path: Path) -> None:
    eeg = trials()
    eeg[7, 2, 5] = np.nan
    np.savez(tmp_path / "sub-01.npz", X=eeg, y=CLASSES)
    with refused("trial 7 holds values that are no finite numbers"):
        study(tmp_path, "sub-{subject}.npz")
    eeg = trials()
    eeg[:, 1] = 3.0
    np.savez(tmp_path / "sub-01.npz", X=eeg, y=CLASSES)
    with refused("channel Cz is constant in all 12 trials looked at: leave it out with channels.drop"):
        study(tmp_path, "sub-{subject}.npz")
    assert study(tmp_path, "sub-{subject}.npz", channels=ChannelsConfig(drop=("Cz",))).facts.n_chans == 3


def test_classes_in_files_apart_are_named_by_their_path(tmp_path: Path) -> None:
    for i, name in enumerate(("faces", "houses")):
        np.save(tmp_path / f"s1_{name}.npy", trials(i))
    events = EventsNaming(column="file", names={".*faces.*": "face", ".*houses.*": "house"})
    source = study(tmp_path, "s{subject}_*.npy", events=events, axes=("trials", "channels", "times"))
    assert source.facts.concepts == ["face", "house"]
    assert source.facts.recordings == ["sub-01_ses-01_run-01", "sub-01_ses-01_run-02"]
    assert len(source.samples) == 2 * NUM


READ = """
import sys
from pathlib import Path
from data_prep.studies.arrays import ArraysReaderConfig
facts = {"unit": "microvolts", "sfreq": 100.0, "tmin": 0.0, "ch_names": tuple(f"E{i}" for i in range(32))}
ArraysReaderConfig(root=sys.argv[1], files="sub-{subject}.npy", table="t.csv", **facts).open()
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not say a process's peak memory")
def test_an_array_is_read_a_block_at_a_time(tmp_path: Path) -> None:
    """Four times the trials add no memory: what stays is a block."""
    block = trials(0, (500, 32, 480))
    peaks = []
    for count in (1, 4):
        np.save(tmp_path / "sub-01.npy", np.concatenate([block] * count))
        write_table(tmp_path / "t.csv", label=CLASSES * (500 * count // NUM) + CLASSES[: 500 * count % NUM])
        done = subprocess.run(
            [sys.executable, "-c", READ, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
        )
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 80 * 1024, f"{peaks} KiB, for 96 MiB more of an array"
