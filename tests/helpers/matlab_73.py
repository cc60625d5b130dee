"""EEGLAB's structure as MATLAB 7.3 saves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_struct(file: Path, name: str, fields: Mapping[str, Any]) -> Path:
    """One structure: HDF5, sides of arrays reversed, texts as columns of UTF-16, lists of structures as references, other lists empty."""
    import h5py

    with h5py.File(file, "w", userblock_size=512) as content:
        bag = content.create_group("#refs#")

        def put(group: Any, name: str, value: Any) -> Any:
            if isinstance(value, str):
                codes = np.array([[ord(letter)] for letter in value], np.uint16) if value else np.zeros(2, np.uint64)
                node = group.create_dataset(name, data=codes)
                node.attrs["MATLAB_class"] = np.bytes_(b"char")
                if not value:
                    node.attrs["MATLAB_empty"] = np.uint8(1)
                return node
            whole = np.asarray(value, np.float64)
            node = group.create_dataset(name, data=whole.T if whole.ndim > 2 else np.atleast_2d(whole).T)
            node.attrs["MATLAB_class"] = np.bytes_(b"double")
            return node

        top = content.create_group(name)
        top.attrs["MATLAB_class"] = np.bytes_(b"struct")
        for field, value in fields.items():
            if isinstance(value, list) and value:
                rows = top.create_group(field)
                rows.attrs["MATLAB_class"] = np.bytes_(b"struct")
                for key in value[0]:
                    refs = [[put(bag, f"{field}{key}{i}", row[key]).ref] for i, row in enumerate(value)]
                    rows.create_dataset(key, data=np.array(refs, dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
            elif isinstance(value, list):
                put(top, field, np.zeros(0)).attrs["MATLAB_empty"] = np.uint8(1)
            else:
                put(top, field, value)
    with file.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return file
