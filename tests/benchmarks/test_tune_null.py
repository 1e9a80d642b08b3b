"""Searches among equals: what the coin gives, and that a real difference would be found."""

from dataclasses import replace

import numpy as np
import pytest
import tune_null
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.runs import RunScores, score_texts
from vlmheads_eval.records import Caption
from vlmheads_eval.tune.settings import OBJECTIVES
from vlmheads_eval.tune.verdict import best

IMAGES = 60


def run(name: str, text: str) -> RunScores:
    variant = get_variant("pattern")
    truth = GroundTruth({str(key): frozenset({"dog"}) for key in range(IMAGES)}, ())
    captions = [Caption(key, text, at_limit=False) for key in range(IMAGES)]
    return score_texts(name, captions, truth, variant, "greedy")


def test_the_coin_takes_one_of_two_captions_for_each_image() -> None:
    plain, other = run("plain", "A dog."), run("other", "A dog and a cat.")
    mixed = tune_null.tossed("mixed", [plain, other], np.random.default_rng(0))
    from_plain = (mixed.counts == plain.counts).all(axis=1)
    from_other = (mixed.counts == other.counts).all(axis=1)
    assert (from_plain ^ from_other).all()
    assert 0.25 < from_plain.mean() < 0.75
    assert (mixed.cut[from_other] == other.cut[from_other]).all()


def test_where_both_captions_are_the_same_nobody_is_recommended() -> None:
    runs = [run("plain", "A dog."), run("other", "A dog.")]
    found = tune_null.search(runs, 4, "f1", seed=0)
    assert best(found.judgements, OBJECTIVES["f1"]) is None
    assert len(found.judgements) == 3


def test_a_candidate_that_is_better_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, better = run("plain", "A dog and a cat."), run("better", "A dog.")
    monkeypatch.setattr(
        tune_null,
        "tossed",
        lambda name, runs, draws: replace(plain if name == tune_null.PLAIN else better, name=name),
    )
    found = tune_null.search([plain, better], 4, "f1", seed=0)
    assert best(found.judgements, OBJECTIVES["f1"]) is not None
