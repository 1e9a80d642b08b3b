"""Read images as people have them, and refuse what is not one by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlmheads.errors import VlmHeadsError

# What people send as pictures. No other reader of Pillow is asked: some run outside programs (EPS
# goes to Ghostscript), whatever the name of the file says. HEIF is there once its plugin is.
FORMATS = tuple("PNG JPEG MPO WEBP BMP DIB GIF TIFF PPM JPEG2000 ICO AVIF HEIF".split())
SMALLEST_SIDE = 4
LARGEST_RATIO = 50
# Bits per value of what cameras, scanners and microscopes write into 16-bit files.
DEPTHS = (8, 10, 12, 14, 16)

# How the pixels have to be turned for each value of the orientation tag of EXIF.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

ImageLike = str | Path | Image.Image | np.ndarray[Any, Any]


@cache
def image_suffixes() -> frozenset[str]:
    """Return the file name endings that count as images inside a folder, such as ".jpg"."""
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in FORMATS)


def known_formats() -> list[str]:
    """Return those of FORMATS that this Pillow reads, for `Image.open`."""
    Image.init()
    return [kind for kind in FORMATS if kind in Image.OPEN]


def load_image(item: ImageLike) -> Image.Image:
    """Return a file, a Pillow image or a NumPy array as upright 8-bit RGB.

    Raises:
        VlmHeadsError: what `read_image` and `as_rgb` refuse, or something of another type.
    """
    if isinstance(item, str | Path):
        return read_image(item)
    if isinstance(item, Image.Image | np.ndarray):
        return as_rgb(item)
    raise VlmHeadsError(
        f"a {type(item).__name__} in place of an image",
        "a file name, a Pillow image or a NumPy array [H, W, 3]",
    )


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as upright 8-bit RGB; see `as_rgb`.

    Raises:
        VlmHeadsError: no such file, not an image in one of FORMATS, a broken one, more pixels
            than Pillow deems safe, or what `as_rgb` refuses.
    """
    path = Path(path)
    if path.is_dir():
        raise VlmHeadsError(f"{path} is a folder", "an image file", "name the files in it")
    if not path.is_file():
        raise VlmHeadsError(f"no file {path}", "an image file")
    with quiet_reading():
        return _decode(path, str(path))


