"""Where the model looked just before a word: the picture with an overlay, and what it reads."""

from __future__ import annotations

import json
from html import escape

from torch import Tensor

from vlmheads_demo.services.measurement import top_heads, vision_aware_heads
from vlmheads_demo.services.result import Result, Selection
from vlmheads_demo.views.theme import image_url, overlay_url


def picture_view(
    result: Result,
    selection: Selection,
    relevancy: Tensor | None = None,
) -> str:
    """Return the picture with the overlay of a selection, what is chosen for it, and its place.

    Args:
        result: the run.
        selection: what of it is shown.
        relevancy: [P] gradient x attention of the selected word, where that is selected.
    """
    view = result.prompt_measured.view
    measured = result.captions[selection.caption].measured
    values, layer = relevancy, ""
    if values is None and selection.word is not None:
        values = measured.attention(selection.word, selection.one_head)
    if values is not None and view.grid is not None:
        layer = f'<img class="vh-overlay" src="{overlay_url(values, view.grid)}" alt="">'
    photo = image_url(view.image, "PNG" if max(view.image.size) <= 256 else "JPEG")
    about = escape(_alt_text(result, selection, values is not None))
    width, height = view.image.size
    return (
        '<figure class="vh-look">'
        f'<div class="vh-stage{" vh-lit" * bool(layer)}" style="aspect-ratio:{width}/{height}">'
        f'<img class="vh-photo" src="{photo}" alt="{about}">{layer}{_sinks(result)}'
        f"{_cursor(result, selection)}</div>"
        f"<figcaption>{_caption(result, selection, values is not None)}</figcaption>"
        f"{_scale(values, selection.gradient)}{_head_buttons(result, selection)}"
        f"{_sink_note(result)}{_hint(result)}</figure>"
    )


def _selected(selection: Selection) -> dict[str, object]:
    """Return what a further selection on the picture keeps."""
    found: dict[str, object] = {"caption": selection.caption, "word": selection.word}
    found |= {"token": selection.token} if selection.token is not None else {}
    found |= {"patch": selection.patch} if selection.patch is not None else {}
    return found


def _cursor(result: Result, selection: Selection) -> str:
    """Return the button that reads a place of the picture; the arrow keys move it."""
    grid = result.prompt_measured.view.grid
    if grid is None:
        return ""
    rows, columns = grid
    patch = selection.patch if selection.patch is not None else rows // 2 * columns + columns // 2
    row, column = divmod(patch, columns)
    data: dict[str, object] = {"result": result.key, **_selected(selection), "patch": patch}
    if selection.one_head:
        data |= {"layer": selection.layer, "head": selection.head}
    if selection.gradient:
        data |= {"gradient": True}
    return (
        f'<button type="button" class="vh-cursor{" vh-here" * (selection.patch is not None)}" '
        f'data-grid="[{rows},{columns}]" data-select="{escape(json.dumps(data))}" '
        f'style="--row:{row};--column:{column};--rows:{rows};--columns:{columns}" '
        f'aria-label="Row {row}, column {column} of the picture: what does the model read here? '
        'Arrow keys move, Enter reads"></button>'
    )


def _hint(result: Result) -> str:
    if result.prompt_measured.view.grid is None:
        return ""
    return (
        '<p class="vh-small">Click on a place of the picture: what does the model read there?</p>'
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
    if selection.gradient:
        return f"Gradient x attention on the picture for the word {word}"
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
    if selection.gradient:
        shown = "gradient x attention of all heads: the places that speak for it"
        return f"<b>{escape(word.text)}</b> in {name}: {shown}."
    if head:
        shown = f"attention of layer {head[0]}, head {head[1]}"
    else:
        count = int(vision_aware_heads(one.measured.heads[selection.word]).sum())
        shown = f"mean attention of its {count} vision-aware heads"
    return f"<b>{escape(word.text)}</b> in {name}: {shown}, just before it is generated."


def _scale(values: Tensor | None, gradient: bool) -> str:
    """Return the scale of the overlay: the share of the attention on one image token."""
    if values is None:
        return ""
    largest = float(values.max())
    end = f"{largest:.2g} nats" if gradient else f"{100 * largest:.1f} % of the attention"
    return (
        f'<div class="vh-scale"><span>0</span><span class="vh-ramp"></span><span>{end}</span></div>'
    )


def _head_buttons(result: Result, selection: Selection) -> str:
    """Return buttons for the mean and for the word's top heads."""
    if selection.word is None:
        return ""
    one = result.captions[selection.caption]
    heads = one.measured.heads[selection.word]
    about: dict[str, object] = {"result": result.key, **_selected(selection)}
    chosen, gradient = selection.one_head, selection.gradient
    buttons = [
        _chip("vision-aware heads", about, chosen is None and not gradient),
        _chip("gradient \N{MULTIPLICATION SIGN} attention", about | {"gradient": True}, gradient),
    ]
    for layer, head, value in top_heads(heads, 4):
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
