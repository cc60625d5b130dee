"""What is in a study, as tables for a terminal."""

from __future__ import annotations

import json

import numpy as np
from rich.table import Table

from data_prep.contract import schema
from data_prep.contract.audit import read_audit
from data_prep.contract.split import assign_parts, read_split, split_names
from data_prep.contract.words import short
from data_prep.shards.open import StudyFolder


def tables(study: StudyFolder, sample: int) -> list[Table]:
    """All tables of a study and of one of its samples; one without rows is left out."""
    found = (_facts(study), _measured(study), _subjects(study), _embeddings(study), _splits(study), _sample(study, sample))
    for table in found:
        for column in table.columns:
            column.overflow = "fold"  # labels and hashes stay whole in a narrow terminal
    return [table for table in found if table.row_count]


def _pairs(title: str, rows: dict[str, object]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _facts(study: StudyFolder) -> Table:
    manifest = study.manifest
    signal, tables = manifest.signal, manifest.tables
    last = signal.tmin + (signal.n_times - 1) / signal.sfreq
    seen = {name: sorted(np.unique(study.table.column(name)).tolist()) for name in ("session", "recording")}
    return _pairs(
        str(study.root),
        {
            "fingerprint": manifest.fingerprint,
            "schema version": manifest.schema_version,
            "stimulus level": manifest.stimulus_level,
            "signal": f"{signal.n_chans} channels x {signal.n_times} points at {signal.sfreq:g} Hz, "
            f"{signal.tmin:g} to {last:g} s, {signal.unit}, {signal.dtype}",
            "channels": " ".join(signal.ch_names),
            "shards": f"{len(manifest.shards)}, {sum(s.tar_bytes for s in manifest.shards) / 1e6:.1f} MB",
            "a stock reader sees": _stock_sample(study),
            "samples, trials": f"{len(study.samples)}, {len(study.table)} ({manifest.quality.railed_trials} railed)",
            "stimuli, concepts": f"{len(tables.stimuli)}, {len(tables.concepts)} ({', '.join(tables.concepts[:4])}, ...)",
            "sessions": ", ".join(tables.sessions[i] for i in seen["session"][:10]),
            "recordings": f"{len(seen['recording'])} ({', '.join(tables.recordings[i] for i in seen['recording'][:3])}, ...)",
            "captions": f"yes, {lacking} stimuli have none" if (lacking := manifest.captions_missing) else manifest.captions,
            "captions are from": short(json.dumps(dict(manifest.captions_source), ensure_ascii=False), 300),
            **({"unclear": "; ".join(map(str, unclear))} if (unclear := manifest.preprocessing.get("unclear")) else {}),
            "preprocessing": short(json.dumps(manifest.preprocessing, ensure_ascii=False), 1500),
        },
    )


def _measured(study: StudyFolder) -> Table:
    """What the writer found, the worst first, and where levels lie."""
    table = Table("", "kind", "what was measured", title="measured", title_justify="left")
    measured = study.manifest.measured
    for found in measured.get("findings", ()):
        table.add_row(str(found.get("level")), str(found.get("kind")), str(found.get("message")))
    levels = {label: level for label, level in measured.get("levels", {}).items() if isinstance(level, (int, float))}
    if levels:
        low, high = (pick(levels, key=lambda label: levels[label]) for pick in (min, max))
        unit = study.manifest.signal.unit
        span = f"{levels[low]:.3g} {unit} in all" if low == high else f"{levels[low]:.3g} ({low}) to {levels[high]:.3g} {unit} ({high})"
        table.add_row("", "levels", f"median standard deviation within a trial, of {len(levels)} parts: {span}")
    return table


def _subjects(study: StudyFolder) -> Table:
    table = Table("subject", "samples", "trials", "repetitions a sample", "stimuli", "recordings", title="subjects", title_justify="left")
    for number, label in enumerate(study.manifest.tables.subjects):
        rows, samples = study.table.subject == number, study.samples[study.samples["subject"] == number]
        if not len(samples):
            continue
        reps = samples["n_reps"]
        spread = f"{reps.min()}" if reps.min() == reps.max() else f"{reps.min()} to {reps.max()}"
        counts = (len(samples), int(rows.sum()), spread, len(np.unique(samples["stimulus"])), len(np.unique(study.table.recording[rows])))
        table.add_row(label, *map(str, counts))
    return table


def _embeddings(study: StudyFolder) -> Table:
    table = Table("embedding", "dim", "in tars", "model", "layer", "row order", "SHA-256", title="embeddings", title_justify="left")
    for name, facts in study.manifest.embeddings.items():
        inside = "yes" if name in study.manifest.tar_embeddings else "no"
        said = (str(facts.provenance.get(field) or "") for field in ("model", "layer", "row_order"))
        table.add_row(name, str(facts.dim), inside, *said, facts.sha256[:12])
    return table


def _splits(study: StudyFolder) -> Table:
    table = Table("split", "policy", *schema.PARTS, "audit", "transform", "hash", title="splits (trials)", title_justify="left")
    for name in split_names(study.root):
        split = read_split(study.root, study.manifest, name)
        part = assign_parts(split, study.table)
        audited = read_audit(study.root, name)
        verdict = "missing" if audited is None else audited.verdict
        fitted = "yes" if (study.root / "transforms" / f"{name}.npz").is_file() else "no"
        counts = [str(int((part == number).sum())) for number in (1, 2, 3)]
        table.add_row(name, split.policy, *counts, verdict, fitted, split.hash[:12])
    return table


def _stock_sample(study: StudyFolder) -> str:
    """The first sample of the first shard as ``webdataset.WebDataset(...).decode()`` gives it: key and members."""
    from webdataset import WebDataset

    # Resolved, since WebDataset would take a name such as "pipe:..." for a command.
    tar = (study.root / f"{study.manifest.shards[0].name}.tar").resolve()
    sample = next(iter(WebDataset(str(tar), shardshuffle=False).decode()))
    members = [
        f"{name} {tuple(value.shape)}" if hasattr(value, "shape") else name for name, value in sorted(sample.items()) if name[0] != "_"
    ]
    return f"{sample['__key__']}: {', '.join(members)}"


def _sample(study: StudyFolder, sample: int) -> Table:
    eeg_RCT = study.eeg(sample)
    row = study.samples[sample]
    names = study.manifest.signal.ch_names
    std_C = eeg_RCT.astype(np.float64).std(axis=(0, 2))
    return _pairs(
        f"sample {sample} in shard {study.manifest.shards[int(row['shard'])].name}",
        {
            "eeg": f"{eeg_RCT.dtype} {eeg_RCT.shape} at byte {row['eeg_offset']}",
            "standard deviation": ", ".join(f"{name} {value:.2f}" for name, value in zip(names, std_C, strict=True)),
            **{name: short(str(value), 200) for name, value in study.description(sample).items()},
        },
    )
