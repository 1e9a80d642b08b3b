"""Thresholds on word scores with a stated risk: split conformal, risk control, Learn-then-Test.

Image i has objects with scores and a truth each; those above a threshold λ are kept. What can be
exchanged is the image, not the object, so every loss belongs to an image.

Sources: Mohri & Hashimoto 2024 (back-off), ConfLVLM, EMNLP 2025 (tolerance), Angelopoulos et al.,
"Conformal Risk Control" and "Learn then Test". Numbers only: no model, no file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vlmheads.errors import VlmHeadsError

Array = np.ndarray[Any, Any]
Rule = Literal["split", "tolerance", "conformal risk", "learn then test"]
# "any": 1 where a false object is kept. "share": the share of false ones among those kept, 0 where
# nothing is kept.
Loss = Literal["any", "share"]
Losses = Callable[["ImageScores", Array], Array]

_SLACK = 1e-9  # Products such as 10 · (1 - .9) are not the integers that they stand for.


@dataclass(frozen=True, eq=False)
class ImageScores:
    """The objects of one image's caption.

    Args:
        scores: [n] higher means better supported; may be empty.
        true: [n] whether the object is in the image.

    Raises:
        VlmHeadsError: different numbers of the two, or scores that are no numbers.
    """

    scores: Array
    true: Array

    def __post_init__(self) -> None:
        scores, true = np.asarray(self.scores, float), np.asarray(self.true, bool)
        if scores.ndim != 1 or scores.shape != true.shape or np.isnan(scores).any():
            raise VlmHeadsError(
                f"scores of shape {list(scores.shape)} with truths of shape {list(true.shape)}",
                "a number and a truth for each object",
            )
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "true", true)


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what it was chosen for.

    Args:
        value: objects with higher scores are kept; infinity where none can be.
        rule: how it was chosen.
        loss: of an image.
        alpha: the risk that it is chosen for.
        delta: Learn-then-Test: how often a calibration may be above that risk.
        beta: tolerance: the share of false objects that an image may keep.
        images: images that it was chosen on.
        kept: share of all objects on these images that are kept.
        true_kept: share of the true ones; NaN where there is none.
    """

    value: float
    rule: Rule
    loss: Loss
    alpha: float
    delta: float | None
    beta: float
    images: int
    kept: float
    true_kept: float


@dataclass(frozen=True)
class Verified:
    """What a threshold does on images that it was not chosen on.

    Args:
        images: how many.
        risk: mean loss.
        low: lower end of an exact 95 % interval for "any"; of a Hoeffding one for "share".
        high: its upper end.
        kept: share of all objects that are kept.
        true_kept: share of the true ones; NaN where there is none.
    """

    images: int
    risk: float
    low: float
    high: float
    kept: float
    true_kept: float


def last_false(image: ImageScores, beta: float = 0.0) -> float:
    """Return the least threshold from which on the false share among kept objects is at most β.

    It is the largest score v so that the objects with scores of at least v have a larger share,
    minus infinity where there is none; for β = 0 the largest score of a false object. The share
    does not fall with the threshold, so every threshold above counts.
    """
    order = np.argsort(-image.scores, kind="stable")
    scores, false = image.scores[order], ~image.true[order]
    share = np.cumsum(false) / np.arange(1, len(scores) + 1)
    ends = np.r_[scores[1:] != scores[:-1], True] if len(scores) else np.zeros(0, bool)
    over = np.flatnonzero(ends & (share > beta + _SLACK))
    return float(scores[over[0]]) if len(over) else -math.inf


def split_threshold(nonconformity: Sequence[float], alpha: float) -> float:
    """Return the ⌈(n + 1)(1 - α)⌉-th smallest of n numbers, infinity where there are too few."""
    rank = math.ceil((len(nonconformity) + 1) * (1 - alpha) - _SLACK)
    return math.inf if rank > len(nonconformity) else float(sorted(nonconformity)[max(rank, 1) - 1])


def conformal_risk_threshold(
    images: Sequence[ImageScores], alpha: float, losses: Losses, *, bound: float = 1.0
) -> float:
    """Return inf{λ : (Σ L_i(λ) + B) / (n + 1) <= α}, for losses that do not rise with λ.

    Args:
        images: calibration images.
        alpha: the risk.
        losses: of an image at thresholds [T], non-increasing in them and at most `bound`.
        bound: B.
    """
    grid = _grid(images)
    total = sum((losses(image, grid) for image in images), np.zeros(len(grid)))
    good = (total + bound) / (len(images) + 1) <= alpha + _SLACK
    return float(grid[good].min()) if good.any() else math.inf


