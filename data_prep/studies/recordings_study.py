"""A study of continuous recordings, whatever reader found them: each is opened once, cut, and closed; together they make samples.

A reader says by an :class:`data_prep.studies.opening.Opening` which recordings there are, how each is opened and what was shown in it; all
else is here. With
``stimulus_level: class`` a sample is one trial, in the order of recordings; with ``image`` it is all trials of one image and
subject, ordered by subject and image. All that was measured, left out or rejected stands in ``facts.preprocessing``.

Shape suffixes: C channels, T time points, B trials.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.progress import tracked
from data_prep.studies.base import SamplePlan, StudyFacts, common_folder, hash_files
from data_prep.studies.kept import Kept, StimulusTables, common_positions, labels_of, plan_samples
from data_prep.studies.opening import Opening, RecordingsConfig
from data_prep.studies.read_recording import First, Reading, ReadRecording, read_recording
from data_prep.studies.recording import Recording
from data_prep.studies.spool import Spool
from data_prep.studies.whitening import NOT_SAID, RAW
from data_prep.workers import mapped

log = logging.getLogger(__name__)

_REASONS = ("incomplete", "across_a_break", "bad_segment", "flat", "stuck", "rejected", "autorejected")
"""Why a trial did not stay, see :class:`data_prep.studies.cutting.Cut`."""


@dataclass(eq=False)
class RecordingsSource:
    """An opened study (:class:`data_prep.studies.base.Source`)."""

    config: RecordingsConfig
    opening: Opening
    facts: StudyFacts = field(init=False)
    samples: Sequence[SamplePlan] = field(init=False)
    source_hash: str = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        root = Path(config.root)
        self._spool = Spool(config.scratch)
        self._signals: dict[str, Recording] = {}
        self._parts: dict[str, Recording] = {}
        self._dropped: list[dict[str, str]] = []
        recordings = self.opening.recordings()
        if config.trials.bad_channels is not None:
            config.trials.bad_channels.check_labels(recording.label for recording in recordings)
        read = list(self._read(recordings))
        _refuse_lost_subjects(config, read)
        used = [kept for kept in read if kept.name_B]  # an empty recording would be an empty part of a split
        self._shown = self._tables(used)
        self.samples, self._rows = plan_samples(used, self._shown.stimulus_of, config.stimulus_level)
        files = {file.resolve() for kept in read for file in kept.files}
        self.source_hash = hash_files(files, common_folder(root, files))
        self.facts = self._facts(used, read)

    def _read(self, recordings: Sequence[Recording]) -> Iterator[Kept]:
        """What stays of each recording: the first is read here, and says which channels and rate the others must have."""
        reading = Reading(config=self.config, opening=self.opening, first=None)
        found: Iterator[ReadRecording] = (read_recording(reading, recording) for recording in recordings[:1])
        for recording in tracked(recordings, "recordings read"):
            each = next(found)
            self._refuse_part(recording, each.parts)
            if each.content is not None and not self._is_new(recording, each.content):
                continue
            if each.fault is not None:
                raise each.fault
            assert each.kept is not None
            assert each.eeg_BCT is not None
            self.opening.together(recording, each.kept.counts)
            if reading.first is None:
                reading = replace(reading, first=First(file=recording.file, ch_names=each.kept.ch_names, source_hz=each.kept.source_hz))
                found = mapped(read_recording, reading, recordings[1:])
            yield replace(each.kept, first_row=self._spool.append(each.eeg_BCT))

    def _refuse_part(self, recording: Recording, parts: Sequence[str]) -> None:
        """A recording in several files (FIF of 2 GB each) is opened by its first; MNE reads the others with it."""
        for name in parts:
            other = self._parts.setdefault(name, recording)
            if other is not recording:
                raise StudyError(
                    f"{recording.file}: shares the file {Path(name).name} with {other.file}: expected recordings apart, let 'files' "
                    "match the first "
                    "part of each alone"
                )

    def _is_new(self, recording: Recording, content: str) -> bool:
        other = self._signals.setdefault(content, recording)
        if other is recording:
            return True
        if self.config.same_content == "refuse":
            raise StudyError(
                f"{recording.file}: holds the signal of {other.file}, expected another recording; same_content: drop leaves it out"
            )
        log.warning("%s: holds the signal of %s and is left out", recording.file, other.file)
        self._dropped.append({"recording": recording.label, "same_as": other.label})
        return False

    # -------------------------------------------------------------------------------------------------- all of them

    def _tables(self, used: Sequence[Kept]) -> StimulusTables:
        naming = self.opening.naming
        if self.config.stimulus_level == "class" and naming.test_where:
            raise StudyError("events.test_where is set and stimulus_level is class: expected image, classes have no test part")
        return self.config.tables(used, list(naming.names.values()))

    def _facts(self, used: Sequence[Kept], read: Sequence[Kept]) -> StudyFacts:
        config, first = self.config, used[0]
        positions, said = common_positions(used)
        facts = StudyFacts(
            stimulus_level=config.stimulus_level,
            unit=config.trials.unit,
            sfreq=first.sfreq,
            tmin=first.tmin,
            n_times=first.n_times,
            ch_names=first.trial_names,
            positions=positions,
            masked={number: kept.masked for number, kept in enumerate(used) if kept.masked},
            bridged={number: kept.bridged for number, kept in enumerate(used) if kept.bridged},
            subjects=labels_of(used, "subject"),
            stimuli=self._shown.stimuli,
            concepts=self._shown.concepts,
            sessions=labels_of(used, "session"),
            recordings=[kept.recording.label for kept in used],
            captions=config.read_captions(self._shown.stimuli),
            image_root=Path(config.stimuli) if config.stimuli else None,
            class_images=config.images_of(self._shown.concepts),
            preprocessing=self._preprocessing(read, said),
        )
        total = facts.preprocessing["trials"]
        lost = ", ".join(f"{count} {reason}" for reason, count in total.items() if reason not in ("marked", "kept") and count)
        log.info("%s: %d of %d trials kept%s", config.root, total["kept"], total["marked"], f"; lost: {lost}" if lost else "")
        return facts

    def _preprocessing(self, read: Sequence[Kept], positions: str) -> dict[str, Any]:
        counts = [kept.counts for kept in read]
        reasons = [name for name in _REASONS if name in counts[0]]
        total = {name: sum(count[name] for count in counts) for name in ("marked", *reasons, "kept")}
        return {
            "reader": self.opening.reader,
            **({"simulated": True} if self.config.simulated else {}),
            **self.config.trials.plain(),
            **({"libraries": libraries} if (libraries := self.config.trials.libraries()) else {}),
            **self.opening.said(),
            "positions": positions,
            **(NOT_SAID if self.opening.derived else RAW),
            "trials": total,
            "trials_by_recording": counts,
            **({"same_content": self._dropped} if self._dropped else {}),
        }

    def eeg(self, i: int) -> np.ndarray:
        """Sample ``i``: float32 (n_reps, n_chans, n_times), in ``facts.unit``."""
        return self._spool.read(self._rows[i])


def _refuse_lost_subjects(config: RecordingsConfig, read: Sequence[Kept]) -> None:
    limit = config.trials.reject_microvolts
    for subject in labels_of(read, "subject"):
        own = [kept.counts for kept in read if kept.recording.subject == subject]
        if any(count["kept"] for count in own):
            continue
        lost = ", ".join(f"{sum(count[reason] for count in own)} {reason}" for reason in _REASONS if reason in own[0])
        raise StudyError(
            f"{config.root}: subject {subject} has no trial left of {sum(count['marked'] for count in own)}: {lost} "
            f"(trials.reject_microvolts is {limit}); leave the subject out with subjects"
        )
