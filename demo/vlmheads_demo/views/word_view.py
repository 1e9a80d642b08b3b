"""Where the model looked just before a word: the picture with an overlay, and a map of heads."""

from __future__ import annotations

import json
import math
from html import escape

from torch import Tensor

from vlmheads_demo.services.measurement import top_heads, vision_aware_heads
from vlmheads_demo.services.result import Result, Selection
from vlmheads_demo.views.theme import image_url, map_colours, overlay_url


def picture_view(result: Result, selection: Selection) -> str:
    """Return the picture with the overlay of a selection, and the word's top heads below it."""
    view = result.prompt_measured.view
    measured = result.captions[selection.caption].measured
    values, layer = None, ""
    if selection.word is not None:
        values = measured.attention(selection.word, selection.one_head)
    if values is not None and view.grid is not None:
        layer = f'<img class="vh-overlay" src="{overlay_url(values, view.grid)}" alt="">'
    photo = image_url(view.image, "PNG" if max(view.image.size) <= 256 else "JPEG")
    about = escape(_alt_text(result, selection, values is not None))
    width, height = view.image.size
    return (
        '<figure class="vh-look">'
        f'<div class="vh-stage{" vh-lit" * bool(layer)}" style="aspect-ratio:{width}/{height}">'
        f'<img class="vh-photo" src="{photo}" alt="{about}">{layer}{_sinks(result)}</div>'
        f"<figcaption>{_caption(result, selection, values is not None)}</figcaption>"
        f"{_scale(values)}{_head_buttons(result, selection)}{_sink_note(result)}</figure>"
    )


def _alt_text(result: Result, selection: Selection, drawn: bool) -> str:
    """Return the text alternative of the picture."""
    if selection.word is None:
        return "The picture as the model sees it"
    one = result.captions[selection.caption]
    word = one.measured.words[selection.word].text
    if not drawn:
        return f"The picture as the model sees it; no overlay for {word}"
    head = selection.one_head
    heads = f"layer {head[0]}, head {head[1]}" if head else "its vision-aware heads"
    return f"Attention of {heads} on the picture before the word {word}"


def _caption(result: Result, selection: Selection, drawn: bool) -> str:
    if selection.word is None:
        return "No caption names an object, so there is no word to show."
    one = result.captions[selection.caption]
    word = one.measured.words[selection.word]
    name = escape(one.name)
    if not drawn:
        reason = (
            "the image tokens do not form a grid over the picture"
            if result.prompt_measured.view.grid is None
            else "its attention was not kept"
        )
        return f"<b>{escape(word.text)}</b> in {name}: no overlay, because {reason}."
    head = selection.one_head
    if head:
        shown = f"attention of layer {head[0]}, head {head[1]}"
    else:
        count = int(vision_aware_heads(one.measured.heads[selection.word]).sum())
        shown = f"mean attention of its {count} vision-aware heads"
    return f"<b>{escape(word.text)}</b> in {name}: {shown}, just before it is generated."


def _scale(values: Tensor | None) -> str:
    """Return the scale of the overlay: the share of the attention on one image token."""
    if values is None:
        return ""
    largest = 100 * float(values.max())
    return (
        '<div class="vh-scale"><span>0</span><span class="vh-ramp"></span>'
        f"<span>{largest:.1f} % of the attention</span></div>"
    )


def _head_buttons(result: Result, selection: Selection) -> str:
    """Return buttons for the mean and for the word's top heads."""
    if selection.word is None:
        return ""
    one = result.captions[selection.caption]
    heads = one.measured.heads[selection.word]
    about = {"result": result.key, "caption": selection.caption, "word": selection.word}
    chosen = selection.one_head
    buttons = [_chip("mean of vision-aware heads", about, chosen is None)]
    for layer, head, value in top_heads(heads):
        data = about | {"layer": layer, "head": head}
        text = f"L{layer} H{head}"
        label = f"layer {layer}, head {head}, divergence {value:.2f}"
        buttons.append(_chip(text, data, chosen == (layer, head), label, f"{value:.1f}"))
    return (
        '<div class="vh-chips" role="group" aria-label="Whose attention is shown">'
        f"{''.join(buttons)}</div>"
    )


def _chip(
    text: str, about: dict[str, object], chosen: bool, label: str = "", note: str = ""
) -> str:
    named = f' aria-label="{escape(label)}"' if label else ""
    return (
        f'<button type="button" class="vh-chip" data-group="head"{named} '
        f'data-select="{escape(json.dumps(about))}" aria-pressed="{str(chosen).lower()}">'
        f"{escape(text)}{f'<small>{escape(note)}</small>' if note else ''}</button>"
    )


