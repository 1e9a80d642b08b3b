"""Draw one value an image token over the picture that the tokens stand for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from vlmheads.drawing import DOTS_PER_INCH
from vlmheads.errors import VlmHeadsError
from vlmheads.figures import overlay_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def token_grid(tokens: int, grid: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return rows and columns of the image tokens of one picture.

    Args:
        tokens: how many there are.
        grid: what the caller knows of it; by default the tokens are taken for a square.

    Raises:
        VlmHeadsError: a grid of another number of tokens, or tokens that make no square.
    """
    side = math.isqrt(tokens)
    rows, columns = grid or (side, side)
    if rows * columns != tokens or not tokens:
        raise VlmHeadsError(
            f"{tokens} image tokens" + (f" on a grid of {rows} x {columns}" if grid else ""),
            "a grid with a place for each",
            "pass grid=(rows, columns); pictures in tiles cannot be drawn on",
        )
    return rows, columns


def overlay(
    image: Image.Image,
    values: Tensor,
    label: str,
    *,
    grid: tuple[int, int] | None = None,
    path: str | Path | None = None,
    theme: str = "light",
) -> Figure:
    """Draw values [image tokens] over a picture; write it to `path` where one is given.

    The picture is stretched over the grid of its tokens, so a processor that crops shifts it.

    Args:
        image: the picture.
        values: one of each image token, none negative.
        label: what a value is, with its unit.
        grid: rows and columns of the tokens; by default a square.
        path: where to write the figure.
        theme: "light" or "dark".

    Raises:
        VlmHeadsError: tokens that do not fit the grid, or matplotlib is not installed.
    """
    rows, columns = token_grid(len(values), grid)
    figure = overlay_figure(image, values.reshape(rows, columns), label, theme=theme)
    if path is not None:
        figure.savefig(path, dpi=DOTS_PER_INCH)
    return figure
