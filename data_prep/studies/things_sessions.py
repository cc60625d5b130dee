"""Where the repetitions of THINGS-EEG2 files come from: sessions, runs and places in a run, recovered from how the files were made.

The official code (gifale95/eeg_encoding) takes, of each image and session, the presentations in the order of a shuffle with a fixed seed
(two of them in training, twenty in the test), joins the sessions in order, and shuffles the repetitions once more with that seed. Both
shuffles are functions of counts alone, so

- test repetition r is of session ``shuffle(arange(80))[r] // 20``, with nothing but the file;
- a training image lies in two of the four sessions. Which, and where in a run, tells the published presentation order
  (``stimOrder_sub-1_sess-1.mat`` ..., image numbers by place in a sequence of 20, sequence, block and run; 0 is a target).

Images of a sequence follow each other every 200 ms: only the first has a baseline without a response to another image.

Shape suffixes: N images, R repetitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.studies.array_child import arrays_in_child

SEED = 20200220
"""Of the official code."""
NUM_SESSIONS = 4
TEST_REPETITIONS, TRAINING_REPETITIONS = 80, 4
Order = Literal["official", "sequential"]
"""How a file lists repetitions: shuffled as the official code does, or session after session."""
_MOST_PRESENTATIONS = 10_000_000
_UNKNOWN = -1
_TEST_RUN = 0


@dataclass(frozen=True, kw_only=True)
class Repetitions:
    """Where the repetitions of one part's images come from; -1 where it is unknown. Arrays are integer (N, R)."""

    session_NR: np.ndarray
    """0 to 3."""
    run_NR: np.ndarray
    """1 to 5; 0: the session's test run."""
    trial_NR: np.ndarray
    """Place in the run, targets counted."""
    clean_NR: np.ndarray
    """1 where the trial is the first of its sequence, else 0."""

    def recordings(self, subject: str) -> list[str]:
        """Labels of those that are known."""
        known = np.unique(np.stack([self.session_NR, self.run_NR], -1).reshape(-1, 2), axis=0)
        return [recording_label(subject, s, r) for s, r in known.tolist() if s >= 0 and r >= 0]


def recording_label(subject: str, session: int, run: int) -> str:
    """``sub-01_ses-02_run-03``, or ``..._run-test``; numbers as in :class:`Repetitions`."""
    return f"sub-{subject}_ses-{session + 1:02d}_run-{'test' if run == _TEST_RUN else f'{run:02d}'}"


def session_label(session: int) -> str:
    """``01`` for session 0."""
    return f"{session + 1:02d}"


def unknown(n_images: int, n_reps: int) -> Repetitions:
    """Of repetitions of which nothing is known."""
    lost: np.ndarray = np.full((n_images, n_reps), _UNKNOWN, np.int32)
    return Repetitions(session_NR=lost, run_NR=lost, trial_NR=lost, clean_NR=lost)


def of_sessions(session_NR: np.ndarray, *, test: bool) -> Repetitions:
    """Where the file itself says the sessions; each has one test run."""
    lost = np.full_like(session_NR, _UNKNOWN)
    return Repetitions(session_NR=session_NR, run_NR=np.where(test, _TEST_RUN, lost), trial_NR=lost, clean_NR=lost)


def test_repetitions(n_images: int, order: Order) -> Repetitions:
    """Sessions of 80 test repetitions, 20 a session; the order inside a session is not published."""
    place_R = _shuffled(TEST_REPETITIONS) if order == "official" else np.arange(TEST_REPETITIONS)
    session_R = place_R // (TEST_REPETITIONS // NUM_SESSIONS)
    return of_sessions(np.broadcast_to(session_R.astype(np.int32), (n_images, TEST_REPETITIONS)), test=True)


