"""Figures of the report as SVG, drawn without any library so that the page stands alone."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

# Okabe and Ito's colours, which the colour-blind can tell apart; the baseline is the dark grey.
COLOURS = ("#444444", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00")
MARKS = ("circle", "square", "diamond", "triangle")
WIDTH, HEIGHT = 480, 340
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 44


class Scale(NamedTuple):
    """A straight map from values to places on the page."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def colour(position: int) -> str:
    """Return the colour of the run at a position; the baseline is the first."""
    return COLOURS[position % len(COLOURS)]


def frontier_plot(result: Mapping[str, Any], name: str, title: str) -> str:
    """Return the baseline's truncation frontier with every run as a point and its interval.

    A run that lies far off (see `far_off`) is left out, so that the others can be told apart.
    """
    outside = far_off(result)
    points = [
        (100 * point["recall"], 100 * point[name], point["sentences"])
        for point in result["frontier"]
        if point["recall"] is not None and point[name] is not None
    ]
    runs = [
        (position, _reach(run, "recall"), _reach(run, name))
        for position, run in enumerate(result["runs"])
        if run["overall"]["recall"] is not None and run["overall"][name] is not None
        if run["name"] not in outside
    ]
    xs = [x for x, _, _ in points] + [value for _, reach, _ in runs for value in reach]
    ys = [y for _, y, _ in points] + [value for _, _, reach in runs for value in reach]
    if not xs:
        return "<p>No recall to draw: the images hold no object.</p>"
    x = _scale(xs, LEFT, WIDTH - RIGHT)
    y = _scale(ys, HEIGHT - BOTTOM, TOP)
    parts = _axes(x, y, "recall %", f"{title} %")
    line = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py, _ in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#999" stroke-width="1.5"/>')
    labelled = None
    for px, py, kept in points:
        parts.append(f'<circle cx="{x(px):.1f}" cy="{y(py):.1f}" r="2.5" fill="#999"/>')
        if labelled is None or abs(x(px) - labelled) > 18:
            labelled = x(px)
            parts.append(_text(labelled + 5, y(py) + 13, str(kept), "#666", size=10))
    for position, across, along in runs:
        low_x, px, high_x = (x(value) for value in across)
        low_y, py, high_y = (y(value) for value in along)
        parts.append(_line(low_x, py, high_x, py, colour(position)))
        parts.append(_line(px, low_y, px, high_y, colour(position)))
        parts.append(mark(px, py, position))
    label = f"{title} against recall; grey: the baseline's captions cut after so many sentences"
    return _svg(WIDTH, HEIGHT, parts, label)


