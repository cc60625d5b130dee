"""Images of somebody else, opened: raster formats only, their size known before a pixel is decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.contract.limits import limits, too_much
from data_prep.contract.words import listed, short

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
"""Formats that are tables of pixels. Others that Pillow knows start programs (PostScript) or parse languages."""


def open_image(path: Path, *, smaller: int | None = None) -> Any:
    """A decoded RGB image (``PIL.Image.Image``), whatever its file is called.

    Parameters
    ----------
    smaller
        A side in pixels from which on a JPEG may be decoded smaller, at half, a quarter or an eighth.

    Raises
    ------
    StudyError
        One sentence naming the file: not there, another format, damaged, or larger than a limit.
    """
    from PIL import Image, UnidentifiedImageError

    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own limit must not stand before one that was raised
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits().image_pixels)
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(path, *image.size)
            if smaller is not None:
                image.draft("RGB", (smaller, smaller))
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise StudyError(f"{path}: not a readable image, expected one of {listed(FORMATS)}") from error
    except StudyError:
        raise
    except Image.DecompressionBombError as error:
        raise too_much(path, f"an image of more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels", "image_pixels") from error
    except Exception as error:  # decoders raise a dozen kinds for damaged files
        raise StudyError(f"{path}: not a readable image ({short(error, 120) or type(error).__name__})") from error


def _check_size(path: Path, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise StudyError(f"{path}: an image of {width} x {height} pixels, expected at least one")
    if width * height > limits().image_pixels:
        raise too_much(path, f"an image of {width:,} x {height:,} pixels", "image_pixels")
    if max(width, height) > limits().image_aspect * min(width, height):
        raise too_much(path, f"an image of {width:,} x {height:,} pixels, {max(width, height) // min(width, height):,} : 1", "image_aspect")
