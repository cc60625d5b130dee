"""The parts of a study whose levels and contents are compared: what one subject's recording, or the source's own division, gives."""

from __future__ import annotations

import numpy as np

from data_prep.contract import schema
from data_prep.studies.base import Source


class StudyParts:
    """A part is a subject's recording, or where those are lost a session or all of a subject; the source's training and test lie apart."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.labels: list[str] = []
        """Such as ``sub-01_ses-02_run-01`` or ``sub-01 (test)``."""
        self.subjects: list[int] = []
        """Row of the subjects, by part."""
        self._numbers: dict[tuple[int, int, int, str | None], int] = {}

    def of(self, sample: int, repetition: int) -> int:
        """Number of the part that a repetition of a sample belongs to."""
        plan, facts = self._source.samples[sample], self._source.facts
        key = plan.subject, plan.session[repetition], plan.recording[repetition], facts.stimuli[plan.stimulus].part
        if key not in self._numbers:
            self._numbers[key] = len(self.labels)
            self.labels.append(self._label(*key))
            self.subjects.append(plan.subject)
        return self._numbers[key]

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """:meth:`of` for :data:`data_prep.measure.trials.MEASURED_DTYPE` rows: int64 (n,)."""
        return np.array([self.of(s, r) for s, r in zip(rows["sample"].tolist(), rows["repetition"].tolist(), strict=True)], np.int64)

    def where(self, row: np.void) -> str:
        """A trial in words: the repetition of its sample."""
        plan = self._source.samples[int(row["sample"])]
        return plan.key if plan.n_reps == 1 else f"repetition {int(row['repetition']) + 1} of {plan.key}"

    def _label(self, subject: int, session: int, recording: int, part: str | None) -> str:
        facts = self._source.facts
        label = f"sub-{facts.subjects[subject]}"
        if facts.recordings[recording] != schema.UNKNOWN:
            said = facts.recordings[recording]
            label = said if said.startswith(label) else f"{label} {said}"
        elif facts.sessions[session] != schema.UNKNOWN:
            label += f"_ses-{facts.sessions[session]}"
        return f"{label} ({part})" if part else label
