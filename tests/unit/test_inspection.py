"""The page of a study: its numbers are those of the trials, its pictures those of the images, and a reader can look at it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.__main__ import COMMANDS
from data_prep.contract.cli import main
from data_prep.inspection.responses import choose_samples, gather, spearman_brown
from data_prep.shards.open import StudyFolder, open_study
from tests.helpers.tiny_study import write_tiny_study


def made(folder: Path, **changes: object) -> StudyFolder:
    return open_study(write_tiny_study(folder, **changes))  # type: ignore[arg-type]


def inspect(study: StudyFolder, *words: str) -> int:
    return main("data_prep", "", COMMANDS, ["inspect", "--study", str(study.root), *words])


def test_responses_and_levels_are_those_of_the_trials(tmp_path: Path) -> None:
    study = made(tmp_path / "s", n_stimuli=20, vary_reps=True, n_subjects=2)
    found = gather(study, 10**6)
    eeg_NCT = np.concatenate([study.eeg(i).astype(np.float64) for i in range(len(study.samples))])
    assert found.groups == ["subject 01", "subject 02"]
    for subject in (0, 1):
        own = eeg_NCT[study.table.subject == subject]
        np.testing.assert_allclose(found.evoked_GCT[subject], own.mean(0), atol=1e-5)
        assert found.count_G[subject] == len(own)
    np.testing.assert_allclose(found.level_N, np.median(eeg_NCT.std(-1), axis=1), rtol=1e-4)
    np.testing.assert_array_equal(found.session_N, study.table.session)
    assert found.trials == len(eeg_NCT)


@pytest.mark.parametrize("level", ["image", "class"])
def test_white_noise_has_its_variance_in_the_spectrum(tmp_path: Path, level: str) -> None:
    study = made(tmp_path / "s", stimulus_level=level, n_stimuli=60, n_reps=8, noise=20.0, n_times=64, sfreq=128.0)
    found = gather(study, 10**6)
    inside = found.power_SF[:, 3:-1]
    np.testing.assert_allclose(inside.mean(), 2 * 20.0**2 / 128.0, rtol=0.05)  # one-sided: all power between 0 and half the rate


@pytest.mark.long
@pytest.mark.parametrize(("noise", "low", "high"), [(0.01, 0.98, 1.0), (1.0, 0.6, 0.95), (200.0, -0.2, 0.2)])
def test_reliability_falls_with_the_noise(tmp_path: Path, noise: float, low: float, high: float) -> None:
    study = made(tmp_path / "s", n_stimuli=80, n_test=20, n_reps=4, noise=noise, n_subjects=1)
    for each in gather(study, 10**6).reliabilities:
        assert low <= each.r_T.mean() <= high
        assert each.repetitions == 4
        assert each.stimuli == (20 if each.part == "test" else 60)


@pytest.mark.long
@pytest.mark.parametrize(("noise", "low", "high"), [(0.01, 0.98, 1.0), (300.0, -1.0, 0.5)])
def test_reliability_of_classes(tmp_path: Path, noise: float, low: float, high: float) -> None:
    found = gather(made(tmp_path / "s", stimulus_level="class", n_concepts=3, n_reps=20, noise=noise), 10**6)
    assert found.classes_r is not None
    assert low <= found.classes_r <= high
    assert found.groups == ["class0", "class1", "class2"]


def test_spearman_brown_is_the_reliability_of_both_halves_together() -> None:
    np.testing.assert_allclose(spearman_brown(np.array([0.5, 1.0, 0.0, -0.5])), [2 / 3, 1.0, 0.0, -0.5])


@pytest.mark.long
@pytest.mark.parametrize("most", [1, 7, 50, 200, 10**6])
def test_the_trials_read_are_spread_over_subjects_and_parts(tmp_path: Path, most: int) -> None:
    study = made(tmp_path / "s", n_stimuli=40, n_test=8, n_subjects=3)
    chosen = choose_samples(study, most)
    assert (np.diff(chosen) > 0).all()
    stimuli = study.manifest.tables.stimuli
    units = {(int(row["subject"]), stimuli[int(row["stimulus"])].part) for row in study.samples[chosen]}
    assert len(units) == 6
    assert study.samples["n_reps"][chosen].sum() <= max(most, 6 * 4)


def test_more_subjects_than_rows_are_taken_together(tmp_path: Path) -> None:
    found = gather(made(tmp_path / "s", n_subjects=9, n_stimuli=8, n_test=2), 10**6)
    assert len(found.groups) == 6
    assert found.groups[-1] == "4 other subjects"
    assert found.count_G.sum() == 9 * 8 * 4


def test_the_command_writes_a_page_beside_the_tables_and_nothing_into_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    study = made(tmp_path / "faces", n_stimuli=12)
    before = sorted(study.root.rglob("*"))
    assert inspect(study) == 0
    assert "page: runs/inspect/faces.html" in capsys.readouterr().out
    assert "<h1>Study faces</h1>" in (tmp_path / "runs/inspect/faces.html").read_text()
    assert inspect(study, "--page", str(study.root / "page.html")) == 1
    assert "lies in the study" in capsys.readouterr().err
    assert sorted(study.root.rglob("*")) == before
    assert inspect(study, "--trials", "20", "--page", "few.html") == 0
    assert re.search(r"are of \d+ of 96 trials", (tmp_path / "few.html").read_text())


def test_pictures_come_from_the_folder_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    study, page = made(tmp_path / "s", n_stimuli=8, n_test=2), tmp_path / "page.html"
    for stimulus in study.manifest.tables.stimuli:
        path = tmp_path / "images" / str(stimulus.image)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (400, 300), "teal").save(path)
    assert inspect(study, "--page", str(page), "--images", str(tmp_path / "images")) == 0
    text = page.read_text()
    assert text.count('class="picture"') == 8
    assert "a picture of train/0000" in text
    (tmp_path / "images/train/0000.jpg").unlink()
    page.unlink()
    capsys.readouterr()
    assert inspect(study, "--page", str(page), "--images", str(tmp_path / "images")) == 1
    assert "0000.jpg: no such image" in capsys.readouterr().err.splitlines()[-1]
    assert inspect(study, "--page", str(page), "--images", str(tmp_path / "nowhere")) == 1
    assert not page.exists()


def test_a_study_whose_tar_changed_gives_no_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    study = made(tmp_path / "s")
    tar = next(study.root.glob("*.tar"))
    tar.write_bytes(bytes(tar.stat().st_size))
    assert inspect(study, "--page", str(tmp_path / "page.html")) == 1
    assert "SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
