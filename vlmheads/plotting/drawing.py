"""What every figure is made of: its axes in the colours of a theme, and writing it out.

matplotlib is imported when something is drawn; it belongs to the extra `figures`.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Collection, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from PIL import Image

from vlmheads.errors import VlmHeadsError, install_hint
from vlmheads.plotting.palette import LIGHT, MARKS, OVERLAY, Theme, category, named
from vlmheads.printable import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Over a picture, the largest value leaves this share of the picture to be seen.
MOST_OPAQUE = 0.85
DOTS_PER_INCH = 150
_LEGEND_WIDTH = 82  # signs in a line of the narrowest figure
# matplotlib reads how SVG is written from global settings, which one call at a time may change.
_SETTINGS = threading.Lock()
_SVG: dict[Any, str] = {"svg.fonttype": "none", "svg.hashsalt": "vlmheads"}


def new_figure(width: float, height: float, theme: Theme, title: str) -> tuple[Figure, Axes]:
    """Return an empty figure of a size in inches, with one pair of axes.

    Raises:
        VlmHeadsError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VlmHeadsError(
            "matplotlib is not installed", todo=f"install it with {install_hint('figures')}"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.background)
    axes = figure.add_subplot(facecolor=theme.background)
    axes.set_axisbelow(True)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.tick_params(colors=theme.muted, labelcolor=theme.muted, labelsize=9, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.muted)
    axes.xaxis.label.set_color(theme.text)
    axes.yaxis.label.set_color(theme.text)
    if title:
        axes.set_title(title, color=theme.text, fontsize=11, loc="left")
    return figure, axes


def label(text: str) -> str:
    """Return text from outside for a figure; matplotlib reads $...$ as mathematics elsewhere."""
    return one_line(text).replace("$", r"\$")


def whole_ticks(axes: Axes) -> None:
    """Let both axes count in whole numbers."""
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))


def rows(axes: Axes, labels: Sequence[str]) -> None:
    """Turn axes into rows with a label each, the first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def frame(axes: Axes) -> None:
    """Turn axes into those of a picture: a box around it and no grid."""
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(True)


def outline(axes: Axes, chosen: Collection[tuple[int, int]], theme: Theme) -> None:
    """Put a frame around the cells of (layer, head), seen on every colour of the map."""
    from matplotlib.patches import Rectangle

    for layer, head in chosen:
        for width, colour in ((3.2, theme.background), (1.6, theme.unsupported)):
            corner = (head - 0.5, layer - 0.5)
            axes.add_patch(
                Rectangle(corner, 1, 1, fill=False, edgecolor=colour, linewidth=width, zorder=3)
            )


def colour_bar(figure: Figure, axes: Axes, drawn: Any, label: str, theme: Theme) -> None:
    """Put the scale of what was drawn beside it."""
    bar = figure.colorbar(drawn, ax=axes, shrink=0.9, pad=0.02, aspect=24)
    bar.set_label(label, color=theme.text)
    bar.ax.tick_params(colors=theme.muted, labelcolor=theme.muted, labelsize=9, length=3)
    bar.outline.set_visible(False)


def legend(figure: Figure, axes: Axes, theme: Theme) -> None:
    """Name what is drawn, below the axes."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max((len(label) for label in labels), default=0)
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=max(1, min(len(labels), _LEGEND_WIDTH // (longest + 6))),
        frameon=False,
        labelcolor=theme.text,
        fontsize=9,
    )


def mark(position: int, theme: Theme) -> dict[str, Any]:
    """Return the colour and mark of the run at a position; no two of the first 42 share both."""
    return {
        "color": category(position, theme),
        "marker": MARKS[position % len(MARKS)],
        "markersize": 7,
        "markeredgecolor": theme.background,
        "markeredgewidth": 0.9,
    }


def diverging(theme: Theme) -> Colormap:
    """Return the theme's map of signed values."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(f"signed-{theme.name}", theme.diverging)


def opacity() -> Colormap:
    """Return the map that lies over pictures: from clear to `OVERLAY`."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    ends = [to_rgba(OVERLAY, 0.0), to_rgba(OVERLAY, MOST_OPAQUE)]
    return LinearSegmentedColormap.from_list("over-a-picture", ends)


def faded(image: Image.Image) -> Image.Image:
    """Return a picture with little colour of its own, so that what lies over it stands out."""
    colour = image.convert("RGB")
    return Image.blend(colour, colour.convert("L").convert("RGB"), 0.7)


def as_svg(figure: Figure, label: str, theme: Theme = LIGHT) -> str:
    """Return a figure as an SVG element for a page, with its text as text.

    Every colour of the theme is written as `var(--figure-..., colour)`, so that a page with the
    style sheet of `vlmheads.plotting.palette` shows it light or dark as its reader likes.

    Args:
        figure: one of `vlmheads.plotting.figures`.
        label: what the figure shows, for those who do not see it.
        theme: the theme that it was drawn in.
    """
    from matplotlib import rc_context

    text = io.StringIO()
    with _SETTINGS, rc_context(_SVG):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    found = text.getvalue()
    element = re.sub(r"<metadata>.*?</metadata>", "", found[found.index("<svg") :], flags=re.S)
    head, size, rest = re.split(r' (?:width|height)="[\d.]+pt"', element, maxsplit=2)
    style = '<style type="text/css">*{stroke-linejoin: round; stroke-linecap: butt}</style>'
    rest = rest.replace(style, "")  # it would reach beyond this element
    # Inside of HTML an SVG element needs no namespaces.
    head, rest = (
        re.sub(r' xmlns(:xlink)?="[^"]*"', "", part).replace("xlink:href", "href")
        for part in (head, rest)
    )
    for name, colour in named(theme).items():
        rest = rest.replace(colour.lower(), f"var(--figure-{name}, {colour})")
    return f'{head} role="img" aria-label="{escape(label)}" stroke-linejoin="round"{size}{rest}'


def as_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DOTS_PER_INCH)
    return data.getvalue()
