"""The folder that ``generate`` writes: who it belongs to, lines as they come, and the three files at the end.

::

    OUTPUT/  request.json        what the captions depend on; a continued generation must agree with it
             parts/*.jsonl       one file an arm and rank, appended while it runs
             generations.jsonl   all captions by arm and item, rewritten after each arm    generations.csv  the same as a table
             logs/rank-N.log     what libraries said
             generate.json       config, counts, what was left out: the sign of success     files.sha256  hashes of all, while it is done
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.files import read_json, write_atomically, write_json
from data_prep.contract.records import read_record, to_json
from data_prep.contract.seal import SEALS, broken_seals, seal_all
from data_prep.contract.terminal import Terminal
from data_prep.contract.words import short
from trainer.artifacts.generations import ARMS, FACTS, GENERATIONS, SOURCE, GenerationFacts
from trainer.training.run_folder import read_lines

TABLE, REQUEST, PARTS, LOGS = "generations.csv", "request.json", "parts", "logs"
_STUDY = {"trials_hash", "embedding_sha256"}
"""What identifies the data whatever other embeddings the study has; folders of an older version have its fingerprint alone."""
LABEL_ONLY = "label_only"
"""What only the arm of this name depends on: it may come later."""
COLUMNS = (
    "arm", "item", "stimulus", "subject", "image", "expected", "generated", "concept_true", "concept_predicted", "prompt", "seed",
)  # fmt: skip
"""Fields of a record, which also has those of :data:`SOURCE`; ``expected`` is a list of captions, in the table as JSON."""


class GenerationFolder:
    """Paths and files of one generation."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def log(self, rank: int) -> Path:
        """File for what libraries say on a rank."""
        return self.path / LOGS / f"rank-{rank}.log"

    def begin(self, request: Mapping[str, Any]) -> None:
        """Write down what the captions depend on, where a generation was begun here what is new in it; by one rank."""
        (self.path / PARTS).mkdir(parents=True, exist_ok=True)
        before = read_json(self.path / REQUEST) if (self.path / REQUEST).is_file() else {}
        if not before or (LABEL_ONLY in request and LABEL_ONLY not in before):
            write_json(self.path / REQUEST, {**to_json(request, []), **before})

    def check(self, request: Mapping[str, Any]) -> None:
        """Refuse to add captions to a folder whose captions came about otherwise.

        Raises
        ------
        CommandError
            Naming the first thing that differs, with both sides.
        StudyError
            Captions in ``parts`` are not what was written.
        """
        of_captions = (self.path / SEALS, self.path / PARTS)
        if altered := next((broken for broken in broken_seals(self.path) if {broken.path, broken.path.parent} & {*of_captions}), None):
            raise StudyError(str(altered))
        before, now = _flat(read_json(self.path / REQUEST)), _flat(to_json(request, []))
        for name in sorted((before.keys() | now.keys()) - ({"fingerprint"} if before.keys() >= _STUDY else _STUDY)):
            if name == LABEL_ONLY and name not in now:
                continue  # another model, of an arm that is not asked for now
            if before.get(name) != now.get(name):
                found, wanted = (short(side.get(name)) for side in (before, now))
                raise CommandError(
                    f"output: {self.path} holds captions made with {name} {found}, now it is {wanted}: choose another folder"
                )

    def reopen(self) -> None:
        """Take back the sign of success while captions are added, but keep what it says; by one rank."""
        (self.path / SEALS).unlink(missing_ok=True)
        if (self.path / FACTS).is_file():
            os.replace(self.path / FACTS, self.path / PARTS / FACTS)

    def append(self, arm: str, writer: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Add a batch of records to the file of ``arm`` and ``writer`` (no other process may use the same) and see it on disk."""
        with (self.path / PARTS / f"{arm}.{writer}.jsonl").open("ab+") as file:
            # A line cut short by a kill must not spoil the next one.
            torn = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write(b"\n" * torn + b"".join(_line(record) for record in records))
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> list[dict[str, Any]]:
        """Everything captioned so far, each arm and item once, by arm and item."""
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for path in sorted((self.path / PARTS).glob("*.jsonl")):
            for record in read_lines(path):
                if isinstance(record, dict) and set(COLUMNS) <= record.keys() and record["arm"] in ARMS:
                    found[record["arm"], record["item"]] = record
        return [found[key] for key in sorted(found, key=lambda key: (ARMS.index(key[0]), key[1]))]

    def publish(self) -> list[dict[str, Any]]:
        """Write all captions that there are in one order, as JSON lines and as a table; returns the records. By one rank."""
        records = self.records()
        write_atomically(self.path / GENERATIONS, b"".join(_line(record) for record in records))
        write_atomically(self.path / TABLE, as_csv(records).encode("utf-8", "replace"))
        return records

    def finish(self, facts: GenerationFacts) -> list[dict[str, Any]]:
        """Publish, then write ``facts`` with the notes and reasons of earlier calls; returns the records. By one rank.

        Numbers that are not finite are null in it, and named in its notes.
        """
        records = self.publish()
        earlier = self.path / PARTS / FACTS
        before = read_record(earlier, GenerationFacts, written_by="generate") if earlier.is_file() else GenerationFacts()
        counts = {arm: count for arm in ARMS if (count := sum(record["arm"] == arm for record in records))}
        left_out = {arm: why for arm, why in {**before.left_out, **facts.left_out}.items() if arm not in counts}
        lacking: list[str] = []
        to_json(facts, lacking)
        empty = [f"Left empty, since they are not finite numbers: {short(lacking, 300)}."] if lacking else []
        notes = tuple(dict.fromkeys([*before.notes, *facts.notes, *empty]))
        write_json(self.path / FACTS, to_json(replace(facts, left_out=left_out, notes=notes, records=counts), lacking))
        earlier.unlink(missing_ok=True)
        seal_all(self.path, but=(LOGS,))
        return records


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as a table by Python's ``csv``, which reads any text back: write and open it with ``newline=""``."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, (*COLUMNS, *SOURCE), extrasaction="ignore")
    writer.writeheader()
    for record in records:
        source = {name: "unknown" if record.get(name) is None else record[name] for name in SOURCE}
        writer.writerow({**record, **source, "expected": json.dumps(record["expected"], ensure_ascii=False)})
    return buffer.getvalue()


def summary_table(records: Sequence[Mapping[str, Any]], title: str) -> Table:
    """An arm a row: how many captions, how long, how many different ones, and two of them."""
    table = Table("arm", "captions", "mean words", "distinct", "for example", title=title)
    for arm in dict.fromkeys(record["arm"] for record in records):
        texts = [record["generated"] for record in records if record["arm"] == arm]
        words, distinct = np.mean([len(text.split()) for text in texts]), len(set(texts)) / len(texts)
        table.add_row(arm, str(len(texts)), f"{words:.1f}", f"{distinct:.2f}", "\n".join(" ".join(t.split()) for t in texts[:2]))
    return table


def print_summary(records: Sequence[Mapping[str, Any]], folder: Path, notes: Sequence[str]) -> None:
    """The table and what is to be said about it."""
    console = Terminal()
    console.print(summary_table(records, str(folder)))
    for line in notes:
        console.print(f"- {line}", soft_wrap=True)


def _line(record: Mapping[str, Any]) -> bytes:
    # A model may emit half of a surrogate pair, which no file can hold.
    return json.dumps(to_json(record, []), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {key: leaf for own, inner in value.items() for key, leaf in _flat(inner, f"{name}.{own}" if name else own).items()}
