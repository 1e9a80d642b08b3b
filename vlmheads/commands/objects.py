"""`vlmheads detect --measure words`: what the image gives the objects of generated captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmheads.caption import Captioner
from vlmheads.commands.measures import Measurement, Options
from vlmheads.grounding.scores import Scorer
from vlmheads.grounding.words import Word, require_finders
from vlmheads.headmap import HeadMap
from vlmheads.model.anatomy import examine

# Name of a figure -> the value of a word.
FIGURES = {
    "T-VHD": lambda word: word.divergence,
    "share of attention on the image": lambda word: word.attention,
    "log-probability": lambda word: word.log_probability,
    "log-probability without the image": lambda word: word.log_probability_without,
    "gain by the image": lambda word: word.image_gain,
    "score": lambda word: word.score,
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
    named = [[word for word in caption.words if word.object] for caption in captions]
    records = [
        {
            "image": str(path),
            "caption": caption.text,
            "words": [
                word.to_dict() | {"flagged": bool(word.object) and word.score < limit}
                for word in caption.words
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
