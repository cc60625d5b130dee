"""Captions of a study that is sharded already, read from its tars."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.contract.open_study import read_study
from data_prep.contract.tars import Tars


def captions_of(root: Path) -> list[list[str]] | None:
    """Captions of every stimulus, as :class:`data_prep.studies.base.StudyFacts` has them; None: the study has none.

    Raises
    ------
    StudyError
        A tar that cannot be read.
    """
    study = read_study(root)
    if not study.manifest.captions:
        return None
    captions: list[list[str]] = [[] for _ in study.manifest.tables.stimuli]
    tars = Tars(study)
    try:
        stimuli, rows = np.unique(study.samples["stimulus"], return_index=True)
        for stimulus, row in zip(stimuli.tolist(), rows.tolist(), strict=True):
            sample = study.samples[row]
            text = tars.read(int(sample["shard"]), int(sample["txt_offset"]), int(sample["txt_bytes"])).decode("utf-8", errors="replace")
            captions[stimulus] = [line for line in text.split("\n") if line.strip()]
    finally:
        tars.close()
    return captions
