"""What `vlmheads detect` gives a measure, and what it gets back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmheads.headmap import HeadMap

if TYPE_CHECKING:
    from vlmheads.detect.replay import Towards
    from vlmheads.detect.select import Method


@dataclass(frozen=True)
class Grid:
    """A table of plain values: texts, numbers, None where there is nothing.

    Args:
        columns: their titles.
        rows: their cells.
        digits: of the numbers that are no whole ones.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    digits: int = 3


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured on a batch, or on all images.

    Args:
        maps: head maps by name, the main one first.
        figures: name -> one number per image.
        notes: name -> what else there is to say, the same for every image.
        records: one per image, of captions with their words.
        conclusion: what there is to print instead of figures and heads, where these say nothing.
        tables: further tables by title.
        answer: what the measurement says is to be done, in a sentence or two.
        data: whatever a measure needs of each batch to finish, once all are there.
        saved: writes what --out asks for, where that is not the main map.
        drawn: draws what --plot asks for, where that is not the main map.
        unit: what the figures are one of each.
    """

    maps: dict[str, HeadMap]
    figures: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    conclusion: str = ""
    tables: dict[str, Grid] = field(default_factory=dict)
    answer: str = ""
    data: list[Any] = field(default_factory=list)
    saved: Callable[[Path], object] | None = None
    drawn: Callable[[Path], object] | None = None
    unit: str = "image"

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
        data = [item for part in parts for item in part.data]
        return cls(joined, figures, notes, records, data=data)


@dataclass(frozen=True)
class Options:
    """The options of `vlmheads detect` that measures read; `coco`: file name -> objects."""

    measure: str
    prompt: str
    about: Mapping[str, Any]
    filtered: bool = False
    tau: float = 20.0
    max_new_tokens: int | None = None
    factor: float | None = None
    words: Path | None = None
    coco: Mapping[str, frozenset[str]] | None = None
    overlay: Path | None = None
    method: Method = "gradient"
    objective: str = "contrast"
    count: int | None = None
    towards: Towards | None = None
    heads: tuple[tuple[int, int], ...] = ()
    against: str = "other"
    batch_size: int = 8


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error, which is not a number of a single value."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))
