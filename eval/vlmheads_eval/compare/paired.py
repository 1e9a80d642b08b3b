"""Pairs of runs on the same images: differences, pooled draws of a control, equal recall."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from vlmheads_eval.chair.measures import measure
from vlmheads_eval.chair.score import frontier_distance
from vlmheads_eval.compare.chair import RunScores, common_images
from vlmheads_eval.statistics import DRAWS, Array, Estimate, differ, holm, resample

# What is told apart by default: rates of invention, recall, and both in one.
COMPARED = ("CHAIRi", "CHAIRs", "unique_hallucination", "recall", "object_f1")
CUT = "cut captions"
TOGETHER = 16  # Baselines whose cut captions are drawn at once, for the sake of memory.
AT_RECALL = ("CHAIRs", "unique_hallucination", "object_f1")


def pooled(name: str, runs: Sequence[RunScores]) -> RunScores:
    """Return several draws of a control as one run: the sums of their counts, image by image.

    Its measures are ratios of these sums, so that a difference from it is one from all draws.
    """
    images = common_images(runs)
    return RunScores(
        name,
        (),
        {key: np.sum([run.counts[key] for run in runs], axis=0) for key in images},
        {key: np.sum([run.cut[key] for run in runs], axis=0) for key in images},
    )


def figures_of(run: RunScores, names: Sequence[str] = COMPARED) -> dict[str, float]:
    """Return measures of a run over all of its images; NaN where nothing counts."""
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
    """Return the differences second less first, with paired bootstrap intervals over images."""
    return differences([(first, second)], names, draws=draws, seed=seed)[0]


def differences(
    pairs: Sequence[tuple[RunScores, RunScores]],
    names: Sequence[str] = COMPARED,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[dict[str, Estimate]]:
    """Return `paired` of many pairs, whose runs are drawn together; names tell runs apart."""
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
    """Return each method's distances to the baseline's captions cut to the same recall.

    See `frontier_distance`; of object F1 a distance above 0 is the better one. Where a method
    recalls more than the baseline, it is held against the baseline's whole captions.
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
    """Return one method's distances to each baseline's captions cut to the same recall."""
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

    The correction is for each measure by itself; its p value stands beside the others as "holm".
    """
    names = next(iter(found.values()), {})
    tests = {name: holm({run: one[name].p for run, one in found.items()}) for name in names}
    return {
        run: {name: {**one[name].to_dict(), "holm": tests[name][run]} for name in names}
        for run, one in found.items()
    }


def _counts(run: RunScores, images: Sequence[str]) -> Array:
    return np.array([run.counts[key] for key in images])
