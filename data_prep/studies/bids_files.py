"""Which recordings a BIDS dataset has, and which files beside them speak of each: names are read by mne-bids, inheritance is by the
standard.

A file speaks of a recording when it lies in the recording's folder or one above it and says nothing else of it than the recording's own
name does. Of tables the nearest one is meant; JSON files add up, the nearest one has the last word.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.studies.image_names import inside
from data_prep.studies.recording import Recording
from data_prep.studies.recording_files import ENDINGS, natural

SHORT = {"sub": "subject", "ses": "session", "acq": "acquisition", "proc": "processing", "desc": "description"}
"""How names abbreviate entities -> how mne-bids and our columns call them."""
ENTITIES = ("subject", "session", "task", "acquisition", "run", "processing", "space", "recording", "split", "description")
_FORMATS = ("EDF", "BDF", "GDF", "FIF", "BrainVision", "EEGLAB", "Neuroscan CNT", "EGI MFF", "XDF")
_RECORDED = tuple(ending for kind in _FORMATS for ending in ENDINGS[kind])
_OTHER_DATATYPES = ("meg", "ieeg", "nirs", "emg", "func")
_POINTER = re.compile(rb"\s*(/annex/|\.\./|version https://git-lfs)[^\n]*")


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A dataset, or a derivative of one and the dataset that it was made from."""

    root: Path
    """Where the recordings are."""
    raw: Path | None = None
    """The dataset below which a derivative lies."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """The nearest one first."""
        return (self.root,) if self.raw is None else (self.root, self.raw)


def tree_of(root: Path, derivative: str | None) -> Tree:
    """The dataset in ``root``, or its derivative of that name.

    Raises
    ------
    StudyError
        No such folder.
    """
    if not root.is_dir():
        raise StudyError(f"{root}: no such folder, expected a BIDS dataset")
    if derivative is None:
        return Tree(root=root)
    folder = inside(root / "derivatives", derivative)
    if not folder.is_dir():
        have = sorted(path.name for path in (root / "derivatives").glob("[!.]*") if path.is_dir())
        raise StudyError(f"{folder}: no such folder (derivative), it has {listed(have)}")
    return Tree(root=folder, raw=root)


def entities_of(name: str, file: Path | None = None) -> dict[str, str]:
    """What a file's name says, by mne-bids; of a recording (``file``) everything in it must be known.

    Raises
    ------
    StudyError
        mne-bids is not installed, or the name has an entity that there is not.
    """
    try:
        from mne_bids import get_entities_from_fname
    except ImportError as error:
        raise StudyError(f"BIDS needs a library that is not here ({error}): pip install 'eeg-vision-stack[formats]'") from error
    try:
        found = get_entities_from_fname(name, on_error="ignore" if file is None else "raise", verbose="error")
    except (KeyError, ValueError) as error:
        raise StudyError(f"{file}: not a name of BIDS ({error.args[0] if error.args else error})") from error
    return {entity: str(value) for entity, value in found.items() if value is not None and entity in ENTITIES}


def find_bids(
    tree: Tree, subjects: Sequence[str] | None, select: Mapping[str, Sequence[str]], datatype: str = "eeg"
) -> list[tuple[Recording, list[Path]]]:
    """Recordings, each with the parts that it is split into (itself alone, mostly), by subject, session, task and run.

    Names that begin with a dot are passed over. A recording's ``run`` is its task, acquisition and run: ``train01``, ``test``.

    Raises
    ------
    StudyError
        None, a wanted subject that is not there, names that contradict their folder, several files that are one recording by what
        ``select`` leaves open, or content that was never fetched.
    """
    seen = sorted(_recordings_below(tree.root, datatype), key=lambda path: natural(path.relative_to(tree.root).as_posix()))
    if not seen:
        others = sorted(
            {path.name for pattern in ("sub-*/*", "sub-*/ses-*/*") for path in tree.root.glob(pattern) if path.name in _OTHER_DATATYPES}
        )
        if others:
            raise StudyError(
                f"{tree.root}: has {listed(others)} and no {datatype}, expected EEG: trials of magnetic sensors that MNE has cut "
                "become z-scores with the "
                "reader epochs (configs/data_prep/shard_things_meg.yaml)"
            )
        some = sorted(path.relative_to(tree.root).as_posix() for path in tree.root.rglob(f"{datatype}/[!.]*"))
        raise StudyError(
            f"{tree.root}: no recording in sub-*/[ses-*/]{datatype}/ that ends in {', '.join(_RECORDED)}; it has {listed(some, 4)}"
        )
    found = [(file, entities_of(file.name, file)) for file in seen]
    for file, entities in found:
        _refuse_other_folder(file, entities, tree.root)
    have = sorted({entities["subject"] for _, entities in found}, key=natural)
    wanted = have if subjects is None else [_known(subject, have, tree.root) for subject in subjects]
    kept = [(file, entities) for file, entities in found if entities["subject"] in wanted and _selected(entities, select)]
    if not kept:
        what = ", ".join(f"{name} {listed(values)}" for name, values in select.items())
        there = {name: sorted({entities.get(name, "none") for _, entities in found}, key=natural) for name in select}
        raise StudyError(
            f"{tree.root}: no recording has {what} (select); there are {', '.join(f'{n} {listed(v, 12)}' for n, v in there.items())}"
        )
    parts: dict[tuple[tuple[str, str], ...], list[tuple[Path, dict[str, str]]]] = {}
    for file, entities in kept:
        parts.setdefault(tuple(sorted((n, v) for n, v in entities.items() if n != "split")), []).append((file, entities))
    recordings: dict[str, tuple[Recording, list[Path]]] = {}
    for same in parts.values():
        recording, files = _recording(same)
        other = recordings.setdefault(recording.label, (recording, files))[0]
        if other is not recording:
            differ = sorted(n for n in ENTITIES if recording.entities.get(n) != other.entities.get(n)) or ["format"]
            raise StudyError(
                f"{recording.file}: is {recording.label}, and so is {other.file}: they differ in {listed(differ)}, choose one with select"
            )
    return list(recordings.values())


def _recordings_below(root: Path, datatype: str) -> Iterator[Path]:
    for subject in root.glob("sub-*"):
        for folder in (subject / datatype, *(session / datatype for session in subject.glob("ses-*"))):
            for file in folder.glob("[!.]*") if folder.is_dir() else ():
                if file.suffix.lower() in _RECORDED and file.stem.endswith(f"_{datatype}"):
                    yield file


def _recording(same: Sequence[tuple[Path, dict[str, str]]]) -> tuple[Recording, list[Path]]:
    """One recording of files that differ in ``split`` alone."""
    files = [file for file, _ in sorted(same, key=lambda row: natural(row[1].get("split", "")))]
    entities = {name: value for name, value in same[0][1].items() if name != "split"}
    for file in files:
        _refuse_not_fetched(file)
    if len(files) > 1 and any("split" not in said for _, said in same):
        raise StudyError(f"{files[1]}: is the recording {files[0].name} in another format: expected one, keep the other elsewhere")
    if len(files) > 1 and files[0].suffix.lower() != ".fif":
        raise StudyError(f"{files[1]}: the second part of {files[0].name}: only FIF files are split in BIDS, join the parts")
    run = "".join(re.sub("[^A-Za-z0-9]", "", entities.get(name, "")) for name in ("task", "acquisition", "run"))
    recording = Recording(
        file=files[0], subject=entities["subject"], session=entities.get("session", "01"), run=run or "01", entities=entities
    )
    return recording, files


def _refuse_other_folder(file: Path, entities: Mapping[str, str], root: Path) -> None:
    folders = file.relative_to(root).parts[:-2]
    said = [f"sub-{entities.get('subject')}", *([f"ses-{entities['session']}"] if "session" in entities else [])]
    if list(folders) != said:
        raise StudyError(f"{file}: its name says {'/'.join(said)}, its folder {'/'.join(folders)}: expected the same")


def _refuse_not_fetched(file: Path) -> None:
    """A clone of a dataset has links or short texts where the content was not fetched."""
    if not file.exists() or (file.is_file() and file.stat().st_size < 1024 and _POINTER.match(file.read_bytes())):
        raise StudyError(
            f"{file}: points to content that is not here, expected a recording: fetch it first (git annex get, datalad get, git lfs pull)"
        )


def _known(subject: str, have: Sequence[str], root: Path) -> str:
    found = [name for name in have if same_label(name, subject.removeprefix("sub-"))]
    if len(found) != 1:
        raise StudyError(f"{root}: has no subject {subject}; it has {listed(have)}")
    return found[0]


def same_label(one: str, other: str) -> bool:
    """Whether two labels are the same; numbers are compared as numbers."""
    return one == other or (one.isdigit() and other.isdigit() and int(one) == int(other))


def _selected(entities: Mapping[str, str], select: Mapping[str, Sequence[str]]) -> bool:
    return all(any(same_label(entities.get(name, "none"), value) for value in values) for name, values in select.items())


# ----------------------------------------------------------------------------------------------------- inheritance


def inherited(recording: Recording, tree: Tree, suffix: str, extras: Sequence[str] = (), *, from_raw: bool = False) -> list[Path]:
    """Files ``*_SUFFIX`` (``events.tsv``) that speak of a recording, the most general first; ``from_raw`` looks in the raw dataset of a
    derivative where it has none itself. ``extras`` are entities that they may have and the recording has not (``space``)."""
    for root in tree.roots if from_raw else tree.roots[:1]:
        relative = recording.file.parent.relative_to(tree.root)
        folders = [root, *(root.joinpath(*relative.parts[: depth + 1]) for depth in range(len(relative.parts)))]
        own = dict(recording.entities) if root == tree.root else _of_raw(recording.entities)
        found = [file for folder in folders for file in sorted(_in(folder, suffix), key=lambda file: (len(_names(file)), file.name))]
        spoken = [file for file in found if _speaks(_names(file), own, extras)]
        if spoken:
            return spoken
    return []


def nearest(files: Sequence[Path], *, among: str) -> Path | None:
    """The table that is meant: of those in the deepest folder the one that says most.

    Raises
    ------
    StudyError
        Two that say as much.
    """
    if not files:
        return None
    deepest = [file for file in files if file.parent == files[-1].parent]
    most = [file for file in deepest if len(_names(file)) == len(_names(deepest[-1]))]
    if len(most) > 1:
        raise StudyError(f"{most[1]}: is {among} as much as {most[0].name} is, expected one of them")
    return deepest[-1]


def _of_raw(entities: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in entities.items() if name not in ("description", "processing", "space")}


def _in(folder: Path, suffix: str) -> list[Path]:
    found = folder.glob(f"[!.]*{suffix}") if folder.is_dir() else ()
    return [file for file in found if file.name == suffix or file.name.endswith(f"_{suffix}")]


def _names(file: Path) -> Mapping[str, str]:
    return _parsed(file.name)


@functools.lru_cache(maxsize=4096)
def _parsed(name: str) -> Mapping[str, str]:
    return entities_of(name)


def _speaks(said: Mapping[str, str], own: Mapping[str, str], extras: Sequence[str]) -> bool:
    return all(name in extras if name not in own else same_label(own[name], value) for name, value in said.items())
