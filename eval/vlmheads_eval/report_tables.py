"""A comparison as a table: in the terminal, in Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from vlmheads_eval.tables import CHAIR_COLUMNS, heading, shown

CHAIR_SHOWN = (
    *("CHAIRs", "CHAIRi", "unique_hallucination", "recall", "object_f1", "words"),
    *("repetition", "at_limit"),
)
POPE_SHOWN = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed")
Rows = list[list[str]]


def table(result: Mapping[str, Any]) -> Rows:
    """Return the comparison as rows of text, headings first: a run a row, verdict last."""
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
    """Return every method's differences from the baseline, in points, with what tests say."""
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
    """Return a p value as it is printed."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _with_interval(value: float | None, interval: Sequence[float | None], unit: str) -> str:
    low, high = interval
    if value is None or low is None or high is None:
        return shown(value, unit)
    return f"{shown(value, unit)} [{shown(low, unit)}, {shown(high, unit)}]"


def print_comparison(result: Mapping[str, Any]) -> None:
    """Print the comparison, its differences and what it rests on: a run a column."""
    console = Console()
    for title, rows in (("Runs", table(result)), ("Against the baseline", differences(result))):
        if not rows:
            continue
        first, *columns = rows
        shape = Table(title=title, title_justify="left")
        for row in rows:
            shape.add_column(row[0], justify="left" if row is first else "right", overflow="fold")
        for name, *cells in zip(first[1:], *(column[1:] for column in columns), strict=True):
            shape.add_row(name, *(cell.replace(" [", "\n[") for cell in cells))
        console.print(shape)
    console.print(footnote(result), markup=False, highlight=False)


def footnote(result: Mapping[str, Any]) -> str:
    """Return what every table rests on, in one sentence or two."""
    left_out = {name: number for name, number in result.get("left_out", {}).items() if number}
    text = (
        f"{result['images']} images that all runs have"
        + (f" (left out: {left_out})" if left_out else "")
        + f"; 95 % intervals of {result['draws']} paired draws over images, seed {result['seed']}."
    )
    if result["task"] == "chair":
        text += f" CHAIR lineage {result['lineage']}."
    else:
        text += f" POPE parser {result['parser']}, mean over splits."
    return text


def markdown(rows: Rows) -> str:
    """Return rows as a Markdown table, nothing for no rows."""
    if not rows:
        return ""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def comma_separated(rows: Rows) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
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


def _escaped(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, "\\" + sign)
    return text
