"""What a threshold on word scores guarantees, in words that claim no more."""

from __future__ import annotations

import math

from vlmheads.grounding.risk import Threshold, Verified

# What ends the guarantee.
CONDITIONS = (
    "It holds for images like those of the calibration, with the same model, prompt, decoding and "
    "plugins, a scorer that was fitted on other images, and captions that are not generated again "
    "after it. Objects that the finder does not know are not counted."
)


def guarantee(threshold: Threshold, most_dropped: float = 0.5) -> str:
    """State what a threshold guarantees, or that the risk costs too many of the true objects.

    Rules that hold on average say so: about half of all calibrations are above their risk.

    Args:
        threshold: what `choose_threshold` returned.
        most_dropped: the share of true objects whose loss makes the risk out of reach.
    """
    dropped = 1 - threshold.true_kept
    risk = percent(threshold.alpha)
    if threshold.kept == 0:
        return (
            f"A risk of {risk} cannot be reached on these {threshold.images} images: no threshold "
            "passes but the one that drops every object."
        )
    if dropped > most_dropped:
        return (
            f"A risk of {risk} cannot be reached on these {threshold.images} images without "
            f"dropping more than {percent(most_dropped)} of the true objects: the threshold "
            f"{threshold.value:.3g} drops {percent(dropped)} of them."
        )
    return f"{_statement(threshold)} {_cost(threshold)} {CONDITIONS}"


def verified(found: Verified, threshold: Threshold) -> str:
    """State what a threshold did on images that it was not chosen on."""
    what = (
        "mean share of false objects among those kept"
        if threshold.loss == "share"
        else "captions above the tolerance"
        if threshold.rule == "tolerance"
        else "captions that keep a false object"
    )
    fits = found.low <= threshold.alpha
    return (
        f"On {found.images} other images: {what} {percent(found.risk)} "
        f"({percent(found.low)} to {percent(found.high)}), "
        f"{'which agrees with' if fits else 'ABOVE'} the {percent(threshold.alpha)} that it was "
        f"chosen for; {percent(found.true_kept)} of the true objects and {percent(found.kept)} of "
        "all are kept."
    )


def percent(share: float) -> str:
    """Return a share as per cent, "-" where there is none."""
    return "-" if math.isnan(share) else f"{100 * share:.3g} %"


def _statement(threshold: Threshold) -> str:
    risk = percent(threshold.alpha)
    if threshold.delta is not None:
        sure = f"With {percent(1 - threshold.delta)} confidence over calibrations,"
        if threshold.loss == "any":
            return f"{sure} the share of new captions that keep a false object is at most {risk}."
        return (
            f"{sure} the share of false objects among those kept of a caption is at most {risk} "
            "in the mean over new captions."
        )
    if threshold.rule == "tolerance":
        said = (
            f"the share of new captions in which more than {percent(threshold.beta)} of what is "
            f"kept is false is at most {risk}"
        )
    elif threshold.loss == "share":
        said = (
            "the share of false objects among those kept of a caption, at this threshold or any "
            f"stricter one, is at most {risk} in the mean over new captions"
        )
    else:
        said = f"the share of new captions that keep a false object is at most {risk}"
    return f"On average over calibrations, {said}; a single calibration may be above."


def _cost(threshold: Threshold) -> str:
    return (
        f"On the {threshold.images} images of the calibration it keeps "
        f"{percent(threshold.true_kept)} of the true objects and {percent(threshold.kept)} of all."
    )
