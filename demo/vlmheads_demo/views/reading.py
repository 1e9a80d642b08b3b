"""What the model reads at one place of the picture, layer by layer."""

from __future__ import annotations

from html import escape

from vlmheads_demo.services.inspection import PatchReading
from vlmheads_demo.services.result import Result, Selection


def reading_view(result: Result, selection: Selection, reading: PatchReading) -> str:
    """Return what the model reads at a place, level by level, and the words that look at it."""
    grid = result.prompt_measured.view.grid
    if grid is None or selection.patch is None:
        return ""
    row, column = divmod(selection.patch, grid[1])
    last = len(reading.levels) - 1
    lines = "".join(
        f'<tr><th scope="row">{level or "input"}</th><td>'
        + " ".join(
            f'<span style="--share:{chance:.2f}">{escape(name)} <small>{100 * chance:.0f}</small>'
            "</span>"
            for name, chance in reading.levels[level]
        )
        + "</td></tr>"
        for level in range(last, -1, -1)
    )
    words = ", ".join(f"{escape(text)} ({100 * share:.1f} %)" for text, share in reading.words)
    looked = f'<p class="vh-small">Words that look here most: {words}.</p>' if words else ""
    return (
        f'<section class="vh-reading"><h2>What does the model read at row {row}, column {column}?'
        f"</h2>{looked}"
        '<div class="vh-scroll" tabindex="0" role="region" aria-label="Reading of the place">'
        '<table><thead><tr><th scope="col">after layer</th><th scope="col">likeliest words (%), '
        "by the vocabulary head</th></tr></thead>"
        f"<tbody>{lines}</tbody></table></div></section>"
    )
