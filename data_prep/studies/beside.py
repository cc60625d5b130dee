"""What a recording has beside its EEG: where its electrodes are, its eye channels, and what its file marks as bad."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.preprocess.eyes import EyesConfig
from data_prep.preprocess.recording import Beside
from data_prep.studies.channels import ChannelsConfig, Choice, positions_of
from data_prep.studies.continuous import Continuous, Unit


def eye_channels(file: Path, choice: Choice, config: EyesConfig | None) -> dict[str, str]:
    """Channels of type eog that the config asks for: our name -> the file's.

    Raises
    ------
    StudyError
        Two channels of the file with one name.
    """
    if config is None:
        return {}
    found = {name: sources for name, sources in choice.eyes.items() if not config.channels or name in config.channels}
    twice = next((name for name, sources in found.items() if len(sources) > 1), None)
    if twice is not None:
        raise StudyError(f"{file}: channels {listed(found[twice])} are both {twice!r} after channels.rename, expected names that differ")
    return {name: sources[0] for name, sources in found.items()}


def beside(
    label: str, opened: Continuous, choice: Choice, eyes: Mapping[str, str], channels: ChannelsConfig, unit: Unit, scratch: str | None
) -> Beside:
    """What steps of preprocessing may need; eye channels are in ``unit``, as the EEG."""
    return Beside(
        label=label,
        positions=positions_of(opened, choice, channels),
        eyes_ET=opened.microvolts(list(eyes.values()), unit, scratch) if eyes else np.zeros((0, opened.n_times)),
        eye_names=tuple(eyes),
        marked_bad=tuple(marked_bad(opened, choice)),
        scratch=scratch,
    )


def marked_bad(opened: Continuous, choice: Choice) -> list[str]:
    """Kept channels that the file marks as bad, by our names."""
    ours = dict(zip(choice.source_names, choice.ch_names, strict=True))
    return [ours[name] for name in opened.raw.info["bads"] if name in ours]
