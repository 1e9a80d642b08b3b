"""A benchmark's results in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlmheads.printable import one_line
from vlmheads_eval.report.tables import p_value

BESIDE = 3  # More constant answers than this have a table of their own.


def shown(value: float | None, unit: str = "%") -> str:
    """Return a figure: a share in percent, anything else as it is, a dash for None."""
    if value is None:
        return "-"
    return f"{value * 100:.1f}" if unit == "%" else f"{value:.2f}"


def between(found: Mapping[str, Any], unit: str) -> str:
    """Return a figure with its interval."""
    value = shown(found["value"], unit)
    if found.get("low") is None or found.get("high") is None:
        return value
    return f"{value} [{shown(found['low'], unit)}, {shown(found['high'], unit)}]"


def print_score(result: Mapping[str, Any]) -> None:
    """Print every figure with interval, denominator and floors, and how it was counted."""
    floors = list(next(iter(result["figures"].values()))["floors"])
    heads = [name.removeprefix("always ").replace("never ", "un") for name in floors]
    values, constants = [], []
    for name, one in result["figures"].items():
        values.append([name, between(one, one["unit"]), str(one["of"])])
        constants.append([shown(one["floors"][floor], one["unit"]) for floor in floors])
    title = f"{result['title']} (shares in %)"
    if len(floors) <= BESIDE:
        rows = [value + constant for value, constant in zip(values, constants, strict=True)]
        print_table(title, ["figure", "value [95 %]", "of", *heads], rows)
    else:
        print_table(title, ["figure", "value [95 %]", "of"], values)
        rows = [[value[0], *one] for value, one in zip(values, constants, strict=True)]
        print_table("The same for constant answers", ["figure", *heads], rows)
    part = result["questions"] < result["questions_in_data"]
    lines = [
        f"{result['questions']} questions"
        + (f" of the {result['questions_in_data']} in the data" if part else "")
        + f", {result['clusters']} {result['unit']}s; {shown(result['unparsed'])} % unparsed.",
        f"Reading {result['reading']}: {result['reading_is']}.",
        f"95 % intervals of {result['draws']} draws by {result['unit']}, seed {result['seed']}. "
        f"Constant answers: {', '.join(floors)}.",
        *digest_lines(result["sha256"]),
    ]
    say(lines)


def print_plain(title: str, result: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Print figures without floors, and lines of text below."""
    rows = [
        [name, between(one, one.get("unit", "%")), str(one["of"])]
        for name, one in result["figures"].items()
    ]
    print_table(title, ["figure", "value [95 %]", "of"], rows)
    say(lines)


def print_compared(result: Mapping[str, Any]) -> None:
    """Print each run beside the baseline with the differences, and its verdict."""
    baseline, *_ = result["runs"]
    levels = {run["name"]: run["figures"] for run in result["runs"]}
    unparsed = {run["name"]: run["unparsed"] for run in result["runs"]}
    for method in result["methods"]:
        name = method["name"]
        rows = []
        for figure, about in result["figures"].items():
            unit = about["unit"]
            found = method["difference"][figure]
            cells = [shown(levels[run][figure]["value"], unit) for run in (baseline["name"], name)]
            holm = method["holm"].get(figure)
            p = p_value(holm) if figure in method["holm"] else ""
            rows.append([figure, *cells, _signed(found, unit), p])
        title = f"{result['title']}: {name} against {baseline['name']} (shares in %)"
        print_table(title, ["figure", baseline["name"], name, "difference [95 %]", "Holm p"], rows)
        say([f"{name}: {method['verdict']}."])
        for kind, test in method["tests"].items():
            say(
                [
                    f"{kind}: {test['won']} won, {test['lost']} lost of {test['items']}; McNemar p "
                    f"{p_value(test['mcnemar'])}, {result['unit']}s exchanged whole "
                    f"{p_value(test['mcnemar_clustered'])}."
                ]
            )
    floors = [
        f"{name} {figure} {shown(values[figure], result['figures'][figure]['unit'])}"
        for name, values in result["floors"].items()
        for figure in result["tested"]
        if values.get(figure) is not None
    ]
    part = result["questions"] < result["questions_in_data"]
    counts = f"{result['questions']} questions" + (
        f" of the {result['questions_in_data']} in the data" if part else ""
    )
    shares = ", ".join(f"{name} {shown(value)} %" for name, value in unparsed.items())
    say(
        [
            f"{counts}, {result['clusters']} {result['unit']}s; unparsed: {shares}.",
            f"Constant answers: {', '.join(floors) or 'none'}.",
            f"Reading {result['reading']}: {result['reading_is']}.",
            f"95 % intervals of {result['draws']} paired draws by {result['unit']}, seed "
            f"{result['seed']}; the verdict rests on {', '.join(result['tested'])}.",
            *digest_lines(result["sha256"]),
        ]
    )


def _signed(found: Mapping[str, Any], unit: str) -> str:
    if found["value"] is None:
        return "-"
    scale, places = (100, 1) if unit == "%" else (1, 2)
    value, *ends = (
        None if found[name] is None else f"{found[name] * scale:+.{places}f}"
        for name in ("value", "low", "high")
    )
    return f"{value}" if None in ends else f"{value} [{ends[0]}, {ends[1]}]"


def digest_lines(found: Mapping[str, str]) -> list[str]:
    """Return one line per file of data with its SHA-256."""
    return [f"{name}: SHA-256 {digest}" for name, digest in found.items()]


def say(lines: Sequence[str]) -> None:
    """Print lines as they are."""
    console = Console()
    for line in lines:
        console.print(Text(one_line(line)), soft_wrap=True, highlight=False)


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of plain text, its first column to the left."""
    table = Table(title=Text(one_line(title)), title_justify="left")
    for at, head in enumerate(heads):
        table.add_column(Text(one_line(head)), justify="right" if at else "left")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    Console().print(table)
