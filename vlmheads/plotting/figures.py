"""Figures that compare runs: one look, light and dark, axes with units.

Every function returns a matplotlib figure: `.savefig(path)` writes it, `as_svg` and `as_png` of
`vlmheads.plotting.drawing` make it a part of a page. Nothing goes through pyplot, so figures can
be made in any thread. Colours are those of `vlmheads.plotting.palette`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from vlmheads.plotting import drawing
from vlmheads.plotting.palette import category
from vlmheads.plotting.palette import theme as theme_called

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Interval(NamedTuple):
    """A value between the ends of its interval; all equal where there is none."""

    low: float
    value: float
    high: float


class Run(NamedTuple):
    """A method as a point of the frontier figure."""

    name: str
    across: Interval
    along: Interval


def frontier_figure(
    frontier: Sequence[tuple[float, float, int]],
    runs: Mapping[int, Run],
    across: str,
    along: str,
    *,
    title: str = "",
    legend: bool = True,
    theme: str = "light",
) -> Figure:
    """Draw the baseline's truncation frontier, and every run as a point with its intervals.

    Args:
        frontier: (recall, rate, sentences kept) of the baseline's shortened captions.
        runs: by their positions among all, for colours and marks; the baseline is at 0.
        across: label of the recall axis, with its unit.
        along: label of the rate axis, with its unit.
        title: above the figure.
        legend: name the runs in the figure.
        theme: "light" or "dark".
    """
    look = theme_called(theme)
    figure, axes = drawing.new_figure(5.6, 4.0, look, title)
    recalls = [recall for recall, _, _ in frontier]
    axes.plot(
        recalls,
        [rate for _, rate, _ in frontier],
        color=look.muted,
        linewidth=1.4,
        marker=".",
        markersize=5,
        label="baseline, cut after n sentences",
        zorder=2,
    )
    room = 0.05 * (max(recalls, default=0) - min(recalls, default=0))
    last = -math.inf
    for recall, rate, sentences in frontier:
        if abs(recall - last) > room:
            axes.annotate(
                str(sentences),
                (recall, rate),
                (4, -10),
                textcoords="offset points",
                color=look.muted,
                fontsize=8,
            )
            last = recall
    for position, run in runs.items():
        colour = category(position, look)
        axes.errorbar(
            run.across.value,
            run.along.value,
            xerr=_arms(run.across),
            yerr=_arms(run.along),
            color=colour,
            elinewidth=1.3,
            zorder=3,
        )
        axes.plot(
            run.across.value,
            run.along.value,
            **drawing.mark(position, look),
            linestyle="none",
            label=run.name,
            zorder=4,
        )
    axes.set(xlabel=across, ylabel=along)
    axes.margins(0.08)
    axes.set(xlim=(max(axes.get_xlim()[0], 0), None), ylim=(max(axes.get_ylim()[0], 0), None))
    if legend:
        drawing.legend(figure, axes, look)
    return figure


def bars_figure(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    unit: str,
    *,
    group: str = "",
    positions: Sequence[int] | None = None,
    reference: float | None = None,
    title: str = "",
    legend: bool = True,
    theme: str = "light",
) -> Figure:
    """Draw horizontal bars, one group a label and in it one bar a run.

    Args:
        labels: what each group is; the first is on top.
        series: for each run one value a label; None draws no bar.
        unit: label of the axis of values.
        group: label of the other axis, such as "layer".
        positions: of the runs among all, for their colours; the baseline is at 0. By default they
            count from 1.
        reference: where a line is drawn, such as no difference; None for no line.
        title: above the figure.
        legend: name the runs in the figure.
        theme: "light" or "dark".
    """
    look = theme_called(theme)
    many = max(len(series), 1)
    figure, axes = drawing.new_figure(5.6, 1.0 + len(labels) * (0.13 * many + 0.12), look, title)
    height = 0.8 / many
    places = range(1, many + 1) if positions is None else positions
    for order, (position, (name, values)) in enumerate(zip(places, series.items(), strict=True)):
        # A bar of no length where there is none, so that the legend has the run's colour.
        axes.barh(
            [row - 0.4 + (order + 0.5) * height for row in range(len(labels))],
            [0 if value is None else value for value in values],
            height=height * 0.86,
            color=category(position, look),
            label=name,
        )
    if reference is not None:
        axes.axvline(reference, color=look.text, linewidth=1.2, linestyle=(0, (4, 3)))
    drawing.rows(axes, labels)
    axes.set(xlabel=unit, ylabel=group)
    if legend and len(series) > 1:
        drawing.legend(figure, axes, look)
    return figure


def intervals_figure(
    labels: Sequence[str],
    series: Mapping[str, Sequence[Interval | None]],
    unit: str,
    *,
    reference: float | None = 0.0,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """Draw values with their intervals, one row a label, such as differences from a baseline.

    Args:
        labels: what each row is; the first is on top.
        series: for each run one interval a label; None draws nothing. The first has the colour
            of the first method, as the baseline is what they are compared with.
        unit: label of the axis.
        reference: where a line is drawn, such as no difference; None for no line.
        title: above the figure.
        theme: "light" or "dark".
    """
    look = theme_called(theme)
    many = max(len(series), 1)
    figure, axes = drawing.new_figure(5.6, 1.0 + len(labels) * (0.17 * many + 0.1), look, title)
    if reference is not None:
        axes.axvline(reference, color=look.muted, linewidth=1.2, zorder=1)
    for order, (name, found) in enumerate(series.items()):
        shift = (order + 0.5) / many * 0.7 - 0.35
        for row, interval in enumerate(found):
            if interval is not None:
                axes.errorbar(
                    interval.value,
                    row + shift,
                    xerr=_arms(interval),
                    color=category(order + 1, look),
                    elinewidth=1.4,
                )
        rows = [row for row, interval in enumerate(found) if interval is not None]
        values = [interval.value for interval in found if interval is not None]
        heights = [row + shift for row in rows]
        axes.plot(
            values, heights, **drawing.mark(order + 1, look), linestyle="none", label=name, zorder=4
        )
    drawing.rows(axes, labels)
    axes.set_xlabel(unit)
    if len(series) > 1:
        drawing.legend(figure, axes, look)
    return figure


def lines_figure(
    across: Sequence[float],
    series: Mapping[str, Sequence[Interval | float | None]],
    across_label: str,
    along_label: str,
    *,
    reference: float | None = None,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """Draw curves over a common axis, such as a rate over a strength or attention over layers.

    Args:
        across: places on the axis.
        series: for each curve one value a place, with its interval as a band where it has one.
        across_label: label of the axis across, with its unit.
        along_label: label of the axis along, with its unit.
        reference: where a horizontal line is drawn, such as the baseline; None for no line.
        title: above the figure.
        theme: "light" or "dark".
    """
    look = theme_called(theme)
    figure, axes = drawing.new_figure(5.6, 3.6, look, title)
    if reference is not None:
        axes.axhline(reference, color=category(0, look), linewidth=1.2, linestyle=(0, (4, 3)))
    for position, (name, found) in enumerate(series.items(), start=1):
        points = [(x, y) for x, y in zip(across, found, strict=True) if y is not None]
        xs = [x for x, _ in points]
        middles = [y.value if isinstance(y, Interval) else y for _, y in points]
        bands = [(x, y.low, y.high) for x, y in points if isinstance(y, Interval)]
        colour = category(position, look)
        axes.plot(xs, middles, **drawing.mark(position, look), linewidth=1.6, label=name, zorder=3)
        places, lows, highs = ([band[side] for band in bands] for side in range(3))
        axes.fill_between(places, lows, highs, color=colour, alpha=0.18, linewidth=0)
    axes.set(xlabel=across_label, ylabel=along_label)
    if len(series) > 1:
        drawing.legend(figure, axes, look)
    return figure


def _arms(interval: Interval) -> tuple[tuple[float], tuple[float]]:
    """Return how far an interval reaches below and above its value."""
    return (interval.value - interval.low,), (interval.high - interval.value,)
