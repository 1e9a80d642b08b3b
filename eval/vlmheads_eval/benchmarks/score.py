"""A benchmark's figures for one run: denominators, floors of constant answers, intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmheads_eval.benchmarks.answers import asked_items, match
from vlmheads_eval.benchmarks.clustered import intervals
from vlmheads_eval.benchmarks.files import digests
from vlmheads_eval.benchmarks.record import (
    Answer,
    Answers,
    Array,
    Benchmark,
    Figure,
    Item,
    Questions,
    Tally,
    ratio,
)

SCORE_DRAWS = 2_000
UNPARSED, ASKED = "unparsed", "asked"  # Columns that every tally has.


def score_benchmark(
    benchmark: Benchmark,
    questions: Questions,
    answers: Answers,
    run: Path,
    reading: str | None = None,
    *,
    draws: int = SCORE_DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Return all figures of a run as plain data.

    Every figure has its value, 95 % interval over draws of whole clusters, denominator, and the
    value that each constant answer would get; "unparsed" is the share of answers that the reading
    makes nothing of. Shares are fractions, None where undefined.

    Raises:
        VlmHeadsError: an unknown reading, a question without an answer, or an answer to none.
    """
    reading = reading or next(iter(benchmark.readings))
    items = asked_items(benchmark, questions.items, reading, {run: answers})
    match(items, answers, questions.items, run)
    tally = benchmark.tally(items, answers, reading)
    figures = benchmark.figures(items, reading)
    sums = tally.sums()
    found = intervals(tally, figures, draws, seed)
    floors = floor_figures(benchmark, items, reading)
    return {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "reading": reading,
        "reading_is": benchmark.readings[reading],
        "questions": len(items),
        "questions_in_data": len(questions.items),
        "unparsed": number(ratio(sums.get(UNPARSED, np.array(0)), sums[ASKED])),
        "clusters": len(tally.clusters),
        "unit": benchmark.unit,
        "draws": draws,
        "seed": seed,
        "figures": {
            figure.name: {
                "value": found[figure.name].value,
                "low": found[figure.name].low,
                "high": found[figure.name].high,
                "unit": figure.unit,
                "of": int(sums[figure.of]) if figure.of in sums else 0,
                "floors": {name: floor[figure.name] for name, floor in floors.items()},
            }
            for figure in figures
        },
        "sha256": digests(questions.files),
    }


def floor_figures(
    benchmark: Benchmark, items: Sequence[Item], reading: str
) -> dict[str, dict[str, float | None]]:
    """Return what each constant answer gets in every figure of these questions."""
    reading = benchmark.floor_reading.get(reading, reading)
    figures = benchmark.figures(items, reading)
    floors = {}
    for name, text in benchmark.constants.items():
        tally = benchmark.tally(items, {item.key: Answer(text) for item in items}, reading)
        floors[name] = values(tally, figures)
    return floors


def values(tally: Tally, figures: Sequence[Figure]) -> dict[str, float | None]:
    """Return the figures of a tally, None where undefined."""
    sums = tally.sums()
    return {figure.name: number(figure.value(sums)) for figure in figures}


def number(value: Array) -> float | None:
    """Return a figure as a plain number, None for NaN."""
    return None if np.isnan(value) else float(value)