def far_off(result: Mapping[str, Any]) -> list[str]:
    """Return the runs that invent more than 2.5 times as much as the run in the middle.

    Such as a control without the picture. The baseline is never one of them.
    """
    rates = {run["name"]: run["overall"]["unique_hallucination"] or 0 for run in result["runs"]}
    if len(rates) < 3:
        return []
    limit = 2.5 * max(sorted(rates.values())[len(rates) // 2], 0.02)
    return [name for name, rate in rates.items() if rate > limit and name != result["baseline"]]


def _reach(run: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    """Return a run's measure in percent between the ends of its interval."""
    value = run["overall"][name]
    low, high = run["intervals"][name]
    return (
        100 * (value if low is None else low),
        100 * value,
        100 * (value if high is None else high),
    )


def mark(x: float, y: float, position: int, size: float = 5) -> str:
    """Return the mark of a run, of its own colour and shape, with its outline in white."""
    style = f'fill="{colour(position)}" stroke="white" stroke-width="1"'
    shape = MARKS[position % len(MARKS)]
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" {style}/>'
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "triangle": ((0, -1.2), (1.1, 0.9), (-1.1, 0.9)),
    }[shape]
    places = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{places}" {style}/>'


def bar_chart(
    labels: Sequence[str],
    series: Sequence[Sequence[float | None]],
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
    bar, gap, left = 9, 9, 112
    group = bar * len(series) + gap
    height = TOP + group * len(labels) + BOTTOM
    largest = max((value or 0 for values in series for value in values), default=0) or 1
    step = _step(largest)
    x = Scale(0, largest * 1.08, left, WIDTH - RIGHT)
    bottom = height - BOTTOM
    parts = []
    for tick in _ticks(0, largest * 1.08, step):
        parts.append(_line(x(tick), TOP, x(tick), bottom, "#e4e4e4"))
        parts.append(_text(x(tick), bottom + 15, f"{tick:g}", "#555", anchor="middle", size=11))
    parts.append(_text((left + WIDTH - RIGHT) / 2, height - 10, unit, "#333", anchor="middle"))
    for row, label in enumerate(labels):
        top = TOP + row * group + gap / 2
        middle = top + bar * len(series) / 2
        parts.append(_text(left - 8, middle + 4, label, "#222", anchor="end"))
        for order, (position, values) in enumerate(zip(positions, series, strict=True)):
            value = values[row]
            if value is not None:
                place = top + order * bar
                parts.append(
                    f'<rect x="{left}" y="{place:.1f}" width="{max(x(value) - left, 0.5):.1f}" '
                    f'height="{bar - 1.5}" fill="{colour(position)}"/>'
                )
    parts.append(_line(left, TOP, left, bottom, "#888"))
    return _svg(WIDTH, height, parts, title)


def legend(names: Sequence[str], positions: Sequence[int] | None = None) -> str:
    """Return the runs' names with their marks, of all runs or of those at some positions."""
    chosen = range(len(names)) if positions is None else positions
    items = "".join(
        f'<span><svg width="14" height="14" aria-hidden="true">{mark(7, 7, position)}</svg> '
        f"{escape(names[position])}</span>"
        for position in chosen
    )
    return f'<p class="legend">{items}</p>'


def _scale(values: Sequence[float], start: float, end: float) -> Scale:
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or 2
    return Scale(max(0, low - margin), high + margin, start, end)


def _axes(x: Scale, y: Scale, x_title: str, y_title: str) -> list[str]:
    parts = []
    for tick in _ticks(x.low, x.high, _step(x.high - x.low)):
        parts.append(_line(x(tick), y.start, x(tick), y.end, "#ececec"))
        parts.append(_text(x(tick), y.start + 16, f"{tick:g}", "#555", anchor="middle", size=11))
    for tick in _ticks(y.low, y.high, _step(y.high - y.low)):
        parts.append(_line(x.start, y(tick), x.end, y(tick), "#ececec"))
        parts.append(_text(x.start - 7, y(tick) + 4, f"{tick:g}", "#555", anchor="end", size=11))
    parts.append(_line(x.start, y.start, x.end, y.start, "#888"))
    parts.append(_line(x.start, y.start, x.start, y.end, "#888"))
    parts.append(_text((x.start + x.end) / 2, y.start + 36, x_title, "#333", anchor="middle"))
    middle = (y.start + y.end) / 2
    parts.append(
        f'<text x="14" y="{middle:.1f}" transform="rotate(-90 14 {middle:.1f})" '
        f'text-anchor="middle" font-size="12" fill="#333">{escape(y_title)}</text>'
    )
    return parts


def _step(span: float) -> float:
    """Return a round step that gives about five ticks."""
    size = 1.0
    while size > span:
        size /= 10
    while size * 10 < span:
        size *= 10
    return next((size * f for f in (0.1, 0.2, 0.5, 1, 2) if span / (size * f) <= 6), size * 5)


def _ticks(low: float, high: float, step: float) -> list[float]:
    first = int(-(-low // step))
    return [round(number * step, 10) for number in range(first, int(high // step) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, shade: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{shade}" stroke-width="1.2"/>'
    )


def _text(
    x: float, y: float, text: str, shade: str, *, anchor: str = "start", size: int = 12
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{shade}">{escape(text)}</text>'
    )


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
