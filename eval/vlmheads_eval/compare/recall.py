"""Two runs at equal recall: the one that recalls more is cut, sentence by sentence, to the other's.

The comparison is symmetric: with the two runs exchanged, every difference changes its sign.
"""

import numpy as np

from vlmheads_eval.chair.measures import measure
from vlmheads_eval.chair.score import interpolate
from vlmheads_eval.statistics import Array


def difference_at_recall(name: str, first: Array, second: Array) -> Array:
    """Return a measure of the second run minus that of the first, at the lower of their recalls.

    Below zero, the second run hallucinates less than the first at as many objects recalled. Between
    whole numbers of sentences, a run's measure is linear in its recall; below one sentence CHAIR_S
    falls linearly to zero, as for empty captions, and other rates stay as they are. Runs of the
    same recall are compared whole.

    Args:
        name: a measure of `CUT_MEASURES`.
        first: sums [draws, points, columns] of the captions cut after 1, 2, ... sentences; the last
            point is whole captions.
        second: the same of the other run.

    Returns:
        [draws]; NaN where the measure or a recall is undefined.
    """
    recall = [measure(run[:, -1], "recall") for run in (first, second)]
    whole = [measure(run[:, -1], name) for run in (first, second)]
    first_cut = whole[1] - _at(name, first, recall[1])
    second_cut = _at(name, second, recall[0]) - whole[0]
    found = np.where(recall[0] > recall[1], first_cut, whole[1] - whole[0])
    found = np.where(recall[1] > recall[0], second_cut, found)
    found[np.isnan(recall[0]) | np.isnan(recall[1])] = np.nan
    return np.asarray(found)


def _at(name: str, cut: Array, recall: Array) -> Array:
    """Return a measure of captions cut to a recall [draws]."""
    recalls, values = measure(cut, "recall"), measure(cut, name)
    start = np.zeros((len(values), 1))
    first = start if name == "CHAIRs" else values[:, :1]
    return interpolate(recall, np.hstack([start, recalls]), np.hstack([first, values]))
