"""Whether thresholds of a stated risk keep it: repeated splits of images without a part in the fit.

benchmarks/words.py calls this on the images that it measures on: half of them choose a threshold,
the other half tells what it does, over and over with another half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.risk import (
    ImageScores,
    Loss,
    Rule,
    Threshold,
    choose_threshold,
    verify_threshold,
)

SPLITS = 500
ALPHAS = (0.1, 0.2, 0.3)
RULES: tuple[tuple[Rule, Loss], ...] = (
    ("learn then test", "any"),
    ("learn then test", "share"),
    ("split", "any"),
    ("conformal risk", "share"),
)


def coverage(images: Sequence[ImageScores], seed: int, splits: int = SPLITS) -> dict[str, Any]:
    """Choose thresholds on random halves of images and look at the other halves.

    Returns:
        rule, loss and alpha -> "risk": mean over splits of the risk on the other half; "above": the
        share of splits where that is above alpha, which the chance of the other half raises, too;
        "surely above": where its 95 % interval is; "true kept": mean share of the true objects that
        stay; "nothing kept": the share of splits whose threshold drops every object. Where there
        are too few images for a rule: {"refused": why}.
    """
    found: dict[str, Any] = {}
    for rule, loss in RULES:
        for alpha in ALPHAS:
            name = f"{rule}, {loss}, {alpha:g}"
            try:
                found[name] = _repeated(images, rule, loss, alpha, seed, splits)
            except VlmHeadsError as error:
                found[name] = {"refused": str(error)}
    return found


def _repeated(
    images: Sequence[ImageScores], rule: Rule, loss: Loss, alpha: float, seed: int, splits: int
) -> dict[str, float]:
    draws = np.random.default_rng(seed)
    thresholds: list[Threshold] = []
    verified = []
    for _ in range(splits):
        order = draws.permutation(len(images))
        half = len(images) // 2
        thresholds.append(
            choose_threshold([images[i] for i in order[:half]], alpha, rule=rule, loss=loss)
        )
        verified.append(verify_threshold([images[i] for i in order[half:]], thresholds[-1]))
    return {
        "risk": float(np.mean([one.risk for one in verified])),
        "above": float(np.mean([one.risk > alpha for one in verified])),
        "surely above": float(np.mean([one.low > alpha for one in verified])),
        "true kept": float(np.mean([one.true_kept for one in verified])),
        "nothing kept": float(np.mean([one.kept == 0 for one in thresholds])),
    }
