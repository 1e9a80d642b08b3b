"""Pictures: uploads, test-bench scenes, and how the model sees a picture after its processor."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from vlmheads.errors import VlmHeadsError
from vlmheads.images import known_formats, read_image

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 40_000_000
FORMATS = "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, PPM or ICO"

SPLITS = ("test", "counterfactual")
MAX_SCENE = 999_999
_SCENE = re.compile(r"(test|counterfactual):(\d{1,6})")

# The longer side of the picture that the page shows, in pixels.
MAX_SHOWN = 768


def uploaded_file(folder: Path, path: str | None) -> Path | None:
    """Return the path of an upload; None where there is none.

    Raises:
        VlmHeadsError: a file outside the folder of uploads, links resolved.
    """
    if not path:
        return None
    if not isinstance(path, str):
        raise VlmHeadsError("an upload without a path", "a picture that was uploaded")
    if "\0" in path:
        raise VlmHeadsError("a file name with a zero byte", "a picture that was uploaded")
    found = Path(path).resolve()
    if folder.resolve() not in found.parents or not found.is_file():
        raise VlmHeadsError("a file that was not uploaded here", "a picture that was uploaded")
    return found


def read_upload(path: Path | None) -> Image.Image:
    """Read an uploaded picture as upright 8-bit RGB, as `vlmheads.images.read_image` does.

    Raises:
        VlmHeadsError: no file, one that is not a picture, is damaged or too large, or has too many
            pixels.
    """
    if path is None:
        raise VlmHeadsError("no picture", "an upload, or one of the scenes")
    name = path.name
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise VlmHeadsError(
                f"{name} has {size / 2**20:.1f} MB", f"at most {MAX_BYTES // 2**20} MB"
            )
        # The header is enough to know the size, before any pixel is decoded.
        with Image.open(path, formats=known_formats()) as image:
            width, height = image.size
    except VlmHeadsError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise VlmHeadsError(f"{name} is not a picture", FORMATS) from error
    except Exception as error:  # readers of damaged files raise whatever they trip over
        raise VlmHeadsError(f"{name} cannot be read", f"a complete file, {FORMATS}") from error
    if width * height > MAX_PIXELS:
        raise VlmHeadsError(
            f"{name} has {width} x {height} pixels",
            f"at most {MAX_PIXELS // 10**6} million",
            "make it smaller",
        )
    try:
        return read_image(path)
    except VlmHeadsError as error:
        raise VlmHeadsError(str(error).replace(str(path), name)) from error


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene of the test bench, whose objects are known.

    Args:
        name: split and index, such as "counterfactual:3".
        image: the picture.
        place: where it is set, such as "kitchen".
        objects: the names of all objects in it.
    """

    name: str
    image: Image.Image
    place: str
    objects: frozenset[str]


def draw_scene(name: str) -> Scene:
    """Draw the scene with a name; the same name always gives the same picture.

    Raises:
        VlmHeadsError: a name other than "test:N" or "counterfactual:N".
    """
    # What a client sends may be anything, and a cache takes only what can be hashed.
    return _draw_scene(name if isinstance(name, str) else str(name))


@lru_cache(maxsize=64)
def _draw_scene(name: str) -> Scene:
    from vlmheads_testbed.scenes import scene

    found = _SCENE.fullmatch(name)
    if found is None:
        raise VlmHeadsError(
            f"scene {name[:40]!r}",
            f"test:N or counterfactual:N with N from 0 to {MAX_SCENE}",
        )
    drawn = scene(found[1], 0, int(found[2]))
    return Scene(name, drawn.image, drawn.place.name, drawn.names)


@dataclass(frozen=True, eq=False)
class ModelView:
    """The picture that overlays are drawn on.

    Args:
        image: the picture, cropped and resized as the processor did where that is known.
        grid: rows and columns of its image tokens; None where they form no grid, as with tiles.
        exact: whether the image is the model's own input, so that tokens are where they are drawn.
    """

    image: Image.Image
    grid: tuple[int, int] | None
    exact: bool


def model_view(
    processor: Any, inputs: Mapping[str, Any], image: Image.Image, tokens: int
) -> ModelView:
    """Return the picture under the image tokens of a prompt.

    A processor may crop. Where its pixel values are one whole picture they are converted back to
    colours; otherwise the picture is shown as it was sent.

    Args:
        processor: the model's processor.
        inputs: what it made of the picture and a prompt.
        image: the picture.
        tokens: the number of image tokens in the prompt.
    """
    grid = _token_grid(processor, inputs, tokens)
    pixels = inputs.get("pixel_values")
    part = getattr(processor, "image_processor", None)
    mean, std = getattr(part, "image_mean", None), getattr(part, "image_std", None)
    if isinstance(pixels, torch.Tensor) and tuple(pixels.shape[:2]) == (1, 3) and pixels.ndim == 4:
        values = pixels[0].detach().to("cpu", torch.float32).permute(1, 2, 0)
        if mean is not None and std is not None:
            values = values * torch.tensor(std) + torch.tensor(mean)
        array = (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        return ModelView(_thumbnail(Image.fromarray(array)), grid, exact=True)
    return ModelView(_thumbnail(image), grid, exact=False)


def _token_grid(processor: Any, inputs: Mapping[str, Any], tokens: int) -> tuple[int, int] | None:
    """Rows and columns of the image tokens: from the processor, or assumed to form a square."""
    sizes = inputs.get("image_grid_thw")
    if isinstance(sizes, torch.Tensor):
        merged = getattr(getattr(processor, "image_processor", None), "merge_size", 1) or 1
        rows, columns = (int(size) // merged for size in sizes[0, 1:].tolist())
    else:
        pixels = inputs.get("pixel_values")
        if isinstance(pixels, torch.Tensor) and (pixels.ndim != 4 or len(pixels) != 1):
            return None  # tiles
        rows = columns = math.isqrt(tokens)
    return (rows, columns) if rows and rows * columns == tokens else None


def _thumbnail(image: Image.Image) -> Image.Image:
    copy = image.convert("RGB")
    copy.thumbnail((MAX_SHOWN, MAX_SHOWN))
    return copy
