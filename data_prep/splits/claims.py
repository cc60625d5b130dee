"""Each claim that a paper could make from a score on a test part, and what of the audit's findings breaks or clouds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data_prep.contract.audit import Claim, Finding

_TRIALS = ("equal_trials",)
_PAIRING = ("row_order_unproven", "content_unmeasured")
_TOUCHED = ("whitening_saw_test", "whitened_source", "transductive_alignment", "no_validation")
_TIME = ("block_design",)
_LOST = ("order_unknown",)
_READING = (
    "level",
    "levels_apart",
    "levels_differ",
    "unit_unlikely",
    "flat_channel",
    "equal_subjects",
    "class_missing",
    "alone",
    "tiny_gallery",
)
_GENERAL = (*_PAIRING, *_TOUCHED, *_READING)


@dataclass(frozen=True, kw_only=True)
class _Rule:
    sentence: str
    breaks: tuple[str, ...]
    clouds: tuple[str, ...]
    of_images: bool = False
    """Whether it says nothing of a study whose stimuli are classes."""


_RULES = {
    "new concepts": _Rule(
        sentence="a model tells images of concepts apart that it was never trained on",
        breaks=("concept_overlap", "stimulus_overlap", "equal_images", *_TRIALS),
        clouds=("near_images", "concepts_alike", *_GENERAL),
        of_images=True,
    ),
    "new images": _Rule(
        sentence="a model recognises images that it was never trained on",
        breaks=("stimulus_overlap", "equal_images", *_TRIALS, *_TIME),
        clouds=("near_images", *_LOST, *_GENERAL),
        of_images=True,
    ),
    "new recordings": _Rule(
        sentence="a model decodes recordings that it was never trained on",
        breaks=("recording_overlap", *_TRIALS),
        clouds=("recording_unknown", "recordings_not_known", *_GENERAL),
    ),
    "new sessions": _Rule(
        sentence="a model decodes sessions that it was never trained on",
        breaks=("session_overlap", *_TRIALS),
        clouds=("session_unknown", *_GENERAL),
    ),
    "new subjects": _Rule(
        sentence="a model decodes subjects that it was never trained on",
        breaks=("subject_overlap", *_TRIALS),
        clouds=_GENERAL,
    ),
    "responses, not time": _Rule(
        sentence="a model goes by responses to stimuli, not by when in a recording they were shown",
        breaks=_TIME,
        clouds=(*_LOST, "recording_unknown"),
    ),
    "untouched test": _Rule(
        sentence="nothing was fitted to, or chosen by, the test trials",
        breaks=("whitening_saw_test", *_TRIALS),
        clouds=_TOUCHED,
    ),
    "right pairs": _Rule(
        sentence="every trial is paired with the embedding of the image that was shown",
        breaks=(),
        clouds=("row_order_unproven",),
        of_images=True,
    ),
}  # fmt: skip


def claims(findings: Sequence[Finding], *, class_level: bool) -> tuple[Claim, ...]:
    """A verdict on every claim: ``unsound`` where a finding of the test part breaks it, ``caution`` where one clouds it, else ``sound``."""
    of_test = [finding for finding in findings if finding.facts.get("part") in (None, "test")]
    found = []
    for name, rule in _RULES.items():
        if rule.of_images and class_level:
            found.append(
                Claim(name=name, sentence=rule.sentence, verdict="not made", reasons=("stimuli are classes, never single images",))
            )
            continue
        broken = [each for each in of_test if each.kind in rule.breaks]
        clouded = [each for each in of_test if each.kind in rule.clouds and each.level != "info"]
        reasons = tuple(dict.fromkeys(each.message for each in (*broken, *clouded)))
        verdict: Literal["sound", "caution", "unsound"] = (
            "unsound" if broken or any(each.level == "problem" for each in clouded) else "caution" if clouded else "sound"
        )
        found.append(Claim(name=name, sentence=rule.sentence, verdict=verdict, reasons=reasons))
    return tuple(found)
