"""From image files to rows of embedding tables, by any encoder.

::

    StudyFacts.stimuli ──► image files ──► pixels as they are shown ──► the encoder's own inference transform ──► batches
                                │  hash             │  hash                                                        │
                                └──────────────► cache: which rows are known ◄─────────────────────────────────────┘ ──► (n_stimuli, dim)

A row is kept by its image's pixels and what made it, so that a second run, another study of the same images or a second name costs nothing.
A class-level study has no image a trial: the row of a class is the mean of its images' unit-normalised embeddings.

Shapes in names: N stimuli or images, E embedding dimension.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file, sha256_json
from data_prep.contract.images import CHANGES
from data_prep.contract.progress import progress
from data_prep.embed.base import Provenance
from data_prep.embed.batches import Item, Seen, one_by_one, shared_out, vectors_of, visible_gpus
from data_prep.embed.loaded import Encoder, LoadedEncoder
from data_prep.embed.row_cache import RowCache, folder_bytes, read_facts, write_facts
from data_prep.embed.running import PartDone, cache_folder, running
from data_prep.embed.table import check_table
from data_prep.embed.transforms import refuse_chance
from data_prep.studies.base import StudyFacts
from data_prep.studies.image_names import inside

READING = 1
"""Version of what :mod:`data_prep.contract.images` makes of a file; another one makes other pixels."""
_KEPT_ROWS, _KEPT_SECONDS = 512, 20.0


def embed_stimuli(facts: StudyFacts, config: Encoder) -> dict[str, tuple[np.ndarray, Provenance]]:
    """Embed every stimulus of a study: what :attr:`EmbeddingConfig.outputs` names -> float32 (n_stimuli, dim) and where it is from.

    Raises
    ------
    StudyError
        A stimulus without an image, an image that is missing or cannot be read, weights that are not there.
    """
    files, concepts_N = files_of(facts)
    tables, provenance = embed_files(files, config)
    found = {}
    for output, rows_NE, says in zip(config.outputs, tables, provenance, strict=True):
        if concepts_N is not None:
            rows_NE = rows_NE / np.linalg.norm(rows_NE, axis=1, keepdims=True)
            rows_NE = np.stack([rows_NE[concepts_N == stimulus.concept].mean(0) for stimulus in facts.stimuli])
        found[output] = rows_NE.astype(np.float32, copy=False), says | {"row_order": "names", "source": "images"}
    return found


def files_of(facts: StudyFacts) -> tuple[list[Path], np.ndarray | None]:
    """Image files of the stimuli, and in class-level studies the concept of each file."""
    if facts.class_images is not None:
        files = [(concept, Path(file)) for concept in range(len(facts.concepts)) for file in facts.class_images.get(concept, ())]
        have = {concept for concept, _ in files}
        lacking = sorted({stimulus.concept for stimulus in facts.stimuli} - have)
        if lacking:
            raise StudyError(f"class {facts.concepts[lacking[0]]!r} has no images: expected at least one image file a class")
        return [file for _, file in files], np.array([concept for concept, _ in files])
    if facts.image_root is None:
        raise StudyError("the study has no images: give image_root, or import an embedding from a file")
    without = [stimulus.id for stimulus in facts.stimuli if not stimulus.image]
    if without:
        raise StudyError(f"stimulus {without[0]!r} has no image ({len(without)} of {len(facts.stimuli)}): import an embedding from a file")
    return [inside(facts.image_root, stimulus.image or "") for stimulus in facts.stimuli], None


def embed_files(files: Sequence[Path], config: Encoder) -> tuple[list[np.ndarray], list[Provenance]]:
    """float32 (len(files), dim) of each output, and where it is from."""
    known = config.known()  # first: weights that are not there are said before an image is
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise StudyError(f"{missing[0]}: no such image ({len(missing)} of {len(files)} are missing)")
    with cache_folder() as root:
        job = _Job(config, root, known)
        keys = _file_keys(files, config.workers)
        changed = job.fill(files, keys)
        if (part := running().part) is not None:
            raise PartDone(
                f"share {part[0]} of {part[1]} is in the cache {root} ({folder_bytes(root) / 1e6:,.1f} MB): run without part for the table"
            )
        if changed:
            job.collect()
            print(f"cache {root}: {folder_bytes(root) / 1e6:,.1f} MB", file=sys.stderr)
        return job.tables(files, keys)


def _file_keys(files: Sequence[Path], workers: int) -> list[bytes]:
    with ThreadPoolExecutor(workers) as pool:
        return [bytes.fromhex(digest) for digest in pool.map(sha256_file, files)]


class _Job:
    """One encoder on some files, with what the cache knows."""

    def __init__(self, config: Encoder, root: Path, known: Mapping[str, Any] | None) -> None:
        self._config, self._root = config, root
        self._identity = dict(known) if known is not None else {**self.loaded.provenance, "layers": list(self.loaded.words)}
        self._folder = root / sha256_json([READING, type(config).__name__, self._identity])[:32]
        self._pixels = RowCache(root / f"pixels-{READING}", 33, "u1")
        self.collect()

    @cached_property
    def loaded(self) -> LoadedEncoder:
        """The network, when it is first needed."""
        loaded = self._config.load()
        refuse_chance(loaded.transform, lambda images: vectors_of(loaded, images), str(loaded.provenance["model"]))
        return loaded

    def collect(self) -> None:
        """Read what the cache has."""
        facts = read_facts(self._folder)
        self._facts = facts
        self._pixel_rows = self._pixels.load()
        cache = RowCache(self._folder, sum(facts["dims"])) if facts else None
        self._rows = cache.load() if cache else {}
        damaged = self._pixels.damaged + (cache.damaged if cache else 0)
        if damaged:
            print(f"cache {self._root}: {damaged} damaged files deleted, what was in them is computed again", file=sys.stderr)

    def fill(self, files: Sequence[Path], keys: Sequence[bytes]) -> bool:
        """Compute what is not known of this process's part; whether there was anything."""
        config, how = self._config, running()
        items = list({key: Item(path=file, file_key=key) for file, key in zip(files, keys, strict=True)}.values())
        index, count = how.part or (0, 1)
        cut = [items[start : start + config.batch_size] for start in range(0, len(items), config.batch_size)][index::count]
        batches = [batch for each in cut if (batch := [item for item in each if not self._known(item)])]
        if not batches:
            return False
        processes = how.processes or (visible_gpus() if str(getattr(config, "device", "")).startswith("cuda") else 1) or 1
        have = frozenset(self._rows)
        seen = shared_out(config, batches, have, processes) if processes > 1 else one_by_one(self.loaded, batches, have, config.workers)
        with progress(f"images embedded by {self._name()}", sum(map(len, batches))) as advance:
            waiting: list[Seen] = []
            last = time.monotonic()
            for found in seen:
                waiting += found
                advance(len(found))
                if len(waiting) >= _KEPT_ROWS or time.monotonic() - last > _KEPT_SECONDS:
                    self._keep(waiting)
                    waiting, last = [], time.monotonic()
            self._keep(waiting)
        return True

    def _known(self, item: Item) -> bool:
        pixels = self._pixel_rows.get(item.file_key)
        return pixels is not None and pixels[:32].tobytes() in self._rows

    def _name(self) -> str:
        return str(self._identity.get("model") or type(self._config).__name__)

    def _keep(self, seen: Sequence[Seen]) -> None:
        for each in seen:
            if each.row is not None and not np.isfinite(each.row).all():
                raise StudyError(f"{each.item.path}: {self._name()} makes values of it that are not finite")
        dims = next((each.dims for each in seen if each.dims), None)
        if dims is not None and (self._facts is None or tuple(self._facts["dims"]) != dims):
            loaded = self.loaded
            provenance = [{**loaded.provenance, "layer": words} for words in loaded.words]
            self._facts = {"dims": list(dims), "provenance": provenance, "identity": self._identity}
            write_facts(self._folder, self._facts)
        if dims is not None:
            RowCache(self._folder, sum(dims)).add({each.pixel_key: each.row for each in seen if each.row is not None})
        self._pixels.add({s.item.file_key: np.frombuffer(s.pixel_key + bytes([s.changes]), np.uint8) for s in seen})

    def tables(self, files: Sequence[Path], keys: Sequence[bytes]) -> tuple[list[np.ndarray], list[Provenance]]:
        """Rows of the files, from what :meth:`collect` has read."""
        facts: Mapping[str, Any] | None = self._facts
        if facts is None or not all(self._known(Item(path=file, file_key=key)) for file, key in zip(files, keys, strict=True)):
            raise StudyError(f"cache {self._root}: rows that were just written are gone: is something else deleting there?")
        pixels = [self._pixel_rows[key] for key in keys]
        whole = np.stack([self._rows[each[:32].tobytes()] for each in pixels])
        ends = np.cumsum([0, *facts["dims"]]).tolist()
        tables = [check_table(whole[:, start:stop], self._name(), len(files)) for start, stop in pairwise(ends)]
        counts = Counter(change for each in pixels for number, change in enumerate(CHANGES) if int(each[32]) >> number & 1)
        noted = {"images": dict(sorted(counts.items()))} if counts else {}
        return tables, [{**says, **noted} for says in facts["provenance"]]
