"""Drawings of one decoder layer and what stands around it, with the sites lit at which methods act.

One visual language for all: the picture and its tokens in blue, text in grey, what is generated in
outline, and a site that is edited filled, on a band, with its name in bold; one that is only read
has a dashed ring. Colours are custom properties of docs/style.css, so that they follow the theme.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

EDITED, READ = "edited", "read"
# Site -> its label, and what acting there means, for a reader who meets it first.
SITES: Mapping[str, tuple[str, str]] = {
    "logits": (
        "logits",
        "The scores of all words for the next token, just before one of them is chosen.",
    ),
    "stream": (
        "second stream",
        "The same model on another prompt or picture, in the same batch; its logits are set "
        "against those of the first stream.",
    ),
    "hidden": (
        "hidden state",
        "What a layer hands on: a vector for each token, to which attention and the MLP add.",
    ),
    "heads": (
        "head outputs",
        "What each attention head gives, before the output projection mixes the heads of a layer.",
    ),
    "attention": (
        "attention row",
        "How much the token that predicts the next one attends to each token before it, in each "
        "head.",
    ),
    "cache": (
        "cache",
        "The keys and values by which later tokens attend to a token that has been read.",
    ),
    "vision": (
        "vision tower",
        "The encoder that turns the picture into image tokens, before the decoder sees it.",
    ),
    "prompt": ("prompt", "The prompt is looked at before the first token is generated."),
}
# Site -> the middle and the height of its row in the drawing.
ROWS = {
    "logits": (30, 40),
    "hidden": (124, 36),
    "heads": (172, 34),
    "attention": (219, 40),
    "cache": (257, 24),
    "prompt": (297, 20),
    "vision": (335, 30),
}
LEFT, RIGHT, HEIGHT = 98, 310, 400
GUTTER = -14  # Labels begin here.
STREAM = 420  # The width of a drawing with a second stream.
# The left edge of every token's column, the kind of token, and its weight in the attention row.
TOKENS = [
    *((102 + 16 * n, "image", weight) for n, weight in enumerate((9, 22, 6, 14, 5))),
    *((190 + 16 * n, "text", weight) for n, weight in enumerate((4, 7, 5))),
    *((246 + 16 * n, "new", weight) for n, weight in enumerate((8, 12))),
]
HEADS = (10, 16, 5, 13, 8, 15)
WORDS = (10, 24, 6, 14, 4)


def drawing(sites: Mapping[str, str], title: str) -> str:
    """Return an SVG element with some sites lit.

    Args:
        sites: site -> "edited" or "read".
        title: what the drawing is of, for those who cannot see it.
    """
    wide = "stream" in sites
    width = STREAM if wide else RIGHT + 12
    told = "; ".join(f"{SITES[site][0]} {how}" for site, how in sites.items()) or "no site lit"
    name = "block-" + "-".join(f"{site}-{how}" for site, how in sites.items())
    parts = [
        f'<svg class="block" viewBox="{GUTTER} 0 {width - GUTTER} {HEIGHT}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc" style="--width:{width - GUTTER}">',
        f'<title id="{name}-title">{escape(title)}</title>',
        f'<desc id="{name}-desc">A decoder layer between its tokens and the vocabulary head. '
        f"{escape(told[0].upper() + told[1:])}.</desc>",
        *_frames(),
        *_bands(sites),
        *_inputs(sites),
        *_layer(sites),
        *_head(sites),
        *(_stream(sites["stream"]) if wide else ()),
        *_labels(sites),
        "</svg>",
    ]
    return "".join(parts)


def caption(sites: Mapping[str, str]) -> str:
    """Return in words which sites are lit, by what happens to them."""
    kinds = {
        "edits": [site for site, how in sites.items() if how == EDITED and site != "stream"],
        "adds a": [site for site in sites if site == "stream"],
        "reads": [site for site, how in sites.items() if how == READ],
    }
    told = "; ".join(
        f"<b>{verb}</b> {', '.join(SITES[site][0] for site in some)}"
        for verb, some in kinds.items()
        if some
    )
    verb = told.index(">") + 1
    return f"{told[:verb]}{told[verb].upper()}{told[verb + 1 :]}."


def _lit(sites: Mapping[str, str], site: str) -> str:
    return f" {sites[site]}" if site in sites else ""


def _rect(look: str, x: float, y: float, width: float, height: float, radius: float = 2) -> str:
    return (
        f'<rect class="{look}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        f'rx="{radius:g}"/>'
    )


def _text(look: str, x: float, y: float, words: str) -> str:
    return f'<text class="{look}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def _line(path: str, look: str = "wire") -> str:
    return f'<path class="{look}" d="{path}"/>'


def _arrow(x: float, start: float, end: float) -> str:
    """Draw an arrow upwards."""
    return _line(f"M{x:g} {start:g}V{end:g}m-3.5 5 3.5 -5 3.5 5")


def _bands(sites: Mapping[str, str]) -> Iterator[str]:
    """Draw a band from the label of each lit site to its end; a ring where it is only read."""
    for site, (middle, height) in ROWS.items():
        if site in sites:
            end = {"vision": 190, "prompt": 238}.get(site, RIGHT - 10)
            yield _rect(
                f"band {sites[site]}", GUTTER + 2, middle - height / 2, end - GUTTER, height, 6
            )


def _labels(sites: Mapping[str, str]) -> Iterator[str]:
    for site, (middle, _) in ROWS.items():
        yield _text(f"label{_lit(sites, site)}", LEFT - 12, middle + 4, SITES[site][0])


def _inputs(sites: Mapping[str, str]) -> Iterator[str]:
    """Draw the picture, the vision tower and the tokens."""
    yield _rect("picture", 124, 366, 36, 28, 3)
    yield _line("M124 389l11 -12 8 8 6 -5 11 11v0a3 3 0 0 1 -3 3h-30a3 3 0 0 1 -3 -3z", "hill")
    yield '<circle class="sun" cx="151" cy="374" r="3"/>'
    yield _text("small left", 166, 384, "picture")
    yield _arrow(142, 364, 352)
    yield _rect(f"box{_lit(sites, 'vision')}", 102, 324, 80, 24, 5)
    yield _text("inside", 142, 340, "blocks")
    yield _arrow(142, 322, 310)
    for x, kind, _ in TOKENS:
        yield _rect(f"token {kind}", x, 290, 12, 14)
    yield _text("small", 212, 321, "text")
    yield _text("small", 260, 321, "answer")


def _frames() -> Iterator[str]:
    """Draw a layer in front of others."""
    for shift in (8, 4):
        yield _rect("frame behind", LEFT - 2 + shift, 98 - shift, RIGHT - LEFT, 176, 8)
    yield _rect("frame", LEFT - 2, 98, RIGHT - LEFT, 176, 8)


def _layer(sites: Mapping[str, str]) -> Iterator[str]:
    """Draw cache, attention row, head outputs, MLP and the stream that they add to."""
    cache = _lit(sites, "cache")
    for x, kind, weight in TOKENS:
        yield _rect(f"cell {kind}{cache}", x, 248, 12, 7, 1.5)
        yield _rect(f"cell {kind}{cache}", x, 258, 12, 7, 1.5)
        yield _rect(f"bar {kind}{_lit(sites, 'attention')}", x, 235 - weight, 12, weight, 1.5)
    yield _text("tiny", 281, 254.5, "K")
    yield _text("tiny", 281, 265, "V")
    yield _line("M102 235.5H274", "axis")
    for number, size in enumerate(HEADS):
        x = 102 + 27 * number
        yield _rect("slot", x, 160, 20, 24, 4)
        yield _rect(f"bar head{_lit(sites, 'heads')}", x + 4, 180 - size, 12, size, 1.5)
    # The residual stream runs up the right side; attention and the MLP add to it.
    yield _line("M268 288V281Q268 276 273 276H287Q292 276 292 271V82m-3.5 5 3.5 -5 3.5 5")
    yield _line("M261 172H286")
    yield _plus(292, 172)
    yield _rect("box", 190, 113, 60, 22, 5)
    yield _text("inside", 220, 128, "MLP")
    yield _line("M292 152H220V136M250 124H286")
    yield _plus(292, 124)
    for row in range(4):
        yield _rect(f"state{_lit(sites, 'hidden')}", 286, 101.5 + 3.6 * row, 12, 3)
    yield _text("small left", 104, 128, "every layer")


def _plus(x: float, y: float) -> str:
    return (
        f'<circle class="sum" cx="{x:g}" cy="{y:g}" r="6"/>'
        f"{_line(f'M{x - 3.5:g} {y:g}h7M{x:g} {y - 3.5:g}v7')}"
    )


def _head(sites: Mapping[str, str]) -> Iterator[str]:
    """Draw the vocabulary head and the scores of the next token."""
    yield _rect("box", LEFT - 2, 60, RIGHT - LEFT, 20, 5)
    yield _text("inside", (LEFT - 2 + RIGHT - 2) / 2, 74, "vocabulary head")
    yield _line("M204 59V48")
    for number, size in enumerate(WORDS):
        yield _rect(f"bar word{_lit(sites, 'logits')}", 156 + 20 * number, 44 - size, 14, size, 2)
    yield _line("M150 44.5H256", "axis")


def _stream(how: str) -> Iterator[str]:
    """Draw a small copy of the block, whose logits are set against those of the first."""
    left, width = 330, 74
    yield _rect(f"frame stream {how}", left, 60, width, 246, 8)
    for shift in (4, 0):
        yield _rect("frame mini", left + 10 + shift, 124 - shift, width - 24, 124, 6)
    for number, size in enumerate((8, 14, 6)):
        yield _rect(f"bar word {how}", left + 14 + 16 * number, 90 - size, 11, size, 2)
        yield _rect(f"token ghost {how}", left + 14 + 16 * number, 264, 11, 14)
        yield _rect(f"bar head {how}", left + 18 + 14 * number, 200 - size, 9, size, 1.5)
    yield _arrow(left + 36, 262, 252)
    yield _arrow(left + 36, 118, 96)
    yield _line(f"M{left + 36} 60V30H262m5 -3.5 -5 3.5 5 3.5", f"wire {how}")
    yield f'<circle class="sum {how}" cx="{left + 8}" cy="30" r="7"/>'
    yield _line(f"M{left + 4.5:g} 30h7", f"wire {how}")
    yield _text(f"label middle {how}", left + width / 2, 324, SITES["stream"][0])
    yield _text("small", left + width / 2, 338, "same batch")
