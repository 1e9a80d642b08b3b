"""Figures of the report as SVG, and thumbnails of its images."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads.plotting.drawing import as_svg, label
from vlmheads.plotting.figures import Interval, Run, bars_figure, frontier_figure
from vlmheads_eval.data import coco_images, image_folder, instances_file
from vlmheads_eval.records import ImageId, image_key


def frontier_plot(result: Mapping[str, Any], name: str, title: str) -> str:
    """Return the baseline's truncation frontier with every run as a point and its interval.

    An outlier (see `far_off`) is left out, so that the others can be distinguished.
    """
    outside = far_off(result)
    frontier = [
        (100 * point["recall"], 100 * point[name], point["sentences"])
        for point in result["frontier"]
        if point["recall"] is not None and point[name] is not None
    ]
    runs = {
        position: Run(label(run["name"]), _reach(run, "recall"), _reach(run, name))
        for position, run in enumerate(result["runs"])
        if run["overall"]["recall"] is not None and run["overall"][name] is not None
        if run["name"] not in outside
    }
    if not frontier and not runs:
        return "<p>No recall to draw: the images contain no object.</p>"
    figure = frontier_figure(frontier, runs, "recall (%)", f"{title} (%)")
    return as_svg(figure, f"{title} against recall, with the baseline's truncated captions")


def far_off(result: Mapping[str, Any]) -> list[str]:
    """Return outliers: runs that hallucinate more than 2.5 times as much as the median run.

    A control without images is one, for example. The baseline never is.
    """
    rates = {run["name"]: run["overall"]["unique_hallucination"] or 0 for run in result["runs"]}
    if len(rates) < 3:
        return []
    limit = 2.5 * max(sorted(rates.values())[len(rates) // 2], 0.02)
    return [name for name, rate in rates.items() if rate > limit and name != result["baseline"]]


def _reach(run: Mapping[str, Any], name: str) -> Interval:
    """Return a run's measure and its interval in percent."""
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
    """Return a horizontal bar chart with a group per label and a bar per run.

    Args:
        labels: of the groups.
        series: for each run one value per label; None draws no bar.
        unit: the axis label.
        title: alternative text of the figure.
        positions: of the runs among all runs, for their colours.
    """
    named = {label(name): values for name, values in series.items()}
    return as_svg(bars_figure([*map(label, labels)], named, unit, positions=positions), title)


SIDE = 160  # Pixels of the longer side, at most.
Pictures = Callable[[ImageId], str | None]


def no_pictures(image_id: ImageId) -> str | None:
    """Return no picture."""
    return None


def pictures_of(ground_truth: Iterable[Path]) -> Pictures:
    """Return a function from an image id to a thumbnail as a data URI, None without a file.

    Args:
        ground_truth: COCO folders or annotation files; other files come without images.
    """
    files: dict[str, Path] = {}
    for path in ground_truth:
        folder = path if path.is_dir() else path.parent
        if folder.name == "annotations":
            folder = folder.parent
        if path.is_dir() or path.name.startswith("instances"):
            entries, _ = coco_images(folder, None)
            # A link inside of the folder must not bring in a picture from elsewhere.
            home = image_folder(folder, instances_file(folder)).resolve()
            files.update(
                {k: file for k, (_, file) in entries.items() if file.resolve().is_relative_to(home)}
            )

    def picture(image_id: ImageId) -> str | None:
        file = files.get(image_key(image_id))
        return None if file is None or not file.is_file() else _data_uri(file)

    return picture


def _data_uri(file: Path) -> str | None:
    from vlmheads.images import read_image

    try:
        image = read_image(file)
    except VlmHeadsError:
        return None  # Show the caption without it; `predict` has recorded the error.
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
