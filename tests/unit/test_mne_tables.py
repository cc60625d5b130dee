"""Onsets, edges, patterns and damaged files: properties that hold for any input, not for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.contract.errors import StudyError, UserError
from data_prep.studies.event_tables import onset_unit, read_table
from data_prep.studies.events import EventsConfig
from data_prep.studies.mne import MneReaderConfig
from data_prep.studies.patterns import FilePattern, Names, fill
from data_prep.studies.recording_files import find_recordings
from data_prep.studies.signal_tables import CsvConfig
from tests.fuzz.continuous import in_forks
from tests.helpers import recordings as made

FILE = Path("events.tsv")


def sentence_of(read: Callable[[], str]) -> str:
    """What ``read`` gives, or the sentence with which it refuses."""
    try:
        return read()
    except StudyError as error:
        return str(error)


@settings(deadline=None)
@given(
    sfreq=st.sampled_from([100.0, 128.0, 250.0, 256.0, 512.0, 1000.0, 2048.0]),
    seconds=st.integers(30, 4000),
    share=st.floats(0.3, 0.99),
    unit=st.sampled_from(["seconds", "milliseconds", "samples"]),
)
def test_the_unit_of_onsets_is_measured_or_asked_for_and_never_another_one(sfreq: float, seconds: int, share: float, unit: Any) -> None:
    n_times = round(seconds * sfreq)
    onset_N = np.linspace(1.0, share * seconds, 20) * {"seconds": 1.0, "milliseconds": 1e3, "samples": sfreq}[unit]
    onset_N = onset_N.round(3) if unit == "seconds" else onset_N.round()
    assert onset_unit(FILE, onset_N, sfreq, n_times, unit) == unit
    found = sentence_of(lambda: onset_unit(FILE, onset_N, sfreq, n_times, None))
    if "say in events.onset_unit which is meant" in found:
        assert unit != "seconds", "only samples and milliseconds can be mistaken for each other"
    else:
        assert found == unit or sfreq == 1000.0
    if unit != "seconds":
        with pytest.raises(StudyError, match=r"events\.tsv: its last onset, .*; events\.onset_unit says seconds"):
            onset_unit(FILE, onset_N, sfreq, n_times, "seconds")
    else:
        with pytest.raises(StudyError, match=r"events\.onset_unit says milliseconds"):
            onset_unit(FILE, onset_N, sfreq, n_times, "milliseconds")


def test_onsets_beyond_the_recording_are_refused() -> None:
    with pytest.raises(StudyError, match=r"its last onset, 1e\+09, .*; no unit fits"):
        onset_unit(FILE, np.array([1.0, 1e9]), 250.0, 250 * 60, None)


@given(st.text("aS 0123/,", min_size=1, max_size=12))
def test_blanks_of_a_code_do_not_matter(value: str) -> None:
    assert Names({"(.*)": r"\1"}, "x").of(value) == " ".join(value.split())
    assert Names({r"Stimulus/S  (\d)": r"\1"}, "x").of("Stimulus/S    4 ") == "4"


@pytest.mark.parametrize("rules", [{"(": "a"}, {"a": r"\1"}, {"(a)": r"\2"}])
def test_patterns_that_are_none_are_refused(rules: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"x: .* is no regular expression"):
        Names(rules, "x")


def test_a_value_with_two_names_is_refused() -> None:
    assert Names({"a.*": "one", ".*b": "one"}, "x").of("ab") == "one"
    with pytest.raises(UserError, match=r"x: 'ab' is matched by 'a\.\*' and '\.\*b'"):
        Names({"a.*": "one", ".*b": "two"}, "x").of("ab")


@given(st.integers(0, 99), st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,5}", fullmatch=True), st.sampled_from([".EDF", ".edf", ".Edf"]))
def test_labels_of_a_file(subject: int, session: str, ending: str) -> None:
    pattern = FilePattern("data/**/sub-{subject}_ses-{session}_*.edf")
    assert pattern.labels(f"data/x/y/sub-{subject}_ses-{session}_task{ending}") == {"subject": f"{subject:02d}", "session": session}
    assert pattern.labels(f"data/sub-{subject}_ses-{session}_{ending}") is not None
    assert pattern.labels(f"data/sub-{subject}_ses-{session}_task.bdf") is None


@pytest.mark.parametrize(
    "pattern", ["", "/a/{subject}", "../{subject}", "{subject.x}", "{0}", "*.edf", "{subject", "{name}/x", "{subject!r}", "[{subject}]{"]
)
def test_patterns_of_files_hold_labels_and_stars_only(pattern: str) -> None:
    with pytest.raises(UserError, match="files is "):
        FilePattern(pattern)


def test_a_template_takes_labels_only() -> None:
    assert fill("{stem}_events.tsv", {"stem": "{subject}", "subject": "x"}, "events.file") == "{subject}_events.tsv"
    with pytest.raises(UserError, match=r"events\.file is '\{stem\.x\}', expected|events\.file is '\{task\}', expected only \{stem\}"):
        fill("{task}", {"stem": "x"}, "events.file")


def test_files_of_one_label_two_of_them_are_refused_and_order_is_by_number(tmp_path: Path) -> None:
    for name in ("s10_1.edf", "s9_1.edf", "s9_02.edf", "._s9_1.edf", ".hidden/s1_1.edf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"0")
    found = find_recordings(tmp_path, FilePattern("s{subject}_{run}.edf"), None)
    assert [recording.label for recording in found] == ["sub-09_ses-01_run-01", "sub-09_ses-01_run-02", "sub-10_ses-01_run-01"]
    with pytest.raises(StudyError, match=r"has no subject 11; it has 09, 10"):
        find_recordings(tmp_path, FilePattern("s{subject}_{run}.edf"), ("11",))
    (tmp_path / "s9_2.edf").write_bytes(b"0")
    with pytest.raises(StudyError, match=r"s9_0?2\.edf: is sub-09_ses-01_run-02, and so is .*s9_0?2\.edf"):
        find_recordings(tmp_path, FilePattern("s{subject}_{run}.edf"), None)
    with pytest.raises(StudyError, match=r"no file matches \{subject\}\.bdf; it has s9_1\.edf"):
        find_recordings(tmp_path, FilePattern("{subject}.bdf"), None)


def test_tables_of_any_machine(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("\ufeffonset;stim\r\n1.0;a\\b.jpg\r\n\r\n2.0; c \r\n".encode())
    assert read_table(tmp_path / "t.csv") == {"onset": ["1.0", "2.0"], "stim": ["a\\b.jpg", "c"]}
    for content, sentence in (
        ("a\ta\n1\t2\n", "its columns are a, a"),
        ("a\tb\n1\n", "line 2 has 1 cells, its header 2"),
        ("", "its columns are none"),
    ):
        (tmp_path / "t.tsv").write_text(content)
        with pytest.raises(StudyError, match=rf"t\.tsv: {sentence}"):
            read_table(tmp_path / "t.tsv")


def test_a_table_that_says_two_moments_is_refused(tmp_path: Path) -> None:
    made.write_edf(tmp_path / "sub-01.edf", made.signal())
    events = EventsConfig(source="table", file="e.tsv", column="side")
    for sample, refused in (("500", False), ("501", False), ("512", True)):
        (tmp_path / "e.tsv").write_text(f"onset\tsample\tside\n2.0\t{sample}\tleft\n4.0\t1000\tright\n")
        reader = MneReaderConfig(root=str(tmp_path), files="sub-{subject}.edf", events=events)
        if not refused:
            assert len(reader.open().samples) == 2
            continue
        with pytest.raises(
            StudyError, match=r"e\.tsv: row 1 has its onset at point 500 and its column sample says 512: expected the same moment"
        ):
            reader.open()


WRITERS = {
    "edf": made.write_edf,
    "set": made.write_eeglab,
    "gdf": made.write_gdf,
    "xdf": made.write_xdf,
    "csv": made.write_csv,
    "fif": lambda file, eeg: made.write_fif(file.with_name("x_raw.fif"), eeg).rename(file),
}


@pytest.mark.long
@pytest.mark.parametrize("ending", WRITERS)
def test_a_damaged_recording_is_read_or_one_sentence(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"sub-01.{ending}"
    WRITERS[ending](file, made.signal())
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    csv = CsvConfig(channels=made.CH_NAMES, time="time", marker="stim", sfreq=made.SFREQ)
    source: Any = {"set": "eeglab", "xdf": "markers", "csv": "markers"}.get(ending, "annotations")
    reader = MneReaderConfig(root=str(tmp_path), files="sub-{subject}.*", events=EventsConfig(source=source), csv=csv)
    for attempt in range(12):
        content = bytearray(whole[: int(len(whole) * rng.uniform(0, 1))] if attempt % 2 else whole)
        for place in rng.integers(0, min(len(content), 2000) or 1, 20 if attempt % 2 == 0 else 0):
            content[place] = rng.integers(256)
        file.write_bytes(bytes(content))
        with in_forks():
            sentence = sentence_of(lambda: str(reader.open().facts.n_chans))
        assert sentence == "3" or (str(tmp_path) in sentence and "\n" not in sentence)
