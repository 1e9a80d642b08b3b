"""Results as tables in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

# Measure -> heading, unit: shares are shown in percent, the rest as they are.
CHAIR_COLUMNS: Mapping[str, tuple[str, str]] = {
    "CHAIRs": ("CHAIR_S", "%"),
    "CHAIRi": ("CHAIR_I", "%"),
    "unique_hallucination": ("unique", "%"),
    "recall": ("recall", "%"),
    "precision": ("precision", "%"),
    "object_f1": ("F1", "%"),
    "mentions": ("mentions", ""),
    "objects": ("objects", ""),
    "words": ("words", ""),
    "repetition": ("repetitive", "%"),
    "at_limit": ("at limit", "%"),
    "empty": ("empty", "%"),
}
FRONTIER_COLUMNS = ("CHAIRs", "CHAIRi", "unique_hallucination", "recall", "object_f1", "words")


def shown(value: float | None, unit: str = "%") -> str:
    """Return a figure as it is printed: shares in percent, one decimal; a dash where none is."""
    if value is None:
        return "-"
    return f"{value * 100:.1f}" if unit == "%" else f"{value:.1f}"


def heading(name: str) -> str:
    """Return a measure's heading with its unit."""
    title, unit = CHAIR_COLUMNS[name]
    return f"{title} {unit}".strip()


def print_chair(result: Mapping[str, Any]) -> None:
    """Print CHAIR of one file and the truncation frontier of its captions."""
    figures = result["overall"]
    title = f"CHAIR, lineage {result['lineage']}, {figures['captions']} captions"
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, (_, unit) in CHAIR_COLUMNS.items():
        table.add_row(heading(name), shown(figures[name], unit))
    _print(table)
    table = Table(
        title="The same captions cut after so many sentences (truncation frontier)",
        title_justify="left",
    )
    table.add_column("sentences", justify="right")
    for name in FRONTIER_COLUMNS:
        table.add_column(heading(name), justify="right")
    for point in result["frontier"]:
        figures_cut = (shown(point[name], CHAIR_COLUMNS[name][1]) for name in FRONTIER_COLUMNS)
        table.add_row(str(point["sentences"]), *figures_cut)
    _print(table)


def print_pope(result: Mapping[str, Any]) -> None:
    """Print POPE's measures a split and their mean."""
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed")
    titles = ("acc.", "prec.", "recall", "F1", "yes", "unparsed")
    table = Table(title=f"POPE in %, parser {result['parser']}", title_justify="left")
    for title in ("split", "asked", *titles, "SHA-256"):
        table.add_column(title, justify="left" if title in ("split", "SHA-256") else "right")
    for split, figures in result["splits"].items():
        cells = (shown(figures[name]) for name in names)
        table.add_row(split, str(figures["questions"]), *cells, figures["sha256"][:8])
    table.add_row("mean", "", *(shown(result["mean"][name]) for name in names), "")
    _print(table)


def print_amber(result: Mapping[str, Any]) -> None:
    """Print AMBER's generative and discriminative figures."""
    if result["generative"]:
        title = f"AMBER, descriptions, similarity {result['similarity']}"
        _print(_plain(title, [result["generative"]]))
    if result["discriminative"]:
        rows = [{"part": name, **row} for name, row in result["discriminative"].items()]
        _print(_plain('AMBER, questions ("No" is the positive class)', rows))


def _plain(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "part" else "right")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    return table


def _print(table: Table) -> None:
    Console().print(table)
