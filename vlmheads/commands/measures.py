"""What `vlmheads detect` can measure: one function per measure, from images to a Measurement."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmheads.caption import Captioner
from vlmheads.detect import (
    Attribution,
    attention_sinks,
    attribution,
    correlation,
    divergence,
    text_dominance,
    visual_sinks,
)
from vlmheads.detect.dominance import THIRDS
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.words import token_masks
from vlmheads.headmap import HeadMap


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured on a batch, or on all images.

    Args:
        maps: head maps by name, the main one first.
        figures: name -> one number per image.
        notes: name -> what else there is to say, the same for every image.
        records: one per image, of captions with their words.
    """

    maps: dict[str, HeadMap]
    figures: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def joined(cls, parts: Sequence[Measurement]) -> Measurement:
        """Join the parts of several batches."""
        maps: dict[str, list[HeadMap]] = {}
        figures: dict[str, list[float]] = {}
        for part in parts:
            for name, item in part.maps.items():
                maps.setdefault(name, []).append(item)
            for name, values in part.figures.items():
                figures.setdefault(name, []).extend(values)
        joined = {name: HeadMap.concatenate(items) for name, items in maps.items()}
        notes = {name: value for part in parts for name, value in part.notes.items()}
        records = [record for part in parts for record in part.records]
        return cls(joined, figures, notes, records)


@dataclass(frozen=True)
class Options:
    """The options of `vlmheads detect` that measures read."""

    prompt: str
    about: Mapping[str, Any]
    filtered: bool = False
    tau: float = 20.0
    max_new_tokens: int | None = None
    factor: float = 0.0
    words: Path | None = None
    overlay: Path | None = None


