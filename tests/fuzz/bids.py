"""Files of a BIDS dataset, one of which is another than it should be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data_prep.contract.errors import StudyError, UserError
from data_prep.studies.bids import BidsEventsConfig, BidsReaderConfig
from data_prep.studies.cutting import CuttingConfig
from tests.fuzz.harness import Target
from tests.helpers import bids


def beside_a_recording(root: Path) -> Iterator[Target]:
    """A target for each kind of file."""
    file, _ = bids.write_dataset(root, kind="EDF")
    bids.write_electrodes(file.parent, "sub-01_ses-01", landmarks=True)
    bids.write_table(root / "participants.tsv", [{"participant_id": "sub-01", "exclude": 0}])
    for name in (
        "sub-01_ses-01_task-x_run-01_events.tsv",
        "sub-01_ses-01_task-x_run-01_channels.tsv",
        "sub-01_ses-01_task-x_run-01_eeg.json",
        "sub-01_ses-01_electrodes.tsv",
        "sub-01_ses-01_coordsystem.json",
    ):
        place = file.parent / name
        yield Target(
            name=f"bids-{place.stem.rsplit('_', 1)[1]}{place.suffix.replace('.', '-')}",
            suffix=place.suffix,
            seeds=[place.read_bytes()],
            read=partial(_read_dataset, root, place, place.read_bytes()),
            inputs=20,
        )


def _read_dataset(root: Path, place: Path, right: bytes, path: Path) -> None:
    try:
        shutil.copyfile(path, place)
        trials = CuttingConfig(band_hz=None, tmin=-0.1, tmax=0.4)
        BidsReaderConfig(root=str(root), trials=trials, events=BidsEventsConfig(), participants={"exclude": "0"}).open()
    except UserError as error:  # which names the file where it was put
        raise StudyError(str(error).replace(str(place), str(path))) from error
    finally:
        place.write_bytes(right)
