"""What a study will be made of, before a byte of it is written: two plans never share a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from data_prep.contract import cli, schema
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, sha256_json, write_json
from data_prep.contract.manifest import Signal, Tables
from data_prep.contract.words import listed
from data_prep.studies.base import ReaderConfig, Source, StudyFacts


def check_source(source: Source) -> None:
    """Refuse a reader whose tables and samples contradict each other."""
    facts = source.facts
    if not source.samples:
        raise StudyError("the reader found no samples: expected at least one trial")
    for name in ("subjects", "concepts", "sessions", "recordings"):
        _refuse_repeats(name, getattr(facts, name))
    _refuse_repeats("stimulus ids", [stimulus.id for stimulus in facts.stimuli])
    _refuse_repeats("sample keys", [sample.key for sample in source.samples])
    limits = {"session": len(facts.sessions), "recording": len(facts.recordings)}
    if len({sample.clean_baseline is None for sample in source.samples}) > 1:
        raise StudyError("the reader says of some samples which trials have a clean baseline and of others not: expected all or none")
    for sample in source.samples:
        for name, limit in limits.items():
            if not 0 <= min(getattr(sample, name)) <= max(getattr(sample, name)) < limit:
                raise StudyError(f"sample {sample.key!r}: a {name} id is outside 0..{limit - 1}")
        if not (0 <= sample.subject < len(facts.subjects) and 0 <= sample.stimulus < len(facts.stimuli)):
            raise StudyError(f"sample {sample.key!r}: subject {sample.subject} or stimulus {sample.stimulus} is not in the reader's tables")


def _refuse_repeats(what: str, values: Sequence[str]) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise StudyError(f"the reader gives {what} that are not unique: {repeated[0]!r} comes twice")


def tables_of(facts: StudyFacts) -> Tables:
    """Labels of a source as the manifest has them."""
    labels = {name: list(getattr(facts, name)) for name in ("subjects", "concepts", "sessions", "recordings")}
    return Tables(**labels, stimuli=list(facts.stimuli))


def signal_of(facts: StudyFacts, eeg_dtype: str) -> Signal:
    """Signal facts of a source as the manifest has them."""
    names = ("unit", "sfreq", "tmin", "n_times", "n_chans", "ch_names", "positions")
    return Signal(**{name: getattr(facts, name) for name in names}, dtype=eeg_dtype)


def make_plan(
    source: Source, reader: ReaderConfig, embedding_keys: Mapping[str, str], *, eeg_dtype: str, samples_per_shard: int, captions: bool
) -> dict[str, str]:
    """What the bytes of a study follow from, by name: values, or hashes of what is long."""
    facts = source.facts
    signal, tables = asdict(signal_of(facts, "")), asdict(tables_of(facts))
    samples = [vars(sample).copy() for sample in source.samples]
    for sample in samples:
        if sample["clean_baseline"] is None:  # as plans of before this field
            del sample["clean_baseline"]
    return {
        "schema": str(schema.SCHEMA_VERSION),
        "facts": sha256_json([facts.stimulus_level, signal, tables, facts.captions, facts.preprocessing]),
        "source files": source.source_hash,
        "reader": sha256_json(cli.to_plain(reader, ReaderConfig)),
        "eeg_dtype": eeg_dtype,
        "samples_per_shard": str(samples_per_shard),
        "captions": str(captions),
        "embeddings": sha256_json(list(embedding_keys.items())),
        "samples": sha256_json(samples),
    }


def refuse_other_plan(root: Path, plan: dict[str, str]) -> None:
    """Refuse a folder that holds shards of another plan; write ``plan.json``."""
    path = root / "plan.json"
    finished = [*sorted(root.glob("*.done.json")), *root.glob("manifest.json")]
    if path.is_file() and finished:
        other = read_json(path)
        differing = [name for name in plan if not isinstance(other, dict) or other.get(name) != plan[name]]
        if differing:
            raise StudyError(
                f"{root}: holds shards of another plan (other {', '.join(differing)}): choose another output, or delete this folder"
            )
    elif not path.is_file() and (foreign := sorted(each.name for each in root.iterdir() if not each.name.startswith("."))):
        raise StudyError(f"{root}: holds {listed(foreign, 4)} but no plan.json: expected an empty folder or shards of the same plan")
    write_json(path, plan)
