"""Results as tables in the terminal, in Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from vlmheads.printable import one_line, plain
from vlmheads_eval.compare.verdict import labelled, verdict_line
from vlmheads_eval.report.terminal import Rows, print_rows, turned

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
    "broken": ("broken text", "%"),
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
    rows = [["measure", "value"]]
    rows += [[heading(name), shown(figures[name], unit)] for name, (_, unit) in
             CHAIR_COLUMNS.items()]  # fmt: skip
    print_rows(f"CHAIR, variant {variant_of(result)}, {figures['captions']} captions", rows)
    rows = [["sentences", *(heading(name) for name in FRONTIER_COLUMNS)]]
    rows += [
        [
            str(point["sentences"]),
            *(shown(point[name], CHAIR_COLUMNS[name][1]) for name in FRONTIER_COLUMNS),
        ]
        for point in result["frontier"]
    ]
    print_rows("Captions truncated after a number of sentences (truncation frontier)", rows)


def print_pope(result: Mapping[str, Any]) -> None:
    """Print POPE's measures per split and their mean."""
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed")
    titles = ("acc.", "prec.", "recall", "F1", "yes", "unparsed")
    rows = [["split", "asked", *titles, "SHA-256"]]
    for split, figures in result["splits"].items():
        cells = (shown(figures[name]) for name in names)
        rows.append([split, str(figures["questions"]), *cells, figures["sha256"][:8]])
    rows.append(["mean", "", *(shown(result["mean"][name]) for name in names), ""])
    print_rows(f"POPE in %, parser {result['parser']}", rows)


CHAIR_SHOWN = (
    *("CHAIRs", "CHAIRi", "unique_hallucination", "recall", "object_f1", "words"),
    *("repetition", "at_limit", "empty", "broken"),
)
POPE_SHOWN = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed")


def table(result: Mapping[str, Any]) -> Rows:
    """Return the comparison as rows of text, headings first, one row per run, verdict last."""
    return _pope_table(result) if result["task"] == "pope" else _chair_table(result)


def _verdicts(result: Mapping[str, Any]) -> dict[str, str]:
    """Return what the column "verdict" says of each run; a flag never stands apart from it."""
    baseline = result["runs"][0]
    kind = f" ({baseline['kind']})" if "kind" in baseline else ""
    found = {method["name"]: labelled(method) for method in result["methods"]}
    return {result["baseline"]: f"baseline{kind}", **found}


def _chair_table(result: Mapping[str, Any]) -> Rows:
    verdicts = _verdicts(result)
    rows = [["run", *(heading(name) for name in CHAIR_SHOWN), "verdict"]]
    for run in result["runs"]:
        cells = [
            _with_interval(run["overall"][name], run["intervals"][name], CHAIR_COLUMNS[name][1])
            for name in CHAIR_SHOWN
        ]
        rows.append([run["name"], *cells, verdicts[run["name"]]])
    return rows


def _pope_table(result: Mapping[str, Any]) -> Rows:
    verdicts = _verdicts(result)
    rows = [["run", *(f"{name} %" for name in POPE_SHOWN), "verdict"]]
    for run in result["runs"]:
        cells = [shown(run["mean"][name]) for name in POPE_SHOWN]
        rows.append([run["name"], *cells, verdicts[run["name"]]])
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
        rows[0] += ["S at equal recall", "Holm p (S at equal recall)", "detectable S"]
        rows[0] += ["images needed, S", "images needed, S at equal recall"]
    else:
        rows[0] += ["Holm p (acc.)", "detectable acc."]
    for method in result["methods"]:
        found = method["difference"]
        row = [method["name"], *(signed(found[name]) for name in names)]
        first = names[0]
        test = "at recall CHAIRs" if chair else first
        if chair:
            row.append(signed(method["at_recall"]["CHAIRs"]))
        row += [p_value(method["holm"][test]), shown(found[first]["detectable"])]
        if chair:
            row += [_count(method["images_needed"][name]) for name in ("CHAIRs", test)]
        rows.append(row)
    return rows


def signed(found: Mapping[str, float | None]) -> str:
    """Return a difference in points with its interval."""
    if found["value"] is None or found["low"] is None or found["high"] is None:
        return "-"
    return f"{found['value'] * 100:+.1f} [{found['low'] * 100:+.1f}, {found['high'] * 100:+.1f}]"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


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


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """Return one line per method: the verdict with the baseline's kind, flags and notes."""
    if result["task"] != "chair":
        return []
    lines = (verdict_line(method, result["runs"][0]) for method in result["methods"])
    return [one_line(line) for line in lines]


def power(result: Mapping[str, Any]) -> list[str]:
    """Return one line per method of captions: how many images the observed difference needs."""
    if result["task"] != "chair":
        return []
    lines = []
    for method in result["methods"]:
        number = method["images_needed"]["at recall CHAIRs"]
        if number is not None:
            value = 100 * method["at_recall"]["CHAIRs"]["value"]
            lines.append(
                f"{one_line(method['name'])}: a true difference of {value:+.1f} points of CHAIR_S "
                f"at equal recall takes {number:,} images to be detected with 80 % power; there "
                f"are {result['images']:,}"
            )
    return lines


def print_comparison(result: Mapping[str, Any]) -> None:
    """Print the comparison, one column per run, its differences, verdicts, and how it was made."""
    console = Console()
    print_rows("Runs", turned(table(result)), console)
    changes = differences(result)
    if changes:
        print_rows("Against the baseline", turned(changes), console)
    for line in (*verdicts(result), *power(result), footnote(result)):
        console.print(plain(line), highlight=False)


def variant_of(result: Mapping[str, Any]) -> str:
    """Return the variant of CHAIR in a result, and what it was read with if that varies."""
    read_with = result.get("read_with")
    return f"{result['variant']} ({read_with})" if read_with else str(result["variant"])


def footnote(result: Mapping[str, Any]) -> str:
    """Return how a comparison was made: images, draws, seed, variant or parser."""
    left_out = {name: number for name, number in result.get("left_out", {}).items() if number}
    excluded = ", ".join(f"{number} of {name}" for name, number in left_out.items())
    text = (
        f"{result['images']} images that all runs have"
        + (f" (excluded: {excluded})" if excluded else "")
        + f"; 95 % intervals of {result['draws']} paired draws over images, seed {result['seed']}."
    )
    if result["task"] == "chair":
        text += f" CHAIR variant {variant_of(result)}."
    else:
        text += f" POPE parser {result['parser']}, mean over splits."
    return text


def markdown(rows: Rows, *, ours: bool = False) -> str:
    """Return rows as a Markdown table, or an empty text.

    Args:
        rows: cells of text.
        ours: whether cells are Markdown that we wrote, and not names from outside.
    """
    if not rows:
        return ""
    head, *body = [[cell if ours else _in_markdown(cell) for cell in row] for row in rows]
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
