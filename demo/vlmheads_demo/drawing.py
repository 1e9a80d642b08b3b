"""Small pictures as addresses that a page can hold, and the colours of a map."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmheads.plotting.drawing import MOST_OPAQUE
from vlmheads.plotting.palette import OVERLAY, SEQUENTIAL


def overlay_address(values: Tensor, grid: tuple[int, int]) -> str:
    """Return values [P] as a picture of one pixel a token, to be laid over the model's picture.

    The larger a value, the more opaque its pixel; the largest is as opaque as in the figures.
    """
    scaled = (values / values.max().clamp(min=1e-12)).clamp(0, 1).reshape(grid)
    red, green, blue = (int(OVERLAY[at : at + 2], 16) for at in (1, 3, 5))
    pixels = np.zeros((*grid, 4), dtype=np.uint8)
    pixels[..., :3] = red, green, blue
    pixels[..., 3] = (scaled * MOST_OPAQUE * 255).round().to(torch.uint8).numpy()
    return address(Image.fromarray(pixels), "PNG")


def address(image: Image.Image, kind: str) -> str:
    """Return a picture as a data address; `kind` is PNG or JPEG."""
    data = io.BytesIO()
    image.save(data, format=kind, **({"quality": 88} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def shades(values: Sequence[float], low: float, high: float) -> list[str]:
    """Return the colour of each value on the map of the figures, as "#RRGGBB"."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    span = (high - low) or 1.0
    return [to_hex(colormaps[SEQUENTIAL]((value - low) / span)) for value in values]
