"""A study of trials that others have cut, whatever their files: names, labels, channels and unit checked, then read by row.

From file to trial::

    ROOT/sub-01-epo.fif          found by a pattern, opened by the reader (epochs, arrays): headers, one row of text a trial
        -> table beside it       rows must be as many as trials
        -> names                 a column and patterns say which image or class each trial is
        -> groups                by subject, session and run, from the path or from columns
        -> channels, unit        named, typed, picked; the level is measured
        -> crop, resample, baseline, z-score
        -> trials by row         read where they lie when they are asked for, or else kept in a file, block by block

Shape suffixes: B trials, C channels, T time points, N rows of events.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.progress import progress
from data_prep.contract.words import listed
from data_prep.studies import trials
from data_prep.studies.base import SamplePlan, StudyFacts, common_folder, hash_files
from data_prep.studies.cells import texts_of
from data_prep.studies.channels import Choice, choose, levels_apart, positions_of, refuse_other_channels
from data_prep.studies.continuous import Continuous, Events
from data_prep.studies.cut_columns import with_table, with_value
from data_prep.studies.cut_files import CutFile, CutUnit, find_cut_files, label_of
from data_prep.studies.cut_signal import CutSignal, Zscore
from data_prep.studies.event_names import EventsNaming, Named, name_events
from data_prep.studies.kept import Kept, StimulusTables, common_positions, labels_of, plan_samples
from data_prep.studies.kept_trials import KeptTrials
from data_prep.studies.lookup import Lookup
from data_prep.studies.patterns import FilePattern, Names, fill
from data_prep.studies.recording import Recording
from data_prep.studies.recording_files import natural
from data_prep.studies.shown import ShownConfig
from data_prep.studies.trial_tables import read_trial_table
from data_prep.studies.trials import TrialFacts, TrialsConfig
from data_prep.studies.whitening import NOT_SAID, WhitenedOn, whitening_facts

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CutReaderConfig(ShownConfig):
    """What readers of cut trials have in common."""

    files: str
    """Pattern of their paths below ``root``, with {subject}, {session} and {run} (letters and digits) as far as the paths say them, ``*``,
    ``?`` and ``**/``: ``sub-{subject}/*-epo.fif``. Endings match in either case."""
    events: EventsNaming = field(default_factory=EventsNaming)
    """What each trial stands for; its columns are those of the file and of ``table``, and ``file``, the path below ``root``."""
    table: str | None = None
    """Path of a table of one row a trial from the file's folder, with {stem}, {subject}, {session}, {run}: CSV, TSV, JSON, Parquet,
    ``.npz`` or ``.eve``; None: there is none."""
    table_where: dict[str, str] = field(default_factory=dict)
    """Column of the table, or a template of its columns and of {subject}, {session}, {run} as the path spells them -> pattern: of a table
    that has more rows than those of a file's trials, the rows that match all of them, ``{dropped: 'False'}``."""
    subject_column: str | None = None
    """Column of subjects; None: {subject} of ``files``, else a column ``subject``."""
    session_column: str | None = None
    """Column of sessions; None: {session} of ``files``, else a column ``session``, else all are of session 01."""
    run_column: str | None = None
    """Column of runs; None: {run} of ``files``, else a column ``run``, else files of a session are numbered."""
    trials: TrialsConfig = field(default_factory=TrialsConfig)
    """Crop, resampling and baseline; filters belong on the continuous recording."""
    whitening: WhitenedOn = "unknown"
    """What the noise covariance was estimated on that the trials were whitened with: ``test_and_training``, ``training``, ``none`` where
    they were not; ``unknown``: the audit then looks whether they seem to be."""
    zscore: Zscore | None = None
    """None: the study is in microvolts. ``source``: the files hold z-scores already; ``trial``: every channel of every trial is brought to
    mean 0 and standard deviation 1, which is how signals of magnetic sensors become a study."""

    def __post_init__(self) -> None:
        if self.events.clean_seconds is not None:
            raise ValueError("events.clean_seconds is set, expected null: trials that are cut do not tell what was shown before them")
        FilePattern(self.files, needs_subject=False)
        super().__post_init__()
        if self.table_where and self.table is None:
            raise ValueError("table_where is set and table is null, expected the table whose rows it chooses")
        if self.zscore == "source" and (self.channels.unit or self.channels.unit_by_subject):
            raise ValueError("zscore is source and channels names a unit: expected one of them, z-scores have none")

    @property
    def sensor_type(self) -> str:
        """Type of the channels that are read, in MNE's words."""
        return "eeg"

    def open_file(self, file: Path, labels: Mapping[str, str], table: Mapping[str, Sequence[str]] | None) -> CutFile:
        """The trials of one file; ``table`` are the columns of the table beside it."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to open a file")

    def open(self) -> CutSource:
        """Read every file once, keep trials in a temporary file that no file has by row, and decide which are a stimulus."""
        return CutSource(self)


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A file and what is read of it."""

    cut: CutFile
    choice: Choice
    named: Named
    """Its points are trials."""
    facts: TrialFacts
    """Of a trial as it is kept."""
    tables: Sequence[Path]


@dataclass(eq=False)
class CutSource:
    """An opened study (:class:`data_prep.studies.base.Source`)."""

    config: CutReaderConfig
    facts: StudyFacts = field(init=False)
    samples: Sequence[SamplePlan] = field(init=False)
    source_hash: str = field(init=False)

    def __post_init__(self) -> None:
        config, root = self.config, Path(self.config.root)
        self._first: _Opened | None = None
        self._owners: dict[Path, Path] = {}
        self._numbered: Counter[tuple[str, str]] = Counter()
        self._labels: dict[str, Path] = {}
        self._texts: dict[tuple[str, str], str] = {}
        self._units: set[str] = set()
        self._lookup = Lookup(config.events.lookup, root) if config.events.lookup else None
        self._facts_of_files: dict[Path, tuple[Any, ...]] = {}
        used: list[Kept] = []
        files = {path.resolve() for path in (self._lookup.files if self._lookup else [])}
        found = find_cut_files(root, FilePattern(config.files, needs_subject=False))
        with progress("files read", len(found)) as advance, ThreadPoolExecutor(1, "survey") as thread:
            self._trials = KeptTrials(config.scratch, thread)
            try:
                for file, labels in found:
                    opened = self._open(file, labels)
                    used += self._keep(opened, labels)
                    files |= {path.resolve() for path in (*opened.cut.files, *opened.tables)}
                    advance()
            except StudyError:
                self._trials.check()  # the file before it comes first
                raise
            hashes = self._trials.finish()
        _refuse_lacking_subjects(config, used)
        self._used = sorted(used, key=lambda kept: natural(kept.recording.label))
        classes = [name for name in config.events.names.values() if "\\" not in name]
        shown = config.tables(self._used, classes)
        self.samples, self._rows = plan_samples(self._used, shown.stimulus_of, config.stimulus_level)
        self.source_hash = hash_files(files, common_folder(root, files), hashes)
        self.facts = self._facts(shown)
        self._first = None  # an opened file cannot be sent to other processes

    def eeg(self, i: int) -> np.ndarray:
        """Sample ``i``: float32 (n_reps, n_chans, n_times), in ``facts.unit``."""
        return self._trials.read(self._rows[i])

    # ----------------------------------------------------------------------------------------------------- one file

    def _open(self, file: Path, labels: Mapping[str, str]) -> _Opened:
        config = self.config
        pattern, relative = FilePattern(config.files, needs_subject=False), file.relative_to(Path(config.root)).as_posix()
        names = {"stem": file.stem, **(pattern.texts(relative) or {})}  # as the path spells them: P1, not 01
        beside = [file.parent / fill(config.table, names, "table")] if config.table else []
        table = self._table(beside[0], names) if beside else None
        cut = config.open_file(file, labels, table)
        for path in cut.files:
            if self._owners.setdefault(path.resolve(), file) != file:
                raise StudyError(
                    f"{file}: shares the file {path.name} with {self._owners[path.resolve()]}: let 'files' match the first part of "
                    "each alone"
                )
        if table is not None:
            cut = with_table(cut, table, beside[0])
        cut = replace(cut, columns={**cut.columns, "file": [relative] * len(cut.trial_N)})
        choice = self._choose(cut)
        cut_facts = TrialFacts(sfreq=cut.sfreq, tmin=cut.tmin, n_times=cut.n_times, ch_names=tuple(choice.ch_names))
        facts = trials.facts_in_study(config.trials, cut_facts, file)
        opened = _Opened(cut=cut, choice=choice, named=self._named(cut), facts=facts, tables=beside)
        self._first = self._first or opened
        _refuse_other_shape(opened, self._first)
        return opened

    def _table(self, path: Path, labels: Mapping[str, str]) -> dict[str, list[str]]:
        """Rows of the table that are of the file with these labels."""
        columns = read_trial_table(path)
        if not self.config.table_where:
            return columns
        total = len(next(iter(columns.values())))
        known = {**{name: [label] * total for name, label in labels.items()}, **columns}
        rows = list(range(total))
        for template, pattern in self.config.table_where.items():
            rule, cells = Names({pattern: "yes"}, f"table_where.{template}"), texts_of(template, known, path, "table_where")
            rows = [row for row in rows if rule.of(cells[row]) is not None]
        if not rows:
            raise StudyError(f"{path}: none of its {total:,} rows matches table_where, {self.config.table_where}: expected one a trial")
        return {name: [cells[row] for row in rows] for name, cells in columns.items()}

    def _named(self, cut: CutFile) -> Named:
        columns = with_value(cut, self.config.stimulus_level, self.config.events.column)
        events = Events(point_N=np.asarray(cut.trial_N, np.int64), columns=columns)
        named = name_events(events, self.config.events, cut.file, self._lookup, "in trial")
        return replace(named, notes={**named.notes, "trials": cut.num_trials})

    def _choose(self, cut: CutFile) -> Choice:
        """The study's channels: those of the first file, in its order."""
        wanted = self.config.sensor_type
        choice = choose(Continuous(file=cut.file, format=cut.format, raw=cut.header), self.config.channels, wanted)
        if self._first is None:
            return choice
        before = self._first.choice.ch_names
        refuse_other_channels(cut.file, choice.ch_names, self._first.cut.file, before)
        return Choice(
            ch_names=before, source_names=[choice.source_names[choice.ch_names.index(name)] for name in before], left_out=choice.left_out
        )

    def _keep(self, opened: _Opened, labels: Mapping[str, str]) -> list[Kept]:
        cut, named = opened.cut, opened.named
        groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        columns = {name: self._label_column(cut, labels, name) for name in ("subject", "session", "run")}
        wanted = None if self.config.subjects is None else {label_of(subject, "subjects", cut.file) for subject in self.config.subjects}
        row_of_trial = {trial: row for row, trial in enumerate(cut.trial_N)}
        for i, trial in enumerate(named.point_N.tolist()):
            subject, session, run = (columns[name][row_of_trial[trial]] for name in ("subject", "session", "run"))
            if wanted is None or subject in wanted:
                groups[subject, session, run].append(i)
        kept = []
        for (subject, session, run), members in groups.items():
            if not run:
                self._numbered[subject, session] += 1
                run = f"{self._numbered[subject, session]:02d}"
            recording = Recording(file=cut.file, subject=subject, session=session, run=run)
            if self._labels.setdefault(recording.label, cut.file) != cut.file:
                raise StudyError(
                    f"{cut.file}: holds {recording.label}, and so does {self._labels[recording.label]}: expected one file of each"
                )
            kept.append(self._kept(opened, recording, members))
        return kept

    def _label_column(self, cut: CutFile, labels: Mapping[str, str], name: str) -> list[str]:
        """Label of every row of events; blank runs are numbered later."""
        column = getattr(self.config, f"{name}_column")
        if column is not None and column not in cut.columns:
            raise StudyError(f"{cut.file}: has no column {column!r} ({name}_column); it has {listed(cut.columns, 40)}")
        if column is None and name in labels:
            return [labels[name]] * len(cut.trial_N)
        if column is None and name not in cut.columns:
            if name == "subject":
                raise StudyError(
                    f"{cut.file}: whose trials they are is not said: expected {{subject}} in 'files', or subject_column of "
                    f"{listed(cut.columns, 40)}"
                )
            return ["01" if name == "session" else ""] * len(cut.trial_N)
        found = []
        for text in cut.columns[column or name]:
            label = label_of(text, name, cut.file)
            before = self._texts.setdefault((name, label), text)
            if re.sub(r"\W|_", "", before) != re.sub(r"\W|_", "", text) and before.zfill(2) != text.zfill(2):
                raise StudyError(
                    f"{cut.file}: {name} {text!r} and {before!r} would both be {label!r}, expected labels that differ in letters and digits"
                )
            found.append(label)
        return found

    def _kept(self, opened: _Opened, recording: Recording, members: Sequence[int]) -> Kept:
        cut, named, config, choice = opened.cut, opened.named, self.config, opened.choice
        own = [int(named.point_N[i]) for i in members]
        picks = [cut.header.ch_names.index(name) for name in choice.source_names]
        unit = self._unit(cut, recording.subject)
        source = TrialFacts(sfreq=cut.sfreq, tmin=cut.tmin, n_times=cut.n_times, ch_names=tuple(choice.ch_names))
        signal = CutSignal(
            file=cut.file, read=cut.read, laid=cut.laid, source=source, picks=picks, unit=unit, trials=config.trials, zscore=config.zscore
        )
        level_C = signal.level(own)
        first_row = self._trials.keep(signal, own)
        counts = {
            "recording": recording.label,
            "file": cut.file.relative_to(Path(config.root)).as_posix(),
            "format": cut.format,
            "kept": len(own),
            "source_hz": cut.sfreq,
            "source_window_seconds": [cut.tmin, round(cut.tmin + cut.n_times / cut.sfreq, 6)],
            "unit": unit,
            "level": float(f"{np.median(level_C):.3g}"),
            **({"levels_apart": apart} if (apart := levels_apart(level_C, choice.ch_names)) else {}),
            "left_out_channels": choice.left_out,
            "events": named.notes,
            **cut.notes,
        }
        self._facts_of_files[cut.file] = tuple(str(cut.notes.get(name)) for name in ("highpass_hz", "lowpass_hz", "baseline_seconds"))
        return Kept(
            recording=recording,
            name_B=[named.name_N[i] for i in members],
            concept_B=None if named.concept_N is None else [named.concept_N[i] for i in members],
            test_B=None if named.test_N is None else [named.test_N[i] for i in members],
            clean_B=None,
            number_B=[cut.number_B[trial] for trial in own],
            onset_seconds_B=[cut.onset_seconds_B[trial] for trial in own],
            quality_B=["unknown"] * len(own),
            first_row=first_row,
            source_hz=cut.sfreq,
            tmin=opened.facts.tmin,
            sfreq=opened.facts.sfreq,
            n_times=opened.facts.n_times,
            ch_names=list(opened.facts.ch_names),
            positions=self._positions(opened),
            files=[],
            counts=counts,
        )

    def _positions(self, opened: _Opened) -> dict[str, list[float]]:
        if self.config.sensor_type != "eeg":  # sensors of a helmet lie in its own coordinates
            return {}
        cut = opened.cut
        return positions_of(Continuous(file=cut.file, format=cut.format, raw=cut.header), opened.choice, self.config.channels)

    def _unit(self, cut: CutFile, subject: str) -> CutUnit:
        config = self.config
        unit: CutUnit = "zscore" if config.zscore == "source" else config.channels.unit_of(subject) or cut.unit
        if unit == "tesla" and config.zscore is None:
            raise StudyError(
                f"{cut.file}: its channels are in tesla, a study is in microvolts or z-scores: say zscore: source if its numbers "
                "are z-scores "
                "already, or zscore: trial"
            )
        self._units.add("zscore" if unit == "zscore" or config.zscore else "microvolts")
        if len(self._units) > 1:
            raise StudyError(f"{cut.file}: is in {unit}, files before it are not: expected z-scores everywhere or nowhere")
        return unit

    # --------------------------------------------------------------------------------------------------- all of them

    def _facts(self, shown: StimulusTables) -> StudyFacts:
        config, used = self.config, self._used
        positions, said = common_positions(used)
        first = used[0]
        return StudyFacts(
            stimulus_level=config.stimulus_level,
            unit=next(iter(self._units)),
            sfreq=first.sfreq,
            tmin=first.tmin,
            n_times=first.n_times,
            ch_names=first.ch_names,
            positions=positions,
            subjects=labels_of(used, "subject"),
            stimuli=shown.stimuli,
            concepts=shown.concepts,
            sessions=labels_of(used, "session"),
            recordings=[kept.recording.label for kept in used],
            captions=config.read_captions(shown.stimuli),
            image_root=Path(config.stimuli) if config.stimuli else None,
            class_images=config.images_of(shown.concepts),
            preprocessing=self._preprocessing(said),
        )

    def _preprocessing(self, positions: str) -> dict[str, Any]:
        config = self.config
        differ = len(set(self._facts_of_files.values())) > 1
        if differ:
            log.warning("%s: its files differ in filters or baseline: see trials_by_recording", config.root)
        return {
            "reader": type(config).__name__.removesuffix("ReaderConfig").lower(),
            **({"simulated": True} if config.simulated else {}),
            "trials_changed": {name: list(v) if isinstance(v, tuple) else v for name, v in vars(config.trials).items() if v is not None},
            "events": config.events.plain(),
            **(NOT_SAID if config.whitening == "unknown" else whitening_facts(config.whitening, f"{config.whitening}, by config")),
            **({"zscore": config.zscore} if config.zscore else {}),
            **({"filters_differ": True} if differ else {}),
            "positions": positions,
            "trials": {"kept": sum(kept.counts["kept"] for kept in self._used)},
            "trials_by_recording": [kept.counts for kept in self._used],
        }


def _refuse_other_shape(opened: _Opened, first: _Opened) -> None:
    one, other = opened.facts, first.facts
    apart = [
        (name, getattr(one, name), getattr(other, name))
        for name, tolerance in (("sfreq", 1e-4 * other.sfreq), ("tmin", 0.5 / other.sfreq), ("n_times", 0))
        if abs(getattr(one, name) - getattr(other, name)) > tolerance
    ]
    if apart:
        name, found, wanted = apart[0]
        raise StudyError(
            f"{opened.cut.file}: its trials have {name} {found:g}, those of {first.cut.file} {wanted:g}: expected one shape; "
            "trials.tmin, tmax and "
            "resample_hz bring them to one"
        )


def _refuse_lacking_subjects(config: CutReaderConfig, used: Sequence[Kept]) -> None:
    have = labels_of(used, "subject")
    lacking = [subject for subject in config.subjects or () if label_of(subject, "subjects", Path(config.root)) not in have]
    if lacking:
        raise StudyError(f"{config.root}: has no subject {lacking[0]}; it has {listed(have)}")
