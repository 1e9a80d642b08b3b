"""What `vlmheads detect` measures under several conditions: prompts, sizes, tokens that leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vlmheads.caption import Captioner
from vlmheads.commands.coco_words import object_spans
from vlmheads.commands.measurement import Grid, Measurement, Options, mean_and_error
from vlmheads.detect.sink_conditions import (
    TAUS,
    Drawn,
    choose_tau,
    massive_dimensions_of,
    sink_conditions,
)
from vlmheads.detect.token_exit import TokenExit
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.words import find_objects
from vlmheads.images import load_image
from vlmheads.model.anatomy import examine
from vlmheads.model.inputs import chat_inputs

# Condition -> how the text is put, what stands before the image, and the picture's side.
CONDITIONS: dict[str, tuple[str, str, float]] = {
    "as given": ("{}", "", 1.0),
    "longer": ("{} Say what there is, where it is and how many there are of it.", "", 1.0),
    "text first": ("{}", "text", 1.0),
    "later turn": ("{}", "turn", 1.0),
    "half size": ("{}", "", 0.5),
    "double size": ("{}", "", 2.0),
}
_TURN = ("Hello.", "Hello.")  # What stands before the image in a later turn.


def sink_table(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Collect φ and attention of image tokens under every condition."""
    pictures = [load_image(path) for path in paths]
    dimensions: tuple[int, ...] | None = None
    found: dict[str, Drawn] = {}
    given: torch.Tensor | None = None
    same: list[str] = []
    for name, (text, before, scale) in CONDITIONS.items():
        chats = [_chat(picture, text.format(options.prompt), before, scale) for picture in pictures]
        inputs = chat_inputs(captioner.model, captioner.processor, chats)
        ids = inputs["input_ids"]
        if given is None or dimensions is None:
            given, dimensions = ids, massive_dimensions_of(captioner.model, inputs)
        elif scale == 1 and torch.equal(ids, given):
            same.append(name)  # the template has an order of its own
            continue
        found[name] = sink_conditions(captioner.model, inputs, dimensions)
    notes: dict[str, Any] = {"dimensions": list(dimensions or ())}
    if same:
        notes["the model's template makes the same prompt of"] = ", ".join(same)
    return Measurement({}, notes=notes, data=[found])


def _chat(picture: Image.Image, text: str, before: str, scale: float) -> list[dict[str, Any]]:
    if scale != 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
    chat: list[dict[str, Any]] = []
    if before == "turn":
        chat = [
            {"role": role, "content": [{"type": "text", "text": said}]}
            for role, said in zip(("user", "assistant"), _TURN, strict=True)
        ]
    return [*chat, {"role": "user", "content": parts[::-1] if before == "text" else parts}]


def sink_conclusion(_: Captioner, part: Measurement, __: Options) -> Measurement:
    """Lay out φ by condition, and how much attention tokens above each τ draw."""
    found = {
        name: Drawn.concatenate([batch[name] for batch in part.data if name in batch])
        for name in CONDITIONS
        if any(name in batch for batch in part.data)
    }
    sizes = tuple(
        (
            name,
            round(drawn.tokens, 1) if drawn.tokens % 1 else int(drawn.tokens),
            drawn.first,
            float(drawn.phi.median()),
            float(drawn.phi.kthvalue(max(1, round(0.99 * len(drawn.phi)))).values),
            float(drawn.phi.max()),
        )
        for name, drawn in found.items()
    )
    columns = ("condition", "image tokens", "φ of the first token", "median φ", "99 %", "largest")
    # Where most tokens are above τ, it tells none apart.
    taus = [tau for tau in TAUS if any(0 < drawn.at(tau)[0] <= 0.5 for drawn in found.values())]
    above = tuple((name, *(_pair(*drawn.at(tau)) for tau in taus)) for name, drawn in found.items())
    tables = {"φ of image tokens": Grid(columns, sizes, 1)}
    if taus:
        title = "share of image tokens with φ ≥ τ, and times the mean attention that they draw"
        tables[title] = Grid(("condition", *(f"τ = {tau:g}" for tau in taus)), above)
    chosen = choose_tau(found)
    answer = (
        "No τ gives a few image tokens that draw more attention than others under every condition: "
        "there is nothing that VAR could redistribute."
        if chosen is None
        else f"For VAR take τ = {chosen[0]:g}: under every condition at most 5 % of the image "
        f"tokens are above it, and they draw at least {chosen[1]:.1f} times the mean attention "
        f"(--plugin var:tau={chosen[0]:g})."
    )
    return Measurement({}, notes=part.notes, tables=tables, answer=answer)


def _pair(share: float, drawn: float) -> str:
    return f"{share:.1%}, {drawn:.1f}" if share else "-"


