"""What `vlmheads detect` prints of a measurement, as tables or as one JSON object."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from vlmheads.commands import show
from vlmheads.commands.measurement import Measurement, mean_and_error
from vlmheads.headmap import HeadMap
from vlmheads.printable import plain


def _heads(found: HeadMap, top: int) -> list[tuple[int, int, float, float]]:
    """Layer, head, mean and standard error of the heads with the largest mean."""
    error = found.standard_error()
    best = found.top(min(top, found.mean().numel()))
    return [(layer, head, value, float(error[layer, head])) for layer, head, value in best]


def as_record(result: Measurement, top: int) -> dict[str, Any]:
    """Everything as plain values; what is not a number is null."""

    def plain(value: float) -> float | None:
        return value if math.isfinite(value) else None

    figures = {name: mean_and_error(values) for name, values in result.figures.items()}
    maps = {
        name: {
            "images": item.images,
            "mean": [[plain(value) for value in row] for row in item.mean().tolist()],
            "top": [
                {
                    "layer": layer,
                    "head": head,
                    "value": plain(value),
                    "standard_error": plain(error),
                }
                for layer, head, value, error in _heads(item, top)
            ],
        }
        for name, item in result.maps.items()
    }
    return {
        "figures": {
            name: {"mean": plain(mean), "standard_error": plain(error)}
            for name, (mean, error) in figures.items()
        },
        "notes": result.notes,
        "maps": maps,
    } | {
        key: value
        for key, value in (
            ("captions", result.records),
            ("conclusion", result.conclusion),
            ("tables", {title: asdict(grid) for title, grid in result.tables.items()}),
            ("answer", result.answer),
        )
        if value
    }


def print_measurement(result: Measurement, top: int) -> None:
    """Print the figures, the tables, the largest heads, and what follows from them."""
    console = Console()
    if result.conclusion:
        console.print(result.conclusion, markup=False, highlight=False)
        return
    if result.figures:
        counts = sorted({len(values) for values in result.figures.values()})
        number = f"{counts[0]} " if len(counts) == 1 else ""
        images = f"{number}{result.unit}{'s' * (counts != [1])}"
        figures = Table(title=f"mean of {images}")
        figures.add_column("figure")
        for column in ("mean", "standard error"):
            figures.add_column(column, justify="right")
        for label, values in result.figures.items():
            mean, error = mean_and_error(values)
            figures.add_row(label, f"{mean:.3f}", _number(error))
        console.print(figures)
    for label, note in result.notes.items():
        console.print(plain(f"{label}: {note}"), highlight=False)
    if result.records:
        show.objects(console, result.records, top)
    for title, grid in result.tables.items():
        table = Table(title=plain(title))
        for index, column in enumerate(grid.columns):
            numbers = all(not isinstance(row[index], str) for row in grid.rows)
            table.add_column(plain(column), justify="right" if numbers else "left")
        for row in grid.rows:
            table.add_row(*(plain(_cell(value, grid.digits)) for value in row))
        console.print(table)
    if result.maps:
        _heads_table(console, result, top)
    if result.answer:
        console.print(plain(result.answer), highlight=False, soft_wrap=True)


def _heads_table(console: Console, result: Measurement, top: int) -> None:
    """Print the heads with the largest values of the main map."""
    name, main = next(iter(result.maps.items()))
    images = f"{main.images} {result.unit}{'s' * (main.images != 1)}"
    table = Table(title=plain(f"{name}, mean of {images}, {main.geometry}"))
    for column in ("layer", "head", name, "standard error"):
        table.add_column(column, justify="right")
    for layer, head, value, error in _heads(main, top):
        table.add_row(str(layer), str(head), _number(value), _number(error))
    console.print(table)


def _cell(value: Any, digits: int) -> str:
    """Return a value of a table as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
