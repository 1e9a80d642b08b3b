"""The captions of a run compared: what they name, what of it is not there, length, time."""

from __future__ import annotations

from html import escape
from typing import Any

from vlmheads_demo.services.result import Result, Said


def compared(result: Result) -> list[dict[str, Any]]:
    """Return one row of figures a caption; what cannot be known is None."""
    return [_row(said) for said in result.captions]


def _row(said: Said) -> dict[str, Any]:
    reading, spoken = said.reading, said.spoken
    scores = [word.score for word in said.support.words if word.object is not None]
    return {
        "caption": said.name,
        "objects": list(reading.objects),
        "invented": None if reading.invented is None else list(reading.invented),
        "missed": None if reading.missed is None else list(reading.missed),
        "weakly_supported": sum(score < said.support.threshold for score in scores),
        "object_words": len(scores),
        "words": reading.words,
        "tokens": len(spoken.ids),
        "repetition": reading.repetition,
        "seconds": spoken.seconds,
        "tokens_a_second": spoken.rate,
    }


def comparison_table(result: Result) -> str:
    """Return the comparison as a table: a caption a column."""
    rows = compared(result)
    head = "".join(f'<th scope="col">{escape(row["caption"])}</th>' for row in rows)
    lines = [
        ("objects named", [_names(row["objects"]) for row in rows]),
        ("invented", [_names(row["invented"], "vh-bad") for row in rows]),
        ("missed", [_names(row["missed"]) for row in rows]),
        (
            "weakly supported words",
            [f"{row['weakly_supported']} of {row['object_words']}" for row in rows],
        ),
        ("length", [f"{row['words']} words, {row['tokens']} tokens" for row in rows]),
        ("repeated 4-grams", [f"{100 * row['repetition']:.0f} %" for row in rows]),
        (
            "time",
            [f"{row['seconds']:.2f} s, {row['tokens_a_second']:.0f} tokens/s" for row in rows],
        ),
    ]
    if result.objects is None:
        lines = [line for line in lines if line[0] not in ("invented", "missed")]
    body = "".join(
        f'<tr><th scope="row">{title}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for title, cells in lines
    )
    return (
        '<section class="vh-compare"><h2>Compared</h2>'
        '<div class="vh-scroll" tabindex="0" role="region" aria-label="Comparison"><table>'
        f'<thead><tr><th scope="col"><span class="vh-hide">measure</span></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _names(names: list[str] | None, style: str = "") -> str:
    if names is None:
        return "not known"
    if not names:
        return "none"
    text = escape(", ".join(names))
    return f'{len(names)} <span class="{style}">({text})</span>'
