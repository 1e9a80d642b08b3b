"""The map of the heads: what the image changes in each of them, beside each layer's dominance."""

from __future__ import annotations

import json
import math
from html import escape

from torch import Tensor

from vlmheads_demo.drawing import shades
from vlmheads_demo.selection import Selection
from vlmheads_demo.services.result import Result


def head_table(result: Result, selection: Selection) -> str:
    """Return the heads of a selection as a grid of cells that can be chosen, layer 0 lowest."""
    said = result.captions[selection.caption]
    values = (
        result.picture.divergence if selection.word is None else said.support.heads[selection.word]
    )
    touched, by = _touched(result, selection.caption)
    low, high = float(values.min()), float(values.max())
    rows = "".join(
        _row(result, selection, layer, values, touched, (low, high))
        for layer in reversed(range(result.geometry.layers))
    )
    numbers = "".join(f'<th scope="col">{head}</th>' for head in range(result.geometry.heads))
    where = (
        "at the end of the prompt"
        if selection.word is None
        else f"at <b>{escape(said.support.words[selection.word].text)}</b> in {escape(said.name)}"
    )
    return (
        f'<section class="vh-heads" data-heads="{result.geometry.heads}">'
        f"<h2>What the image changes in each head</h2>"
        f'<p class="vh-small">Vision-aware head divergence (VHD) {where}. {by}</p>'
        '<div class="vh-scroll" tabindex="0" role="region" aria-label="Map of the heads">'
        '<table role="grid" aria-label="Vision-aware head divergence, '
        'layers by heads; arrow keys walk, Enter shows a head">'
        f'<thead><tr><th scope="col"><span class="vh-hide">layer</span></th>{numbers}'
        '<th scope="col" class="vh-mdi">text dominance (MDI)</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        '<div class="vh-scale"><span>'
        f'{low:.1f}</span><span class="vh-ramp vh-cividis"></span><span>{high:.1f} VHD</span>'
        "</div>"
        '<p class="vh-small">Rows are layers, columns heads. MDI: attention that a text token gets '
        "over what an image token gets, while the model writes; right of the line, over 1, text "
        "dominates.</p></section>"
    )


def _touched(result: Result, caption: int) -> tuple[Tensor, str]:
    """Return the heads to outline, and a sentence about them."""
    index = caption or min(1, len(result.captions) - 1)
    said = result.captions[index]
    marks = said.support.touched
    count, name = int(marks.sum()), escape(said.name)
    if not index:
        return marks, ""
    if not count:
        return marks, f"{name} acts on no head in particular."
    return marks, f"Outlined: the {count} heads that {name} acts on."


def _row(
    result: Result,
    selection: Selection,
    layer: int,
    values: Tensor,
    touched: Tensor,
    limits: tuple[float, float],
) -> str:
    first = (selection.layer, selection.head) if selection.layer is not None else (0, 0)
    cells = []
    for head, (value, colour) in enumerate(
        zip(values[layer].tolist(), shades(values[layer].tolist(), *limits), strict=True)
    ):
        about = {
            "result": result.key,
            "caption": selection.caption,
            "word": selection.word,
            "layer": layer,
            "head": head,
        }
        marked = bool(touched[layer, head])
        chosen = (selection.layer, selection.head) == (layer, head)
        label = f"layer {layer}, head {head}: {value:.2f}{', acted on' * marked}"
        cells.append(
            f'<td role="gridcell" tabindex="{0 if (layer, head) == first else -1}" '
            f'class="vh-cell{" vh-acted" * marked}{" vh-chosen" * chosen}" '
            f'style="background:{colour}" data-select="{escape(json.dumps(about))}" '
            f'aria-selected="{str(chosen).lower()}" aria-label="{label}" title="{label}"></td>'
        )
    return (
        f'<tr><th scope="row">{layer}</th>{"".join(cells)}'
        f'<td class="vh-mdi">{_dominance(float(result.picture.dominance[layer]))}</td></tr>'
    )


def _dominance(value: float) -> str:
    """Return a bar of MDI from the middle, which is 1, on a scale of doublings up to eightfold."""
    if not math.isfinite(value) or value <= 0:
        return '<span class="vh-bar"></span><span class="vh-number">-</span>'
    reach = max(-1.0, min(1.0, math.log2(value) / 3))
    left, width = (50, 50 * reach) if reach >= 0 else (50 + 50 * reach, -50 * reach)
    side = "vh-text-side" if reach >= 0 else "vh-image-side"
    return (
        f'<span class="vh-bar"><i class="{side}" style="left:{left:.1f}%;width:{width:.1f}%"></i>'
        f'</span><span class="vh-number">{value:.1f}</span>'
    )
