"""The picture as the model sees it, and the grid of its image tokens over it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

LARGEST_SIDE = 768


@dataclass(frozen=True, eq=False)
class Seen:
    """What is drawn over.

    Args:
        image: the picture, cropped and squeezed as the model's processor did where that is known.
        grid: rows and columns of its image tokens; None where they make no grid, such as tiles.
        exact: whether the image is the model's own input, so that tokens lie where they are drawn.
    """

    image: Image.Image
    grid: tuple[int, int] | None
    exact: bool


def seen_by(processor: Any, inputs: Mapping[str, Any], image: Image.Image, tokens: int) -> Seen:
    """Return the picture under the image tokens of a prompt.

    A processor may crop. Where its pixels are one whole picture they are turned back into colours,
    else the picture is taken as it was sent.

    Args:
        processor: the model's processor.
        inputs: what it made of the picture and a prompt.
        image: the picture.
        tokens: how many image tokens stand in the prompt.
    """
    grid = _grid(processor, inputs, tokens)
    pixels = inputs.get("pixel_values")
    part = getattr(processor, "image_processor", None)
    mean, std = getattr(part, "image_mean", None), getattr(part, "image_std", None)
    if isinstance(pixels, torch.Tensor) and tuple(pixels.shape[:2]) == (1, 3) and pixels.ndim == 4:
        values = pixels[0].detach().to("cpu", torch.float32).permute(1, 2, 0)
        if mean is not None and std is not None:
            values = values * torch.tensor(std) + torch.tensor(mean)
        array = (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        return Seen(_small(Image.fromarray(array)), grid, exact=True)
    return Seen(_small(image), grid, exact=False)


def _grid(processor: Any, inputs: Mapping[str, Any], tokens: int) -> tuple[int, int] | None:
    """Rows and columns of the image tokens: told by the processor, or taken for a square."""
    told = inputs.get("image_grid_thw")
    if isinstance(told, torch.Tensor):
        merged = getattr(getattr(processor, "image_processor", None), "merge_size", 1) or 1
        rows, columns = (int(size) // merged for size in told[0, 1:].tolist())
    else:
        pixels = inputs.get("pixel_values")
        if isinstance(pixels, torch.Tensor) and (pixels.ndim != 4 or len(pixels) != 1):
            return None  # tiles
        rows = columns = math.isqrt(tokens)
    return (rows, columns) if rows and rows * columns == tokens else None


def _small(image: Image.Image) -> Image.Image:
    copy = image.convert("RGB")
    copy.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return copy
