"""Draw one value an image token over the picture that the tokens stand for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from vlmheads.errors import VlmHeadsError

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
) -> Figure:
    """Draw values [image tokens] over a picture; write it to `path` where one is given.

    The picture is stretched over the grid of its tokens, so a processor that crops shifts it.

    Raises:
        VlmHeadsError: tokens that do not fit the grid, or matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VlmHeadsError(
            "matplotlib is not installed", todo="install it with pip install 'vlmheads[demo]'"
        ) from error
    rows, columns = token_grid(len(values), grid)
    width, height = image.size
    figure = Figure(figsize=(5.5, 1 + 4.5 * height / width), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(image.convert("RGB"), extent=(0, columns, rows, 0), aspect="auto")
    drawn = axes.imshow(
        values.float().reshape(rows, columns).numpy(),
        extent=(0, columns, rows, 0),
        aspect="auto",
        cmap="inferno",
        alpha=0.55,
        vmin=0,
    )
    axes.set(xlabel="column of image tokens", ylabel="row of image tokens")
    figure.colorbar(drawn, label=label)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
