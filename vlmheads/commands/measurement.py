"""What `vlmheads detect` gives a measure, and what it gets back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmheads.headmap import HeadMap


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured on a batch, or on all images.

    Args:
        maps: head maps by name, the main one first.
        figures: name -> one number per image.
        notes: name -> what else there is to say, the same for every image.
        records: one per image, of captions with their words.
        conclusion: what there is to print instead of figures and heads, where these say nothing.
    """

    maps: dict[str, HeadMap]
    figures: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    conclusion: str = ""

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
    """The options of `vlmheads detect` that measures read; `coco`: file name -> objects."""

    prompt: str
    about: Mapping[str, Any]
    filtered: bool = False
    tau: float = 20.0
    max_new_tokens: int | None = None
    factor: float = 0.0
    words: Path | None = None
    coco: Mapping[str, frozenset[str]] | None = None
    overlay: Path | None = None


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error, which is not a number of a single value."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))