def learn_then_test_threshold(
    images: Sequence[ImageScores], alpha: float, delta: float, loss: Loss = "any"
) -> float:
    """Return the laxest threshold of a fixed sequence from strict to lax that passes every test.

    The hypothesis of a threshold is that its risk is above α. The sequence begins where nothing is
    kept, whose p-value is the smallest that n images can give, and ends at the first above δ.
    """
    grid = np.sort(_grid(images))[::-1]
    each = np.stack([LOSSES[loss](image, grid) for image in images])
    best = math.inf
    for at, threshold in enumerate(grid):
        total = each[:, at].sum()
        p = (
            binomial_p_value(len(images), round(float(total)), alpha)
            if loss == "any"
            else hoeffding_bentkus_p_value(len(images), float(total), alpha)
        )
        if p > delta:
            break
        best = float(threshold)
    return best


def any_false(image: ImageScores, thresholds: Array) -> Array:
    """Return 1 where a false object is kept, [T]."""
    return (last_false(image) > thresholds).astype(float)


def false_share(image: ImageScores, thresholds: Array) -> Array:
    """Return the share of false objects among those kept, [T]; 0 where none is kept."""
    kept = image.scores > thresholds[:, None]
    false = (kept & ~image.true).sum(axis=1)
    share: Array = false / np.maximum(kept.sum(axis=1), 1)
    return share


def highest_false_share(image: ImageScores, thresholds: Array) -> Array:
    """Return the running maximum of `false_share` from above, [T], which is monotone."""
    grid = np.unique(np.r_[thresholds, image.scores, -math.inf])[::-1]
    most = np.maximum.accumulate(false_share(image, grid))
    found: Array = most[np.searchsorted(-grid, -thresholds)]
    return found


def false_of_all(image: ImageScores, thresholds: Array) -> Array:
    """Return the share of the image's objects that are false and kept, [T]; non-increasing."""
    kept = image.scores > thresholds[:, None]
    share: Array = (kept & ~image.true).sum(axis=1) / max(len(image.scores), 1)
    return share


LOSSES: dict[Loss, Losses] = {"any": any_false, "share": false_share}


def binomial_p_value(images: int, errors: int, alpha: float) -> float:
    """Return P(Bin(n, α) <= errors), for a 0/1 loss."""
    logs = [
        math.lgamma(images + 1) - math.lgamma(k + 1) - math.lgamma(images - k + 1)
        + k * math.log(alpha) + (images - k) * math.log1p(-alpha)
        for k in range(min(errors, images) + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs)))


def hoeffding_p_value(images: int, total: float, alpha: float) -> float:
    """Return exp(-n h(min(R, α), α)) for losses in [0, 1] with the sum n R.

    Without any loss it is (1 - α)^n; 0 · ln 0 is 0 there.
    """
    mean = min(total / images, alpha)
    near = mean * math.log(mean / alpha) if mean > 0 else 0.0
    return math.exp(-images * (near + (1 - mean) * math.log((1 - mean) / (1 - alpha))))


def bentkus_p_value(images: int, total: float, alpha: float) -> float:
    """Return e · P(Bin(n, α) <= ⌈n R⌉) for losses in [0, 1] with the sum n R."""
    return math.e * binomial_p_value(images, math.ceil(total - _SLACK), alpha)


def hoeffding_bentkus_p_value(images: int, total: float, alpha: float) -> float:
    """Return the smaller of the two, at most 1."""
    return min(1.0, hoeffding_p_value(images, total, alpha), bentkus_p_value(images, total, alpha))


def images_needed(rule: Rule, alpha: float, delta: float | None = None) -> int:
    """Return the least number of images with which a rule can keep anything.

    1/α - 1 for rules that hold on average; ln δ / ln(1 - α) for Learn-then-Test, without any error.
    """
    if rule == "learn then test":
        if delta is None:
            raise VlmHeadsError("Learn-then-Test without delta", "a share such as 0.1")
        return math.ceil(math.log(delta) / math.log1p(-alpha) - _SLACK)
    return math.ceil(1 / alpha - 1 - _SLACK)


