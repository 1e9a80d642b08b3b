"""What a run looks like to a client: everything on the page as plain values."""

from __future__ import annotations

from typing import Any

from vlmheads_demo.comparison import compared
from vlmheads_demo.services.measurement import attention_of, top_heads
from vlmheads_demo.services.result import Result, Said
from vlmheads_demo.views.captions import is_right

SCHEMA = 1


def answer(result: Result) -> dict[str, Any]:
    """Return a run as plain values; shapes and units are in docs/demo.md."""
    picture = result.picture
    return {
        "schema": SCHEMA,
        "result": result.key,
        "model": result.model,
        "geometry": result.geometry.to_dict(),
        "prompt": result.prompt,
        "decoding": dict(result.decoding),
        "scene": result.scene or None,
        "objects": None if result.objects is None else list(result.objects),
        "picture": {
            "grid": None if picture.seen.grid is None else list(picture.seen.grid),
            "exact": picture.seen.exact,
            "divergence": _rounded(picture.divergence),
            "text_dominance": _rounded(picture.dominance),
            "sinks": {
                "tau": picture.tau,
                "tokens": [
                    [int(layer), int(token)] for layer, token in picture.sinks.nonzero().tolist()
                ],
            },
        },
        "captions": [_caption(said) for said in result.captions],
        "comparison": compared(result),
    }


def _caption(said: Said) -> dict[str, Any]:
    spoken = said.spoken
    return {
        "name": said.name,
        "plugins": [dict(plugin) for plugin in said.method],
        "caption": spoken.text,
        "ids": list(spoken.ids),
        "tokens": len(spoken.ids),
        "at_limit": spoken.at_limit,
        "seconds": spoken.seconds,
        "touched": said.support.touched.nonzero().tolist(),
        "threshold": said.support.threshold,
        "words": [_word(said, number) for number in range(len(said.support.words))],
    }


def _word(said: Said, number: int) -> dict[str, Any]:
    word = said.support.words[number]
    heads = [[layer, head, round(value, 4)] for layer, head, value in _top(said, number)]
    values = None if word.object is None else attention_of(said.support, number)
    return {
        **word.to_dict(),
        "flagged": word.object is not None and word.score < said.support.threshold,
        "right": is_right(said, number) if word.object is not None else None,
        "top_heads": heads,
        "overlay": None if values is None else _rounded(values),
    }


def _top(said: Said, number: int) -> list[tuple[int, int, float]]:
    return top_heads(said.support.heads[number])


def _rounded(values: Any) -> Any:
    """Return a tensor as nested lists with six digits behind the point."""
    return [_rounded(part) for part in values] if values.ndim else round(float(values), 6)
