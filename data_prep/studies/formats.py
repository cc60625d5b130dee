"""A recording opened as one format, in this process, and what has to be told where the file does not say it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_prep.contract.errors import StudyError
from data_prep.studies.continuous import Continuous
from data_prep.studies.eeglab_events import eeglab_events, refuse_other_size
from data_prep.studies.mne_readers import read_raw
from data_prep.studies.signal_tables import ArrayConfig, CsvConfig, open_array, open_csv
from data_prep.studies.xdf import XdfConfig, open_xdf

_OUTSIDE = re.compile(r"Omitted (\d+) annotation")
"""What MNE warns of where it leaves out annotations that lie before or after a recording."""


@dataclass(frozen=True, kw_only=True)
class Formats:
    """What a format needs to be told."""

    csv: CsvConfig | None = None
    array: ArrayConfig | None = None
    xdf: XdfConfig = field(default_factory=XdfConfig)
    cnt_data_format: Literal["int16", "int32"] | None = None

    def check(self, file: Path, kind: str) -> None:
        """Refuse a file of a format whose facts are not told.

        Raises
        ------
        StudyError
        """
        if kind == "CSV" and self.csv is None:
            raise StudyError(f"{file}: is text without a format of its own: say its columns in the reader's field 'csv'")
        if kind.endswith("array") and self.array is None:
            raise StudyError(f"{file}: an array without rate, channel names and unit: say them in the reader's field 'array'")


def open_as(file: Path, kind: str, formats: Formats, keep: Sequence[str] | None = None) -> Continuous:
    """The recording in ``file``, which is of ``kind``; ``keep`` names the channels to read where a format can leave out others (EDF, BDF).

    Raises
    ------
    StudyError, Exception
        One sentence of ours, or whatever a library raises.
    """
    formats.check(file, kind)
    if formats.csv is not None and kind == "CSV":
        return open_csv(file, formats.csv)
    if formats.array is not None and kind.endswith("array"):
        return open_array(file, kind, formats.array)
    if kind == "XDF":
        return open_xdf(file, formats.xdf)
    markers, size = eeglab_events(file) if kind == "EEGLAB" else (None, {})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        raw = read_raw(file, kind, keep=keep, cnt_data_format=formats.cnt_data_format or "auto")
    for warning in said:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    outside = sum(int(match[1]) for warning in said if (match := _OUTSIDE.search(str(warning.message))))
    if markers is not None:
        refuse_other_size(file, markers, size, len(raw.ch_names), int(raw.n_times))
    return Continuous(file=file, format=kind, raw=raw, markers=markers, notes={"annotations_outside": outside} if outside else {})
