"""Images of classes in a folder: whatever the case of their endings, and never what macOS leaves beside them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from data_prep.contract.errors import StudyError
from data_prep.studies.muse import MuseReaderConfig
from data_prep.studies.stimulus_images import ImageFolder, class_images, images_below
from data_prep.studies.things import ThingsReaderConfig
from tests.helpers.shared_data import shared_data


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("faces/*.jpg", ["a.jpg", "b.JPG", "c.jpeg", "d.JPEG"]),
        ("faces/*.JPEG", ["a.jpg", "b.JPG", "c.jpeg", "d.JPEG"]),
        ("faces/*.png", ["e.PNG"]),
        ("faces/*", ["a.jpg", "b.JPG", "c.jpeg", "d.JPEG", "e.PNG"]),
        ("faces/[ab]*", ["a.jpg", "b.JPG"]),
        ("**/a*.jpg", ["a.jpg"]),
    ],
)
def test_an_ending_stands_for_its_spellings_and_images_alone_are_found(tmp_path: Path, pattern: str, found: list[str]) -> None:
    names = ("a.jpg", "b.JPG", "c.jpeg", "d.JPEG", "e.PNG", "._a.jpg", ".a.jpg", "Thumbs.db", "notes.txt", "a.jpg.txt")
    made(tmp_path, *(f"faces/{name}" for name in names))
    (tmp_path / "faces/folder.jpg").mkdir()
    assert [path.name for path in images_below(tmp_path, pattern)] == found


def test_any_case_of_any_ending_is_found_and_hidden_files_never_are(tmp_path: Path) -> None:
    rng = random.Random(0)
    spelled = {
        "".join(rng.choice((c.lower(), c.upper())) for c in ending)
        for ending in (".jpg", ".jpeg", ".png", ".webp", ".tif", ".bmp")
        for _ in range(4)
    }
    visible = sorted(f"{i:02d}{ending}" for i, ending in enumerate(sorted(spelled)))
    made(tmp_path, *(f"c/{name}" for name in visible), *(f"c/._{name}" for name in visible))
    assert [path.name for path in images_below(tmp_path, "c/*")] == visible
    folder = ImageFolder(tmp_path)
    assert all(folder.find(name, tmp_path) == f"c/{name}" for name in visible)


def test_images_in_hidden_folders_are_none(tmp_path: Path) -> None:
    made(tmp_path, "a/x.jpg", "a/.ipynb_checkpoints/x-checkpoint.jpg", ".Trash/a/x.jpg")
    assert images_below(tmp_path, "**/*.jpg") == [tmp_path / "a/x.jpg"]
    assert ImageFolder(tmp_path).find("x.jpg", tmp_path) == "a/x.jpg"


def test_a_class_with_nothing_but_hidden_files_has_no_image(tmp_path: Path) -> None:
    made(tmp_path, "a/x.jpg", "b/._x.jpg")
    with pytest.raises(StudyError, match=r"no image of class 'b' matches 'b/\*\.jpg'"):
        class_images(tmp_path, ["a", "b"], {"a": "a/*.jpg", "b": "b/*.jpg"})


@pytest.mark.parametrize("case", ["e10_appledouble_class_images", "e10b_upper_case_class_images"])
def test_case_of_images_that_macos_or_a_camera_named(case: str) -> None:
    data = shared_data() / "cases" / case / "data"
    source = MuseReaderConfig(root=str(data), stimuli=str(data / "stimuli"), reject_microvolts=None).open()
    expected = sorted(path.name for path in (data / "stimuli/faces").iterdir() if not path.name.startswith("."))
    assert source.facts.class_images is not None
    assert [path.name for path in source.facts.class_images[1]] == expected
    assert len(expected) >= 2


def test_case_m09_a_recording_named_in_upper_case_is_read() -> None:
    data = shared_data() / "cases/m09_upper_case_ext/data"
    source = MuseReaderConfig(root=str(data), reject_microvolts=None).open()
    assert len(source.facts.recordings) == 2


def test_case_e11_a_study_copied_by_macos_is_what_it_was(tmp_path: Path) -> None:
    source = ThingsReaderConfig(root=str(shared_data() / "cases/e11_study_with_appledouble/data")).open()
    assert [stimulus.image for stimulus in source.facts.stimuli if "._" in str(stimulus.image)] == []
    assert source.facts.subjects == ["01"]
