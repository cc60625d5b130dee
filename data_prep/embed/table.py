"""Embedding tables on disk: ``embeddings/NAME.npy`` float32 (n_stimuli, dim) with ``NAME.json`` beside it saying where it is from.

The table is the source of truth and the gallery of retrieval; copies inside tars serve readers that know only tars.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract import schema
from data_prep.contract.arrays import read_array
from data_prep.contract.errors import StudyError
from data_prep.contract.files import read_json, sha256_file, write_atomically, write_json
from data_prep.contract.manifest import Embedding
from data_prep.contract.seal import seal


def check_table(table_NE: np.ndarray, where: str, num_rows: int) -> np.ndarray:
    """The table as C-ordered float32 if it has ``num_rows`` rows, each finite (also as float16, which the tars hold) and none zero.

    Raises
    ------
    StudyError
        Names ``where`` the table is from and the first bad row.
    """
    if table_NE.ndim != 2 or len(table_NE) != num_rows or table_NE.shape[1] == 0:
        raise StudyError(f"{where}: shape {table_NE.shape}, expected ({num_rows}, dim)")
    table_NE = np.ascontiguousarray(table_NE, dtype="<f4")
    with np.errstate(over="ignore"):
        bad_N = ~np.isfinite(table_NE.astype("<f2")).all(axis=1) | ~table_NE.any(axis=1)
    if bad_N.any():
        raise StudyError(f"{where}: row {int(bad_N.argmax())} is zero or not finite as float16 ({int(bad_N.sum())} of {num_rows} rows)")
    return table_NE


def write_table(root: Path, name: str, array: np.ndarray, provenance: Mapping[str, Any], *, key: str) -> Embedding:
    """Write ``embeddings/NAME.npy`` and ``NAME.json``; returns the manifest's entry for it.

    Parameters
    ----------
    array
        (n_stimuli, dim), from :func:`check_table`.
    provenance
        Plain values: ``model``, ``layer``, ``weights_sha256``, ``transform``.
    key
        Hash of what the table was computed from; :func:`read_table` returns it only to who asks with the same key.
    """
    schema.check_embedding_name(name)
    data = table_bytes(array)
    entry = Embedding(dim=int(array.shape[1]), sha256=hashlib.sha256(data).hexdigest(), provenance=provenance)
    write_atomically(root / "embeddings" / f"{name}.npy", data)
    facts = root / "embeddings" / f"{name}.json"
    write_json(facts, {"key": key, "entry": entry.plain()})
    seal(facts.parent, [facts])
    return entry


def table_bytes(table_NE: np.ndarray) -> bytes:
    """``embeddings/NAME.npy`` as bytes: float32, C order."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(table_NE, dtype="<f4"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def read_table(root: Path, name: str, *, key: str) -> tuple[np.ndarray, Embedding] | None:
    """The table and its manifest entry, or None if there is none, it was computed from something else, or it was altered."""
    array_file, json_file = root / "embeddings" / f"{name}.npy", root / "embeddings" / f"{name}.json"
    try:
        recorded = read_json(json_file)
    except StudyError:
        return None
    entry = recorded.get("entry") if isinstance(recorded, dict) and recorded.get("key") == key else None
    if not isinstance(entry, dict) or "dim" not in entry or not array_file.is_file() or entry.get("sha256") != sha256_file(array_file):
        return None
    return read_array(array_file), Embedding.from_plain(entry)