@contextmanager
def quiet_reading() -> Iterator[None]:
    """Leave out Pillow's notes about metadata, and make an error of too many pixels.

    Filters of warnings are the interpreter's, so that where several threads read, this is around
    all of them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_image(content: bytes, name: str) -> Image.Image:
    """Return the bytes of an image file as upright 8-bit RGB; see `read_image`.

    It is meant for threads, and for use inside of `quiet_reading`.

    Args:
        content: the whole file.
        name: what error messages call it.
    """
    return _decode(BytesIO(content), name)


def image_size(content: bytes | Path) -> tuple[int, int]:
    """Return width and height as the header of an image file has them, or (0, 0) for no image."""
    formats = known_formats()
    try:
        with Image.open(
            BytesIO(content) if isinstance(content, bytes) else content, formats=formats
        ) as image:
            return image.size
    except Exception:  # whoever reads it says what is wrong
        return (0, 0)


def _decode(file: Path | BytesIO, path: str) -> Image.Image:
    """Read an image file that is there."""
    formats = known_formats()
    try:
        with Image.open(file, formats=formats) as image:
            return as_rgb(image, path)
    except VlmHeadsError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise VlmHeadsError(
            f"{path} has too many pixels", f"at most {Image.MAX_IMAGE_PIXELS:,}", "make it smaller"
        ) from error
    except UnidentifiedImageError as error:
        known = "PNG, JPEG, WebP, GIF, TIFF, BMP or another picture that cameras and browsers write"
        raise VlmHeadsError(f"{path} is not an image", known) from error
    except Exception as error:  # readers of damaged files raise whatever they trip over
        raise _broken(path, error) from error


def as_rgb(image: Image.Image | np.ndarray[Any, Any], name: str = "the image") -> Image.Image:
    """Return a picture as upright 8-bit RGB, whatever its mode or dtype.

    The first frame of an animation is taken, the rotation that a camera wrote into the file is
    applied, and transparency is laid on white. Values other than 8-bit ones are scaled: floats from
    0 to 1 by 255, others by the smallest of 8, 10, 12, 14 and 16 bits that holds them, larger ones
    by their maximum, and negative ones from their minimum to their maximum. NaN becomes black.

    Args:
        image: a Pillow image, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (RGBA).
        name: what error messages call it.

    Raises:
        VlmHeadsError: a side below 4 pixels, one more than 50 times the other, an array of another
            shape or without numbers, or an image that Pillow fails to decode or convert.
    """
    if isinstance(image, np.ndarray):
        image = _from_array(image, name)
    width, height = image.size
    if min(width, height) < SMALLEST_SIDE:
        raise VlmHeadsError(
            f"{name} is {width}x{height}", f"at least {SMALLEST_SIDE} pixels a side"
        )
    if max(width, height) > LARGEST_RATIO * min(width, height):
        raise VlmHeadsError(
            f"{name} is {width}x{height}", f"sides in a ratio of at most {LARGEST_RATIO}", "crop it"
        )
    try:
        image.load()
        upright = _upright(image)
        if upright.mode.startswith("I") or upright.mode == "F":
            upright = Image.fromarray(_eight_bits(np.asarray(upright), name))
        if "transparency" in upright.info or upright.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
            layer = upright.convert("RGBA")
            white = Image.new("RGBA", layer.size, "white")
            upright = Image.alpha_composite(white, layer)
        picture = upright.convert("RGB")
        picture.info.clear()  # the rotation is done; whoever is given this image must not repeat it
        return picture
    except VlmHeadsError:
        raise
    except Exception as error:  # as in read_image: a Pillow image may still be an open file
        raise _broken(name, error) from error


def _upright(image: Image.Image) -> Image.Image:
    """Apply the rotation in the metadata; as viewers do, none where the metadata is damaged."""
    try:
        turn = _TURNS.get(image.getexif()[_ORIENTATION])
    except Exception:  # none there, or damaged metadata; the pixels themselves were read
        turn = None
    return image if turn is None else image.transpose(turn)


def _from_array(values: np.ndarray[Any, Any], name: str) -> Image.Image:
    """Make a Pillow image of an array."""
    shape = "x".join(map(str, values.shape))
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 and (values.ndim != 3 or values.shape[2] not in (3, 4)):
        first = values.ndim == 3 and values.shape[0] in (1, 3, 4)
        raise VlmHeadsError(
            f"{name} is an array of shape {shape}",
            "height x width, with 3 (RGB) or 4 (RGBA) values in the last dimension if in colour",
            "move the channels to the end: array.transpose(1, 2, 0)" if first else "",
        )
    if values.dtype.kind not in "buif" or not values.size:
        raise VlmHeadsError(f"{name} is an array of {values.size} {values.dtype}", "numbers")
    return Image.fromarray(_eight_bits(values, name))


def _eight_bits(values: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """Scale values to 8 bits, as `as_rgb` says."""
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    fractions = values.dtype.kind == "f"
    numbers = values.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        raise VlmHeadsError(f"{name} holds no finite value", "numbers")
    low, high = float(finite.min()), float(finite.max())
    if low < 0:
        bottom, top = low, high
    elif fractions and high <= 1:
        bottom, top = 0.0, 1.0
    else:
        depths = (float(2**bits - 1) for bits in DEPTHS)
        bottom, top = 0.0, next((depth for depth in depths if high <= depth), high)
    numbers = np.nan_to_num(numbers, nan=bottom, posinf=top, neginf=bottom)
    scaled = (numbers - bottom) / ((top - bottom) or 1.0) * 255
    bytes_: np.ndarray[Any, Any] = scaled.round().clip(0, 255).astype(np.uint8)
    return bytes_


def _broken(name: str, error: Exception) -> VlmHeadsError:
    """Say in one line that an image cannot be read."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return VlmHeadsError(f"{name} cannot be read ({reason})", "a whole image file")
