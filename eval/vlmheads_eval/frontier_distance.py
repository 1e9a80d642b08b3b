"""How far a method lies from plain truncation at the same recall."""

import numpy as np

from vlmheads_eval.measures import measure
from vlmheads_eval.statistics import Array, Estimate, estimate


def frontier_distance(
    name: str, frontier: tuple[Array, Array], method: tuple[Array, Array]
) -> Estimate:
    """Return the method's rate minus that of the baseline's captions cut to the same recall.

    Below zero the method invents less than plain truncation that names as much of what is there.
    Between whole numbers of sentences the frontier is a straight line in recall. Above the
    baseline's own recall it stays at the baseline's rate; below one sentence CHAIR_S goes straight
    to zero, as it does for empty captions, and the other rates stay.

    Args:
        name: a measure.
        frontier: sums of the cut captions [points, columns] and of their draws [draws, points,
            columns], the last point whole captions.
        method: sums [columns] and their draws [draws, columns].
    """
    value = _distance(name, frontier[0][np.newaxis], method[0][np.newaxis])[0]
    return estimate(value, _distance(name, frontier[1], method[1]))


def _distance(name: str, frontier: Array, method: Array) -> Array:
    recalls, rates = measure(frontier, "recall"), measure(frontier, name)
    start = np.zeros((len(rates), 1))
    first_rate = start if name == "CHAIRs" else rates[:, :1]
    recalls = np.hstack([start, recalls])
    rates = np.hstack([first_rate, rates])
    return measure(method, name) - interpolate(measure(method, "recall"), recalls, rates)


def interpolate(at: Array, x: Array, y: Array) -> Array:
    """Return for every row the value at `at` [rows] of the line through x, y [rows, points].

    x does not fall along a row. Outside of it the nearest end counts.
    """
    points = x.shape[1]
    after = np.clip((x < at[:, np.newaxis]).sum(axis=1), 1, points - 1)
    rows = np.arange(len(at))
    x0, x1 = x[rows, after - 1], x[rows, after]
    y0, y1 = y[rows, after - 1], y[rows, after]
    width = x1 - x0
    share = np.zeros(len(at))
    np.divide(at - x0, width, out=share, where=width > 0)
    return np.asarray(y0 + np.clip(share, 0, 1) * (y1 - y0))
