"""A comparison of runs from Python, and how it looks in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from vlmheads_eval.compare import compared
from vlmheads_eval.report.tables import differences, footnote, table, verdicts


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs compared with a baseline, as `vlmheads eval compare --json` writes them.

    Args:
        result: the comparison as plain values.
    """

    result: Mapping[str, Any]

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict on each run but the baseline, by its name."""
        return {method["name"]: method["verdict"] for method in self.result["methods"]}

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in verdicts(self.result))
        return (
            '<div style="font:14px/1.5 system-ui,sans-serif">'
            f"{_table(table(self.result))}<ul>{lines}</ul>{_table(differences(self.result))}"
            f'<p style="font-size:12px;opacity:.75">{escape(footnote(self.result))}</p></div>'
        )


def compare_runs(
    runs: Iterable[str | Path],
    *,
    ground_truth: Iterable[str | Path] = (),
    names: Iterable[str] | None = None,
    task: str | None = None,
    variant: str = "pattern",
    parser: str = "strict",
    draws: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare runs with the first of them, as `vlmheads eval compare` does.

    Args:
        runs: run folders or files, the baseline first.
        ground_truth: the objects in the images; by default what the first run's folder names.
        names: what the runs are called; by default as their files or folders.
        task: "chair" or "pope"; by default what the first run is of.
        variant: of CHAIR.
        parser: of POPE's answers.
        draws: of the bootstrap.
        seed: of the draws.

    Raises:
        VlmHeadsError: runs that cannot be compared, or names that do not fit them.
    """
    result, _ = compared(
        tuple(Path(run) for run in runs),
        tuple(Path(file) for file in ground_truth),
        None if names is None else tuple(names),
        task,
        variant,
        parser,
        draws,
        seed,
    )
    return Comparison(result)


def _table(rows: list[list[str]]) -> str:
    """Return rows, headings first, as a table; every cell is escaped."""
    if not rows:
        return ""
    first, *others = rows
    style = "padding:2px 10px 2px 0;text-align:left"
    head = "".join(f'<th style="{style}">{escape(cell)}</th>' for cell in first)
    body = "".join(
        "<tr>" + "".join(f'<td style="{style}">{escape(cell)}</td>' for cell in row) + "</tr>"
        for row in others
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