SHARES = (("drop", 0.0), ("drop", 0.25), ("drop", 0.5), ("merge", 0.25), ("merge", 0.5))
_EXITS = 5  # Layers that are tried.
Counts = tuple[int, int, int, int]  # Named and true objects, mentions, hallucinated mentions.


def exits(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Caption images with image tokens that leave after some layers."""
    if options.coco is None:
        raise VlmHeadsError(
            "token-exit on images outside of a COCO folder", "the objects in them", "pass --coco"
        )
    unknown = [path.name for path in paths if path.name not in options.coco]
    if unknown:
        raise VlmHeadsError(f"{unknown[0]} is not in the COCO folder", "its images")
    found: dict[tuple[int, str, float] | None, list[tuple[str, Counts]]] = {}
    for key in (None, *_settings(captioner)):
        plugins = () if key is None else (TokenExit(layer=key[0], form=key[1], share=key[2]),)
        limit = options.max_new_tokens or 128
        said = captioner(paths, options.prompt, plugins=plugins, max_new_tokens=limit,
                         batch_size=len(paths))  # fmt: skip
        found[key] = [
            (one.text, _counts(one.text, options.coco[path.name]))
            for one, path in zip(said, paths, strict=True)
        ]
    return Measurement({}, data=[found])


def _settings(captioner: Captioner) -> list[tuple[int, str, float]]:
    """Layers spread over the depth, with every form and share."""
    layers = examine(captioner.model).geometry.attention_layers[:-1]
    step = max(1, -(-len(layers) // _EXITS))
    return [(layer, form, share) for layer in layers[::step] for form, share in SHARES]


def _counts(text: str, truth: frozenset[str]) -> Counts:
    right, wrong = object_spans(text, truth)
    named = {name for *_, name in find_objects(text)}
    return len(named & truth), len(truth), len(right) + len(wrong), len(wrong)


def exit_conclusion(captioner: Captioner, part: Measurement, _: Options) -> Measurement:
    """Lay out recall and hallucination by layer and share."""
    runs = {key: [one for batch in part.data for one in batch[key]] for key in part.data[0]}
    plain = runs[None]
    layers = examine(captioner.model).geometry.layers
    rows: list[tuple[Any, ...]] = [("-", "plain", 100.0, 100.0, *_mixed(_rates(plain)))]
    free: list[tuple[float, tuple[int, str, float]]] = []
    for key, run in runs.items():
        if key is None:
            continue
        layer, form, share = key
        seen = (layer + 1 + (layers - layer - 1) * share) / layers
        recall, recall_error = _difference(plain, run, 0, 1)
        invented, invented_error = _difference(plain, run, 3, 2)
        cells = _mixed(_rates(run), (100 * recall, 100 * invented))
        rows.append((str(layer), form, 100 * share, 100 * seen, *cells))
        if recall >= -max(recall_error, 0.005) and invented <= max(invented_error, 0.005):
            free.append((seen, key))
    columns = ("layer", "form", "stay, %", "seen, %", "recall, %", "Δ", "halluc., %", "Δ ")
    if free:
        seen, (layer, form, share) = min(free)
        answer = (
            f"Least that costs nothing here: {form}, {share:.0%} stay after layer {layer}, so that "
            f"{seen:.0%} of the image tokens of all layers are seen; recall and hallucinated "
            f"mentions stay within a standard error of the plain model's. It is the best of "
            f"{len(runs) - 1}: look at it again on other images."
        )
    else:
        answer = "Every exit costs recall or adds hallucinated objects: keep all image tokens."
    return Measurement(
        {},
        notes={"images": len(plain)},
        tables={"what is said when image tokens leave": Grid(columns, tuple(rows), 1)},
        answer=answer,
    )


def _mixed(
    rates: tuple[float, float], changes: tuple[float | None, float | None] = (None, None)
) -> tuple[float | None, ...]:
    """Return each rate with its change behind it."""
    return rates[0], changes[0], rates[1], changes[1]


def _rates(run: list[tuple[str, Counts]]) -> tuple[float, float]:
    sums = [sum(counts[place] for _, counts in run) for place in range(4)]
    return 100 * sums[0] / max(1, sums[1]), 100 * sums[3] / max(1, sums[2])


def _difference(
    plain: list[tuple[str, Counts]], run: list[tuple[str, Counts]], part: int, whole: int
) -> tuple[float, float]:
    """Difference of a rate from the plain run's, and its standard error over images (delta)."""
    values = []
    sums = []
    for one in (plain, run):
        total = sum(counts[whole] for _, counts in one)
        rate = sum(counts[part] for _, counts in one) / max(1, total)
        sums.append(rate)
        scale = len(one) / max(1, total)
        values.append([(counts[part] - rate * counts[whole]) * scale for _, counts in one])
    paired = [other - one for one, other in zip(*values, strict=True)]
    error = mean_and_error(paired)[1]
    return sums[1] - sums[0], 0.0 if error != error else error
