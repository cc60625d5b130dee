"""A study on one page: what was counted, lost and measured, what the responses look like, and some of the images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.page import SIMULATED, FigureSection, TableSection, number, render
from data_prep.inspection.figures import evoked_figure, levels_figure, reliability_figure, spectra_figure, unit
from data_prep.inspection.pictures import pictures
from data_prep.inspection.responses import Responses, gather
from data_prep.shards.open import StudyFolder

_MOST_ROWS = 40
"""Rows of a table; what is more is counted below it."""


def page(study: StudyFolder, *, images: Path | None, most_trials: int) -> str:
    """The whole page.

    Parameters
    ----------
    images
        Folder of the study's images, or None: their names alone are shown.
    most_trials
        Trials to compute from, at most.

    Raises
    ------
    StudyError
        A tar is not the one that was written; an image cannot be read.
    """
    manifest = study.manifest
    shown = pictures(study, images)
    found = gather(study, most_trials)
    subjects, signal = manifest.tables.subjects, manifest.signal
    sections: list[TableSection | FigureSection] = [_counts(study), _levels(study, found)]
    sections += _losses(manifest.preprocessing) + _findings(manifest.measured)
    sections.append(
        FigureSection(title="Evoked responses, each channel a line, and maps at the strongest times", figure=evoked_figure(found, signal))
    )
    sections.append(FigureSection(title="Spectra by subject", figure=spectra_figure(found, subjects, signal)))
    sections.append(FigureSection(title="Levels by subject", figure=levels_figure(found, subjects, signal)))
    if found.reliabilities:
        sections.append(FigureSection(title="Split-half reliability across stimuli", figure=reliability_figure(found, subjects, signal)))
    return render(
        f"Study {study.root.resolve().name}",
        sections,
        notes=_notes(study, found, images),
        provenance={
            "fingerprint": manifest.fingerprint,
            "unit": manifest.signal.unit,
            "written by": manifest.code_version or None,
            "stimulus level": manifest.stimulus_level,
        },
        template=("data_prep.inspection", "inspect.html"),
        pictures=shown,
    )


def _counts(study: StudyFolder) -> TableSection:
    manifest, table = study.manifest, study.table
    rows = []
    for subject, label in enumerate(manifest.tables.subjects):
        own = table.subject == subject
        if not own.any():
            continue
        for session in np.unique(table.session[own]).tolist():
            here = own & (table.session == session)
            reps = study.samples["n_reps"][np.unique(table.sample[here])]
            counts = (int(here.sum()), len(np.unique(table.stimulus[here])), len(np.unique(table.concept[here])))
            recordings = len(np.unique(table.recording[here]))
            spread = f"{reps.min()}" if reps.min() == reps.max() else f"{reps.min()} to {reps.max()}"
            rows.append([f"{label}, session {manifest.tables.sessions[session]}", *map(str, counts), spread, str(recordings)])
    header = ("subject, session", "trials", "stimuli", "concepts", "repetitions a sample", "recordings")
    return _cut(TableSection(title="Trials", header=header, rows=rows))


def _levels(study: StudyFolder, found: Responses) -> TableSection:
    tables, rows = study.manifest.tables, []
    for subject in np.unique(found.subject_N).tolist():
        for session in np.unique(found.session_N[found.subject_N == subject]).tolist():
            level = found.level_N[(found.subject_N == subject) & (found.session_N == session)]
            low, middle, high = np.percentile(level, [5, 50, 95])
            rows.append(
                [f"{tables.subjects[subject]}, session {tables.sessions[session]}", *map(number, (middle, low, high)), str(len(level))]
            )
    remark = f"Standard deviation over time of a trial, the median over channels, in {unit(study.manifest.signal)}."
    header = ("subject, session", "median", "5 %", "95 %", "trials read")
    return _cut(TableSection(title="Levels", header=header, rows=rows, remark=remark))


def _losses(preprocessing: Mapping[str, Any]) -> list[TableSection]:
    """Trials that the reader counted, in all and by recording; nothing where it counts none."""
    total, by_recording = preprocessing.get("trials"), preprocessing.get("trials_by_recording")
    if not isinstance(total, Mapping) or "kept" not in total:
        return []
    reasons = [name for name, count in total.items() if isinstance(count, int) and name not in ("marked", "kept")]
    shown = ["marked", *reasons, "kept"]

    def row(name: str, counts: Mapping[str, Any]) -> list[str]:
        return [name, *(str(counts.get(reason, "")) for reason in shown)]

    rows = [row("all", total)]
    if isinstance(by_recording, list):
        rows += [row(str(each.get("recording", "")), each) for each in by_recording if isinstance(each, Mapping)]
    return [
        _cut(
            TableSection(
                title="Trials kept, and lost by reason", header=["recording", *(name.replace("_", " ") for name in shown)], rows=rows
            )
        )
    ]


def _findings(measured: Mapping[str, Any]) -> list[TableSection]:
    """What the writer found, the worst first; nothing where it found nothing."""
    found = [each for each in measured.get("findings", ()) if isinstance(each, Mapping)]
    rows = [[str(each.get("kind", "")).replace("_", " "), str(each.get("level", "")), str(each.get("message", ""))] for each in found]
    return (
        [_cut(TableSection(title="Found while it was written", header=("kind", "level", "what was measured"), rows=rows))] if rows else []
    )


def _cut(section: TableSection) -> TableSection:
    if len(section.rows) <= _MOST_ROWS:
        return section
    more = f"The first {_MOST_ROWS} of {len(section.rows)} rows."
    return TableSection(
        title=section.title, header=section.header, rows=section.rows[:_MOST_ROWS], remark=f"{section.remark} {more}".strip()
    )


def _notes(study: StudyFolder, found: Responses, images: Path | None) -> list[str]:
    manifest = study.manifest
    notes = [SIMULATED] if manifest.simulated else []
    total = len(study.table)
    read = f"all {total}" if found.trials == total else f"{found.trials} of {total}"
    notes.append(f"Responses, spectra, levels and reliability are of {read} trials.")
    if found.reliabilities:
        notes.append(
            "Reliability: repetitions of each stimulus are dealt into two halves at random; at every channel and time point the halves' "
            "averages are correlated across stimuli and corrected for their length (Spearman-Brown), negative values left as they are; the "
            "line is the mean over channels. Where it stays at zero, the responses tell no stimulus from another."
        )
        for each in found.reliabilities[:20]:
            best = int(np.argmax(each.r_T))
            when = 1000 * (manifest.signal.tmin + best / manifest.signal.sfreq)
            part = f", part {each.part}" if each.part else ""
            notes.append(
                f"Subject {manifest.tables.subjects[each.subject]}{part}: {each.r_T[best]:.3f} at best, {when:.0f} ms after onset, over "
                f"{each.stimuli} stimuli of {each.repetitions} repetitions."
            )
    if found.classes_r is not None:
        notes.append(
            f"Two random halves of the trials agree on how the classes' responses differ with a reliability of {found.classes_r:.3f} "
            "(correlation over channels and time points of the class averages less their mean, Spearman-Brown corrected; all subjects "
            "together)."
        )
    if manifest.signal.positions is None:
        notes.append("No maps: the study has no positions of its channels.")
    if images is None and not manifest.class_level:
        notes.append("No pictures: a study keeps the names of its images alone; inspect --images FOLDER shows some.")
    return notes