def vhd(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Vision-aware head divergence."""
    inputs = captioner.prepare(paths, options.prompt)
    found = divergence(captioner.model, inputs, filtered=options.filtered, provenance=options.about)
    return Measurement({"VHD": found})


def sinks(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Visual sinks, and the attention that is spent on them."""
    inputs = captioner.prepare(paths, options.prompt)
    found = visual_sinks(captioner.model, inputs, tau=options.tau, provenance=options.about)
    if options.overlay is not None:
        from vlmheads.images import read_image
        from vlmheads.plotting.maps import plot_sinks

        plot_sinks(found, read_image(paths[0]), path=options.overlay)
    layers = found.phi.shape[1]
    counts = found.visual_sinks.sum(dim=(1, 2)) / layers
    total = found.image.values.sum(dim=(1, 2))
    on_sinks = (found.image.values * found.spent.values).sum(dim=(1, 2))
    figures = {
        "largest φ of an image token": (found.phi * found.visual[:, None]).amax(dim=(1, 2)),
        "image tokens that are sinks, mean of the layers": counts,
        "share of image attention on sinks": on_sinks / total.clamp(min=1e-12),
        "share of image-centric heads": found.centric.values.mean(dim=(1, 2)),
    }
    notes: dict[str, Any] = {
        "massive at the first token": list(found.dimensions()),
        "on record": "none" if found.on_record is None else list(found.on_record),
    }
    if options.tau > found.massive.shape[1] ** 0.5:
        notes["no sinks"] = (
            f"no state of width {found.massive.shape[1]} reaches φ = {options.tau:g}"
        )
    if found.agrees is not None:
        notes["those on record are among them"] = found.agrees
    maps = {
        "sink share": found.spent,
        "image attention": found.image,
        "image-centric": found.centric,
    }
    return Measurement(maps, {name: value.tolist() for name, value in figures.items()}, notes)


def dominance(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Text dominance of a short greedy answer."""
    inputs = captioner.prepare(paths, options.prompt)
    limit = options.max_new_tokens or 16
    found = text_dominance(
        captioner.model,
        inputs,
        provenance=options.about,
        max_new_tokens=limit,
        do_sample=False,
    )
    mdi, aei = found.mdi(), found.aei()
    figures = {
        f"{name}, {third} layers": values[:, index].tolist()
        for name, values in (("MDI", mdi), ("AEI of text", aei))
        for index, third in enumerate(THIRDS)
    }
    return Measurement({"image attention": found.image, "text attention": found.text}, figures)


def attention_sink(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Attention sinks among the first tokens, and dormant heads."""
    inputs = captioner.prepare(paths, options.prompt)
    found = attention_sinks(captioner.model, inputs, provenance=options.about)
    figures = {
        "Sink of the first token, ε = 0.3": found.metric()[:, 0],
        "largest Sink of a later token": found.metric()[:, 1:].amax(dim=1),
        "share of dormant heads (over 0.9 on the first token)": found.dormant()
        .float()
        .mean(dim=(1, 2)),
    }
    maps = {"first-token attention": found.first, "relative norm": found.loudness}
    return Measurement(maps, {name: value.tolist() for name, value in figures.items()})


def by_head(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Effect of each head on grounded and on hallucinated words, by ablation and by gradient."""
    if options.words is None:
        raise VlmHeadsError(
            "attribution without words",
            'a file of lines such as {"image": "a.png", "grounded": ["dog"], '
            '"hallucinated": ["fork"]}, with a "caption" where it is not to be generated',
            "pass --words FILE",
        )
    listed = _read_words(options.words)
    entries = []
    for path in paths:
        if path.name not in listed:
            raise VlmHeadsError(
                f"{options.words} has no line for {path.name}", "one for each image"
            )
        entries.append(listed[path.name])
    missing = [index for index, entry in enumerate(entries) if not entry.get("caption")]
    said = captioner([paths[index] for index in missing], options.prompt)
    for index, caption in zip(missing, said, strict=True):
        entries[index] = entries[index] | {"caption": caption.text}
    targets, grounded, hallucinated = token_masks(
        captioner.processor.tokenizer,
        [entry["caption"] for entry in entries],
        [_spans(entry, "grounded") for entry in entries],
        [_spans(entry, "hallucinated") for entry in entries],
    )
    if not bool(grounded.any() | hallucinated.any()):
        return Measurement({})
    inputs = captioner.prepare(paths, options.prompt)
    maps: dict[str, HeadMap] = {}
    for method in ("ablation", "gradient"):
        found = attribution(
            captioner.model,
            inputs,
            targets,
            grounded,
            hallucinated,
            factor=options.factor,
            method=method,
            rows=max(64, len(paths)),
            provenance=options.about,
        )
        maps |= _maps(found)
    return Measurement(dict(sorted(maps.items(), key=lambda item: list(_NAMES).index(item[0]))))


_NAMES = {
    "attribution": ("score", "ablation"),
    "effect on grounded words": ("grounded", "ablation"),
    "effect on hallucinated words": ("hallucinated", "ablation"),
    "attribution by gradient": ("score", "gradient"),
}


def _maps(found: Attribution) -> dict[str, HeadMap]:
    """Head maps of what there is in a batch, by name."""
    there = ~found.effects.isnan().any(dim=3).any(dim=2)
    holds = {
        "grounded": bool(there[:, 0].any()),
        "hallucinated": bool(there[:, 1].any()),
        "score": bool(there.all(dim=1).any()),
    }
    return {
        name: getattr(found, kind)
        for name, (kind, method) in _NAMES.items()
        if method == found.method and holds[kind]
    }


def _read_words(path: Path) -> dict[str, dict[str, Any]]:
    """Read the lines of a file of words, by the name of their image."""
    if not path.is_file():
        raise VlmHeadsError(f"no file {path}", "a file of words, one JSON object per line")
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            found[Path(entry["image"]).name] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise VlmHeadsError(
                f"line {number} of {path} cannot be read ({error})",
                'an object with "image", "grounded" and "hallucinated"',
            ) from error
    return found


def _spans(entry: Mapping[str, Any], kind: str) -> list[tuple[int, int]]:
    """Characters of the words of a kind in a caption, wherever they occur."""
    return [
        match.span()
        for word in entry.get(kind, ())
        for match in re.finditer(rf"\b{re.escape(word)}\b", entry["caption"], re.IGNORECASE)
    ]


def finished(measure: str, part: Measurement) -> Measurement:
    """Add what can only be said of all images together.

    Raises:
        VlmHeadsError: attribution on images of which none has words of both kinds, or words of
            captions that name no object.
    """
    if measure == "words" and not part.maps:
        raise VlmHeadsError("captions that name no object", "at least one object of COCO's")
    if measure != "attribution":
        return part
    if "attribution" not in part.maps:
        raise VlmHeadsError(
            "no image whose caption holds a grounded and a hallucinated word", "at least one"
        )
    pearson, spearman = correlation(part.maps["attribution"], part.maps["attribution by gradient"])
    notes = {
        "ablation against gradient": f"Pearson {pearson:.3f}, Spearman {spearman:.3f}",
        "images with words of both kinds": part.maps["attribution"].images,
    }
    maps = {name: part.maps[name] for name in _NAMES if name in part.maps}
    return Measurement(maps, part.figures, part.notes | notes)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error, which is not a number of a single value."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))


def _words(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Grounding of words, in a module of its own."""
    from vlmheads.commands.objects import words

    return words(captioner, paths, options)


MEASURES: dict[str, Callable[[Captioner, list[Path], Options], Measurement]] = {
    "vhd": vhd,
    "sinks": sinks,
    "dominance": dominance,
    "attention-sink": attention_sink,
    "attribution": by_head,
    "words": _words,
}
