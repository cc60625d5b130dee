"""Images of somebody else: raster formats by content, sizes before pixels, one sentence for the rest."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch  # noqa: F401 - its own memory is not measured below
from PIL import Image

from data_prep.contract import limits
from data_prep.contract.errors import StudyError
from data_prep.contract.images import FORMATS, open_image
from data_prep.embed.efficientnet_lite0 import lite0_transform
from tests.helpers.shared_data import shared_data

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format=kind)
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A valid grey PNG, black, of few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(b"\x00" * ((width + 7) // 8 + 1) * min(height, 40_000), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_raster_formats_open_under_any_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "i.jpg").write_bytes(encoded(kind))
    image = open_image(tmp_path / "i.jpg")
    assert (image.mode, image.size) == ("RGB", (40, 24))


@pytest.mark.parametrize("name", ["i.jpg", "i.png", "i.eps", "i.tif"])
@pytest.mark.parametrize("kind", ["EPS", "PDF", "PCX", "TGA", "ICO"])
def test_other_formats_are_refused_and_start_nothing(tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *words, **_: pytest.fail(f"a program was started: {words}"))
    (tmp_path / name).write_bytes(encoded(kind))
    with pytest.raises(StudyError, match=rf"{name}: not a readable image, expected one of JPEG"):
        open_image(tmp_path / name)


@pytest.mark.parametrize("case", ["fuzz_image_postscript/draw.jpg", "fuzz_image_postscript/loop.jpg", "fuzz_image_one_pixel_wide/i.png"])
def test_images_that_went_wrong(case: str) -> None:
    path = shared_data() / "cases" / case
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    with pytest.raises(StudyError, match=path.name):
        lite0_transform(open_image(path))


@pytest.mark.parametrize(
    ("width", "height", "limit"), [(1, 30_000, "aspect"), (30_000, 1, "aspect"), (300, 30_001, "aspect"), (60_000, 60_000, "pixels")]
)
def test_sizes_are_bounded_before_pixels_are_there(tmp_path: Path, width: int, height: int, limit: str) -> None:
    (tmp_path / "i.png").write_bytes(png_of(width, height))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StudyError, match=rf"i\.png: an image of .* raised by file_limits\.image_{limit}"):
        open_image(tmp_path / "i.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_a_raised_limit_lets_a_long_image_in_and_memory_stays_small(tmp_path: Path) -> None:
    (tmp_path / "i.png").write_bytes(png_of(1, 30_000))
    limits.use_limits(limits.Limits(image_aspect=10**6))
    try:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert lite0_transform(open_image(tmp_path / "i.png")).shape == (3, 224, 224)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # it was 7.4 GB
    finally:
        limits.use_limits(limits.Limits())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000"])
def test_damaged_images_are_a_sentence_or_another_picture(tmp_path: Path, kind: str) -> None:
    whole, random = bytearray(encoded(kind)), np.random.default_rng(1)
    for number in range(60):
        content = bytearray(whole[: random.integers(len(whole))] if number % 3 == 0 else whole)
        for place in random.integers(0, max(1, len(content)), random.integers(1, 6)) if content else ():
            content[place] = random.integers(256)
        (tmp_path / "i.jpg").write_bytes(content)
        said = "i.jpg"
        try:
            open_image(tmp_path / "i.jpg")
        except StudyError as error:
            said = str(error)
        assert "i.jpg" in said
        assert "\n" not in said
