"""``participants.tsv``: which subjects a study takes, and where the table and the folders differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.studies.bids_files import same_label
from data_prep.studies.event_tables import read_table
from data_prep.studies.patterns import Names


def wanted_subjects(root: Path, patterns: Mapping[str, str], subjects: Sequence[str] | None) -> tuple[Sequence[str] | None, dict[str, Any]]:
    """Subjects to read (None: all) whose row matches all patterns, and notes of those left out.

    Raises
    ------
    StudyError
        No table or column, or nobody left who has a folder.
    """
    if not patterns:
        return subjects, {}
    file = root / "participants.tsv"
    table = _table(file)
    if table is None:
        raise StudyError(f"{file}: no such file, participants asks for its columns {listed(patterns)}")
    for column in patterns:
        if column not in table:
            raise StudyError(f"{file}: has no column {column!r} (participants); it has {listed(table)}")
    rules = {column: Names({pattern: "yes"}, f"participants.{column}") for column, pattern in patterns.items()}
    ids = _labels(table)
    chosen = [label for row, label in enumerate(ids) if all(rule.of(table[column][row]) is not None for column, rule in rules.items())]
    left_out = [label for label in ids if label not in chosen]
    if subjects is not None:
        refused = [subject for subject in subjects if any(same_label(subject, label) for label in left_out)]
        if refused:
            raise StudyError(f"{file}: subject {refused[0]} (subjects) does not match participants {dict(patterns)}")
        chosen = [label for label in chosen if any(same_label(label, subject) for subject in subjects)]
    chosen = [label for label in chosen if (root / f"sub-{label}").is_dir()]  # others are noted by unlike_the_table
    if not chosen:
        raise StudyError(f"{file}: no subject matches participants {dict(patterns)}")
    return chosen, {"left_out": left_out}


def unlike_the_table(root: Path, read: Sequence[str], subjects: Sequence[str] | None) -> dict[str, Any]:
    """Subjects that were read without a row, and (where all are wanted) rows without a folder."""
    try:
        table = _table(root / "participants.tsv")
    except StudyError as error:  # nothing hangs on it
        return {"participants_tsv": str(error)}
    if table is None:
        return {}
    ids = _labels(table)
    unlisted = [subject for subject in dict.fromkeys(read) if subject not in ids]
    absent = [] if subjects is not None else [label for label in ids if not (root / f"sub-{label}").is_dir()]
    return {**({"not_in_participants_tsv": unlisted} if unlisted else {}), **({"without_a_folder": absent} if absent else {})}


def _table(file: Path) -> dict[str, list[str]] | None:
    if not file.is_file():
        return None
    table = read_table(file)
    if "participant_id" not in table:
        raise StudyError(f"{file}: has no column participant_id, its columns are {listed(table)}")
    return table


def _labels(table: Mapping[str, Sequence[str]]) -> list[str]:
    return [name.removeprefix("sub-") for name in table["participant_id"]]
