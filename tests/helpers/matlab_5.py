"""EEGLAB's struct as MATLAB 5 saves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def save_eeglab_struct(file: Path, content: Mapping[str, Any], tables: Sequence[str]) -> Path:
    """Write ``EEG``; of its fields, ``tables`` are lists of rows of equal names, which become arrays of structs."""
    from scipy.io import savemat

    structs: dict[str, np.ndarray] = {}
    for name in tables:
        rows = content[name]
        structs[name] = np.empty(len(rows), dtype=[(key, object) for key in rows[0]])
        for i, row in enumerate(rows):
            structs[name][i] = tuple(row.values())
    savemat(file, {"EEG": {**content, **structs}}, appendmat=False)
    return file
