"""Verdicts: the categories, their mirror images, and the flags."""

from __future__ import annotations

import pytest
from vlmheads_eval.compare.verdict import (
    MIRRORED,
    SAYS_LESS,
    SAYS_MORE,
    VERDICTS,
    described,
    flags,
    judge,
    labelled,
    sign,
)
from vlmheads_eval.statistics import BETTER, SAME, WORSE, Estimate

SHARES = {"repetition": 0.0, "at_limit": 0.0, "empty": 0.0, "broken": 0.0, "words": 80.0}
NONE = {name: Estimate(0.0, 0.0, 0.0) for name in SHARES}
ALIKE = Estimate(0.0, -0.01, 0.01)


@pytest.mark.parametrize(
    ("rate", "objects", "recall", "expected"),
    [
        (-1, 0, 0, BETTER),
        (-1, -1, -1, BETTER),
        (1, 0, 1, WORSE),
        (0, 0, -1, SAYS_LESS),
        (0, 0, 1, SAYS_MORE),
        (0, -1, 0, SAME),
        (-1, 1, -1, SAME),
        (0, 0, 0, SAME),
    ],
)
def test_the_signs_give_the_verdict(rate, objects, recall, expected):
    assert judge(rate, objects, recall) == expected


@pytest.mark.parametrize("rate", [-1, 0, 1])
@pytest.mark.parametrize("objects", [-1, 0, 1])
@pytest.mark.parametrize("recall", [-1, 0, 1])
def test_exchanged_runs_have_the_mirrored_verdict(rate, objects, recall):
    verdict = judge(rate, objects, recall)
    assert verdict in VERDICTS
    assert judge(-rate, -objects, -recall) == MIRRORED[verdict]


@pytest.mark.parametrize(
    ("interval", "corrected", "expected"),
    [
        ((-0.3, -0.1), 0.01, -1),
        ((0.1, 0.3), 0.01, 1),
        ((-0.3, 0.1), 0.01, 0),
        ((-0.3, -0.1), 0.05, 0),
        ((-0.3, -0.1), None, 0),
    ],
)
def test_a_sign_needs_the_interval_and_the_corrected_p(interval, corrected, expected):
    assert sign(Estimate(sum(interval) / 2, *interval), corrected) == expected


def test_a_share_is_flagged_where_it_is_a_point_higher_beyond_chance():
    own = SHARES | {"broken": 0.306}
    higher = NONE | {"broken": Estimate(0.306, 0.28, 0.33)}
    (flag,) = flags(own, SHARES, higher, ALIKE)
    assert described(flag.to_dict()) == "broken text (30.6% against 0.0%: +30.6 [+28.0, +33.0])"


@pytest.mark.parametrize(
    ("value", "difference"),
    [(0.02, Estimate(0.02, -0.001, 0.04)), (0.009, Estimate(0.009, 0.001, 0.02))],
    ids=["chance", "too small"],
)
def test_a_share_within_chance_or_below_a_point_is_no_flag(value, difference):
    assert flags(SHARES | {"empty": value}, SHARES, NONE | {"empty": difference}, ALIKE) == []


def test_a_limit_that_the_baseline_does_not_record_is_flagged_without_an_interval():
    own, baseline = SHARES | {"at_limit": 0.07}, SHARES | {"at_limit": None}
    (flag,) = flags(own, baseline, NONE | {"at_limit": Estimate(None)}, ALIKE)
    assert described(flag.to_dict()) == "at the limit (7.0%, unknown for the baseline)"


def test_captions_half_as_long_again_are_much_longer():
    own = SHARES | {"words": 137.0}
    (flag,) = flags(own, SHARES, NONE, Estimate(0.71, 0.6, 0.8))
    assert described(flag.to_dict()) == (
        "much longer (137 words against 80: times 1.71 [1.60, 1.80])"
    )
    assert flags(own, SHARES, NONE, Estimate(0.3, 0.2, 0.4)) == []


def test_a_label_names_every_flag():
    found = [{"name": "repeats"}, {"name": "empty"}]
    assert labelled({"verdict": BETTER, "flags": found}) == "better; repeats, empty"
    assert labelled({"verdict": BETTER}) == "better"
