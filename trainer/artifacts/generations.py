"""What ``generate`` wrote, read for evaluation: every arm's captions of the same items, of one or several training seeds.

A folder holds ``generations.jsonl`` (one record a line: arm, item, stimulus, subject, image, expected, generated,
concept_true, concept_predicted, prompt, seed) and ``generate.json`` (how they came about). Folders are training seeds of
one and the same experiment; what contradicts that is refused.

Q: items, S: training seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import CommandError
from data_prep.contract.json_text import parse_json
from data_prep.contract.manifest import read_manifest
from data_prep.contract.records import read_record
from data_prep.contract.seal import say_edited

GENERATIONS, FACTS = "generations.jsonl", "generate.json"
ARMS = (
    "eeg", "eeg+concept", "noise", "noise+word", "shuffled", "shuffled-within-concept", "concept-mean", "label-only",
    "keywords", "nearest-caption", "caption-prior", "image",
)  # fmt: skip
"""In the order of tables; what each shows: :mod:`trainer.generate.arms`."""
MUST_AGREE = ("fingerprint", "split", "split_hash", "part", "decoding", "candidates", "num_words", "style", "limit", "base", "stage")
"""What seeds of one experiment share."""
SOURCE = ("study", "split", "part", "unit", "simulated")
"""What every caption says of the trials behind it; in a table ``unknown`` where it is not told."""
_ASKED = ("decoding", "num_words", "style", "limit")
"""Those of them that the command's config says."""


@dataclass(frozen=True, kw_only=True)
class GenerationFacts:
    """``generate.json``: how captions came about. None: not told."""

    study: str | None = None
    """Folder."""
    fingerprint: str | None = None
    split: str | None = None
    split_hash: str | None = None
    part: str | None = None
    simulated: bool | None = None
    unit: str | None = None
    """Of the EEG."""
    trials_hash: str | None = None
    """Of the study, see :attr:`data_prep.contract.manifest.Manifest.trials_hash`."""
    trained_trials: int | None = None
    """On how many of the part's trials (repetitions) the model was trained, encoder and ancestors included; None: not known."""
    trained_not_known: tuple[str, ...] = ()
    """Why it is not known, a clause for each training that cannot be compared."""
    candidates: str | None = None
    """Where predicted words come from: ``train`` or ``part``."""
    num_items: int | None = None
    num_uncaptioned: int | None = None
    """Items left out since they have no caption to compare with."""
    base: str | None = None
    """Name of the language model."""
    stage: str | None = None
    """Last stage of training."""
    trained_on: tuple[str, ...] | None = None
    """Of ``image`` and ``eeg``."""
    with_words: tuple[str, ...] = ()
    """Arms whose prompts have predicted words."""
    model: str | None = None
    """Hash over the text export's files."""
    step: int | None = None
    notes: tuple[str, ...] = ()
    """What a reader of the captions must know."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Reasons, by arm."""
    records: Mapping[str, int] = field(default_factory=dict)
    """Captions, by arm."""
    seconds: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    """The command's resolved config."""

    def told(self, name: str) -> Any:
        """One of :data:`MUST_AGREE`."""
        return self.config.get(name) if name in _ASKED else getattr(self, name)

    def agrees(self, other: GenerationFacts, name: str) -> bool:
        """Whether both tell the same of one of :data:`MUST_AGREE`; a study that got another embedding in between is the same."""
        if name == "fingerprint" and self.trials_hash and other.trials_hash:
            return self.trials_hash == other.trials_hash
        told: bool = self.told(name) == other.told(name)
        return told

    def is_simulated(self) -> bool | None:
        """Whether the EEG is simulated, by ``generate.json`` or else by the study itself; None: not known."""
        study = Path(self.study or "")
        if self.simulated is None and (study / "manifest.json").is_file():
            return read_manifest(study).simulated
        return self.simulated

    @property
    def export(self) -> str | None:
        """Run or export whose model wrote the captions."""
        return self.config.get("export")


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What was generated and what was right."""

    generated: str
    expected: tuple[str, ...]
    """Reference captions, at least one."""
    concept_true: str = ""
    """Name of the true concept; empty: unknown."""
    concept_predicted: str = ""
    """Name of the concept predicted from the arm's input; empty: the arm predicts none."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One generated caption."""

    arm: str
    item: int
    stimulus: str
    subject: str
    image: str
    expected: tuple[str, ...]
    generated: str
    concept_true: str
    concept_predicted: str

    def caption(self) -> Caption:
        """For scoring."""
        return Caption(
            generated=self.generated, expected=self.expected, concept_true=self.concept_true, concept_predicted=self.concept_predicted
        )


@dataclass(frozen=True, kw_only=True)
class Generations:
    """All captions of one experiment."""

    folders: list[Path]
    """One a training seed."""
    facts: list[GenerationFacts]
    """Of each."""
    arms: list[str]
    items: list[int]
    """Item numbers, ascending; position q is item q of the arrays."""
    records: dict[tuple[int, str, int], Record]
    """By (training seed, arm, position)."""
    stimulus_Q: np.ndarray
    subject_Q: np.ndarray
    image_Q: list[str]

    @property
    def num_images(self) -> int:
        """Different stimuli."""
        return len(np.unique(self.stimulus_Q))

    def present(self, arm: str) -> np.ndarray:
        """bool (Q,): items that the arm captioned."""
        return np.array([(0, arm, q) in self.records for q in range(len(self.items))])

    @property
    def shared(self) -> GenerationFacts:
        """Of the first folder: all share what :data:`MUST_AGREE` names."""
        return self.facts[0]

    @property
    def simulated(self) -> bool | None:
        """Whether the EEG of any training seed's captions is simulated; None: not known of all."""
        told = {facts.is_simulated() for facts in self.facts}
        return True if True in told else None if None in told else False

    @property
    def trained_trials(self) -> int | None:
        """On how many of the part's trials any seed's model was trained; None: not known of all."""
        told = [facts.trained_trials for facts in self.facts]
        return None if None in told else max(count for count in told if count is not None)


