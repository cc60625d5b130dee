"""What was measured of a study, in sentences: a ``problem`` refuses it unless it is allowed, a ``caution`` is for readers of its scores."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import get_args

import numpy as np

from data_prep.contract.audit import Finding
from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.measure import levels
from data_prep.measure.alike_names import alike_names
from data_prep.measure.content import equal_trials, is_copy
from data_prep.shards.early import Early
from data_prep.shards.measuring import Refusal
from data_prep.shards.parts import StudyParts
from data_prep.studies.base import StudyFacts

Eeg = Callable[[int], np.ndarray]
"""EEG of a sample, (R, C, T)."""
_CONFIRMED = 64
"""Pairs of trials that are compared point by point; more of the same kind say the same."""
_MOSTLY = 0.5
"""Share of a subject's trials from which on a channel that does not move is no electrode."""
_MEASURE = "median standard deviation within a trial"
_EQUAL_TRIALS = (
    "expected trials that differ; measure.drop: [equal_trials] leaves out the later ones, measure.allow: [equal_trials] keeps them"
)
_EQUAL_SUBJECTS = "expected two people; measure.drop: [equal_trials] leaves out the later trials, else the audit says what they spoil"
_BRIDGED = "bridged by gel, or one electrode under two names"
_PADDING = ("nan", "zeros", "constant", "repeated")


def refuse(findings: Sequence[Finding], allow: Collection[str], where: str) -> None:
    """Refuse a study for the first problem that is not allowed.

    Raises
    ------
    StudyError
        Its sentence, and how many more there are.
    """
    problems = refused(findings, allow)
    if problems:
        more = f" ({len(problems) - 1} more: see `check`)" if len(problems) > 1 else ""
        raise StudyError(f"{where}: {problems[0].message}{more}")


def refused(findings: Sequence[Finding], allow: Collection[str]) -> list[Finding]:
    """The findings for which a study is refused."""
    return [each for each in findings if each.level == "problem" and each.kind in get_args(Refusal) and each.kind not in allow]


# ---------------------------------------------------------------------------------------------------------- levels


def part_levels(rows: np.ndarray, part_N: np.ndarray, parts: StudyParts, early: Early) -> dict[str, levels.Level]:
    """Level of every part, by its label."""
    found: dict[str, levels.Level] = {}
    order_N = np.argsort(part_N, kind="stable")
    starts = np.flatnonzero(np.diff(part_N[order_N], prepend=-1))
    for chosen in np.split(order_N, starts[1:]) if len(order_N) else ():
        part = int(part_N[chosen[0]])
        level_N = rows["level"][chosen]
        finite_N = level_N[np.isfinite(level_N)]
        if len(finite_N):
            found[parts.labels[part]] = levels.level_of(finite_N, early.channel_std.get(part))
    return found


def level_findings(by_part: Mapping[str, levels.Level], unit: str) -> list[Finding]:
    """Levels that EEG cannot have, and parts that cannot be of one unit."""
    apart = levels.farthest(by_part)
    if apart is not None and not apart.one_unit:
        low, high = by_part[apart.low], by_part[apart.high]
        message = (
            f"{apart.low} has a level of {low.level:.3g}{_as(low)}, {apart.high} one of {high.level:.3g}{_as(high)} ({_MEASURE}), "
            f"{apart.factor:.2g} times as much: expected one unit; say the unit of each in the reader, or measure.allow: [levels_apart]"
        )
        return [_finding("problem", "levels_apart", message, low=apart.low, high=apart.high, factor=float(f"{apart.factor:.3g}"))]
    found: list[Finding] = []
    if apart is not None and apart.factor >= levels.DIFFERENT:
        message = f"levels differ: {apart.low} {by_part[apart.low].level:.3g}, {apart.high} {by_part[apart.high].level:.3g} {unit}"
        unclear = apart.factor >= levels.UNCLEAR
        message += ", too far for people alone and too near for another unit" if unclear else ""
        found.append(_finding("caution" if unclear else "info", "levels_differ", message, factor=float(f"{apart.factor:.3g}")))
    enough = {name: level for name, level in by_part.items() if level.trials >= levels.FEWEST_TRIALS}
    odd = [name for name, level in enough.items() if not levels.is_plausible(level.level, unit)]
    if odd:
        level, (least, most) = by_part[odd[0]].level, levels.PLAUSIBLE_MICROVOLTS
        expected = f"at least {levels.LEAST_ZSCORE:g}" if unit == "zscore" else f"{least:g} to {most:g}"
        said = levels.looks_like(level)
        message = (
            f"{odd[0]} has a level of {level:.3g} {unit} ({_MEASURE}), expected {expected}: "
            f"{f'its numbers look like {said}' if said else 'no unit makes that EEG'}; say their unit in the reader, or "
            "measure.allow: [level]"
        )
        found.append(_finding("problem", "level", message, parts=len(odd)))
    elif unit == "zscore" and any(level.level > levels.MOST_ZSCORE for level in enough.values()):
        loud = next(name for name, level in enough.items() if level.level > levels.MOST_ZSCORE)
        message = (
            f"{loud} has a level of {by_part[loud].level:.3g}, and the reader calls it zscore, which lies near 1: it looks like microvolts"
        )
        found.append(_finding("caution", "unit_unlikely", message))
    return found