def _sinks(result: Result) -> str:
    """Return frames around the tokens that are sinks of any layer."""
    grid = result.prompt_measured.view.grid
    layers = result.prompt_measured.sinks.sum(dim=0)
    if grid is None or not bool(layers.any()):
        return ""
    rows, columns = grid
    frames = "".join(
        f'<rect x="{index % columns + 0.06:.2f}" y="{index // columns + 0.06:.2f}" width="0.88" '
        f'height="0.88"><title>sink in {count} layers</title></rect>'
        for index, count in enumerate(layers.tolist())
        if count
    )
    return (
        f'<svg class="vh-sinks" viewBox="0 0 {columns} {rows}" preserveAspectRatio="none" '
        f'aria-hidden="true" hidden>{frames}</svg>'
    )


def _sink_note(result: Result) -> str:
    """Return the switch that shows the sinks, or why there are none."""
    found = result.prompt_measured
    count = int(found.sinks.any(dim=0).sum())
    if count and found.view.grid is not None:
        return (
            '<label class="vh-switch"><input type="checkbox" data-shows=".vh-sinks"> '
            f"visual sinks: {count} token{'s' * (count > 1)} with φ ≥ {found.tau:g}</label>"
        )
    most = found.width**0.5
    bound = (
        f"; hidden states of width {found.width} allow at most {most:.0f}"
        if most < found.tau
        else ""
    )
    return f'<p class="vh-small">No visual sinks: no image token has φ ≥ {found.tau:g}{bound}.</p>'


def head_map(result: Result, selection: Selection) -> str:
    """Return the VHD of all heads as a grid of selectable cells, with layer 0 at the bottom."""
    one = result.captions[selection.caption]
    values = (
        result.prompt_measured.divergence
        if selection.word is None
        else one.measured.heads[selection.word]
    )
    edited, note = _edited(result, selection.caption)
    low, high = float(values.min()), float(values.max())
    rows = "".join(
        _row(result, selection, layer, values, edited, (low, high))
        for layer in reversed(range(result.geometry.layers))
    )
    numbers = "".join(f'<th scope="col">{head}</th>' for head in range(result.geometry.heads))
    where = (
        "at the end of the prompt"
        if selection.word is None
        else f"at <b>{escape(one.measured.words[selection.word].text)}</b> in {escape(one.name)}"
    )
    return (
        f'<section class="vh-heads" data-heads="{result.geometry.heads}">'
        f"<h2>How much the image changes each head</h2>"
        f'<p class="vh-small">Vision-aware head divergence (VHD) {where}. {note}</p>'
        '<div class="vh-scroll" tabindex="0" role="region" aria-label="Map of the heads">'
        '<table role="grid" aria-label="Vision-aware head divergence, '
        'layers by heads; arrow keys move, Enter shows a head">'
        f'<thead><tr><th scope="col"><span class="vh-hide">layer</span></th>{numbers}'
        '<th scope="col" class="vh-mdi">text dominance (MDI)</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        '<div class="vh-scale"><span>'
        f'{low:.1f}</span><span class="vh-ramp vh-cividis"></span><span>{high:.1f} VHD</span>'
        "</div>"
        '<p class="vh-small">Rows are layers and columns are heads. MDI is the mean attention on a '
        "text token divided by that on an image token during generation. Above 1, to the right of "
        "the line, text dominates.</p></section>"
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
            f'style="background:{colour}" data-select="{escape(json.dumps(about))}" '
            f'aria-selected="{str(chosen).lower()}" aria-label="{label}" title="{label}"></td>'
        )
    return (
        f'<tr><th scope="row">{layer}</th>{"".join(cells)}'
        f'<td class="vh-mdi">{_dominance(float(result.prompt_measured.dominance[layer]))}</td></tr>'
    )


def _dominance(value: float) -> str:
    """Return a bar of MDI from 1 in the middle, on a log scale from an eighth to eight."""
    if not math.isfinite(value) or value <= 0:
        return '<span class="vh-bar"></span><span class="vh-number">-</span>'
    reach = max(-1.0, min(1.0, math.log2(value) / 3))
    left, width = (50, 50 * reach) if reach >= 0 else (50 + 50 * reach, -50 * reach)
    side = "vh-text-side" if reach >= 0 else "vh-image-side"
    return (
        f'<span class="vh-bar"><i class="{side}" style="left:{left:.1f}%;width:{width:.1f}%"></i>'
        f'</span><span class="vh-number">{value:.1f}</span>'
    )
