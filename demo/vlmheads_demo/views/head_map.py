"""The map of heads: what the picture changes in each, where each looks, and text dominance."""

from __future__ import annotations

import json
import math
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

from vlmheads.plotting.palette import OVERLAY
from vlmheads_demo.services.result import Result, Selection
from vlmheads_demo.views.theme import image_url, map_colours


def head_map(result: Result, selection: Selection) -> str:
    """Return the VHD of all heads as a grid of selectable cells, with layer 0 at the bottom."""
    one = result.captions[selection.caption]
    values = (
        result.prompt_measured.divergence
        if selection.word is None
        else one.measured.heads[selection.word]
    )
    edited, note = _edited(result, selection.caption)
    patches = None if selection.word is None else one.measured.patches
    grid = result.prompt_measured.view.grid
    maps, switch = "", ""
    if patches is not None and grid is not None and selection.word is not None:
        maps = (
            f' style="--maps:url({_maps(patches[selection.word], grid)});'
            f'--heads:{result.geometry.heads};--layers:{result.geometry.layers}"'
        )
        switch = (
            '<label class="vh-switch"><input type="checkbox" data-toggles="vh-with-maps" '
            'data-of=".vh-heads table"> show where each head looks before the word</label>'
        )
    dominance = result.prompt_measured.dominance
    reach = dominance_reach(dominance)
    known = values[~values.isnan()]
    low, high = float(known.min()), float(known.max())
    # Tall maps of many layers get a row of their own, beside which nothing would stand.
    wide = str(result.geometry.layers > 16).lower()
    rows = "".join(
        _row(result, selection, layer, values, edited, (low, high), reach)
        for layer in reversed(range(result.geometry.layers))
    )
    numbers = "".join(f'<th scope="col">{head}</th>' for head in range(result.geometry.heads))
    where = (
        "at the end of the prompt"
        if selection.word is None
        else f"at <b>{escape(one.measured.words[selection.word].text)}</b> in {escape(one.name)}"
    )
    return (
        f'<section class="vh-heads" data-heads="{result.geometry.heads}" data-wide="{wide}">'
        f"<h2>How much the image changes each head</h2>"
        f'<p class="vh-small">Vision-aware head divergence (VHD) {where}. {note}</p>{switch}'
        '<div class="vh-scroll" tabindex="0" role="region" aria-label="Map of the heads">'
        f'<table role="grid"{maps} aria-label="Vision-aware head divergence, '
        'layers by heads; arrow keys move, Enter shows a head">'
        f'<thead><tr><th scope="col"><span class="vh-hide">layer</span></th>{numbers}'
        '<th scope="col" class="vh-mdi">text dominance (MDI)<span class="vh-limits">'
        f"<span>1/{2**reach:.0f}</span><span>1</span><span>{2**reach:.0f}</span></span></th>"
        "</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        '<div class="vh-scale"><span>'
        f'{low:.1f}</span><span class="vh-ramp vh-cividis"></span><span>{high:.1f} VHD</span>'
        "</div>"
        '<p class="vh-small">Rows are layers and columns are heads. MDI is the mean attention on a '
        "text token divided by that on an image token during generation, on a log scale. Above 1, "
        "to the right of the line, text dominates.</p></section>"
    )


def _edited(result: Result, caption: int) -> tuple[Tensor, str]:
    """Return the heads to outline, and a sentence about them."""
    index = caption or min(1, len(result.captions) - 1)
    one = result.captions[index]
    marks = one.measured.edited
    count, name = int(marks.sum()), escape(one.name)
    if not index:
        return marks, ""
    if not count:
        return marks, f"{name} edits no head in particular."
    return marks, f"Outlined: the {count} heads that {name} edits."


def _row(
    result: Result,
    selection: Selection,
    layer: int,
    values: Tensor,
    edited: Tensor,
    limits: tuple[float, float],
    reach: float,
) -> str:
    first = (selection.layer, selection.head) if selection.layer is not None else (0, 0)
    cells = []
    for head, (value, colour) in enumerate(
        zip(values[layer].tolist(), map_colours(values[layer].tolist(), *limits), strict=True)
    ):
        about = {
            "result": result.key,
            "caption": selection.caption,
            "word": selection.word,
            "layer": layer,
            "head": head,
        }
        marked = bool(edited[layer, head])
        chosen = (selection.layer, selection.head) == (layer, head)
        label = f"layer {layer}, head {head}: {value:.2f}{', edited' * marked}"
        cells.append(
            f'<td role="gridcell" tabindex="{0 if (layer, head) == first else -1}" '
            f'class="vh-cell{" vh-acted" * marked}{" vh-chosen" * chosen}" '
            f'style="--cell:{colour};--x:{_at(head, values.shape[1])};'
            f'--y:{_at(values.shape[0] - 1 - layer, values.shape[0])}" '
            f'data-select="{escape(json.dumps(about))}" '
            f'aria-selected="{str(chosen).lower()}" aria-label="{label}" title="{label}"></td>'
        )
    return (
        f'<tr><th scope="row">{layer}</th>{"".join(cells)}'
        f'<td class="vh-mdi">{_dominance(float(result.prompt_measured.dominance[layer]), reach)}'
        "</td></tr>"
    )


def _at(number: int, count: int) -> str:
    """Return where a tile lies in a picture of several, as CSS has it."""
    return f"{100 * number / max(1, count - 1):.2f}%"


def _dominance(value: float, reach: float) -> str:
    """Return a bar of MDI from 1 in the middle, on a log scale as wide as the largest needs."""
    if not math.isfinite(value) or value <= 0:
        return '<span class="vh-bar"></span><span class="vh-number">-</span>'
    share = max(-1.0, min(1.0, math.log2(value) / reach))
    left, width = (50, 50 * share) if share >= 0 else (50 + 50 * share, -50 * share)
    side = "vh-text-side" if share >= 0 else "vh-image-side"
    return (
        f'<span class="vh-bar"><i class="{side}" style="left:{left:.1f}%;width:{width:.1f}%"></i>'
        f'</span><span class="vh-number">{_shown(value)}</span>'
    )


def _shown(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.1 else f"{value:.2f}"


def dominance_reach(values: Tensor) -> float:
    """Return how many doublings the scale of MDI reaches to each side; at least one."""
    known = values[values.isfinite() & (values > 0)]
    return float(max(1, math.ceil(float(known.log2().abs().max())))) if len(known) else 1.0


def _maps(patches: Tensor, grid: tuple[int, int]) -> str:
    """Return where each head looks [L, H, P] as one picture, layer 0 at the bottom."""
    layers, heads, _ = patches.shape
    rows, columns = grid
    # A few strong places would leave everything else dark: the square root lifts what is weak.
    values = patches.float()
    largest = values.flatten().sort().values[int(0.995 * (values.numel() - 1))].clamp(min=1e-12)
    share = (values / largest).clamp(0, 1).sqrt()
    tiles = share.flip(0).view(layers, heads, rows, columns).permute(0, 2, 1, 3)
    flat = tiles.reshape(layers * rows, heads * columns).numpy()
    colour = np.array([int(OVERLAY[at : at + 2], 16) for at in (1, 3, 5)], dtype=np.float32)
    dark = np.array([24.0, 28.0, 36.0], dtype=np.float32)
    pixels = dark + flat[..., None] * (colour - dark)
    return image_url(Image.fromarray(pixels.round().astype(np.uint8)), "PNG")
