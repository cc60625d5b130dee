"""What readers of recordings, cut or not, are told in their configs of what was shown, and what follows from it once all are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_prep.contract.manifest import Stimulus
from data_prep.studies.base import ReaderConfig
from data_prep.studies.captions import Missing, read_captions
from data_prep.studies.channels import ChannelsConfig
from data_prep.studies.kept import Kept, StimulusTables, class_tables, image_tables
from data_prep.studies.stimulus_images import ImageFolder, check_class_images, class_images


@dataclass(frozen=True, kw_only=True)
class ShownConfig(ReaderConfig):
    """Files, stimuli and channels of a study of recordings."""

    root: str
    """Folder of the files."""
    stimulus_level: Literal["image", "class"] = "class"
    """``image``: events name images, a sample is all trials of one; ``class``: events name classes, a sample is one trial."""
    stimuli: str | None = None
    """Folder of the images; None: names of images are taken as they are, and there are no images to embed."""
    class_images: dict[str, str] | None = None
    """Class studies: class -> pattern of its images below ``stimuli``, whose mean embedding is the class's."""
    concepts: Literal["folder", "image"] = "folder"
    """Image studies without ``events.concept_column``: the concept of an image is the folder that it lies in, or each ``image`` is a
    concept of its own (photographs of scenes)."""
    captions: str | None = None
    """JSON file of captions by image (or class) name; None: none."""
    captions_missing: Missing = "refuse"
    """What to do with stimuli without captions: ``refuse``, or ``allow``."""
    subjects: tuple[str, ...] | None = None
    """Subjects to read; None reads all."""
    simulated: bool = False
    """Whether the signal was computed, not recorded: the study, its scores and its pages then say so."""
    channels: ChannelsConfig = field(default_factory=ChannelsConfig)
    """Names, types, units and positions of channels."""
    scratch: str | None = None
    """Folder for a file of trials, as large as the study, where they are cut here or do not lie one after the other in their own file;
    None: the system's folder for temporary files."""

    def __post_init__(self) -> None:
        if self.class_images is not None and (self.stimulus_level != "class" or self.stimuli is None):
            raise ValueError("class_images is set, expected stimulus_level class and a folder in stimuli")
        check_class_images(self.class_images)

    def tables(self, used: Sequence[Kept], classes: Sequence[str]) -> StimulusTables:
        """What was shown in all of them; ``classes``: names of classes in the order in which the config has them."""
        if self.stimulus_level == "class":
            return class_tables(used, classes)
        return image_tables(used, None if self.stimuli is None else ImageFolder(Path(self.stimuli)), self.concepts)

    def read_captions(self, stimuli: Sequence[Stimulus]) -> list[list[str]] | None:
        """Captions of every stimulus; None: there are none."""
        return None if self.captions is None else read_captions(Path(self.captions), stimuli, self.captions_missing)

    def images_of(self, concepts: Sequence[str]) -> Mapping[int, list[Path]] | None:
        """Images of every class; None: there are none."""
        if self.class_images is None or self.stimuli is None:
            return None
        return class_images(Path(self.stimuli), concepts, self.class_images)
