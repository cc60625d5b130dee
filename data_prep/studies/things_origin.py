"""Session, recording and place of every repetition of a THINGS-EEG2 study, from all that its files and the presentation order tell.

Shape suffixes: N images, R repetitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.contract import schema
from data_prep.contract.errors import StudyError
from data_prep.studies import things_sessions
from data_prep.studies.base import SamplePlan
from data_prep.studies.things_files import PartFile
from data_prep.studies.things_sessions import TEST_REPETITIONS, TRAINING_REPETITIONS, Order, Repetitions

Key = tuple[int, str]
"""Subject's number and part."""


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Where the repetitions of a study come from."""

    sessions: list[str]
    recordings: list[str]
    said: Mapping[str, str]
    """Part -> how its sessions are known."""
    files: list[Path]
    """Presentation orders that were read."""
    found: Mapping[Key, Repetitions]
    session_rows: Mapping[int, int]
    recording_rows: Mapping[str, int]
    clean_known: bool

    def plan(self, label: str, subject: int, stimulus: int, part: str, row: int, kept_R: np.ndarray) -> SamplePlan:
        """The sample of one subject and image, of the repetitions ``kept_R``."""
        known = self.found[subject, part]
        columns = (known.session_NR, known.run_NR, known.trial_NR, known.clean_NR)
        session_R, run_R, trial_R, clean_R = (column[row][kept_R].tolist() for column in columns)
        lost = self.recording_rows.get(schema.UNKNOWN, -1)
        recordings = [
            self.recording_rows[things_sessions.recording_label(label, s, r)] if s >= 0 and r >= 0 else lost
            for s, r in zip(session_R, run_R, strict=True)
        ]
        return SamplePlan(
            key=schema.stimulus_sample_key(label, stimulus),
            subject=subject,
            stimulus=stimulus,
            n_reps=len(kept_R),
            session=[self.session_rows[s] for s in session_R],
            recording=recordings,
            trial=trial_R,
            onset_seconds=[None] * len(kept_R),
            quality=[schema.UNKNOWN] * len(kept_R),
            clean_baseline=[None if c < 0 else bool(c) for c in clean_R] if self.clean_known else None,
        )


def find_origins(parts: Mapping[Key, PartFile], subjects: Sequence[str], order: Order | None, folder: Path | None) -> Origins:
    """Recover what can be recovered.

    Parameters
    ----------
    order
        How files list repetitions; None: unknown.
    folder
        Of the presentation order.

    Raises
    ------
    StudyError
        Files whose numbers of images or repetitions contradict the recovery, or whose sessions do.
    """
    stated = {key: part.labels.session_NR for key, part in parts.items() if part.labels and part.labels.session_NR is not None}
    if stated and min(int(each.min()) for each in stated.values()) >= 1:  # some count sessions from 1
        stated = {key: each - 1 for key, each in stated.items()}
    found: dict[Key, Repetitions] = {}
    said: dict[str, str] = {}
    files: list[Path] = []
    for (subject, part), opened in parts.items():
        own = stated.get((subject, part))
        if part == "training":
            known, how, read = _training(opened, subjects[subject], own, order, folder)
            files += read
        else:
            known, how = _test(opened, own, order, wanted=folder is not None)
        found[subject, part] = known
        if said.setdefault(part, how) != how:
            said[part] = f"{said[part]}; elsewhere {how}"
    numbers = sorted({int(s) for each in found.values() for s in np.unique(each.session_NR)} - {-1})
    sessions = [things_sessions.session_label(s) for s in numbers]
    session_rows = {s: row for row, s in enumerate(numbers)}
    if any((each.session_NR < 0).any() for each in found.values()):
        session_rows[-1] = len(sessions)
        sessions.append(schema.UNKNOWN)
    recordings = [label for (subject, _), each in found.items() for label in each.recordings(subjects[subject])]
    if any((each.run_NR < 0).any() for each in found.values()):
        recordings.append(schema.UNKNOWN)
    return Origins(
        sessions=sessions,
        recordings=recordings,
        said=said,
        files=files,
        found=found,
        session_rows=session_rows,
        recording_rows={label: row for row, label in enumerate(recordings)},
        clean_known=any((each.clean_NR >= 0).any() for each in found.values()),
    )


def _training(
    opened: PartFile, subject: str, stated_NR: np.ndarray | None, order: Order | None, folder: Path | None
) -> tuple[Repetitions, str, list[Path]]:
    reps = opened.rows.n_reps
    if folder is None:
        if stated_NR is not None:
            return things_sessions.of_sessions(stated_NR, test=False), "as the files say", []
        return things_sessions.unknown(len(reps), max(reps)), "unknown: presentation_order would tell", []
    if order is None:
        raise StudyError(
            f"{opened.file}: in which order it lists repetitions is not known, so presentation_order says nothing: expected "
            "repetition_order"
        )
    if set(reps) != {TRAINING_REPETITIONS}:
        counts = f"{min(reps)} to {max(reps)}" if len(set(reps)) > 1 else f"{reps[0]}"
        raise StudyError(
            f"{opened.file}: {counts} repetitions of an image, the presentation order tells where each of {TRAINING_REPETITIONS} "
            "comes from: "
            "expected as many, or no presentation_order"
        )
    presented, files = things_sessions.read_presentation_order(folder, subject, len(reps))
    known = things_sessions.training_repetitions(presented, order)
    if stated_NR is not None and not np.array_equal(stated_NR, known.session_NR):
        row, rep = np.argwhere(stated_NR != known.session_NR)[0].tolist()
        raise StudyError(
            f"{opened.file}: repetition {rep} of row {row} is of session {stated_NR[row, rep] + 1}, by {folder} of "
            f"{known.session_NR[row, rep] + 1}: "
            "expected the presentation order of these files"
        )
    return known, f"from the presentation order, repetitions {order}", files


def _test(opened: PartFile, stated_NR: np.ndarray | None, order: Order | None, *, wanted: bool) -> tuple[Repetitions, str]:
    reps = opened.rows.n_reps
    if stated_NR is not None:
        return things_sessions.of_sessions(stated_NR, test=True), "as the files say"
    if order is not None and set(reps) == {TEST_REPETITIONS}:
        how = "the official code's shuffle" if order == "official" else "their order"
        return things_sessions.test_repetitions(len(reps), order), f"from {how}, not checked against the signal"
    if wanted:
        raise StudyError(
            f"{opened.file}: {min(reps)} to {max(reps)} repetitions of a test image, sessions are recovered for {TEST_REPETITIONS}: "
            "expected as many, or no presentation_order"
        )
    return things_sessions.unknown(len(reps), max(reps)), f"unknown: {TEST_REPETITIONS} repetitions in a known order would tell"
