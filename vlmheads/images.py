"""Read image files as people have them, and refuse what is none by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vlmheads.errors import VlmHeadsError

# File names that count as images inside of a folder.
SUFFIXES = frozenset(".png .jpg .jpeg .webp .bmp .gif .tif .tiff .ppm .pgm .jp2 .ico .avif".split())
SMALLEST_SIDE = 4
LARGEST_RATIO = 50


def find_images(paths: Iterable[str | Path]) -> Iterator[Path | VlmHeadsError]:
    """Yield the image files that `paths` name, the files of a folder in order of their names.

    A folder without images is yielded as the error that it is, so that the rest goes on.
    """
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if found:
            yield from found
        else:
            yield VlmHeadsError(f"{path} holds no image", f"files such as {path / 'picture.jpg'}")


def read_image(path: str | Path) -> Image.Image:
    """Read an image as upright 8-bit RGB.

    Transparency is laid on white, 16-bit values are scaled down, the first frame of an animation
    is taken, and the rotation that a camera wrote into the file is applied.

    Raises:
        VlmHeadsError: no such file, not an image, a truncated one, more pixels than Pillow deems
            safe, a side below 4 pixels or one more than 50 times the other.
    """
    path = Path(path)
    if not path.is_file():
        raise VlmHeadsError(f"no file {path}", "an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return as_rgb(image, str(path))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise VlmHeadsError(
            f"{path} has too many pixels", f"at most {Image.MAX_IMAGE_PIXELS:,}", "make it smaller"
        ) from error
    except UnidentifiedImageError as error:
        raise VlmHeadsError(f"{path} is not an image", "a format that Pillow reads") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, VlmHeadsError):
            raise
        raise VlmHeadsError(f"{path} cannot be read ({error})", "a whole image file") from error


def as_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """Return an image as upright 8-bit RGB, whatever its mode.

    Raises:
        VlmHeadsError: a side below 4 pixels, or one more than 50 times the other.
    """
    width, height = image.size
    if min(width, height) < SMALLEST_SIDE:
        raise VlmHeadsError(
            f"{name} is {width}x{height}", f"at least {SMALLEST_SIDE} pixels a side"
        )
    if max(width, height) > LARGEST_RATIO * min(width, height):
        raise VlmHeadsError(
            f"{name} is {width}x{height}", f"sides in a ratio of at most {LARGEST_RATIO}", "crop it"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _eight_bits(upright)
    if "transparency" in upright.info or upright.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layer = upright.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        upright = Image.alpha_composite(white, layer)
    return upright.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale a grey image of 16 or 32 bits to 8; Pillow itself would clip it."""
    values = np.asarray(image, dtype=np.float64)
    top = 255.0 if values.max() <= 255 else max(65535.0, values.max())
    return Image.fromarray((values.clip(min=0) * (255.0 / top)).round().astype(np.uint8))
