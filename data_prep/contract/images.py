"""Images of somebody else, opened: raster formats only, their size known before a pixel is decoded, and what a viewer would show.

An encoder sees three channels of eight bits. What a file holds beyond that is brought there as a viewer does it, and said: its EXIF
orientation applied, transparency laid on white, 16 bits scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.files import check_ordinary
from data_prep.contract.limits import limits, too_much
from data_prep.contract.words import listed, short

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
"""Formats that are tables of pixels. Others that Pillow knows start programs (PostScript) or parse languages."""
CHANGES = (
    "EXIF orientation applied",
    "transparency laid on white",
    "16 bits scaled to 8",
    "CMYK converted without a profile",
    "first of several frames",
)
"""What may be done to an image beside decoding."""
_TURNED, _ON_WHITE, _SCALED, _FROM_CMYK, _FIRST = CHANGES
_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class OpenedImage:
    """A decoded image."""

    image: Any
    """``PIL.Image.Image`` in mode RGB."""
    changes: tuple[str, ...]
    """What was done beside decoding, such as ``transparency laid on white``; empty for plain images."""


def open_image(path: Path, *, smaller: int | None = None) -> Any:
    """:func:`read_image` without what was done: a decoded RGB image (``PIL.Image.Image``)."""
    return read_image(path, smaller=smaller).image


def read_image(path: Path, *, smaller: int | None = None) -> OpenedImage:
    """A decoded RGB image, whatever its file is called.

    Parameters
    ----------
    smaller
        A side in pixels from which on a JPEG may be decoded smaller, at half, a quarter or an eighth.

    Raises
    ------
    StudyError
        One sentence naming the file: not there, another format, damaged, of a range of values that is not known, or larger than a limit.
    """
    from PIL import Image, UnidentifiedImageError

    check_ordinary(path)
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own limit must not stand before one that was raised
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits().image_pixels)
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(path, *image.size)
            if smaller is not None:
                image.draft("RGB", (smaller, smaller))
            return _as_shown(image, path)
    except UnidentifiedImageError as error:
        raise StudyError(f"{path}: not a readable image, expected one of {listed(FORMATS)}") from error
    except StudyError:
        raise
    except Image.DecompressionBombError as error:
        raise too_much(path, f"an image of more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels", "image_pixels") from error
    except Exception as error:  # decoders raise a dozen kinds for damaged files
        raise StudyError(f"{path}: not a readable image ({short(error, 120) or type(error).__name__})") from error


def _as_shown(image: Any, path: Path) -> OpenedImage:
    changes = [_FIRST] if getattr(image, "is_animated", False) else []
    turned = _turned(image)
    if turned is not image:
        changes.append(_TURNED)
    rgb, more = _rgb(turned, path)
    return OpenedImage(image=rgb, changes=(*changes, *more))


def _turned(image: Any) -> Any:
    from PIL import ImageOps

    image.load()
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing, and viewers show the pixels as they are
        orientation = 1
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _rgb(image: Any, path: Path) -> tuple[Any, list[str]]:
    """Mode RGB, and what was done to get there."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise StudyError(f"{path}: pixels from {values.min()} to {values.max()}, expected 8 or 16 bits (0 to 65535)")
        scaled = np.round(values / 257).astype(np.uint8)
        clear = image.info.get("transparency")
        if isinstance(clear, int) and (values == clear).any():
            scaled[values == clear] = 255
            return Image.fromarray(scaled).convert("RGB"), [_SCALED, _ON_WHITE]
        return Image.fromarray(scaled).convert("RGB"), [_SCALED]
    if image.mode == "F":
        values = np.asarray(image)
        raise StudyError(
            f"{path}: floating-point pixels from {values.min():g} to {values.max():g}, expected 8 or 16 bits: no range is known"
        )
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        shown = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if shown.getextrema()[3][0] < 255:
            white = Image.new("RGBA", shown.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, shown).convert("RGB"), [_ON_WHITE]
        return shown.convert("RGB"), []
    return image.convert("RGB"), [_FROM_CMYK] if image.mode == "CMYK" else []


def _check_size(path: Path, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise StudyError(f"{path}: an image of {width} x {height} pixels, expected at least one")
    if width * height > limits().image_pixels:
        raise too_much(path, f"an image of {width:,} x {height:,} pixels", "image_pixels")
    if max(width, height) > limits().image_aspect * min(width, height):
        raise too_much(path, f"an image of {width:,} x {height:,} pixels, {max(width, height) // min(width, height):,} : 1", "image_aspect")
