"""How a candidate stands against the plain model on the same images, and when it is degenerate."""

import numpy as np

from vlmheads_eval.chair.measures import measure
from vlmheads_eval.compare.recall import difference_at_recall
from vlmheads_eval.compare.runs import RunScores, common_images
from vlmheads_eval.tune.halving import Standing
from vlmheads_eval.tune.settings import Objective

# A share of captions so far above the plain model's is degenerate, as is a recall below this share
# of the plain one's. On the eight images of a first round that is three captions.
TOO_MANY = 0.25
COLLAPSED = 0.5
SHARES = {
    "repetition": "repeats itself",
    "at_limit": "runs into the token limit",
    "empty": "says nothing",
}


def standing(plain: RunScores, method: RunScores, aim: Objective) -> Standing:
    """Return a candidate's standing: what the objective measures, at equal recall, as a gain."""
    images = common_images([plain, method])
    before, first = (part.sum(axis=0)[np.newaxis] for part in plain.of(images))
    after, second = (part.sum(axis=0)[np.newaxis] for part in method.of(images))
    values = {
        name: sign * float(difference_at_recall(name, first, second)[0])
        for name, sign in ((aim.measure, aim.sign), (aim.guard, aim.guard_sign))
    }
    value, second_value = values[aim.measure], values[aim.guard]
    return Standing(
        None if np.isnan(value) else value,
        0.0 if np.isnan(second_value) else second_value,
        degenerate(before[0], after[0]),
    )


def degenerate(plain: "np.ndarray[tuple[int], np.dtype[np.float64]]",
               method: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> str:  # fmt: skip
    """Return what is wrong with captions beyond any rate, from sums of `Counts`; "" for nothing."""
    for name, fault in SHARES.items():
        own, other = float(measure(method, name)), float(measure(plain, name))
        if not np.isnan(own) and own - (0.0 if np.isnan(other) else other) > TOO_MANY:
            return f"{fault} ({own:.0%} of captions)"
    own, other = float(measure(method, "recall")), float(measure(plain, "recall"))
    if not np.isnan(other) and other > 0 and (np.isnan(own) or own < COLLAPSED * other):
        return f"recall collapses ({own:.0%} against {other:.0%})"
    return ""
