"""The picture with what the model looked at when it wrote a word, and where its sinks are."""

from __future__ import annotations

import json
from html import escape

from vlmheads_demo.drawing import address, overlay_address
from vlmheads_demo.selection import Selection
from vlmheads_demo.services.measurement import attention_of, aware_heads, top_heads
from vlmheads_demo.services.result import Result


def picture(result: Result, selection: Selection) -> str:
    """Return the picture under the overlay of a selection, with its top heads below."""
    seen = result.picture.seen
    said = result.captions[selection.caption]
    head = _head(selection)
    values = None if selection.word is None else attention_of(said.support, selection.word, head)
    layer = ""
    if values is not None and seen.grid is not None:
        layer = f'<img class="vh-overlay" src="{overlay_address(values, seen.grid)}" alt="">'
    photo = address(seen.image, "PNG" if max(seen.image.size) <= 256 else "JPEG")
    about = escape(_told(result, selection, values is not None))
    width, height = seen.image.size
    return (
        '<figure class="vh-look">'
        f'<div class="vh-stage{" vh-lit" * bool(layer)}" style="aspect-ratio:{width}/{height}">'
        f'<img class="vh-photo" src="{photo}" alt="{about}">{layer}{_sinks(result)}</div>'
        f"<figcaption>{_caption(result, selection, values is not None)}</figcaption>"
        f"{_scale(values)}{_heads(result, selection)}{_sink_note(result)}</figure>"
    )


def _head(selection: Selection) -> tuple[int, int] | None:
    if selection.layer is None or selection.head is None:
        return None
    return selection.layer, selection.head


def _told(result: Result, selection: Selection, drawn: bool) -> str:
    """Say in words what is drawn."""
    if selection.word is None:
        return "The picture as the model sees it"
    said = result.captions[selection.caption]
    word = said.support.words[selection.word].text
    if not drawn:
        return f"The picture as the model sees it; no overlay for {word}"
    head = _head(selection)
    heads = f"layer {head[0]}, head {head[1]}" if head else "its vision-aware heads"
    return f"Attention of {heads} on the picture before the word {word}"


def _caption(result: Result, selection: Selection, drawn: bool) -> str:
    if selection.word is None:
        return "No caption names an object, so there is no word to look at."
    said = result.captions[selection.caption]
    word = said.support.words[selection.word]
    name = escape(said.name)
    if not drawn:
        reason = (
            "its image tokens make no grid that could be laid over it"
            if result.picture.seen.grid is None
            else "that word was not kept"
        )
        return f"<b>{escape(word.text)}</b> in {name}: no overlay, {reason}."
    head = _head(selection)
    if head:
        looked = f"attention of layer {head[0]}, head {head[1]}"
    else:
        count = int(aware_heads(said.support.heads[selection.word]).sum())
        looked = f"mean attention of its {count} vision-aware heads"
    return f"<b>{escape(word.text)}</b> in {name}: {looked}, just before it is written."


def _scale(values: object) -> str:
    """Return the scale of the overlay: shares of the attention a token gets."""
    if values is None:
        return ""
    largest = 100 * float(values.max())  # type: ignore[attr-defined]
    return (
        '<div class="vh-scale"><span>0</span><span class="vh-ramp"></span>'
        f"<span>{largest:.1f} % of the attention</span></div>"
    )


def _heads(result: Result, selection: Selection) -> str:
    """Return buttons for the mean and for the word's top heads."""
    if selection.word is None:
        return ""
    said = result.captions[selection.caption]
    heads = said.support.heads[selection.word]
    about = {"result": result.key, "caption": selection.caption, "word": selection.word}
    chosen = _head(selection)
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
    """Return frames around the tokens that are sinks of some layer."""
    grid = result.picture.seen.grid
    layers = result.picture.sinks.sum(dim=0)
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
    """Return the switch of the sinks, or why there are none."""
    found = result.picture
    count = int(found.sinks.any(dim=0).sum())
    if count and found.seen.grid is not None:
        return (
            '<label class="vh-switch"><input type="checkbox" data-shows=".vh-sinks"> '
            f"visual sinks: {count} token{'s' * (count > 1)} with φ ≥ {found.tau:g}</label>"
        )
    most = found.width**0.5
    bound = f"; states {found.width} wide allow {most:.0f} at most" if most < found.tau else ""
    return f'<p class="vh-small">No visual sinks: no image token has φ ≥ {found.tau:g}{bound}.</p>'
