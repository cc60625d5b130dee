"""Published datasets, small, in exactly their layout and with their own sidecars: the configs of this project read them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.contract import cli
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Manifest, read_manifest
from data_prep.shards.write import ShardConfig, run
from tests.helpers import recordings as made
from tests.helpers.bids import events, write_dataset, write_json, write_table
from tests.helpers.readme import PAGES, ROOT, files
from tests.helpers.shared_data import shared_data

pytest.importorskip("mne_bids")

CAP = [
    "Fp1",
    "Fz",
    "F3",
    "F7",
    "FT9",
    "FC5",
    "FC1",
    "C3",
    "T7",
    "TP9",
    "CP5",
    "CP1",
    "Pz",
    "P3",
    "P7",
    "O1",
    "Oz",
    "O2",
    "P4",
    "P8",
    "TP10",
    "CP6",
    "CP2",
    "C4",
    "T8",
    "FT10",
    "FC6",
    "FC2",
    "F4",
    "F8",
    "Fp2",
    "AF7",
    "AF3",
    "AFz",
    "F1",
    "F5",
    "FT7",
    "FC3",
    "FCz",
    "C1",
    "C5",
    "TP7",
    "CP3",
    "P1",
    "P5",
    "PO7",
    "PO3",
    "POz",
    "PO4",
    "PO8",
    "P6",
    "P2",
    "CPz",
    "CP4",
    "TP8",
    "C6",
    "C2",
    "FC4",
    "FT8",
    "F6",
    "F2",
    "AF4",
    "AF8",
]
"""63 channels that were referenced to Cz."""


def shard(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *changes: str) -> Manifest:
    """The study that a config of this project makes of what lies in ``folder``."""
    monkeypatch.chdir(folder)
    config = cli.parse(ShardConfig, ["--config", str(ROOT / f"configs/data_prep/{name}.yaml"), *changes])
    run(config)
    return read_manifest(Path(config.output))


def noise(n_chans: int, seconds: float, sfreq: float, seed: int) -> np.ndarray:
    """float64 (C, T), microvolts."""
    return np.random.default_rng(seed).normal(0, 10, (n_chans, round(seconds * sfreq)))


def pictures(root: Path, names: Sequence[str]) -> None:
    for i, name in enumerate(dict.fromkeys(names)):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)


def shown(manifest: Manifest) -> dict[str, str | None]:
    return {stimulus.id: stimulus.part for stimulus in manifest.tables.stimuli}


def columns(header: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row.get(name, 0) for name in header.split()} for row in rows]


# ---------------------------------------------------------------------------------------------------- THINGS-EEG1

EEG1 = (
    "onset duration eventnumber blocksequencenumber isteststim object objectnumber presentationnumber sequencenumber stim stimnumber "
    "teststimnumber withinsequencenumber istarget stimname response rt correct time_stimon time_stimoff stimdur"
)
EEG1_JSON = {
    "TaskName": "rsvp",
    "PowerLineFrequency": 50,
    "SamplingFrequency": 1000,
    "EEGChannelCount": 63,
    "EOGChannelCount": 0,
    "ECGChannelCount": 0,
    "EMGChannelCount": 0,
    "EEGReference": "Cz",
    "SoftwareFilters": "n/a",
}


def things_eeg1(root: Path) -> list[str]:
    """ds003825: subjects 02 and 03, of whom 03 is excluded, and 49, whose cap has 128 channels; events in samples, paths of Windows."""
    images = [f"{concept}/{concept}_{number:02d}s.jpg" for concept in ("volleyball", "tuxedo") for number in (3, 8)]
    tests = ["marshmallow/marshmallow_13s.jpg", "volleyball/volleyball_13n.jpg"]
    write_json(
        root / "dataset_description.json", {"Name": "Human electroencephalography recordings ...", "BIDSVersion": "1.0.2", "License": "CC0"}
    )
    write_json(root / "task-rsvp_eeg.json", EEG1_JSON)
    write_json(
        root / "task-rsvp_events.json", {"onset": {"Description": "onset of event"}, "duration": {"Description": "event duration in ms"}}
    )
    people = [
        {"participant_id": f"sub-{name}", "age": 18, "exclude": int(name == "03"), "note_IZ": '"braided hair, poor signal"'}
        for name in ("02", "03", "49")
    ]
    write_table(root / "participants.tsv", people)
    (root / ".bidsignore").write_text("derivatives/\nstimuli/\n*.csv\n")
    for seed, subject in enumerate(("02", "03", "49")):
        names = tuple(CAP) if subject != "49" else tuple(f"E{i}" for i in range(127))
        file = root / f"sub-{subject}/eeg/sub-{subject}_task-rsvp_eeg.vhdr"
        file.parent.mkdir(parents=True)
        made.write_brainvision(file, noise(len(names), 12, 1000, seed), names, 1000.0)
        json_changes = {"EEGChannelCount": 128, "EEGReference": "FCz"} if subject == "49" else {}
        write_json(file.with_name(f"sub-{subject}_task-rsvp_eeg.json"), EEG1_JSON | json_changes)
        rows = []
        for i, name in enumerate([*images, *images, *tests, *tests]):
            test = name in tests
            path = "stimuli\\" + name.replace("/", "\\")
            said = {
                "onset": 3000 + 600 * i,
                "duration": 50,
                "isteststim": int(test),
                "object": -1 if test else name.split("/")[0],
                "stim": path,
            }
            rows.append({**said, "istarget": int(i == 5), "teststimnumber": 64 if test else -1, "stimname": Path(name).name})
        table = write_table(file.with_name(f"sub-{subject}_task-rsvp_events.tsv"), columns(EEG1, rows))
        table.with_name(f"._{table.name}").write_bytes(b"\0\5\26\7")
        table.with_suffix(".csv").write_text("not a table of BIDS\n")
    return [*images, *tests]


@pytest.mark.long
def test_things_eeg1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = things_eeg1(tmp_path / "data/ds003825")
    pictures(tmp_path / "data/things/images", [*names, "tuxedo/tuxedo_01b.jpg"])
    manifest = shard("shard_things_eeg1", tmp_path, monkeypatch)
    assert manifest.tables.subjects == ["02"]
    assert shown(manifest) == {name: "test" if "_13" in name else "training" for name in names}
    assert manifest.tables.concepts == ["marshmallow", "tuxedo", "volleyball"]
    assert (manifest.signal.sfreq, manifest.signal.n_times, len(manifest.signal.ch_names)) == (250.0, 225, 63)
    counts = manifest.preprocessing["trials_by_recording"][0]
    assert counts["events"]["onset_unit"] == "samples"
    assert (counts["events"]["found"], counts["events"]["outside_where"], manifest.quality.trials) == (12, 1, 11)
    assert manifest.preprocessing["subjects"]["left_out"] == ["03", "49"]
    with pytest.raises(StudyError, match=r"sub-49_task-rsvp_eeg\.json: EEGChannelCount is 128, .*_eeg\.vhdr has 127 channels"):
        shard("shard_things_eeg1", tmp_path, monkeypatch, "--reader.init_args.participants", "{exclude: '0'}", "--output", "studies/all")
    with pytest.raises(StudyError, match=r"its last onset, 9600, .*events\.onset_unit says seconds"):
        shard("shard_things_eeg1", tmp_path, monkeypatch, "--reader.init_args.events.onset_unit", "seconds", "--output", "studies/other")


# ---------------------------------------------------------------------------------------------------- THINGS-EEG2


def things_eeg2(root: Path, source: Path) -> list[str]:
    """nm000232: the first session of subject 01 with its own sidecars, the first seconds of a training and of the test run."""
    formats = source.parents[1]
    training = (formats / "THINGS-EEG2/train_img_concepts.txt").read_text().split()
    tests = [line.split("\t") for line in (formats / "THINGS-EEG2/test_img_concepts_files.tsv").read_text().splitlines()[1:]]
    metadata = {
        "train_img_concepts": [concept for concept in training for _ in range(10)],
        "train_img_files": [f"{concept[6:]}_{number:02d}b.jpg" for concept in training for number in range(1, 11)],
        "test_img_concepts": [concept for concept, _ in tests],
        "test_img_files": [file for _, file in tests],
    }
    for name in ("participants.tsv", "participants.json", "dataset_description.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, root / name)
    folder, stem = root / "sub-01/ses-01/eeg", "sub-01_ses-01"
    shutil.copytree(source / "sub-01/ses-01/eeg", folder, copy_function=shutil.copyfile)
    names = [line.split("\t")[0] for line in (folder / f"{stem}_task-test_channels.tsv").read_text("utf-8-sig").splitlines()[1:]]
    images = []
    for seed, (task, seconds) in enumerate((("train_run-01", 18), ("test", 27))):
        made.write_edf(folder / f"{stem}_task-{task}_eeg.bdf", noise(63, seconds, 1000, seed), tuple(names), 1000.0, bdf=True, marks=False)
        said = json.loads((folder / f"{stem}_task-{task}_eeg.json").read_text())
        write_json(folder / f"{stem}_task-{task}_eeg.json", said | {"RecordingDuration": seconds - 0.001})
        table = folder / f"{stem}_task-{task}_events.tsv"
        lines = table.read_text().splitlines()
        target = next(line for line in lines if "\ttarget\t" in line).split("\t")
        kept = [line for line in lines[1:] if float(line.split("\t")[0]) < seconds - 2]
        late = f"{seconds - 1.9:.3f}\t{target[1]}\t{round(1000 * (seconds - 1.9))}\t" + "\t".join(target[3:])
        table.write_text("\n".join([lines[0], *kept, late]) + "\n")
        part, inside = ("train", "training_images") if task != "test" else ("test", "test_images")
        for line in kept:
            number = int(line.split("\t")[5]) - 1
            images.append(f"{inside}/{metadata[f'{part}_img_concepts'][number]}/{metadata[f'{part}_img_files'][number]}")
    (root / "stimuli").mkdir()
    np.save(root / "stimuli/image_metadata.npy", metadata, allow_pickle=True)  # type: ignore[arg-type]
    return images


def test_things_eeg2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data/nm000232"
    images = things_eeg2(root, shared_data() / "formats/BIDS_sidecars/nm000232_THINGS-EEG2")
    pictures(root / "stimuli", images)
    manifest = shard("shard_things_eeg2_bids", tmp_path, monkeypatch)
    assert shown(manifest) == {name: "training" if name.startswith("training") else "test" for name in images}
    assert "training_images/01175_roller_coaster/roller_coaster_02b.jpg" in shown(manifest)  # tot_img_number 11742
    assert manifest.tables.recordings == ["sub-01_ses-01_run-test", "sub-01_ses-01_run-train01"]
    assert manifest.tables.sessions == ["01"]
    assert (manifest.signal.sfreq, manifest.signal.n_times, len(manifest.signal.ch_names)) == (250.0, 250, 63)
    by_name = {each["recording"]: each for each in manifest.preprocessing["trials_by_recording"]}
    told = by_name["sub-01_ses-01_run-train01"]
    assert told["events"]["outside_where"] == 1  # the catch trial
    assert told["events"]["onset_unit_is"] == "stated"  # events.json says s
    assert told["electrodes"] == "sub-01_ses-01_space-CapTrak_electrodes.tsv, CapTrak, in m, stated"
    assert "FCz" in told["sidecars"]["reference_odd"]  # said to be the reference, and has a signal
    np.testing.assert_allclose(manifest.signal.positions[0], [-0.030903, 0.114585, 0.027867], atol=1e-5)  # type: ignore[index]
    metadata = np.load(root / "stimuli/image_metadata.npy", allow_pickle=True).item()
    metadata["train_img_concepts"] = metadata["train_img_concepts"][10:]  # a list that is shifted by a concept
    metadata["train_img_files"] = metadata["train_img_files"][10:]
    np.save(root / "stimuli/image_metadata.npy", metadata, allow_pickle=True)
    with pytest.raises(
        StudyError,
        match=r"task-train_run-01_events\.tsv: event 1 shows .*'rollerblade', and .*category_name' says '01175_roller_coaster'",
    ):
        shard("shard_things_eeg2_bids", tmp_path, monkeypatch, "--output", "studies/shifted")


# ----------------------------------------------------------------------------------------------------- Alljoined1


def alljoined1(root: Path) -> list[str]:
    """nm000133: sidecars at the root alone, image/N of the images that all subjects of NSD saw."""
    import mne
    from scipy.io import savemat

    names = tuple(mne.channels.make_standard_montage("biosemi64").ch_names)
    places = mne.channels.make_standard_montage("standard_1005").get_positions()["ch_pos"]
    write_json(root / "dataset_description.json", {"Name": "Alljoined1", "BIDSVersion": "1.9.0", "DatasetType": "raw", "Version": "1.0.0"})
    said = {"TaskName": "images", "Manufacturer": "BioSemi", "EEGChannelCount": 64, "SamplingFrequency": 512.0, "EEGReference": "CMS/DRL"}
    write_json(root / "task-images_eeg.json", {**said, "PowerLineFrequency": 60, "SoftwareFilters": "n/a", "RecordingType": "continuous"})
    rows = [{"name": name, "type": "EEG", "units": "uV", "sampling_frequency": 512.0, "status": "good"} for name in names]
    write_table(root / "task-images_channels.tsv", rows)
    write_table(root / "task-images_electrodes.tsv", [{"name": name, **dict(zip("xyz", places[name], strict=True))} for name in names])
    write_json(root / "task-images_coordsystem.json", {"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "m"})
    shared = np.sort(np.random.default_rng(0).choice(73_000, 1000, replace=False)) + 1
    design = root / "code/0_data_collection/nsd_expdesign.mat"
    design.parent.mkdir(parents=True)
    savemat(design, {"sharedix": shared[None], "subjectim": np.tile(shared, (8, 1)), "masterordering": np.arange(1, 11)[None]})
    info = root / "code/1_preprocessing/data/nsd_stim_info_merged.csv"
    info.parent.mkdir(parents=True)
    lines = [",cocoId,cocoSplit,cropBox,loss,nsdId,flagged,BOLD5000,shared1000"]
    lines += [
        f'{i},{532481 + 7 * i},{"val2017" if i < 5000 else "train2017"},"(0, 0, 0.1, 0.2)",0.1,{i},False,False,False' for i in range(73_000)
    ]
    info.write_text("\n".join(lines) + "\n")
    images = []
    for seed, (subject, session) in enumerate((("01", "01"), ("01", "02"), ("02", "01"))):
        folder = root / f"sub-{subject}/ses-{session}/eeg"
        folder.mkdir(parents=True)
        (folder.parent / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        stem = f"sub-{subject}_ses-{session}_task-images"
        made.write_edf(folder / f"{stem}_eeg.bdf", noise(64, 10, 512, seed), names, 512.0, bdf=True, marks=False)
        numbers = [99, 11, 103, 960, 13, 1, 44]
        points = [1147 + 410 * i for i in range(len(numbers))]
        rows = [
            {"onset": point / 512, "duration": 0.0, "trial_type": f"image/{number}", "value": number, "sample": point}
            for point, number in zip(points, numbers, strict=True)
        ]
        write_table(folder / f"{stem}_events.tsv", rows)
        images += [int(shared[number - 1]) - 1 for number in numbers]
    return [f"{'val2017' if i < 5000 else 'train2017'}/{532481 + 7 * i:012d}.jpg" for i in dict.fromkeys(images)]


@pytest.mark.long
def test_alljoined1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data/nm000133"
    images = alljoined1(root)
    pictures(root / "stimuli", images)
    manifest = shard("shard_alljoined1", tmp_path, monkeypatch)
    assert sorted(shown(manifest)) == sorted(images)
    assert len(manifest.tables.concepts) == len(images)  # each is its own
    assert (manifest.tables.subjects, manifest.tables.sessions) == (["01", "02"], ["01", "02"])
    assert (manifest.signal.sfreq, len(manifest.signal.ch_names), manifest.quality.trials) == (250.0, 64, 21)
    assert manifest.signal.positions is not None
    table = root / "sub-02/ses-01/eeg/sub-02_ses-01_task-images_events.tsv"
    table.write_text(table.read_text().replace("image/99\t99", "image/1001\t1001"))
    with pytest.raises(
        StudyError, match=r"sub-02_ses-01_task-images_events\.tsv: event says '1001', which .*nsd_expdesign\.mat does not have among 1,000"
    ):
        shard("shard_alljoined1", tmp_path, monkeypatch, "--output", "studies/other")


# ------------------------------------------------------------------------------------------------- Alljoined-1.6M


def alljoined_bids(root: Path, source: Path) -> list[str]:
    """nm000134: the first seconds of a test run and of a training run, with their own sidecars."""
    for name in ("participants.tsv", "dataset_description.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, root / name)
    folder, stem = root / "sub-01/ses-01/eeg", "sub-01_ses-01_task-images"
    shutil.copytree(source / "sub-01/ses-01/eeg", folder, copy_function=shutil.copyfile)
    names = [line.split("\t")[0] for line in (folder / f"{stem}_run-01_channels.tsv").read_text("utf-8-sig").splitlines()[1:]]
    images = []
    for seed, number in enumerate(("01", "05")):
        made.write_edf(folder / f"{stem}_run-{number}_eeg.edf", noise(32, 12, 256, seed), tuple(names), 256.0, marks=False)
        said = json.loads((folder / f"{stem}_run-{number}_eeg.json").read_text())
        write_json(folder / f"{stem}_run-{number}_eeg.json", said | {"RecordingDuration": 12 - 1 / 256})
        table = folder / f"{stem}_run-{number}_events.tsv"
        lines = table.read_text("utf-8-sig").splitlines()
        kept = [line for line in lines[1:] if float(line.split("\t")[0]) < 11]
        table.write_text("\n".join(["\ufeff" + lines[0], *kept]) + "\n", "utf-8")
        images += [f"{line.split(',')[1]}.jpg" for line in kept if "stim_test" in line]
    return images


def test_alljoined_16m_as_bids_has_test_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data/nm000134"
    images = alljoined_bids(root, shared_data() / "formats/BIDS_sidecars/nm000134_Alljoined-1.6M")
    pictures(root / "stimuli", [*images, "00000.jpg"])
    manifest = shard("shard_alljoined_1.6m_bids", tmp_path, monkeypatch)
    assert sorted(shown(manifest)) == sorted(set(images))
    told = manifest.preprocessing["trials_by_recording"][0]
    assert told["events"]["named"] == len(images)
    assert told["events"]["unnamed"] == {"behav,3,-1,21": 1}
    assert (manifest.signal.sfreq, len(manifest.signal.ch_names)) == (250.0, 32)
    with pytest.raises(StudyError, match=r"run-05_events\.tsv: no event is a stimulus by events\.names; column 'trial_type' has .*oddball"):
        shard(
            "shard_alljoined_1.6m_bids", tmp_path, monkeypatch, "--reader.init_args.select", "{run: ['05']}", "--output", "studies/training"
        )


def test_alljoined_16m_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edfio

    root = tmp_path / "data/alljoined-1.6m"
    names = [
        "Cz",
        "FCz",
        "Afz",
        "Fp1",
        "F5",
        "F1",
        "CP5",
        "CP3",
        "CP1",
        "P1",
        "P3",
        "P5",
        "P7",
        "PO7",
        "PO3",
        "O1",
        "Pz",
        "POz",
        "Oz",
        "O2",
        "PO4",
        "PO8",
        "P8",
        "P6",
        "P4",
        "P2",
        "CP2",
        "CP4",
        "CP6",
        "F2",
        "F6",
        "Fp2",
    ]
    numbers = {
        1: [("stim_test", 16641), ("behav", 3), ("stim_test", 16733), ("oddball", 16741)],
        5: [("stim_train", 7), ("stim_train", 12003), ("stim_train", 99)],
    }
    images = []
    for block, marked in numbers.items():
        file = root / f"raw_eeg/sub-01/session_01/block_{block:02d}/Subject 1, Session 1, Block {block}_EPOCFLEX_1_2025.01.25.edf"
        file.parent.mkdir(parents=True)
        limits = {"physical_range": (-500.0, 500.0)}
        eeg = [
            edfio.EdfSignal(row, 256.0, label=name, physical_dimension="uV", **limits)
            for name, row in zip(names, noise(32, 12, 256, block), strict=True)
        ]
        more = [
            edfio.EdfSignal(np.arange(12 * 256) % 128.0, 256.0, label=name) for name in ("TimestampS", "Counter", "CQ_Cz", "BatteryPercent")
        ]
        more += [edfio.EdfSignal(np.arange(12 * 64) % 50.0, 64.0, label="MOT.AccX")]
        notes = [edfio.EdfAnnotation(2.0 + 2 * i, None, f"{label},{value},-1,{i + 1}") for i, (label, value) in enumerate(marked)]
        edfio.Edf([*more[:2], *eeg, *more[2:]], annotations=notes).write(file)
        images += [f"{value:05d}.jpg" for label, value in marked if label.startswith("stim")]
    pictures(root / "stimuli/images", images)
    manifest = shard("shard_alljoined_1.6m", tmp_path, monkeypatch)
    assert shown(manifest) == {
        "00007.jpg": "training",
        "00099.jpg": "training",
        "12003.jpg": "training",
        "16641.jpg": "test",
        "16733.jpg": "test",
    }
    assert manifest.signal.ch_names == ["AFz" if name == "Afz" else name for name in names]
    assert manifest.tables.recordings == ["sub-01_ses-01_run-01", "sub-01_ses-01_run-05"]


# ------------------------------------------------------------------------------------------------- the README's config


def test_the_config_of_the_readme_shards_a_dataset_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "configs/data_prep/shard_bids.yaml"
    assert files(*PAGES)[name] == (ROOT / name).read_text()
    images = [f"{concept}/{number}.jpg" for concept in ("cat", "dog") for number in (1, 2)]
    pictures(tmp_path / "faces/stimuli", images)
    for seed, subject in enumerate(("01", "02", "03")):
        shown_here = [images[i % 4].replace("/", "\\") for i in range(len(made.ONSETS))]
        rows = events(stim_file=shown_here)
        rows = [row | {"trial_type": "catch" if i == 3 else "image"} for i, row in enumerate(rows)]
        write_dataset(tmp_path / "faces", subject=subject, task="faces", seed=seed, rows=rows)
    write_table(
        tmp_path / "faces/participants.tsv", [{"participant_id": f"sub-0{i}", "exclude": "yes" if i == 3 else "no"} for i in (1, 2, 3)]
    )
    manifest = shard("shard_bids", tmp_path, monkeypatch)
    assert (manifest.tables.subjects, manifest.tables.concepts) == (["01", "02"], ["cat", "dog"])
    assert (manifest.signal.sfreq, manifest.quality.trials) == (125.0, 2 * (len(made.ONSETS) - 1))
    assert manifest.preprocessing["trials_by_recording"][0]["events"]["outside_where"] == 1
