"""The result of benchmarks/words.py as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

CHAIR = ("CHAIRi", "CHAIRs", "recall", "object_f1", "words")


def shown(estimate: dict[str, Any], scale: float = 100, sign: bool = False) -> str:
    """A figure with its interval, as text."""
    if estimate["value"] is None:
        return "-"
    value, low, high = (scale * estimate[part] for part in ("value", "low", "high"))
    digits = 3 if scale == 1 else 1
    form = f"{'+' if sign else ''}.{digits}f"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


COLUMNS = (
    "all", "place alone", "within bins", "first mentions", "place alone, first mentions", "repeats",
)  # fmt: skip


def report(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    parts: list[str] = []
    for name, part in result["separation"].items():
        parts += [
            f"### AUROC, {name}",
            "",
            f"{part['invented']} of {part['words']} object words on {part['images']} images are "
            f"invented; of {part['first mentions']} first mentions "
            f"{part['first mentions invented']}.",
            "",
        ]
        parts.append(
            table(
                ["score", "words", *COLUMNS, "within bins less place's"],
                (
                    [
                        score,
                        str(found["words"]),
                        *(shown(found[column], 1) for column in COLUMNS),
                        shown(found["less place within bins"], 1, sign=True),
                    ]
                    for score, found in part["scores"].items()
                ),
            )
        )
    sets = list(result["separation"])
    by_k = "T-VHD by k, within bins"
    parts.append(
        table(
            [by_k, *map(str, range(1, 1 + len(result["separation"][sets[0]][by_k])))],
            ([at, *(f"{value:.3f}" for value in result["separation"][at][by_k])] for at in sets),
        )
    )
    parts += ["### Flags", ""]
    parts.append(
        table(
            [
                "captions",
                "scorer",
                "threshold",
                "precision",
                "recall",
                "true words flagged",
                "precision, first mentions",
                "precision, repeats",
                "precision of as many latest words",
                "difference",
            ],
            (
                [at, scorer, threshold, *(shown(figure) for figure in figures.values())]
                for at, by_scorer in result["flags"].items()
                for scorer, by_threshold in by_scorer.items()
                for threshold, figures in by_threshold.items()
            ),
        )
    )
    parts += ["### Dropping", ""]
    parts.append(
        table(
            ["captions", "scorer", *(f"{name}" for name in CHAIR), "CHAIRi less frontier"],
            (
                [
                    at,
                    scorer,
                    *(
                        f"{percent(name, figures[name]['before'])} → "
                        f"{percent(name, figures[name]['after'])}"
                        for name in CHAIR
                    ),
                    shown(figures["CHAIRi"]["less frontier"], sign=True),
                ]
                for at, by_scorer in result["dropped"].items()
                for scorer, figures in by_scorer.items()
            ),
        )
    )
    parts += ["### Thresholds of a stated risk", ""]
    columns = ("risk", "above", "surely above", "true kept", "nothing kept")
    parts.append(
        table(
            ["captions", "rule, loss, alpha", *columns],
            (
                [at, rule, *(f"{100 * figures[name]:.1f}" for name in columns)]
                for at, by_rule in result["coverage"].items()
                for rule, figures in by_rule.items()
                if "refused" not in figures
            ),
        )
    )
    return "\n".join(parts)


def percent(name: str, value: float) -> str:
    return f"{value:.1f}" if name == "words" else f"{100 * value:.1f}"