def _as(level: levels.Level) -> str:
    said = levels.looks_like(level.level, zscored=level.zscored)
    return f" (looks like {'z-scores' if said == 'zscore' else said})" if said else ""


# ---------------------------------------------------------------------------------------------------------- content


def twins_of(rows: np.ndarray) -> list[tuple[int, int]]:
    """Rows of trials whose signatures are one, the later and the earlier."""
    found = equal_trials(rows["content"])
    return [(trial, twin) for trial, twin in zip(found.trial.tolist(), found.twin.tolist(), strict=True) if twin < trial]


def confirmed(pairs: Sequence[tuple[int, int]], rows: np.ndarray, eeg: Eeg, most: int | None = None) -> list[tuple[int, int]]:
    """The pairs whose trials are one signal, compared point by point; ``most`` of them, at even distances, where there are more."""
    if most is not None and len(pairs) > most:
        pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, num=most).astype(int)]
    return [(trial, twin) for trial, twin in pairs if is_copy(_trial(rows[trial], eeg), _trial(rows[twin], eeg))]


def _trial(row: np.void, eeg: Eeg) -> np.ndarray:
    eeg_CT: np.ndarray = eeg(int(row["sample"]))[int(row["repetition"])]
    return eeg_CT


def content_findings(rows: np.ndarray, part_N: np.ndarray, parts: StudyParts, eeg: Eeg) -> list[Finding]:
    """Trials of one content, whatever they are called: of one subject, which cannot be, and of two, who may be one person."""
    twins, found = twins_of(rows), list[Finding]()
    subject_N = np.array(parts.subjects, np.int64)[part_N] if len(part_N) else part_N
    for across, kind, wanted in ((False, "equal_trials", _EQUAL_TRIALS), (True, "equal_subjects", _EQUAL_SUBJECTS)):
        pairs = [(trial, twin) for trial, twin in twins if (subject_N[trial] != subject_N[twin]) == across]
        some = confirmed(pairs, rows, eeg, _CONFIRMED)
        if not some:
            continue
        between = Counter((parts.labels[part_N[twin]], parts.labels[part_N[trial]]) for trial, twin in some)
        (one, other), _ = between.most_common(1)[0]
        trial, twin = next((a, b) for a, b in some if (parts.labels[part_N[b]], parts.labels[part_N[a]]) == (one, other))
        message = (
            f"{parts.where(rows[trial])} holds the signal of {parts.where(rows[twin])} (but for scale, offset, rounding and order of "
            f"channels), one of "
            f"{len(pairs):,} such pairs of trials, most {f'within {one}' if one == other else f'of {one} and {other}'}: {wanted}"
        )
        found.append(_finding("problem", kind, message, pairs=len(pairs), first=one, second=other))
    return found


# ----------------------------------------------------------------------------------------------------- electrodes


