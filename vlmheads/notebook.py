"""How results look in a notebook: HTML without scripts or styles of a page around it.

Texts come from models and files, so all of them are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vlmheads.errors import VlmHeadsError

if TYPE_CHECKING:
    from torch import Tensor

    from vlmheads.caption import Caption
    from vlmheads.grounding.measure import Grounding
    from vlmheads.grounding.words import Word
    from vlmheads.headmap import HeadMap

# Colours that can be told apart on white and on black, as red, green and blue.
_BLUE, _ORANGE = "8,117,181", "230,110,34"
_FONT = "font:14px/1.6 system-ui,sans-serif"
_TOKENS_SHOWN = 200


class Showable(Protocol):
    """What a notebook can show: a Caption, a HeadMap, a Grounding, a Comparison."""

    def _repr_html_(self) -> str: ...


@dataclass(frozen=True)
class Shown:
    """HTML that a notebook renders where it is the value of a cell.

    Args:
        html: the HTML.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | Path) -> None:
        """Write it as a page of its own."""
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><body>{self.html}</body></html>'
        )
        Path(path).write_text(page, "utf-8")


def show(*results: Showable) -> Shown:
    """Return results one below the other, as a notebook shows them.

    >>> caption = captioner(["scene.png"], words=True)[0]
    >>> vlmheads.show(caption)  # its words by their support, and the map of its heads

    Args:
        results: captions, head maps, groundings or comparisons.

    Raises:
        VlmHeadsError: nothing, or something else.
    """
    if not results:
        raise VlmHeadsError("nothing to show", "a caption, a head map, a grounding or a comparison")
    parts = []
    for result in results:
        draw = getattr(result, "_repr_html_", None)
        if isinstance(result, type) or not callable(draw):
            raise VlmHeadsError(
                f"a {type(result).__name__}", "a caption, a head map, a grounding or a comparison"
            )
        parts.append(draw())
    return Shown("".join(parts))


def caption_html(caption: Caption) -> str:
    """Return a caption with its object words by how well the image supports them."""
    end = ", cut off" if caption.at_limit else ""
    about = f"{caption.tokens} tokens{end}"
    if caption.words:
        about += "; shaded: words that name an object, with their scores"
        if caption.threshold is not None:
            about += f"; dashed: below {caption.threshold:.2f}, weakly supported"
    else:
        about += "; its words were not measured (words=True)"
    heads = "" if caption.heads is None else head_map_html(caption.heads)
    return f'<div style="{_FONT}"><p>{_words(caption)}</p>{_small(about)}</div>{heads}'


def _words(caption: Caption) -> str:
    text, parts, reached = caption.text, [], 0
    for word in caption.words:
        if word.object is None or word.start < reached:
            continue
        parts.append(escape(text[reached : word.start]))
        weak = caption.threshold is not None and word.score < caption.threshold
        colour, line = (_ORANGE, "dashed") if weak else (_BLUE, "solid")
        parts.append(
            f'<span title="{escape(_about(word, weak))}" style="background:rgba({colour},.16);'
            f'border-bottom:2px {line} rgb({colour});padding:0 .15em">'
            f"{escape(text[word.start : word.end])}<sup>{word.score:.2f}</sup></span>"
        )
        reached = word.end
    return "".join([*parts, escape(text[reached:])]) or "<i>an empty caption</i>"


def _about(word: Word, weak: bool) -> str:
    support = "weakly supported" if weak else "supported"
    return (
        f"{word.object}: score {word.score:.2f}, {support}; "
        f"image gain {word.image_gain:+.2f} nats; T-VHD {word.divergence:.1f}; "
        f"{100 * word.attention:.1f} % of attention on the image"
    )


def head_map_html(found: HeadMap) -> str:
    """Return the mean of a head map as a table, layer 0 at the bottom."""
    unit = f" ({found.unit})" if found.unit else ""
    images = f"mean of {found.images} image{'s' * (found.images != 1)}"
    about = "".join(f"; {key}: {value}" for key, value in found.provenance.items())
    title = f"{found.measure}{unit}, {images}{about}"
    return f'<div style="{_FONT}">{_small(title)}{_map(found.mean())}</div>'


def _map(values: Tensor) -> str:
    """Return values [L, H] as a table, the largest of either sign in full colour."""
    known = values[~values.isnan()]
    largest = float(known.abs().max()) if len(known) else 0.0
    rows = "".join(
        f'<tr><th style="{_CELL};font-weight:400">{layer}</th>'
        + "".join(
            _cell(value, largest, f"layer {layer}, head {head}")
            for head, value in enumerate(values[layer].tolist())
        )
        + "</tr>"
        for layer in reversed(range(len(values)))
    )
    heads = "".join(
        f'<th style="{_CELL};font-weight:400">{head}</th>' for head in range(values.shape[1])
    )
    low, high = (float(known.min()), float(known.max())) if len(known) else (math.nan, math.nan)
    return (
        '<table style="border-collapse:separate;border-spacing:1px;font-size:11px">'
        f"<tbody>{rows}</tbody><tfoot><tr><th></th>{heads}</tr></tfoot></table>"
        + _small(f"rows are layers, columns are heads; from {low:.3g} to {high:.3g}")
    )


_CELL = "padding:1px 3px;text-align:right;background:none"


def _cell(value: float, largest: float, where: str) -> str:
    if math.isnan(value):
        return f'<td title="{where}: no heads" style="{_CELL}"></td>'
    share = abs(value) / largest if largest else 0.0
    colour = _BLUE if value >= 0 else _ORANGE
    style = f"background:rgba({colour},{share:.2f});width:16px;height:14px;padding:0"
    return f'<td title="{where}: {value:.3g}" style="{style}"></td>'


def grounding_html(found: Grounding) -> str:
    """Return what the image gives each token of the answers, and the mean map of their heads."""
    rows, tokens, layers, heads = found.divergence.shape
    gain = found.log_probability - found.log_probability_without
    lines = "".join(
        f'<tr><th style="{_CELL}">answer {row}</th>{_gains(gain[row].tolist())}</tr>'
        for row in range(rows)
    )
    scores = f"; further scores: {', '.join(found.scores)}" if found.scores else ""
    title = f"{rows} x {tokens} tokens, {layers} layers x {heads} heads{scores}"
    first = f"the first {_TOKENS_SHOWN} of them" if tokens > _TOKENS_SHOWN else "each token"
    measured = (found.log_probability != 0).sum().clamp(min=1)
    return (
        f'<div style="{_FONT}">{_small(title)}{_small(f"image gain of {first}, in nats:")}'
        f'<div style="overflow-x:auto"><table style="font-size:11px">{lines}</table></div>'
        f"{_small('VHD, mean over the tokens:')}"
        f"{_map(found.divergence.sum(dim=(0, 1)) / measured)}</div>"
    )


def _gains(values: Sequence[float]) -> str:
    """Return the image gain of tokens as cells; blue where the image makes a token likelier."""
    cells = []
    for place, value in enumerate(values[:_TOKENS_SHOWN]):
        known = value if math.isfinite(value) else 0.0
        colour = _BLUE if known >= 0 else _ORANGE
        share = min(1.0, abs(known) / 6)
        cells.append(
            f'<td title="token {place}: {value:+.2f} nats" style="width:12px;height:14px;padding:0;'
            f'background:rgba({colour},{share:.2f})"></td>'
        )
    return "".join(cells)


def _small(text: str) -> str:
    return f'<p style="margin:.2em 0;font-size:12px;opacity:.75">{escape(text)}</p>'
