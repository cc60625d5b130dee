"""Images of somebody else: raster formats by content, sizes before pixels, one sentence for the rest."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch  # noqa: F401 - its own memory is not measured below
from PIL import Image

from data_prep.contract import limits
from data_prep.contract.errors import StudyError
from data_prep.contract.images import FORMATS, open_image, read_image
from data_prep.contract.memory import peak_memory_bytes
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
    before = peak_memory_bytes()
    with pytest.raises(StudyError, match=rf"i\.png: an image of .* raised by file_limits\.image_{limit}"):
        open_image(tmp_path / "i.png")
    assert peak_memory_bytes() - before < 20 * 2**20


def test_a_raised_limit_lets_a_long_image_in_and_memory_stays_small(tmp_path: Path) -> None:
    (tmp_path / "i.png").write_bytes(png_of(1, 30_000))
    limits.use_limits(limits.Limits(image_aspect=10**6))
    try:
        before = peak_memory_bytes()
        assert lite0_transform(open_image(tmp_path / "i.png")).shape == (3, 224, 224)
        assert peak_memory_bytes() - before < 100 * 2**20  # it was 7.4 GB
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


# ------------------------------------------------------------------------------- what a file holds beyond three times eight bits

GREY = PIXELS[..., :1].repeat(3, axis=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_exif_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(np.repeat(np.repeat(PIXELS, 8, 0), 8, 1))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that a viewer's turning takes back
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "i.jpg", quality=95, exif=exif)
    found = read_image(tmp_path / "i.jpg")
    assert found.changes == (() if orientation == 1 else ("EXIF orientation applied",))
    assert np.corrcoef(np.asarray(found.image, float).ravel(), np.asarray(upright, float).ravel())[0, 1] > 0.95


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(tmp_path: Path, kind: str) -> None:
    Image.fromarray(GREY[..., 0].astype(np.uint16) * 257).save(tmp_path / "i.png", format=kind)
    found = read_image(tmp_path / "i.png")
    assert found.changes == ("16 bits scaled to 8",)
    np.testing.assert_array_equal(np.asarray(found.image), GREY)


def test_transparency_is_laid_on_white_and_opaque_images_stay(tmp_path: Path) -> None:
    alpha = np.full((24, 40, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([PIXELS, alpha], 2)).save(tmp_path / "i.png")
    opaque = read_image(tmp_path / "i.png")
    assert opaque.changes == ()
    np.testing.assert_array_equal(np.asarray(opaque.image), PIXELS)
    alpha[:12] = 0
    for name, picture in {
        "rgba": Image.fromarray(np.concatenate([PIXELS, alpha], 2)),
        "grey": Image.fromarray(np.concatenate([GREY[..., :1], alpha], 2)),
    }.items():
        picture.save(tmp_path / f"{name}.png")
        found = read_image(tmp_path / f"{name}.png")
        assert found.changes == ("transparency laid on white",)
        assert (np.asarray(found.image)[:12] == 255).all()
        np.testing.assert_array_equal(np.asarray(found.image)[12:], (GREY if name == "grey" else PIXELS)[12:])
    palette = Image.fromarray((np.arange(960) % 4).reshape(24, 40).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    palette.save(tmp_path / "p.png", transparency=0)
    shown = read_image(tmp_path / "p.png")
    assert shown.changes == ("transparency laid on white",)
    assert np.asarray(shown.image)[0, :2].tolist() == [[255, 255, 255], [200, 0, 0]]


def test_values_of_no_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 960, dtype=np.float32).reshape(24, 40)).save(tmp_path / "i.tif")
    with pytest.raises(StudyError, match=r"i\.tif: floating-point pixels from 0 to 1, expected 8 or 16 bits"):
        open_image(tmp_path / "i.tif")
    Image.fromarray(np.arange(960, dtype=np.int32).reshape(24, 40) * 1000).save(tmp_path / "j.tif")
    with pytest.raises(StudyError, match=r"j\.tif: pixels from 0 to 959000, expected 8 or 16 bits"):
        open_image(tmp_path / "j.tif")


def test_the_case_of_image_modes() -> None:
    """Case e08: all but one are the same picture."""
    folder = shared_data() / "cases" / "e08_image_modes" / "data" / "images"
    found = {path.name: read_image(path) for path in folder.rglob("*.*g")}
    pixels = {name: np.asarray(each.image, float).ravel() for name, each in found.items()}
    alike = ("cmyk.jpg", "exif_upright_when_turned.jpg", "rgba_transparent.png", "palette_transparent.png")
    assert all(np.corrcoef(pixels[name], pixels["plain.png"])[0, 1] > 0.99 for name in alike)
    assert np.abs(pixels["grey16.png"] - pixels["grey8.png"]).max() <= 1
    assert {change for each in found.values() for change in each.changes} == {
        "EXIF orientation applied", "16 bits scaled to 8", "transparency laid on white", "CMYK converted without a profile",
    }  # fmt: skip
