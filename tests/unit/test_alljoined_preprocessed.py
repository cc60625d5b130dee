"""Alljoined-1.6M's preprocessed arrays, small, in exactly the layout of its authors' script: a pickled dict, a table of all trials."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import mne
import numpy as np
import pytest
from PIL import Image

from data_prep.contract import cli
from data_prep.contract.errors import StudyError
from data_prep.contract.manifest import Manifest
from data_prep.shards.open import StudyFolder, open_study
from data_prep.shards.write import ShardConfig, write_study
from data_prep.splits.config import SplitConfig
from data_prep.splits.split import write_split
from data_prep.studies.trial_tables import read_trial_table
from tests.helpers.readme import ROOT

pytest.importorskip("pyarrow")
NAME = "shard_alljoined_1.6m_preprocessed"


def shard(*overrides: str) -> Manifest:
    return write_study(cli.parse(ShardConfig, ["--config", str(ROOT / f"configs/data_prep/{NAME}.yaml"), *overrides]))


def alljoined_preprocessed(root: Path, names: list[str]) -> np.ndarray:
    """One subject as the authors' script saves it: a pickled dict without an array around it, a Parquet table by pandas."""
    import pandas as pd

    random = np.random.default_rng(0)
    rows = [("stim_train", 7, "abacus"), ("stim_test", 16641, "zebra"), ("stim_train", 99, "abacus"), ("stim_train", 12003, "drum")]
    rows = [(*row, session) for session in (1, 2) for row in (*rows, rows[1], rows[0])]
    table = pd.DataFrame(
        {
            "subject": 1,
            "session": [session for *_, session in rows],
            "block_id": [5 if part == "stim_train" else 1 for part, *_ in rows],
            "sequence_id": range(len(rows)),
            "sequence_image_id": range(len(rows)),
            "dataset": "THINGS",
            "partition": [part for part, *_ in rows],
            "image_path": [f"/srv/stimuli/images/{number:05d}.jpg" for _, number, *_ in rows],
            "category_name": [name for _, _, name, _ in rows],
            "category_num": [len(name) for _, _, name, _ in rows],
            "dropped": [i in (2, 7) for i in range(len(rows))],
        }
    )
    folder = root / "preprocessed_eeg/sub-01"
    folder.mkdir(parents=True)
    table.to_parquet(folder / "experiment_metadata_categories.parquet")
    eeg_BCT = random.standard_normal((len(rows), 32, 250))
    for part in ("training", "test"):
        kept = [i for i in table.index[~table["dropped"]] if table["partition"][i] == f"stim_{part}".replace("ing", "")]
        configs = {"baseline": (None, 0), "tmin": -0.2, "tmax": 1.0, "sfreq": 250, "l_freq": None, "mvnn_dim": "epochs", "reject": None}
        times_T = np.arange(-50, 251) / 250.0
        content = {"preprocessed_eeg_data": eeg_BCT[kept], "configs": configs, "ch_names": names, "times": times_T[50:300]}
        with (folder / f"preprocessed_eeg_{part}_flat.npy").open("wb") as file:
            pickle.dump(content, file, protocol=pickle.HIGHEST_PROTOCOL)
    return eeg_BCT


def test_alljoined_16m_as_its_authors_preprocessed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data/alljoined-1.6m"
    names = [*mne.channels.make_standard_montage("standard_1020").ch_names[:32]]
    eeg_BCT = alljoined_preprocessed(root, names)
    (root / "stimuli/images").mkdir(parents=True)
    for i, name in enumerate(("00007", "00099", "12003", "16641")):
        Image.new("RGB", (8, 8), (60 * i, 40, 80)).save(root / f"stimuli/images/{name}.jpg")
    monkeypatch.chdir(tmp_path)
    manifest = shard()
    assert {stimulus.id: stimulus.part for stimulus in manifest.tables.stimuli} == {
        "00007.jpg": "training",
        "00099.jpg": "training",
        "12003.jpg": "training",
        "16641.jpg": "test",
    }
    signal = manifest.signal
    assert (signal.unit, signal.sfreq, signal.tmin, signal.n_times) == ("zscore", 250.0, 0.0, 250)
    assert manifest.tables.concepts == ["abacus", "drum", "zebra"]
    assert manifest.tables.sessions == ["01", "02"]
    assert manifest.preprocessing["whitening_saw_test"] == "no"
    study = open_study(tmp_path / "studies/alljoined-1.6m-preprocessed")
    found = {(stimulus, session): count for stimulus, session, count in trials_by_image(study)}
    assert found == {
        ("00007.jpg", "01"): 2, ("00007.jpg", "02"): 2, ("00099.jpg", "02"): 1, ("12003.jpg", "01"): 1, ("12003.jpg", "02"): 1,
        ("16641.jpg", "01"): 2, ("16641.jpg", "02"): 1,
    }  # fmt: skip
    first = next(i for i, row in enumerate(study.table.stimulus) if manifest.tables.stimuli[row].id == "12003.jpg")
    stored_CT = study.eeg(int(study.table.sample[first]))[int(study.table.repetition[first])]
    np.testing.assert_allclose(stored_CT, eeg_BCT[3], atol=4e-3)
    # A split whose test images are of the source's training part tests on trials that the whitening has seen.
    split = SplitConfig(study=str(study.root), policy="zero-shot", num_test_concepts=2, num_validation_concepts=0)
    report = write_split(split)[1]
    assert "whitened on its training images" in next(each.message for each in report.findings if each.kind == "whitening_saw_test")
    table = root / "preprocessed_eeg/sub-01/experiment_metadata_categories.parquet"
    table.write_bytes(table.read_bytes()[:-40])
    with pytest.raises(StudyError, match=r"categories\.parquet: not a whole Parquet file"):
        shard("--output", "studies/damaged")


def trials_by_image(study: StudyFolder) -> list[tuple[str, str, int]]:
    tables, table = study.manifest.tables, study.table
    pairs = Counter(
        (tables.stimuli[stimulus].id, tables.sessions[session]) for stimulus, session in zip(table.stimulus, table.session, strict=True)
    )
    return [(image, session, count) for (image, session), count in sorted(pairs.items())]


def test_a_parquet_table_is_the_same_as_any_other(tmp_path: Path) -> None:
    import pandas as pd

    table = pd.DataFrame(
        {"image": ["a/1.jpg", None, "b 2.jpg"], "number": [1.0, np.nan, 3.0], "kept": [True, False, True], "list": [[1], [2], []]}
    )
    table.to_parquet(tmp_path / "t.parquet")
    found = read_trial_table(tmp_path / "t.parquet")
    assert found == {"image": ["a/1.jpg", "", "b 2.jpg"], "number": ["1", "", "3"], "kept": ["True", "False", "True"]}
