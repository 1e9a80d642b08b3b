"""Pairs of runs on the same images: differences, and differences at equal recall."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from vlmheads_eval.chair.measures import measure
from vlmheads_eval.compare.recall import difference_at_recall
from vlmheads_eval.compare.runs import RunScores, common_images
from vlmheads_eval.statistics import DRAWS, Estimate, differ, draw, estimate, holm, resample

# Compared by default: hallucination rates, recall, and object F1, which combines both.
COMPARED = ("CHAIRi", "CHAIRs", "unique_hallucination", "recall", "object_f1")
AT_RECALL = ("CHAIRs", "unique_hallucination", "object_f1")


def figures_of(run: RunScores, names: Sequence[str] = COMPARED) -> dict[str, float]:
    """Return measures of a run over all of its images; NaN where undefined."""
    sums = run.counts.sum(axis=0)
    return {name: float(measure(sums, name)) for name in names}


def paired(
    first: RunScores,
    second: RunScores,
    names: Sequence[str] = COMPARED,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return the differences second minus first, with paired bootstrap intervals over images."""
    return differences([(first, second)], names, draws=draws, seed=seed)[0]


def differences(
    pairs: Sequence[tuple[RunScores, RunScores]],
    names: Sequence[str] = COMPARED,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[dict[str, Estimate]]:
    """Return `paired` for many pairs, resampled together; run names must be distinct."""
    if not pairs:
        return []
    runs = {run.name: run for pair in pairs for run in pair}
    images = common_images(list(runs.values()))
    arrays = {name: run.of(images)[0] for name, run in runs.items()}
    drawn = resample(arrays, draws, seed)
    sums = {name: counts.sum(axis=0) for name, counts in arrays.items()}
    return [
        {
            name: differ(
                partial(measure, name=name),
                (sums[first.name], sums[second.name]),
                (drawn[first.name], drawn[second.name]),
            )
            for name in names
        }
        for first, second in pairs
    ]


def at_recall(
    baseline: RunScores,
    methods: Sequence[RunScores],
    names: Sequence[str] = AT_RECALL,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Return each method's differences from the baseline at equal recall.

    See `difference_at_recall`; for object F1 a positive difference is better.
    """
    return _at_recall([(baseline, method) for method in methods], 1, names, draws, seed)


def above_others(
    method: RunScores,
    baselines: Sequence[RunScores],
    names: Sequence[str] = AT_RECALL,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Return one method's differences from each baseline at equal recall."""
    return _at_recall([(baseline, method) for baseline in baselines], 0, names, draws, seed)


def _at_recall(
    pairs: Sequence[tuple[RunScores, RunScores]],
    named: int,
    names: Sequence[str],
    draws: int,
    seed: int,
) -> dict[str, dict[str, Estimate]]:
    """Return the differences of pairs at equal recall by the name of one side of each pair."""
    runs = {run.name: run for pair in pairs for run in pair}
    images = common_images(list(runs.values()))
    cut = {name: run.of(images)[1] for name, run in runs.items()}

    def figures(sums: Mapping[str, Any]) -> dict[Any, Any]:
        return {
            (pair[named].name, name): difference_at_recall(name, *(sums[run.name] for run in pair))
            for pair in pairs
            for name in names
        }

    drawn = draw(cut, figures, draws, seed)
    sample = figures({name: rows.sum(axis=0)[np.newaxis] for name, rows in cut.items()})
    found = {key: estimate(values[0], drawn[key]) for key, values in sample.items()}
    return {
        pair[named].name: {name: found[pair[named].name, name] for name in names} for pair in pairs
    }


def corrected(found: Mapping[str, Mapping[str, Estimate]]) -> dict[str, dict[str, Any]]:
    """Return the estimates of several runs as plain data, with Holm's correction over the runs.

    Each measure is corrected separately; the corrected p value is in "holm".
    """
    names = next(iter(found.values()), {})
    tests = {name: holm({run: one[name].p for run, one in found.items()}) for name in names}
    return {
        run: {name: {**one[name].to_dict(), "holm": tests[name][run]} for name in names}
        for run, one in found.items()
    }
