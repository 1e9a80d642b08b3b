"""Tables in the terminal that fit its width without breaking a word or an interval."""

import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlmheads.printable import printable

Rows = list[list[str]]
WRAP = 18  # Signs in a line of a cell of words.
FRAME = 3  # Signs that a column takes besides its own: padding and a line.


def print_rows(title: str, rows: Rows, console: Console | None = None) -> None:
    """Print rows, headings first, as one table, or as several where one is too wide.

    A table that is too wide is split after the column that still fits; the first column is
    repeated. Only a word that is wider than the terminal is broken.

    Args:
        title: above the table.
        rows: cells of text; an interval in brackets goes on a line of its own.
        console: where to; by default the terminal, or 80 columns where there is none.
    """
    console = console or Console()
    columns = [[_lines(row[place]) for row in rows] for place in range(len(rows[0]))]
    first, rest = columns[0], columns[1:]
    for number, part in enumerate(_parts(first, rest, console.width)):
        heading = printable(title if number == 0 else f"{title}, continued")
        console.print(Text(heading, style="italic"))
        table = Table(box=box.HEAVY_HEAD)
        for place, column in enumerate((first, *part)):
            table.add_column(
                Text("\n".join(column[0])), justify="right" if place else "left", overflow="fold"
            )
        for row in range(1, len(rows)):
            table.add_row(*(Text("\n".join(column[row])) for column in (first, *part)))
        console.print(table)


def turned(rows: Rows) -> Rows:
    """Return rows with one column per row."""
    return [list(column) for column in zip(*rows, strict=True)]


def _lines(cell: str) -> list[str]:
    """Return the lines of a cell, safe to print: a figure and its interval, or words."""
    cell = printable(cell)
    figure, bracket, interval = cell.partition(" [")
    if bracket:
        return [figure, f"[{interval}"]
    return textwrap.wrap(cell, WRAP, break_long_words=False, break_on_hyphens=False) or [""]


def _width(column: Sequence[Sequence[str]]) -> int:
    return max(len(line) for cell in column for line in cell) + FRAME


def _parts(
    first: list[list[str]], rest: list[list[list[str]]], room: int
) -> list[list[list[list[str]]]]:
    """Return the columns in groups that fit beside the first one."""
    parts: list[list[list[list[str]]]] = [[]]
    left = room - 1 - _width(first)
    for column in rest:
        width = _width(column)
        if width > left and parts[-1]:
            parts.append([])
            left = room - 1 - _width(first)
        parts[-1].append(column)
        left -= width
    return parts
