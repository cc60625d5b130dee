"""WordNet for METEOR, from files on this machine: where it is looked for, and a reader that nltk accepts.

nltk reads only folders that it trusts (its own data places, not writable by a group, no links) and wants a file ``lexnames``
that distributions leave out. So the dictionary, wherever it lies, is copied into a private temporary folder (27 MB, a
fraction of a second) which lives as long as the reader.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.raw_file import RawFile
from data_prep.contract.words import short
from data_prep.contract.zip_file import ZipMembers

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
NEEDED = tuple(f"{kind}.{part}" for kind in ("data", "index") for part in PARTS_OF_SPEECH) + tuple(f"{p}.exc" for p in PARTS_OF_SPEECH)
UNUSED = ("index.sense", "cntlist.rev")
"""Files that nltk asks for and METEOR does not: left empty, since reading them takes longer than all others."""
FETCH = "fetch"
HOW_TO_GET_IT = (
    "METEOR is left out: no WordNet on this machine; install the Debian package wordnet-base, or run `python -m nltk.downloader wordnet`, "
    "or set `wordnet` to a folder that holds data.noun and its like"
)
# The lexicographer files of WordNet 3.0 in their order, with nltk's numbers of the parts of speech; see lexnames(5WN).
_NOUNS = (
    "Tops act animal artifact attribute body cognition communication event feeling food group location motive object person "
    "phenomenon plant possession process quantity relation shape state substance time"
)
_VERBS = (
    "body change cognition communication competition consumption contact creation emotion motion perception possession social "
    "stative weather"
)
_LEXNAMES = (
    "adj.all",
    "adj.pert",
    "adv.all",
    *(f"noun.{name}" for name in _NOUNS.split()),
    *(f"verb.{name}" for name in _VERBS.split()),
    "adj.ppl",
)
_NUMBERS = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}
_DAMAGED = (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError)
"""What ``zipfile`` raises at an archive's directory."""
_private: list[str] = []
"""Copies made in this process: nltk's places by now, but not where a user keeps a dictionary."""


def find_wordnet(given: str | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Folder or zip of a WordNet dictionary, or None.

    Parameters
    ----------
    given
        A folder, a zip file, ``fetch`` (nltk's downloader is asked where nothing is found here), or None: look in
        ``$WORDNET``, ``$WNSEARCHDIR``, ``$WNHOME/dict``, nltk's data places, ``/usr/share/wordnet``.

    Raises
    ------
    CommandError
        ``given`` holds no dictionary, or it could not be fetched.
    """
    if given and given != FETCH:
        found = _dictionary(Path(given))
        if found is None:
            raise CommandError(f"wordnet: {given} holds no WordNet dictionary, expected a folder or zip file with {NEEDED[0]} and its like")
        return found
    found = next((path for place in _places(environment) if (path := _dictionary(place))), None)
    if found is None and given == FETCH:
        import nltk

        if not nltk.download("wordnet", quiet=True):
            raise CommandError("wordnet: nltk could not fetch it; is there a network? else set `wordnet` to a folder that holds data.noun")
        found = next((path for place in _places(environment) if (path := _dictionary(place))), None)
    return found


def open_wordnet(path: Path) -> Any:
    """A ``WordNetCorpusReader`` on the dictionary in ``path`` (3 s).

    Raises
    ------
    CommandError, StudyError
        Files that nltk cannot read, or a limit; the reader's ``synsets`` raises the former, too.
    """
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    private = tempfile.TemporaryDirectory(prefix="wordnet-")
    folder = Path(private.name) / "corpora" / "wordnet"  # the reader looks its sense index up by this name in nltk's places
    folder.mkdir(parents=True, mode=0o700)
    try:
        _copy(path, folder)
    except StudyError:
        raise
    except Exception as error:  # bad zips, checksums and lengths raise a dozen kinds
        raise _not_read(path, error) from error
    (folder / "lexnames").write_text("".join(f"{n:02d}\t{name}\t{_NUMBERS[name.split('.')[0]]}\n" for n, name in enumerate(_LEXNAMES)))
    _private.append(private.name)
    nltk.data.path.insert(0, private.name)  # trusted from now on; the reader opens its files when they are needed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of languages other than English, which are not asked for
            reader = WordNetCorpusReader(str(folder), None)
    except Exception as error:  # nltk parses by position and raises whatever comes
        raise _not_read(path, error) from error
    look_up = reader.synsets

    def synsets(word: str) -> Any:
        try:
            return look_up(word)
        except Exception as error:  # as above: entries are read when they are asked for
            raise _not_read(path, error) from error

    reader.synsets = synsets
    reader.private_folder = private  # removed with the reader
    reader.synsets("thing")
    return reader


def _not_read(path: Path, error: Exception) -> CommandError:
    return CommandError(f"wordnet: {path} is not a dictionary that nltk reads ({short(error, 160) or type(error).__name__})")


def _places(environment: Mapping[str, str]) -> Iterator[Path]:
    import nltk.data

    for variable, below in (("WORDNET", ""), ("WNSEARCHDIR", ""), ("WNHOME", "dict")):
        if environment.get(variable):
            yield Path(environment[variable]) / below
    for place in [*filter(None, environment.get("NLTK_DATA", "").split(os.pathsep)), *map(str, nltk.data.path)]:
        if place in _private:
            continue
        yield Path(place) / "corpora" / "wordnet"
        yield Path(place) / "corpora" / "wordnet.zip"
    yield Path("/usr/share/wordnet")


def _dictionary(path: Path) -> Path | None:
    for folder in (path, path / "corpora" / "wordnet", path / "dict"):
        if all((folder / name).is_file() for name in NEEDED):
            return folder
    if path.is_file() and zipfile.is_zipfile(path):
        with contextlib.suppress(*_DAMAGED), zipfile.ZipFile(path) as archive:
            if set(NEEDED) <= {Path(name).name for name in archive.namelist()}:
                return path
    return None


def _copy(source: Path, folder: Path) -> None:
    if source.is_dir():
        for name in NEEDED:
            shutil.copyfile(source / name, folder / name)
    else:
        with RawFile(source) as file:
            members = ZipMembers(file)
            for name in members.names:
                if Path(name).name in NEEDED:  # the last part alone: no member decides where it is written
                    member = members.member(name)
                    (folder / Path(name).name).write_bytes(member.file.read(member.span))
    for name in UNUSED:
        (folder / name).touch()
    for path in folder.iterdir():
        path.chmod(0o600)