def read_generations(folders: Sequence[Path], may_differ: Sequence[str] = ()) -> Generations:
    """Read and check folders of ``generate``; those of ``MUST_AGREE`` that ``may_differ`` are not held to be equal.

    Raises
    ------
    CommandError, StudyError
        A file that is missing, broken or altered, a generation that is not done, seeds of different experiments, one model taken for two
        seeds, an item that means different images.
    """
    facts = [read_facts(folder) for folder in folders]
    for folder in folders:
        say_edited(folder)
    models: dict[str, Path] = {}
    for folder, own in zip(folders, facts, strict=True):
        if own.model and own.model in models:
            raise CommandError(
                f"generations: {folder} and {models[own.model]} are captions of one and the same model, expected a training seed each"
            )
        models[str(own.model)] = folder
    for name in (name for name in MUST_AGREE if name not in may_differ):
        for folder, other in zip(folders, facts, strict=True):
            if not other.agrees(facts[0], name):
                raise CommandError(f"generations: {folder} and {folders[0]} differ in {name}: not seeds of one experiment")
    by_seed = [_read_records(folder) for folder in folders]
    items = sorted({item for found in by_seed for _, item in found})
    position = {item: q for q, item in enumerate(items)}
    known: dict[int, Record] = {}
    records: dict[tuple[int, str, int], Record] = {}
    for s, found in enumerate(by_seed):
        for (arm, item), record in found.items():
            first = known.setdefault(item, record)
            if (record.stimulus, record.subject, record.expected) != (first.stimulus, first.subject, first.expected):
                raise CommandError(
                    f"{folders[s] / GENERATIONS}: item {item} is stimulus {record.stimulus!r} of subject {record.subject!r} in arm {arm}, "
                    f"elsewhere {first.stimulus!r} of {first.subject!r} or with other references: these are not the same items"
                )
            records[s, arm, position[item]] = record
    keys = [{(arm, q) for s, arm, q in records if s == seed} for seed in range(len(folders))]
    for folder, key in zip(folders, keys, strict=True):
        if key != keys[0]:
            arm = sorted(a for a, _ in key ^ keys[0])[0]
            raise CommandError(f"generations: {folder} and {folders[0]} do not hold the same items of arm {arm}")
    arms = {arm for _, arm, _ in records}
    return Generations(
        folders=list(folders),
        facts=facts,
        arms=[*(a for a in ARMS if a in arms), *sorted(arms - set(ARMS))],
        items=items,
        records=records,
        stimulus_Q=np.unique([known[i].stimulus for i in items], return_inverse=True)[1].reshape(-1),
        subject_Q=np.unique([known[i].subject for i in items], return_inverse=True)[1].reshape(-1),
        image_Q=[known[i].image for i in items],
    )


def read_facts(folder: Path) -> GenerationFacts:
    """``generate.json`` of a folder in which ``generate`` is done.

    Raises
    ------
    CommandError
        It is not done there, or the file is damaged.
    """
    for name in (GENERATIONS, FACTS):
        if not (folder / name).is_file():
            raise CommandError(f"generations: {folder} holds no {name}: is `generate` done there?")
    return read_record(folder / FACTS, GenerationFacts, written_by="generate")


def _read_records(folder: Path) -> dict[tuple[str, int], Record]:
    path = folder / GENERATIONS
    found: dict[tuple[str, int], Record] = {}
    with path.open("rb") as file:  # only "\n" ends a line: captions may hold any other separator
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = _record(parse_json(line, "the line", halves=True))
            except (ValueError, KeyError, TypeError) as error:
                reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
                raise CommandError(f"{path}: line {number} is not a record of generate ({reason})") from error
            if (record.arm, record.item) in found:
                raise CommandError(f"{path}: line {number} captions item {record.item} in arm {record.arm} a second time")
            found[record.arm, record.item] = record
    if not found:
        raise CommandError(f"{path}: holds no generated caption")
    return found


def _record(plain: Any) -> Record:
    if not isinstance(plain, dict):
        raise ValueError("not a JSON object")
    expected = plain["expected"]
    if not isinstance(expected, list) or not expected:
        raise ValueError("no list of expected captions")
    if not isinstance(plain["generated"], str):
        raise ValueError("generated is no text")
    if isinstance(plain["item"], bool) or not isinstance(plain["item"], int):
        raise ValueError("item is no whole number")
    predicted = plain.get("concept_predicted")
    predicted = predicted[0] if isinstance(predicted, list) and predicted else predicted
    return Record(
        arm=_text(plain["arm"]),
        item=plain["item"],
        stimulus=_text(plain["stimulus"]),
        subject=_text(plain["subject"]),
        image=_text(plain.get("image") or ""),
        expected=tuple(_text(line) for line in expected),
        generated=_text(plain["generated"]),
        concept_true=_text(plain.get("concept_true") or ""),
        concept_predicted=_text(predicted or ""),
    )


def _text(value: Any) -> str:
    # A model may emit half of a surrogate pair, which no file can hold.
    return str(value).encode("utf-8", "replace").decode("utf-8")
