"""What `vlmheads detect` measures at words: their grounding, and heads by attribution."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from vlmheads.caption import Captioner
from vlmheads.commands.coco_words import object_spans
from vlmheads.commands.measurement import Measurement, Options
from vlmheads.detect import Attribution, attribution
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.scores import Scorer
from vlmheads.grounding.visualness import Visualness
from vlmheads.grounding.words import Word, require_finders, token_masks
from vlmheads.headmap import HeadMap
from vlmheads.model.anatomy import examine
from vlmheads.schema import decode, read_bytes

# Name of a figure -> the value of a word.
FIGURES = {
    "T-VHD": lambda word: word.divergence,
    "share of attention on the image": lambda word: word.attention,
    "log-probability": lambda word: word.log_probability,
    "log-probability without the image": lambda word: word.log_probability_without,
    "gain by the image": lambda word: word.image_gain,
    "score": lambda word: word.score,
    "place, tokens before the word": lambda word: float(word.place),
    "share that repeats an object": lambda word: float(word.repeat),
}


def words(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Grounding of the object words of a generated caption."""
    require_finders()
    scorer = Scorer.of(captioner.model)
    geometry = examine(captioner.model).geometry
    said = captioner(
        paths, options.prompt, max_new_tokens=options.max_new_tokens or 128, batch_size=len(paths)
    )
    captions, found = captioner.ground(paths, said, options.prompt, scorer=scorer)
    k, limit = scorer.heads(geometry), scorer.threshold
    notes: dict[str, Any] = {"T-VHD": f"sum of the {k} largest of {geometry.heads} heads a layer"}
    notes |= {"figures": "means of the objects of an image"}
    notes |= {"scorer": scorer.name, "threshold": limit}
    if scorer.caveat:
        notes |= {"caveat": scorer.caveat}
    visual = Visualness.of(captioner.model)
    if left_out := visual.without_picture():
        notes |= {"words left out, which need no picture": len(left_out)}
    named = [[word for word in caption.words if word.object] for caption in captions]
    records = [
        {
            "image": str(path),
            "caption": caption.text,
            "words": [
                word.to_dict() | {"flagged": bool(word.object) and word.score < limit}
                for word in visual.kept(caption.words)
            ],
        }
        for path, caption in zip(paths, captions, strict=True)
    ]
    naming = [row for row, objects in enumerate(named) if objects]
    if not naming:
        return Measurement({}, {}, notes, records)
    figures = {
        name: [sum(map(value, named[row])) / len(named[row]) for row in naming]
        for name, value in FIGURES.items()
    }
    figures["share of objects below the threshold"] = [
        sum(word.score < limit for word in named[row]) / len(named[row]) for row in naming
    ]
    about = dict(options.about) | {"k": k}
    maps = {
        name: HeadMap(
            torch.stack([_at_objects(values[row], named[row]) for row in naming]),
            geometry,
            measure,
            about,
        )
        for name, measure, values in (
            ("VHD at object words", "vhd-at-objects", found.divergence),
            ("image attention at object words", "image-attention-at-objects", found.attention),
        )
    }
    return Measurement(maps, figures, notes, records)


def _at_objects(values: Tensor, objects: list[Word]) -> Tensor:
    """Mean [L, H] over the tokens of object words, of values [T, L, H]."""
    tokens = sorted({at for word in objects for at in range(word.first, word.last)})
    return values[tokens].mean(dim=0)


def by_head(captioner: Captioner, paths: list[Path], options: Options) -> Measurement:
    """Effect of each head on grounded and on hallucinated words, by ablation and by gradient."""
    words = marked(captioner, paths, options)
    return Measurement({}) if words is None else _effects(captioner, paths, options, words)


