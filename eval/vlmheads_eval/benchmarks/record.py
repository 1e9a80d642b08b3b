"""What every benchmark is made of: its questions, how answers are counted, and its figures."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Sums = Mapping[str, Array]  # Column -> its sums over clusters, of any shape.


@dataclass(frozen=True)
class Item:
    """One question.

    Args:
        key: identifies the question in its benchmark.
        question: the text to ask.
        label: the right answer: "yes" or "no", or an option's letter; empty for a judged one.
        cluster: what is resampled as a whole, such as the image.
        part: the task, category or type it belongs to.
        image: the file of its image; None for a question without one, or if only its text is read.
        facts: further fields that the figures need.
    """

    key: str
    question: str
    label: str
    cluster: str
    part: str = ""
    image: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where a benchmark is.

    Args:
        path: a file, a folder, or the folder of a data set in a Hugging Face hub cache.
        images: the folder of the images, if they are elsewhere.
        keep: where to write the images that are inside of a file; None reads the texts only.
    """

    path: Path
    images: Path | None = None
    keep: Path | None = None


@dataclass(frozen=True)
class Questions:
    """The questions of a benchmark, and the files that they were read from."""

    items: tuple[Item, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Answer:
    """One answer of a model, with all fields of the record that it came in."""

    text: str
    record: Mapping[str, Any] = field(default_factory=dict)


Answers = Mapping[str, Answer]  # Question key -> answer.
YES_OR_NO: Mapping[str, str] = {"always yes": "Yes", "always no": "No"}  # The usual constants.


@dataclass
class Tally:
    """What the answers add up to.

    Args:
        clusters: cluster -> column -> sum.
        correct: question key -> whether its answer is right, for tests between two runs.
    """

    clusters: dict[str, Counter[str]] = field(default_factory=dict)
    correct: dict[str, bool] = field(default_factory=dict)

    def add(self, cluster: str, **columns: float) -> None:
        """Add to the columns of a cluster."""
        row = self.clusters.setdefault(cluster, Counter())
        for name, value in columns.items():
            row[name] += value  # type: ignore[assignment]

    def columns(self) -> list[str]:
        """Return the names of all columns, in order of first use."""
        return list(dict.fromkeys(name for row in self.clusters.values() for name in row))

    def sums(self) -> dict[str, Array]:
        """Return every column summed over the clusters."""
        names = self.columns()
        return {n: np.array(sum(row[n] for row in self.clusters.values())) for n in names}


@dataclass(frozen=True)
class Figure:
    """One figure of a benchmark.

    Args:
        name: as printed and in JSON.
        value: from the sums of the columns to the figure; NaN where undefined.
        of: the column that is its denominator.
        unit: "%" for a share, shown in percent; "" for a figure that is shown as it is.
    """

    name: str
    value: Callable[[Sums], Array]
    of: str
    unit: str = "%"


def share(above: str, below: str) -> Callable[[Sums], Array]:
    """Return the figure that divides one column by another."""
    return lambda sums: ratio(sums.get(above, 0), sums.get(below, 0))


def ratio(above: Any, below: Any) -> Array:
    """Divide elementwise; NaN where the denominator is not positive."""
    top, bottom = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    found = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=found, where=bottom > 0)
    return found


def harmonic(first: Array, second: Array) -> Array:
    """Return the harmonic mean elementwise, 0 where both are 0; NaN stays NaN."""
    both = first + second
    return np.where(both == 0, 0.0, ratio(2 * first * second, both))


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that needs no judge.

    Args:
        name: as on the command line.
        title: as in print.
        unit: what its intervals resample.
        readings: how answers can be read -> what that is; the first is the default.
        load: reads the questions.
        tally: counts answers: questions, answers by key, name of the reading.
        figures: the figures of these questions under a reading, the first being the headline.
        tested: the figures that decide whether one run is better than another.
        constants: name -> the answer that a model without sight could always give.
        asked: whether a reading needs an answer to a question.
        optional_part: the part of the benchmark that a question belongs to, where runs may leave
            out whole parts; None where they may not.
        key_of: finds the question in a record of the benchmark's own format; None where it cannot.
        floor_reading: a reading that constant answers cannot have -> the one to use for them.
    """

    name: str
    title: str
    unit: str
    readings: Mapping[str, str]
    load: Callable[[Source], Questions]
    tally: Callable[[Sequence[Item], Answers, str], Tally]
    figures: Callable[[Sequence[Item], str], Sequence[Figure]]
    tested: tuple[str, ...]
    constants: Mapping[str, str] = field(default_factory=lambda: YES_OR_NO)
    asked: Callable[[Item, str], bool] = lambda item, reading: True
    optional_part: Callable[[Item], str] | None = None
    key_of: Callable[[Mapping[str, Any]], str | None] = lambda record: None
    floor_reading: Mapping[str, str] = field(default_factory=dict)
