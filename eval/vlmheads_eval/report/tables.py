"""Results as tables in the terminal, in Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from vlmheads.printable import one_line, plain

# Measure -> heading, unit; shares are shown in percent.
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
    """Return a figure as text: shares in percent, one decimal, a dash for None."""
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
    title = f"CHAIR, variant {result['variant']}, {figures['captions']} captions"
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, (_, unit) in CHAIR_COLUMNS.items():
        table.add_row(heading(name), shown(figures[name], unit))
    _print(table)
    table = Table(
        title="Captions truncated after a number of sentences (truncation frontier)",
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
    """Print POPE's measures per split and their mean."""
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed")
    titles = ("acc.", "prec.", "recall", "F1", "yes", "unparsed")
    table = Table(title=f"POPE in %, parser {result['parser']}", title_justify="left")
    for title in ("split", "asked", *titles, "SHA-256"):
        table.add_column(title, justify="left" if title in ("split", "SHA-256") else "right")
    for split, figures in result["splits"].items():
        cells = (shown(figures[name]) for name in names)
        table.add_row(plain(split), str(figures["questions"]), *cells, figures["sha256"][:8])
    table.add_row("mean", "", *(shown(result["mean"][name]) for name in names), "")
    _print(table)


def _print(table: Table) -> None:
    Console().print(table)


CHAIR_SHOWN = (
    *("CHAIRs", "CHAIRi", "unique_hallucination", "recall", "object_f1", "words"),
    *("repetition", "at_limit"),
)
POPE_SHOWN = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed")
Rows = list[list[str]]


def table(result: Mapping[str, Any]) -> Rows:
    """Return the comparison as rows of text, headings first, one row per run, verdict last."""
    return _pope_table(result) if result["task"] == "pope" else _chair_table(result)


def _chair_table(result: Mapping[str, Any]) -> Rows:
    verdicts = {method["name"]: method["verdict"] for method in result["methods"]}
    rows = [["run", *(heading(name) for name in CHAIR_SHOWN), "verdict"]]
    for run in result["runs"]:
        cells = [
            _with_interval(run["overall"][name], run["intervals"][name], CHAIR_COLUMNS[name][1])
            for name in CHAIR_SHOWN
        ]
        rows.append([run["name"], *cells, verdicts.get(run["name"], "baseline")])
    return rows


def _pope_table(result: Mapping[str, Any]) -> Rows:
    verdicts = {method["name"]: method["verdict"] for method in result["methods"]}
    rows = [["run", *(f"{name} %" for name in POPE_SHOWN), "verdict"]]
    for run in result["runs"]:
        cells = [shown(run["mean"][name]) for name in POPE_SHOWN]
        rows.append([run["name"], *cells, verdicts.get(run["name"], "baseline")])
    return rows


def differences(result: Mapping[str, Any]) -> Rows:
    """Return every method's differences from the baseline, in points, with test results."""
    if not result["methods"]:
        return []
    chair = result["task"] == "chair"
    names = ("CHAIRs", "CHAIRi", "unique_hallucination", "recall") if chair else POPE_SHOWN[:4]
    titles = [CHAIR_COLUMNS[name][0] if chair else name for name in names]
    rows = [["method", *(f"{title} diff." for title in titles)]]
    if chair:
        rows[0] += ["S at equal recall", "Holm p (S)", "detectable S", "notes"]
    else:
        rows[0] += ["Holm p (acc.)", "detectable acc."]
    for method in result["methods"]:
        found = method["difference"]
        row = [method["name"], *(signed(found[name]) for name in names)]
        first = names[0]
        if chair:
            row.append(signed(method["frontier"]["CHAIRs"]))
        row += [p_value(method["holm"][first]), shown(found[first]["detectable"])]
        rows.append(row + (["; ".join(method["notes"])] if chair else []))
    return rows


def signed(found: Mapping[str, float | None]) -> str:
    """Return a difference in points with its interval."""
    if found["value"] is None or found["low"] is None or found["high"] is None:
        return "-"
    return f"{found['value'] * 100:+.1f} [{found['low'] * 100:+.1f}, {found['high'] * 100:+.1f}]"


def p_value(p: float | None) -> str:
    """Return a p value as text."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _with_interval(value: float | None, interval: Sequence[float | None], unit: str) -> str:
    low, high = interval
    if value is None or low is None or high is None:
        return shown(value, unit)
    return f"{shown(value, unit)} [{shown(low, unit)}, {shown(high, unit)}]"


def print_comparison(result: Mapping[str, Any]) -> None:
    """Print the comparison, one column per run, its differences, and how it was made."""
    console = Console()
    for title, rows in (("Runs", table(result)), ("Against the baseline", differences(result))):
        if not rows:
            continue
        first, *columns = rows
        shape = Table(title=title, title_justify="left")
        for row in rows:
            shape.add_column(
                plain(row[0]), justify="left" if row is first else "right", overflow="fold"
            )
        for name, *cells in zip(first[1:], *(column[1:] for column in columns), strict=True):
            shape.add_row(name, *(plain(cell.replace(" [", "\n[")) for cell in cells))
        console.print(shape)
    console.print(plain(footnote(result)), highlight=False)


def footnote(result: Mapping[str, Any]) -> str:
    """Return how a comparison was made: images, draws, seed, variant or parser."""
    left_out = {name: number for name, number in result.get("left_out", {}).items() if number}
    text = (
        f"{result['images']} images that all runs have"
        + (f" (excluded: {left_out})" if left_out else "")
        + f"; 95 % intervals of {result['draws']} paired draws over images, seed {result['seed']}."
    )
    if result["task"] == "chair":
        text += f" CHAIR variant {result['variant']}."
    else:
        text += f" POPE parser {result['parser']}, mean over splits."
    return text


def markdown(rows: Rows) -> str:
    """Return rows as a Markdown table, or an empty text."""
    if not rows:
        return ""
    head, *body = [[_in_markdown(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def comma_separated(rows: Rows) -> str:
    """Return rows as CSV; text that a spreadsheet would run as a formula is quoted with a '."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_in_csv(c) for c in row] for row in rows])
    return text.getvalue()


def latex(rows: Rows) -> str:
    """Return rows as a LaTeX tabular with the rules of booktabs."""
    head, *body = [[_escaped(cell) for cell in row] for row in rows]
    lines = [
        r"\begin{tabular}{l" + "r" * (len(head) - 2) + "l}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


# What a cell of ours looks like that starts with a sign: "-1.2 [-2.4, +0.1]", or a dash.
_SIGNED = re.compile(r"[-+]?\d[\d.]*( \[[-+\d.]+, [-+\d.]+\])?|-")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}


def _in_csv(text: str) -> str:
    runs = text.lstrip().startswith(("=", "+", "-", "@")) and not _SIGNED.fullmatch(text)
    return f"'{one_line(text)}" if runs else one_line(text)


def _in_markdown(text: str) -> str:
    """Keep a cell from ending, from being HTML, and from being a link or an image."""
    signs = {"\\": "\\\\", "|": "\\|", "&": "&amp;", "<": "&lt;", "](": "]\\(", "`": "\\`"}
    pattern = "|".join(map(re.escape, signs))
    return re.sub(pattern, lambda match: signs[match[0]], one_line(text))


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in one_line(text))
