"""What the header of an EDF or BDF file says and MNE passes over: signals of several rates, and recordings that were interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed
from data_prep.studies.continuous import one_line


@dataclass(frozen=True, kw_only=True)
class EdfHeader:
    """Layout of an EDF or BDF file."""

    labels: list[str]
    points: list[int]
    """Of every signal, in a data record."""
    seconds: float
    """Length of a data record."""
    records: int
    """Data records; -1 where the recording was not closed."""
    interrupted: bool
    """Whether it is marked as not continuous (EDF+D, BDF+D)."""
    width: int
    """Bytes of a number."""

    @property
    def data_start(self) -> int:
        """First byte of the data records."""
        return 256 * (1 + len(self.labels))

    def notes(self) -> list[int]:
        """Signals that hold annotations."""
        return [i for i, label in enumerate(self.labels) if label in ("EDF Annotations", "BDF Annotations")]


def read_header(file: Path) -> EdfHeader:
    """The header of ``file``.

    Raises
    ------
    StudyError
        Numbers that are none.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(256)
            count = int(head[252:256])
            signals = stream.read(256 * count)
        return EdfHeader(
            labels=[signals[16 * i : 16 * i + 16].decode("latin-1").strip() for i in range(count)],
            points=[int(signals[216 * count + 8 * i : 216 * count + 8 * i + 8]) for i in range(count)],
            seconds=float(head[244:252]),
            records=int(head[236:244]),
            interrupted=head[192:197] in (b"EDF+D", b"BDF+D"),
            width=3 if head[0] == 0xFF else 2,
        )
    except ValueError as error:
        raise StudyError(f"{file}: its header is damaged ({one_line(error)})") from error


def refuse_interrupted(file: Path, header: EdfHeader) -> None:
    """Refuse a recording with time missing between its data records, which MNE puts end to end.

    Raises
    ------
    StudyError
        The record after which time is missing.
    """
    notes = header.notes()
    if not header.interrupted or not notes or header.seconds <= 0:
        return
    record = sum(header.points) * header.width
    offset, length = sum(header.points[: notes[0]]) * header.width, header.points[notes[0]] * header.width
    first: float | None = None
    with file.open("rb") as stream:
        for number in range(header.records):
            stream.seek(header.data_start + number * record + offset)
            text = stream.read(length).split(b"\x14")[0].split(b"\x15")[0]
            try:
                start = float(text)
            except ValueError:
                raise StudyError(f"{file}: data record {number + 1} begins with {text[:20]!r}, expected the time of its start") from None
            first = start if first is None else first
            expected = first + number * header.seconds
            if abs(start - expected) > 0.5 * header.seconds / max(header.points):
                raise StudyError(
                    f"{file}: is interrupted (EDF+D): data record {number + 1} begins at {start:g} s, the one before it ends at "
                    f"{expected:g} s: "
                    "expected a continuous recording, split the file there"
                )


def has_other_rates(file: Path, header: EdfHeader, source_names: Sequence[str]) -> bool:
    """Whether the file has signals at another rate than ``source_names``, to which MNE would silently bring these.

    Raises
    ------
    StudyError
        ``source_names`` differ in rate themselves, or it cannot be told as labels come twice.
    """
    signals = [
        (label, points) for i, (label, points) in enumerate(zip(header.labels, header.points, strict=True)) if i not in header.notes()
    ]
    if len({points for _, points in signals}) < 2 or header.seconds <= 0:
        return False
    labels = [label for label, _ in signals]
    if len(set(labels)) < len(labels):
        raise StudyError(f"{file}: has signals of several rates and labels that come twice ({listed(labels)}): expected labels that differ")
    by_rate: dict[float, list[str]] = {}
    for label, points in sorted(signals, key=lambda signal: signal[1]):
        if label in source_names:
            by_rate.setdefault(points / header.seconds, []).append(label)
    if len(by_rate) > 1:
        told = " and ".join(f"{listed(names, 3)} at {rate:g} Hz" for rate, names in by_rate.items())
        raise StudyError(
            f"{file}: channels of several rates, {told}: expected one rate; leave the others out with channels.pick or channels.drop"
        )
    return True
