"""What readers of continuous recordings share in their configs, and what each of them says of its recordings.

Shape suffixes: C channels, T time points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from data_prep.studies.continuous import Continuous
from data_prep.studies.cutting import CuttingConfig
from data_prep.studies.event_names import EventsNaming, Named
from data_prep.studies.recording import Recording
from data_prep.studies.shown import ShownConfig


@dataclass(frozen=True, kw_only=True)
class RecordingsConfig(ShownConfig):
    """What readers of continuous recordings have in common."""

    trials: CuttingConfig = field(default_factory=CuttingConfig)
    """Filters, window, baseline and rejection."""
    expect_sfreq: float | None = None
    """Sampling rate in Hz that every file must have, within 1 %; None takes the files' own, which must agree unless ``resample_hz`` is
    set."""
    same_content: Literal["refuse", "drop"] = "refuse"
    """What to do with a recording whose signal is that of another one: refuse the study, or leave out the later one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expect_sfreq is not None and not self.expect_sfreq > 0:
            raise ValueError(f"expect_sfreq is {self.expect_sfreq}, expected above 0")


class Opening(Protocol):
    """How a reader finds and opens its recordings."""

    @property
    def reader(self) -> str:
        """Its name, for the manifest."""
        ...

    @property
    def derived(self) -> bool:
        """Whether somebody else has worked on the recordings, nobody here knows how."""
        ...

    @property
    def naming(self) -> EventsNaming:
        """What events are called and stand for."""
        ...

    def recordings(self) -> list[Recording]:
        """In the order in which they are read."""
        ...

    def open(self, recording: Recording, keep: Sequence[str] | None = None) -> Continuous:
        """The recording; ``keep`` names the channels to read where a format can leave out others."""
        ...

    def events(self, recording: Recording, opened: Continuous) -> Named:
        """What was shown in it."""
        ...

    def checked(self, recording: Recording, opened: Continuous, ch_names: Sequence[str], eeg_CT: np.ndarray) -> dict[str, Any]:
        """What else is known of a recording, held against its signal (microvolts): notes for the manifest."""
        ...

    def together(self, recording: Recording, counts: dict[str, Any]) -> None:
        """Hold a recording against those before it, in their order; ``counts`` is what the manifest says of it, :meth:`checked` included.

        All else may be asked in any process, for any recording; this in one, for all.
        """
        ...

    def files(self, recording: Recording) -> list[Path]:
        """What was read beside the signal."""
        ...

    def said(self) -> dict[str, Any]:
        """What the manifest says of the whole."""
        ...
