"""What `vlmheads detect` measures on several images in one prompt: their order, and their cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vlmheads.caption import Caption, Captioner, padded_ids
from vlmheads.commands.measurement import Grid, Measurement, Options, mean_and_error
from vlmheads.detect.cache_heads import SHARES, CacheHeads, ImageCache, cache_heads
from vlmheads.detect.position_bias import Swapped, order_preference
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.words import find_objects
from vlmheads.headmap import HeadMap
from vlmheads.images import load_image
from vlmheads.model.anatomy import examine
from vlmheads.model.inputs import chat_inputs

_TOLERANCES = (0.001, 0.01, 0.05)  # Nats per token.
_UNCHANGED = 90  # Per cent of the answers that shares have to leave as they are.
_FIRST = "named where the image comes first"
_SECOND = "named where it comes second"
_FOLLOWS = "answers that begin with the same place in both orders"
_DIFFER = "answers that name other objects once the images are swapped"


def collected(_: Captioner, paths: list[Path], __: Options) -> Measurement:
    """Collect images, to be paired once all are there."""
    return Measurement({}, data=list(paths))


def _pairs(paths: Sequence[Path], batch_size: int) -> Iterator[list[tuple[Path, Path]]]:
    """Yield pairs of neighbours, as many at a time as a batch has images for.

    Raises:
        VlmHeadsError: an odd number of images.
    """
    if len(paths) % 2:
        raise VlmHeadsError(f"{len(paths)} images", "an even number, to be shown two by two")
    pairs = list(zip(paths[::2], paths[1::2], strict=True))
    size = max(1, batch_size // 2)
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def _shown(captioner: Captioner, pairs: Sequence[tuple[Path, Path]], prompt: str) -> Any:
    """Make inputs of prompts with two images each."""

    def image(path: Path) -> dict[str, str | Image.Image]:
        return {"type": "image", "image": load_image(path)}

    text = {"type": "text", "text": prompt}
    chats = [[{"role": "user", "content": [*map(image, pair), text]}] for pair in pairs]
    return chat_inputs(captioner.model, captioner.processor, chats)


def position_bias(captioner: Captioner, part: Measurement, options: Options) -> Measurement:
    """Ask about pairs of images in both orders."""
    anatomy = examine(captioner.model)
    truth, limit = options.coco or {}, options.max_new_tokens or 128
    maps: list[HeadMap] = []
    figures: dict[str, list[float]] = {_DIFFER: []}
    for pairs in _pairs(part.data, options.batch_size):
        orders, said = [], []
        for given in (pairs, [pair[::-1] for pair in pairs]):
            inputs = _shown(captioner, given, options.prompt)
            # Processors may cut an image that stands alone into more tiles than one of two.
            twice = _shown(captioner, [(first, first) for first, _ in given], options.prompt)
            counts = anatomy.is_visual(twice["input_ids"]).sum(dim=1) // 2
            orders.append((inputs, counts))
            said.append(captioner.generate(inputs, plugins=(), max_new_tokens=limit))
        maps.append(order_preference(captioner.model, orders, provenance=options.about))
        for row, pair in enumerate(pairs):
            named = [_objects(answers[row]) for answers in said]
            figures[_DIFFER].append(float(set(named[0]) != set(named[1])))
            if all(path.name in truth for path in pair):
                _add(figures, _swapped(named, [truth[path.name] for path in pair]))
    found = HeadMap.concatenate(maps)
    return Measurement(
        {"order preference": found},
        {name: values for name, values in figures.items() if values},
        notes={"pairs": found.images},
        answer=_order_matters(figures, found),
        unit="pair",
    )


def _objects(caption: Caption) -> list[str]:
    return [name for *_, name in find_objects(caption.text)]


def _swapped(named: Sequence[Sequence[str]], truth: Sequence[frozenset[str]]) -> Swapped:
    """Return what is named of two images in both orders."""
    only = truth[0] - truth[1], truth[1] - truth[0]
    first = [
        next((0 if name in only[0] else 1 for name in names if name in only[0] | only[1]), None)
        for names in named
    ]
    return Swapped(only, (set(named[0]), set(named[1])), (first[0], first[1]))


def _add(figures: dict[str, list[float]], one: Swapped) -> None:
    for name, value in ((_FIRST, one.at_first), (_SECOND, one.at_second)):
        if value == value:
            figures.setdefault(name, []).append(value)
    if one.follows_order is not None:
        figures.setdefault(_FOLLOWS, []).append(float(one.follows_order))


def _order_matters(figures: dict[str, list[float]], found: HeadMap) -> str:
    layer, head, value = found.top(1)[0]
    about = f"Head {layer}-{head} prefers the first place most, by {value:.2f} of its attention."
    if not (figures.get(_FIRST) and figures.get(_SECOND)):
        return f"{about} Images of a COCO folder tell whether answers follow the order, too."
    first, second = (mean_and_error(figures[name])[0] for name in (_FIRST, _SECOND))
    paired = [a - b for a, b in zip(figures[_FIRST], figures[_SECOND], strict=True)]
    error = mean_and_error(paired)[1]
    if not abs(first - second) > 2 * error:
        return f"Answers are not shown to prefer a place ({first:.0%} and {second:.0%}). {about}"
    place = "first" if first > second else "second"
    return (
        f"Answers prefer the {place} image ({first:.0%} against {second:.0%} of its own objects): "
        f"ask about each image alone, or in both orders. {about}"
    )


def image_cache(captioner: Captioner, part: Measurement, options: Options) -> Measurement:
    """Measure how much of the image cache heads need on prompts with two images."""
    limit = options.max_new_tokens or 64
    batches, parts = [], []
    for pairs in _pairs(part.data, options.batch_size):
        inputs = _shown(captioner, pairs, options.prompt)
        plain = captioner.generate(inputs, plugins=(), max_new_tokens=limit)
        ids = padded_ids(captioner.model, plain)
        lengths = torch.tensor([max(1, len(one.ids)) for one in plain])
        said = torch.arange(ids.shape[1]) < lengths[:, None]
        parts.append(cache_heads(captioner.model, inputs, ids, said))
        batches.append((inputs, plain))
    found = CacheHeads.concatenate(parts)
    rows = []
    for tolerance in _TOLERANCES:
        needed = found.needed(tolerance)
        same = [
            one.text == other.text
            for inputs, plain in batches
            for one, other in zip(
                plain,
                captioner.generate(inputs, plugins=(ImageCache(needed),), max_new_tokens=limit),
                strict=True,
            )
        ]
        values = needed.mean().flatten()
        values = values[~values.isnan()]
        rows.append(
            (
                f"{tolerance:g}",
                100 * float((values == 0).float().mean()),
                100 * float((values == 1).float().mean()),
                100 * float(values.mean()),
                100 * sum(same) / len(same),
            )
        )
    columns = (
        *("nats lost per token, at most", "streaming heads, %", "need all, %"),
        *("image cache kept, %", "answers unchanged, %"),
    )
    best = [row for row in rows if row[4] >= _UNCHANGED]
    answer = (
        f"{best[-1][3]:.0f} % of the image cache, shared out by head, leaves {best[-1][4]:.0f} % "
        "of the answers as they are: a cache that evicts by head has the rest to gain."
        if best
        else f"No shares leave {_UNCHANGED} % of the answers unchanged: keep the whole image cache."
    )
    return Measurement(
        {"image cache needed": found.needed(_TOLERANCES[1])},
        notes={"prompts of two images": len(found.loss), "shares tried": list(SHARES)},
        tables={"image cache by head": Grid(columns, tuple(rows), 1)},
        answer=answer,
        unit="model",
    )
