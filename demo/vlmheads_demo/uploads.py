"""Pictures that visitors send: read with limits, refused in words that fit on a page."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from vlmheads.errors import VlmHeadsError
from vlmheads.images import read_image

MOST_BYTES = 20 * 1024 * 1024
MOST_PIXELS = 40_000_000
FORMATS = "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, PPM or ICO"


def read_upload(path: str | Path | None) -> Image.Image:
    """Read an uploaded picture as upright 8-bit RGB, as `vlmheads.images.read_image` does.

    Raises:
        VlmHeadsError: none, not a picture, a broken one, too large a file, or too many pixels.
    """
    if not path:
        raise VlmHeadsError("no picture", "an upload, or one of the scenes below it")
    path = Path(path)
    name = path.name
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise VlmHeadsError(
                f"{name} has {size / 2**20:.1f} MB", f"at most {MOST_BYTES // 2**20} MB"
            )
        # The header alone tells the size, before anything is unpacked.
        with Image.open(path) as image:
            width, height = image.size
    except VlmHeadsError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise VlmHeadsError(f"{name} is not a picture", FORMATS) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise VlmHeadsError(f"{name} cannot be read", f"a whole file, {FORMATS}") from error
    if width * height > MOST_PIXELS:
        raise VlmHeadsError(
            f"{name} has {width} x {height} pixels",
            f"at most {MOST_PIXELS // 10**6} million",
            "make it smaller",
        )
    try:
        return read_image(path)
    except VlmHeadsError as error:
        raise VlmHeadsError(str(error).replace(str(path), name)) from error
