"""What a file may cost that somebody else made: every size, count and depth that a reader takes from a file is held against one of these.

A limit is raised at any command, on the line (``--file_limits.json_bytes 1000000000``) or in its YAML (``file_limits:``), and elsewhere by
the environment (:data:`VARIABLE`); what exceeds one is refused in a sentence that names it.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import ConfigError, StudyError

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Most that is read of one file."""

    json_bytes: int = 64 * MIB
    """Bytes of a JSON file, or of one line of JSON lines."""
    json_items: int = 8_000_000
    """Values of a JSON file, or of one line of JSON lines."""
    yaml_bytes: int = MIB // 4
    """Bytes of a YAML file."""
    yaml_items: int = 50_000
    """Values of a YAML file, those that an alias repeats counted each time."""
    depth: int = 100
    """Containers inside each other, in a pickle, a torch file, JSON or YAML."""
    objects: int = 4_000_000
    """Instructions of a pickle, about two for each number, text or array in it."""
    text_bytes: int = 64 * MIB
    """Bytes of one text, or of plain bytes that are no array."""
    members: int = 100_000
    """Members of an archive."""
    unpacked_bytes: int = 512 * MIB
    """Bytes that compressed members of an archive unpack to; twenty times the archive's own bytes are allowed in any case."""
    image_pixels: int = 64_000_000
    """Pixels of an image."""
    image_aspect: int = 100
    """Longer side of an image in multiples of the shorter one: encoders scale the shorter side up."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"file_limits.{field.name} is {getattr(self, field.name)}, expected at least 1")
        if self.depth > 400:  # Python's own stack ends not far above
            raise ValueError(f"file_limits.depth is {self.depth}, expected at most 400")


VARIABLE = "EEGVISION_FILE_LIMITS"
"""Environment variable that takes raised limits to child processes: ``json_bytes=1000000000,depth=200``."""
_active: Limits | None = None


def limits() -> Limits:
    """The limits of this process."""
    global _active
    if _active is None:
        _active = _of_environment()
    return _active


def use_limits(wanted: Limits) -> None:
    """From here on ``wanted`` are the limits of this process and of its children."""
    global _active
    _active = wanted
    changed = {name: value for name, value in dataclasses.asdict(wanted).items() if value != getattr(Limits, name)}
    os.environ.pop(VARIABLE, None)
    if changed:
        os.environ[VARIABLE] = ",".join(f"{name}={value}" for name, value in changed.items())


def _of_environment() -> Limits:
    words = [word.partition("=") for word in os.environ.get(VARIABLE, "").split(",") if word]
    try:
        return Limits(**{name.strip(): int(value) for name, _, value in words})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{VARIABLE}: {error}, expected NAME=NUMBER with commas between") from error


def too_much(where: Path | str, found: str, name: str) -> StudyError:
    """The sentence for what exceeds the limit ``name``; ``found`` says what was found, such as ``5,000,000 bytes of JSON``."""
    return StudyError(
        f"{where}: {found}, expected at most {getattr(limits(), name):,}: a limit, raised by file_limits.{name} for a file you trust"
    )