def training_repetitions(presented: list[np.ndarray], order: Order) -> Repetitions:
    """Sessions, runs and places of four training repetitions, from what :func:`read_presentation_order` returns."""
    num_images = max(int(session.max()) for session in presented)
    # Of each image: its session of the first two and of the last two, and the two presentations that were taken of each.
    session_N2 = np.empty((num_images, 2), np.int32)
    chosen_N22 = np.empty((num_images, 2, 2), np.int64)
    for number, shown in enumerate(presented):
        flat = shown.ravel(order="F")  # the order of presentation
        places = np.argsort(flat, kind="stable")
        counts = np.bincount(flat, minlength=num_images + 1)
        starts = np.cumsum(counts) - counts
        which = number // 2
        for count in np.unique(counts[1:]).tolist():
            if count == 0:
                continue
            images = np.flatnonzero(counts[1:] == count)
            first, second = _shuffled(count)[:2]
            session_N2[images, which] = number
            chosen_N22[images, which] = np.stack([places[starts[images + 1] + first], places[starts[images + 1] + second]], 1)
    session_NR = np.repeat(session_N2, 2, axis=1)
    place_NR = chosen_N22.reshape(num_images, TRAINING_REPETITIONS)
    if order == "official":
        shuffled = _shuffled(TRAINING_REPETITIONS)
        session_NR, place_NR = session_NR[:, shuffled], place_NR[:, shuffled]
    length, sequences, blocks, _ = presented[0].shape
    in_run = length * sequences * blocks
    return Repetitions(
        session_NR=session_NR,
        run_NR=(place_NR // in_run + 1).astype(np.int32),
        trial_NR=(place_NR % in_run).astype(np.int32),
        clean_NR=(place_NR % length == 0).astype(np.int32),
    )


def read_presentation_order(folder: Path, subject: str, num_images: int) -> tuple[list[np.ndarray], list[Path]]:
    """Image numbers (from 1; 0: a target) as presented in the four sessions of a subject, and the files they come from.

    Returns
    -------
    (presented, files)
        Integer arrays (images a sequence, sequences, blocks, runs), in time with the first axis the fastest.

    Raises
    ------
    StudyError
        A file is missing or damaged, or the sessions do not show every image twice in one session of each pair.
    """
    if not subject.isdecimal():
        raise StudyError(f"{folder}: presentation orders are by the subject's number, subject {subject!r} is none")
    files = [folder / f"stimOrder_sub-{int(subject)}_sess-{session + 1}.mat" for session in range(NUM_SESSIONS)]
    presented = [_read(file) for file in files]
    for file, shown in zip(files, presented, strict=True):
        if shown.shape != presented[0].shape:
            raise StudyError(f"{file}: an order of shape {shown.shape}, {files[0].name} has {presented[0].shape}: expected the same")
        if int(shown.max()) > num_images:
            raise StudyError(
                f"{file}: shows image {int(shown.max())}, the study has {num_images} training images: an order of other images"
            )
    counts = [np.bincount(shown.ravel(), minlength=num_images + 1)[1:] for shown in presented]
    for pair in (0, 2):
        here, there = counts[pair], counts[pair + 1]
        wrong = np.flatnonzero((here > 0) == (there > 0))
        if len(wrong):
            both = "both" if here[wrong[0]] else "neither"
            raise StudyError(
                f"{files[pair]}: image {wrong[0] + 1} is shown in {both} of sessions {pair + 1} and {pair + 2} ({len(wrong)} such images), "
                f"expected one of the two: not the order of these {num_images} images"
            )
        rare = np.flatnonzero(here + there < 2)
        if len(rare):
            raise StudyError(f"{files[pair]}: image {rare[0] + 1} is shown once, expected twice in its session")
    return presented, files


def _read(file: Path) -> np.ndarray:
    if not file.is_file():
        raise StudyError(f"{file}: no such file, expected the presentation order of that subject and session")
    arrays = arrays_in_child(file, "MAT array", "stimOrder", beside=False)
    found = arrays.get("stimOrder")
    if found is None:
        raise StudyError(f"{file}: lacks stimOrder; it has {listed(arrays)}")
    if not isinstance(found, np.ndarray) or found.ndim != 4 or found.dtype.kind not in "iuf":
        raise StudyError(
            f"{file}: stimOrder is {found.dtype} of shape {found.shape}, expected numbers (images a sequence, sequences, blocks, runs)"
        )
    if found.size > _MOST_PRESENTATIONS:
        raise StudyError(f"{file}: stimOrder is of shape {found.shape}, expected at most {_MOST_PRESENTATIONS:,} presentations")
    numbers = found.astype(np.int64)
    if not np.array_equal(numbers, found) or numbers.size == 0 or numbers.min() < 0:
        raise StudyError(f"{file}: stimOrder holds values that are no image numbers, expected 0 (a target) or more")
    return numbers


def _shuffled(count: int) -> np.ndarray:
    """What ``sklearn.utils.shuffle(numpy.arange(count), random_state=SEED)`` gives."""
    places = np.arange(count)
    np.random.RandomState(SEED).shuffle(places)
    return places
