"""Figures of one model: its heads as layers x heads, and image tokens over the picture."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from vlmheads.headmap import GAIN, HeadMap
from vlmheads.model.vision import token_grid
from vlmheads.plotting import drawing
from vlmheads.plotting.palette import OVERLAY, SEQUENTIAL
from vlmheads.plotting.palette import theme as theme_called

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from vlmheads.detect.sinks import VisualSinks


def plot_head_map(
    head_map: HeadMap,
    path: str | Path | None = None,
    *,
    chosen: Collection[tuple[int, int]] = (),
    theme: str = "light",
) -> Figure:
    """Draw the mean of a head map as layers x heads; write it to `path` where one is given.

    Args:
        head_map: the measurement.
        path: where to write the figure.
        chosen: (layer, head) of heads to outline.
        theme: "light" or "dark".

    Raises:
        VlmHeadsError: matplotlib is not installed.
    """
    measure, unit, images = drawing.label(head_map.measure), head_map.unit, head_map.images
    figure = head_map_figure(
        head_map.mean(),
        f"{measure} ({unit})" if unit else measure,
        title=f"{measure}, mean of {images} image{'s' * (images != 1)}",
        centre=1.0 if measure == GAIN else None,
        chosen=chosen,
        theme=theme,
    )
    if path is not None:
        figure.savefig(path, dpi=drawing.DOTS_PER_INCH)
    return figure


def plot_sinks(
    found: VisualSinks,
    image: Image.Image,
    index: int = 0,
    *,
    grid: tuple[int, int] | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Draw over a picture in how many layers each of its image tokens is a sink.

    Args:
        found: what `visual_sinks` measured.
        image: the picture of the prompt.
        index: which of the N prompts; it holds one picture.
        grid: rows and columns of its image tokens; by default a square.
        path: where to write the figure.

    Raises:
        VlmHeadsError: tokens that do not fit the grid, or matplotlib is not installed.
    """
    layers = found.visual_sinks[index].sum(dim=0)[found.visual[index]]
    return overlay(image, layers, "layers in which it is a sink", grid=grid, path=path)


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
        figure.savefig(path, dpi=drawing.DOTS_PER_INCH)
    return figure


def head_map_figure(
    values: Tensor,
    label: str,
    *,
    title: str = "",
    centre: float | None = None,
    chosen: Collection[tuple[int, int]] = (),
    theme: str = "light",
) -> Figure:
    """Draw one value per head.

    Args:
        values: [L, H].
        label: what a value is, with its unit.
        title: above the figure.
        centre: the value that is neutral; the others are coloured by how far they lie below or
            above. By default 0 where a value is negative, and else none.
        chosen: (layer, head) of heads to outline.
        theme: "light" or "dark".
    """
    look = theme_called(theme)
    layers, heads = values.shape
    size = min(max(0.22, 3.2 / max(layers, heads)), 0.42)
    figure, axes = drawing.new_figure(2.2 + heads * size, 1.3 + layers * size, look, title)
    known = values[~values.isnan()]  # layers without heads stay blank
    low, high = float(known.min()), float(known.max())
    middle = 0.0 if centre is None and low < 0 else centre
    if middle is not None:
        limit = max(abs(low - middle), abs(high - middle)) or 1.0
        low, high = middle - limit, middle + limit
        colours: str | Colormap = drawing.diverging(look)
    else:
        colours = SEQUENTIAL
    image = axes.imshow(
        values.detach().float().cpu().numpy(),
        cmap=colours,
        vmin=low,
        vmax=high,
        origin="lower",
        interpolation="nearest",
    )
    axes.set(xlabel="head", ylabel="layer")
    drawing.whole_ticks(axes)
    drawing.frame(axes)
    drawing.outline(axes, chosen, look)
    drawing.colour_bar(figure, axes, image, label, look)
    return figure


def overlay_figure(
    image: Image.Image,
    values: Tensor,
    label: str,
    *,
    title: str = "",
    largest: float | None = None,
    theme: str = "light",
) -> Figure:
    """Draw values [rows, columns] of image tokens over the picture that the tokens stand for.

    The picture is stretched over the grid of its tokens.

    Args:
        image: the picture.
        values: [rows, columns], none negative.
        label: what a value is, with its unit.
        title: above the figure.
        largest: the value that is drawn most opaque; by default the largest there is.
        theme: "light" or "dark".
    """
    look = theme_called(theme)
    rows, columns = values.shape
    width, height = image.size
    figure, axes = drawing.new_figure(5.4, 0.9 + 4.2 * min(height / width, 2.0), look, title)
    extent = (0, columns, rows, 0)
    axes.imshow(drawing.faded(image), extent=extent, aspect="auto")
    drawn = axes.imshow(
        values.detach().float().cpu().numpy(),
        extent=extent,
        aspect="auto",
        cmap=drawing.opacity(),
        vmin=0,
        vmax=largest or float(values.max()) or 1.0,
        interpolation="nearest",
    )
    axes.set(xlabel="column of image tokens", ylabel="row of image tokens")
    drawing.whole_ticks(axes)
    drawing.frame(axes)
    drawing.colour_bar(figure, axes, drawn, label, look)
    return figure


def overlay_image(
    image: Image.Image, values: Tensor, *, largest: float | None = None
) -> Image.Image:
    """Return the picture of `overlay_figure` alone, in the picture's own size, without axes.

    Args:
        image: the picture.
        values: [rows, columns], none negative.
        largest: the value that is drawn most opaque; by default the largest there is.
    """
    limit = largest or float(values.max()) or 1.0
    share = (values.detach().float().cpu() / limit).clamp(0, 1) * (255 * drawing.MOST_OPAQUE)
    mask = Image.fromarray(share.byte().numpy(), mode=None)
    over = Image.new("RGB", image.size, OVERLAY)
    return Image.composite(
        over, drawing.faded(image), mask.resize(image.size, Image.Resampling.NEAREST)
    )
