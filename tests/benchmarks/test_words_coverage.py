"""The check of stated risks by repeated splits, on scores of which the truth is known."""

import numpy as np
from words_coverage import ALPHAS, RULES, coverage

from vlmheads.grounding.risk import ImageScores

IMAGES, SPLITS = 120, 60


def images(gap: float) -> list[ImageScores]:
    """Images of four objects of which the last is false; true ones score higher by a gap."""
    draws = np.random.default_rng(0)
    true = np.array([True, True, True, False])
    return [ImageScores(draws.random(4) + gap * true, true) for _ in range(IMAGES)]


def test_every_rule_is_tried_at_every_risk() -> None:
    assert len(coverage(images(0.5), 0, splits=2)) == len(RULES) * len(ALPHAS)


def test_rules_keep_their_risk_and_strict_ones_keep_less() -> None:
    found = coverage(images(0.5), 0, SPLITS)
    for name, figures in found.items():
        alpha = float(name.rpartition(", ")[2])
        assert figures["risk"] <= alpha + 0.02, name
        assert figures["surely above"] <= figures["above"]
    assert found["split, any, 0.2"]["risk"] > found["learn then test, any, 0.2"]["risk"]
    assert found["split, any, 0.1"]["true kept"] < found["split, any, 0.3"]["true kept"]


def test_scores_that_know_nothing_cost_the_true_objects() -> None:
    blind = coverage(images(0.0), 0, SPLITS)["split, any, 0.1"]
    seeing = coverage(images(1.5), 0, SPLITS)["split, any, 0.1"]
    assert blind["true kept"] < 0.2
    assert seeing["true kept"] == 1.0


def test_too_few_images_are_said_and_not_left_out() -> None:
    found = coverage(images(0.5)[:8], 0, SPLITS)
    assert "at least" in str(found["learn then test, any, 0.1"]["refused"])