def marked(
    captioner: Captioner, paths: list[Path], options: Options
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Captions of images as tokens [N, T], and marks of their grounded and hallucinated objects.

    The captions and words are those of `--words`, or the model's own and what the COCO folder says
    of them. None where no word is marked.
    """
    texts, right, wrong = (
        _generated(captioner, paths, options)
        if options.words is None
        else _listed(captioner, paths, options, options.words)
    )
    targets, grounded, hallucinated = token_masks(
        captioner.processor.tokenizer, texts, right, wrong
    )
    if not bool(grounded.any() | hallucinated.any()):
        return None
    return targets, grounded, hallucinated


Spans = list[list[tuple[int, int]]]


def _generated(
    captioner: Captioner, paths: list[Path], options: Options
) -> tuple[list[str], Spans, Spans]:
    """Generate captions; return them with the spans of objects in the images and of others."""
    if options.coco is None:
        raise VlmHeadsError(
            f"{options.measure} without words, of images outside of a COCO folder",
            "the objects in the images",
            "pass --coco FOLDER with instances*.json, or --words FILE with lines such as "
            '{"image": "a.png", "grounded": ["dog"], "hallucinated": ["fork"]}',
        )
    unknown = [path.name for path in paths if path.name not in options.coco]
    if unknown:
        raise VlmHeadsError(f"{unknown[0]} is not in the COCO folder", "its images")
    said = captioner(
        paths, options.prompt, max_new_tokens=options.max_new_tokens or 128, batch_size=len(paths)
    )
    texts = [caption.text for caption in said]
    spans = [
        object_spans(text, options.coco[path.name]) for path, text in zip(paths, texts, strict=True)
    ]
    return texts, [right for right, _ in spans], [wrong for _, wrong in spans]


def _listed(
    captioner: Captioner, paths: list[Path], options: Options, words: Path
) -> tuple[list[str], Spans, Spans]:
    """Captions of a file of words, generated where it has none, with the spans of its words."""
    listed = _read_words(words)
    entries = []
    for path in paths:
        if path.name not in listed:
            raise VlmHeadsError(f"{words} has no line for {path.name}", "one for each image")
        entries.append(listed[path.name])
    missing = [index for index, entry in enumerate(entries) if not entry.get("caption")]
    said = captioner(
        [paths[index] for index in missing],
        options.prompt,
        max_new_tokens=options.max_new_tokens,
    )
    for index, caption in zip(missing, said, strict=True):
        entries[index] = entries[index] | {"caption": caption.text}
    return (
        [entry["caption"] for entry in entries],
        [_spans(entry, "grounded") for entry in entries],
        [_spans(entry, "hallucinated") for entry in entries],
    )


def _effects(
    captioner: Captioner,
    paths: list[Path],
    options: Options,
    words: tuple[Tensor, Tensor, Tensor],
) -> Measurement:
    """Head maps of the effects on target tokens, some grounded and some hallucinated."""
    inputs = captioner.prepare(paths, options.prompt)
    maps: dict[str, HeadMap] = {}
    for method in ("ablation", "gradient"):
        found = attribution(
            captioner.model,
            inputs,
            *words,
            factor=options.factor or 0.0,
            method=method,
            rows=max(64, len(paths)),
            provenance=options.about,
        )
        maps |= _maps(found)
    return Measurement(
        dict(sorted(maps.items(), key=lambda item: list(ATTRIBUTION_MAPS).index(item[0])))
    )


ATTRIBUTION_MAPS = {
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
        for name, (kind, method) in ATTRIBUTION_MAPS.items()
        if method == found.method and holds[kind]
    }


def _read_words(path: Path) -> dict[str, dict[str, Any]]:
    """Read the lines of a file of words, by the name of their image."""
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(read_bytes(path, "a file of words").splitlines(), 1):
        if line.strip():
            entry: _Line = decode(line, _Line, f"{path}:{number}", "a line of words")
            name = Path(entry.image).name
            if name in found:
                raise VlmHeadsError(f"{path}:{number}: {name} again", "one line for each image")
            found[name] = msgspec.to_builtins(entry)
    return found


class _Line(msgspec.Struct):
    """The words of one image, and its caption where it is not to be generated."""

    image: str
    grounded: list[str] = []
    hallucinated: list[str] = []
    caption: str | None = None


def _spans(entry: Mapping[str, Any], kind: str) -> list[tuple[int, int]]:
    """Characters of the words of a kind in a caption, wherever they occur."""
    return [
        match.span()
        for word in entry.get(kind, ())
        for match in re.finditer(rf"\b{re.escape(word)}\b", entry["caption"], re.IGNORECASE)
    ]