def choose_threshold(
    images: Sequence[ImageScores],
    alpha: float,
    *,
    rule: Rule = "learn then test",
    loss: Loss = "any",
    delta: float = 0.1,
    beta: float = 0.0,
) -> Threshold:
    """Choose a threshold on images that the scorer was not fitted on.

    Args:
        images: calibration images, those without any object included.
        alpha: the risk.
        rule: "learn then test" holds with confidence 1 - δ, the others on average over
            calibrations; "conformal risk" takes the running maximum of the share from above.
        loss: of an image; "split" and "tolerance" have their own.
        delta: Learn-then-Test: how often a calibration may be above the risk.
        beta: tolerance: the share of false objects that an image may keep.

    Raises:
        VlmHeadsError: shares that are none, a rule that has another loss, or too few images.
    """
    for name, share in (("alpha", alpha), ("delta", delta)):
        if not 0 < share < 1:
            raise VlmHeadsError(f"{name}={share}", "a share between 0 and 1, such as 0.1")
    if not 0 <= beta < 1 or (beta and rule != "tolerance"):
        raise VlmHeadsError(f"beta={beta} with the rule {rule}", "a share, with the rule tolerance")
    if loss == "share" and rule in ("split", "tolerance"):
        raise VlmHeadsError(f"the loss share with the rule {rule}", "the loss any")
    chosen_delta = delta if rule == "learn then test" else None
    needed = images_needed(rule, alpha, chosen_delta)
    if len(images) < needed:
        confidence = "" if chosen_delta is None else f" with {_percent(1 - delta)} confidence"
        raise VlmHeadsError(
            f"{len(images)} images for a risk of {_percent(alpha)}{confidence}",
            f"at least {needed}",
            "use more images, or allow a higher risk",
        )
    if rule == "learn then test":
        value = learn_then_test_threshold(images, alpha, delta, loss)
    elif rule == "conformal risk":
        losses = any_false if loss == "any" else highest_false_share
        value = conformal_risk_threshold(images, alpha, losses)
    else:
        value = split_threshold([last_false(image, beta) for image in images], alpha)
    kept, true_kept = _kept(images, value)
    return Threshold(value, rule, loss, alpha, chosen_delta, beta, len(images), kept, true_kept)


def verify_threshold(images: Sequence[ImageScores], threshold: Threshold) -> Verified:
    """Return what a threshold does on other images, with an interval for its risk.

    Raises:
        VlmHeadsError: no image.
    """
    if not images:
        raise VlmHeadsError("no image to verify a threshold on", "at least one")
    at, count = np.array([threshold.value]), len(images)
    if threshold.rule == "tolerance":
        each = [float(last_false(image, threshold.beta) > threshold.value) for image in images]
    else:
        each = [float(LOSSES[threshold.loss](image, at)[0]) for image in images]
    total = math.fsum(each)
    if threshold.loss == "any":
        low, high = exact_interval(count, round(total))
    else:
        width = math.sqrt(math.log(2 / 0.05) / (2 * count))
        low, high = max(0.0, total / count - width), min(1.0, total / count + width)
    return Verified(count, total / count, low, high, *_kept(images, threshold.value))


def exact_interval(images: int, errors: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share, by bisection."""
    tail = (1 - level) / 2

    def solve(above: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if above(middle) else (low, middle)
        return (low + high) / 2

    lower = 0.0 if errors == 0 else solve(
        lambda share: 1 - binomial_p_value(images, errors - 1, share) < tail
    )  # fmt: skip
    upper = 1.0 if errors == images else solve(
        lambda share: binomial_p_value(images, errors, share) > tail
    )  # fmt: skip
    return lower, upper


def _grid(images: Sequence[ImageScores]) -> Array:
    """Every threshold that makes a difference: infinity, all scores, and minus infinity."""
    scores = [image.scores for image in images]
    return np.unique(np.concatenate([*scores, np.array([-math.inf, math.inf])]))


def _kept(images: Sequence[ImageScores], value: float) -> tuple[float, float]:
    """Return the share of all objects, and of the true ones, that are kept."""
    scores = np.concatenate([np.zeros(0), *(image.scores for image in images)])
    true = np.concatenate([np.zeros(0, bool), *(image.true for image in images)])
    kept = scores > value
    share = float(kept.mean()) if len(kept) else math.nan
    return share, float(kept[true].mean()) if true.any() else math.nan


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
