"""The readers of MNE by format, asked for what they are asked for here."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError

CRASHING = ("ANT CNT", "Neuroscan CNT", "EEGLAB", "GDF", "XDF", "MAT array", "HDF5 array")
"""Formats whose readers can end the process, or ask for more memory than there is, on files that are damaged: C code, or sizes that are
believed. They run in a process of their own."""
PROBED = ("FIF",)
"""Formats whose readers may go on for ever on files that are damaged, but read large ones piece by piece: another process opens them
first."""

_NAMED = re.compile(r"^(?:DataFile|MarkerFile)\s*=([^\r\n]*)", re.MULTILINE | re.IGNORECASE)
_HEADER_BYTES = 2**20


def read_raw(path: Path, kind: str, *, keep: Sequence[str] | None = None, cnt_data_format: str = "auto") -> Any:
    """``mne.io.BaseRaw`` of ``path``; ``keep`` names the channels to read where a format can leave out others (EDF, BDF)."""
    import mne

    if kind == "BrainVision":
        _check_named_files(path)
    if kind in ("EDF", "BDF"):
        reader = mne.io.read_raw_edf if kind == "EDF" else mne.io.read_raw_bdf
        return reader(path, include=None if keep is None else list(keep), verbose="warning")
    if kind == "Neuroscan CNT":
        return mne.io.read_raw_cnt(path, data_format=cnt_data_format, verbose="error")
    if kind == "ANT CNT":
        from antio.libeep import InputCNT

        # Asking for a date of birth that a file lacks ends the process; nobody here wants to know it.
        InputCNT.get_patient_info = lambda *_arguments, **_options: ("", "", "", None)
    readers = {
        "ANT CNT": mne.io.read_raw_ant,
        "GDF": mne.io.read_raw_gdf,
        "FIF": mne.io.read_raw_fif,
        "BrainVision": mne.io.read_raw_brainvision,
        "EEGLAB": mne.io.read_raw_eeglab,
        "EGI MFF": mne.io.read_raw_egi,
        "Nihon Kohden": mne.io.read_raw_nihon,
    }
    return readers[kind](path, verbose="warning")


def _check_named_files(header: Path) -> None:
    """Refuse a header that names its numbers or marks outside of its folder."""
    with header.open("rb") as file:
        text = file.read(_HEADER_BYTES).decode("latin-1")
    folder = os.path.abspath(header.parent)
    for name in _NAMED.findall(text):
        meant = os.path.abspath(os.path.join(folder, name.strip().replace("\\", "/")))
        if not Path(meant).is_relative_to(folder):
            raise StudyError(f"{header}: names {name.strip()}, which is not beside it: expected parts of the same recording in one folder")
