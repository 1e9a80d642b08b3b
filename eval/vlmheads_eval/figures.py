"""Figures of the report: a comparison drawn as SVG that stands in the page itself."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmheads.plotting.drawing import as_svg
from vlmheads.plotting.figures import Interval, Run, bars_figure, frontier_figure


def frontier_plot(result: Mapping[str, Any], name: str, title: str) -> str:
    """Return the baseline's truncation frontier with every run as a point and its interval.

    A run that lies far off (see `far_off`) is left out, so that the others can be told apart.
    """
    outside = far_off(result)
    frontier = [
        (100 * point["recall"], 100 * point[name], point["sentences"])
        for point in result["frontier"]
        if point["recall"] is not None and point[name] is not None
    ]
    runs = {
        position: Run(run["name"], _reach(run, "recall"), _reach(run, name))
        for position, run in enumerate(result["runs"])
        if run["overall"]["recall"] is not None and run["overall"][name] is not None
        if run["name"] not in outside
    }
    if not frontier and not runs:
        return "<p>No recall to draw: the images hold no object.</p>"
    figure = frontier_figure(frontier, runs, "recall (%)", f"{title} (%)")
    return as_svg(figure, f"{title} against recall, with the baseline's shortened captions")


def far_off(result: Mapping[str, Any]) -> list[str]:
    """Return the runs that invent more than 2.5 times as much as the run in the middle.

    Such as a control without the picture. The baseline is never one of them.
    """
    rates = {run["name"]: run["overall"]["unique_hallucination"] or 0 for run in result["runs"]}
    if len(rates) < 3:
        return []
    limit = 2.5 * max(sorted(rates.values())[len(rates) // 2], 0.02)
    return [name for name, rate in rates.items() if rate > limit and name != result["baseline"]]


def _reach(run: Mapping[str, Any], name: str) -> Interval:
    """Return a run's measure in percent between the ends of its interval."""
    value = run["overall"][name]
    low, high = run["intervals"][name]
    return Interval(
        100 * (value if low is None else low),
        100 * value,
        100 * (value if high is None else high),
    )


def bar_chart(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    unit: str,
    title: str,
    positions: Sequence[int],
) -> str:
    """Return horizontal bars, one group a label and one bar a run in it.

    Args:
        labels: what each group is.
        series: for each run one value a label; None draws no bar.
        unit: written on the axis.
        title: what the figure says, for those who do not see it.
        positions: of the runs among all, for their colours.
    """
    return as_svg(bars_figure(labels, series, unit, positions=positions), title)