def electrode_findings(early: Early, facts: StudyFacts) -> list[Finding]:
    """Channels that are no electrode's, and pairs that are one."""
    found: list[Finding] = []
    for subject, flat_C in sorted(early.flat.items()):
        share_C = flat_C / max(early.trials[subject], 1)
        dead = [name for name, share in zip(facts.ch_names, share_C, strict=True) if share > _MOSTLY]
        if dead:
            message = (
                f"channel {listed(dead)} of subject {facts.subjects[subject]} does not move in {share_C.max():.0%} of the trials that were "
                "looked at: expected a signal; leave the channel out in the reader, or measure.allow: [flat_channel]"
            )
            found.append(_finding("problem", "flat_channel", message, subject=facts.subjects[subject], channels=dead))
    for subject, count in sorted(early.padded.items()):
        if count > _MOSTLY * max(early.trials[subject], 1):
            message = (
                f"trials of subject {facts.subjects[subject]} stand still in every channel at their beginning or end ({count} of "
                f"{early.trials[subject]} that were looked at): they were filled up to a length; crop them (trials.tmin, trials.tmax)"
            )
            found.append(_finding("caution", "padded_in_time", message, subject=facts.subjects[subject], trials=count))
    for subject, pairs in sorted(early.bridged.items()):
        if pairs:
            said = [f"{facts.ch_names[i]} and {facts.ch_names[j]}" for i, j in pairs]
            message = f"channels {listed(said)} of subject {facts.subjects[subject]} are one signal but for noise: {_BRIDGED}"
            found.append(_finding("caution", "bridged", message, subject=facts.subjects[subject], pairs=len(pairs)))
    return found + _bridged_raw(facts)


def _bridged_raw(facts: StudyFacts) -> list[Finding]:
    """Pairs of channels that are one in the raw signal of a recording, a sentence for each set of pairs."""
    recordings: dict[tuple[tuple[str, str], ...], list[int]] = defaultdict(list)
    for recording, pairs in sorted((facts.bridged or {}).items()):
        recordings[tuple(sorted(pairs))].append(recording)
    found: list[Finding] = []
    for names, numbers in recordings.items():
        shares = [share for number in numbers for share in (facts.bridged or {})[number].values()]
        labels = [facts.recordings[number] for number in numbers]
        message = (
            f"channels {listed(' and '.join(pair) for pair in names)} of {listed(labels)} are one raw signal but for noise, in "
            f"{min(shares):.0%} of the trials or more: {_BRIDGED}"
        )
        found.append(_finding("caution", "bridged", message, recordings=labels, pairs=len(names)))
    return found


def loss_findings(lost: Mapping[str, int]) -> list[Finding]:
    """What was left out."""
    found: list[Finding] = []
    padding = {reason: lost[reason] for reason in _PADDING if lost.get(reason)}
    if padding:
        said = ", ".join(f"{count:,} {reason}" for reason, count in padding.items())
        found.append(_finding("info", "padding", f"{sum(padding.values()):,} repetitions were padding and are left out: {said}", **padding))
    if lost.get("flat"):
        message = f"{lost['flat']:,} trials with a channel that does not move are left out"
        found.append(_finding("caution", "flat_trials", message, trials=lost["flat"]))
    if lost.get("equal_trials"):
        message = f"{lost['equal_trials']:,} trials that hold the signal of an earlier one are left out"
        found.append(_finding("caution", "equal_trials_dropped", message, trials=lost["equal_trials"]))
    return found


def name_findings(facts: StudyFacts) -> list[Finding]:
    """Concepts that may be one."""
    groups = alike_names(facts.concepts)
    if not groups:
        return []
    message = (
        f"{len(groups)} group{'s' if len(groups) > 1 else ''} of concepts differ in case, spelling or number alone, such as "
        f"{listed(map(repr, groups[0]))}: they count as different concepts"
    )
    return [_finding("caution", "concepts_alike", message, groups=groups[:50])]


def _finding(level: str, kind: str, message: str, **facts: object) -> Finding:
    return Finding(level=level, kind=kind, message=message, facts=facts)  # type: ignore[arg-type]
