"""Pairs of runs on the same images: differences, pooled draws of a control, equal recall."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from vlmheads_eval.chair.measures import measure
from vlmheads_eval.chair.score import frontier_distance
from vlmheads_eval.compare.chair import RunScores, common_images
from vlmheads_eval.statistics import DRAWS, Array, Estimate, differ, holm, resample

# Compared by default: hallucination rates, recall, and object F1, which combines both.
COMPARED = ("CHAIRi", "CHAIRs", "unique_hallucination", "recall", "object_f1")
CUT = "cut captions"
TOGETHER = 16  # Baselines whose truncated captions are resampled at once, to limit memory.
AT_RECALL = ("CHAIRs", "unique_hallucination", "object_f1")


def pooled(name: str, runs: Sequence[RunScores]) -> RunScores:
    """Return several draws of a control as one run, by summing their counts per image.

    Its measures are ratios of these sums, so a difference from it is a difference from all draws.
    """
    images = common_images(runs)
    return RunScores(
        name,
        (),
        {key: np.sum([run.counts[key] for run in runs], axis=0) for key in images},
        {key: np.sum([run.cut[key] for run in runs], axis=0) for key in images},
    )


def figures_of(run: RunScores, names: Sequence[str] = COMPARED) -> dict[str, float]:
    """Return measures of a run over all of its images; NaN where undefined."""
    sums = np.sum(list(run.counts.values()), axis=0)
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
    arrays = {name: _counts(run, images) for name, run in runs.items()}
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
    """Return each method's distances to the baseline's captions truncated to the same recall.

    See `frontier_distance`; for object F1 a positive distance is better. A method that recalls
    more than the baseline is compared with the baseline's whole captions.
    """
    images = common_images([baseline, *methods])
    cut = np.array([baseline.cut[key] for key in images])
    arrays = {run.name: _counts(run, images) for run in methods}
    drawn = resample({**arrays, CUT: cut}, draws, seed)
    frontier = (cut.sum(axis=0), drawn.pop(CUT))
    return {
        name: _distances(names, frontier, (counts.sum(axis=0), drawn[name]))
        for name, counts in arrays.items()
    }


def above_others(
    method: RunScores,
    baselines: Sequence[RunScores],
    names: Sequence[str] = AT_RECALL,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Return one method's distances to each baseline's captions truncated to the same recall."""
    images = common_images([method, *baselines])
    counts = _counts(method, images)
    found = {}
    for some in (baselines[at : at + TOGETHER] for at in range(0, len(baselines), TOGETHER)):
        cuts = {one.name: np.array([one.cut[key] for key in images]) for one in some}
        drawn = resample({**cuts, method.name: counts}, draws, seed)
        ours = (counts.sum(axis=0), drawn[method.name])
        for name, cut in cuts.items():
            found[name] = _distances(names, (cut.sum(axis=0), drawn[name]), ours)
    return found


def _distances(
    names: Sequence[str], frontier: tuple[Array, Array], method: tuple[Array, Array]
) -> dict[str, Estimate]:
    return {name: frontier_distance(name, frontier, method) for name in names}


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


def _counts(run: RunScores, images: Sequence[str]) -> Array:
    return np.array([run.counts[key] for key in images])
