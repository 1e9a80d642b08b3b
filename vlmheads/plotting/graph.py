"""A small graph of heads: which reads from which."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlmheads.plotting import drawing
from vlmheads.plotting.palette import theme as theme_called

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vlmheads.detect.composition import Composition


def plot_composition(
    found: Composition,
    path: str | Path | None = None,
    *,
    edges: int = 24,
    theme: str = "light",
) -> Figure:
    """Draw heads by layer and the strongest edges between them; write it where a path is given.

    Args:
        found: what `composition` measured.
        path: where to write the figure.
        edges: how many edges are drawn, the strongest first; the width is the strength.
        theme: "light" or "dark".

    Raises:
        VlmHeadsError: matplotlib is not installed.
    """
    look = theme_called(theme)
    layers = found.heads[-1][0] - found.heads[0][0] + 1
    heads = max(head for _, head in found.heads) - min(head for _, head in found.heads) + 1
    size = (2.0 + 0.5 * max(heads, 4), 1.4 + 0.5 * max(layers, 3))
    figure, axes = drawing.new_figure(*size, look, "which head reads from which")
    strongest = found.edges()[:edges]
    largest = max((strength for _, _, strength in strongest), default=1.0)
    for (layer, head), (above, reader), strength in reversed(strongest):
        axes.annotate(
            "",
            xy=(reader, above),
            xytext=(head, layer),
            arrowprops={
                "arrowstyle": "-|>",
                "color": look.categories[1],
                "linewidth": 0.4 + 3.0 * strength / largest,
                "alpha": 0.25 + 0.7 * strength / largest,
                "shrinkA": 9,
                "shrinkB": 9,
            },
        )
    for layer, head in found.heads:
        axes.plot(head, layer, "o", markersize=15, color=look.background, zorder=3)
        axes.plot(head, layer, "o", markersize=15, color=look.text, fillstyle="none", zorder=4)
        axes.text(
            head, layer, f"{head}", color=look.text, ha="center", va="center", fontsize=8, zorder=5
        )
    axes.margins(0.18)
    axes.set(
        xlabel=f"head; the widest edge is {largest:.2f} of the reader's output", ylabel="layer"
    )
    drawing.whole_ticks(axes)
    if path is not None:
        figure.savefig(path, dpi=drawing.DOTS_PER_INCH)
    return figure
