"""Thresholds with a stated risk: published values, plain forms, coverage in simulation, wording."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmheads import VlmHeadsError
from vlmheads.grounding import risk
from vlmheads.grounding.guarantee import CONDITIONS, guarantee, verified
from vlmheads.grounding.risk import ImageScores, choose_threshold, images_needed, verify_threshold

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "risk_control.json").read_text("utf-8")
)
TOY = [
    ImageScores(np.array([score for score, _ in image]), np.array([true for _, true in image]))
    for image in GOLDEN["toy"]["images"]
]


def as_golden(value: float) -> float | None:
    return None if math.isinf(value) else value


@pytest.mark.parametrize("case", GOLDEN["p_values"], ids=lambda case: f"{case['errors']}")
def test_p_values_are_those_of_the_published_code(case: dict[str, Any]) -> None:
    n, errors, alpha = case["n"], case["errors"], case["alpha"]
    assert risk.binomial_p_value(n, errors, alpha) == pytest.approx(case["binomial"], rel=1e-9)
    assert risk.binomial_p_value(n, errors, alpha) == pytest.approx(case["ltt_binom"], rel=1e-9)
    expected = case["hoeffding_bentkus"]
    if errors:
        assert risk.hoeffding_bentkus_p_value(n, errors, alpha) == pytest.approx(expected, rel=1e-9)
    else:  # There the published code has NaN for Hoeffding's term, and is left with Bentkus's.
        assert risk.bentkus_p_value(n, 0, alpha) == pytest.approx(expected, rel=1e-9)
        assert risk.hoeffding_bentkus_p_value(n, 0, alpha) == pytest.approx((1 - alpha) ** n)


def test_toy_thresholds_are_the_published_ones() -> None:
    toy = GOLDEN["toy"]
    last = [risk.last_false(image) for image in TOY]
    assert [None if value == -math.inf else value for value in last] == toy["nonconformity"]
    for alpha, expected in toy["split_threshold"].items():
        assert as_golden(risk.split_threshold(last, float(alpha))) == expected
    for name, losses in (
        ("crc_share_of_all_objects_kept_wrong", risk.false_of_all),
        ("crc_monotone_fdp", risk.highest_false_share),
    ):
        for alpha, expected in toy[name].items():
            assert risk.conformal_risk_threshold(TOY, float(alpha), losses) == expected
    for shares, expected in toy["ltt_any_wrong"].items():
        alpha, delta = map(float, shares.split(","))
        assert as_golden(risk.learn_then_test_threshold(TOY, alpha, delta)) == expected


def test_losses_that_are_no_integers_do_not_jump_to_the_next() -> None:
    whole = risk.bentkus_p_value(100, 5.0, 0.1)
    assert risk.bentkus_p_value(100, sum([0.1] * 50), 0.1) == whole
    assert risk.bentkus_p_value(100, 5.01, 0.1) > whole


images = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=4).map(
        lambda rows: ImageScores(
            np.array([score for score, _ in rows], float), np.array([true for _, true in rows])
        )
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(images, st.sampled_from([0.0, 0.2, 0.5]))
def test_the_last_false_threshold_is_the_least_that_no_later_one_breaks(
    several: list[ImageScores], beta: float
) -> None:
    for image in several:
        found = risk.last_false(image, beta)
        grid = np.unique(np.r_[image.scores, -1.0, 9.0])
        shares = {float(at): float(risk.false_share(image, np.array([at]))[0]) for at in grid}
        good = [at for at in shares if all(shares[b] <= beta for b in shares if b >= at)]
        assert min(good) == (found if found > -math.inf else -1.0)


@settings(deadline=None, max_examples=40)
@given(images)
def test_losses_over_thresholds_are_those_of_plain_counting(several: list[ImageScores]) -> None:
    grid = np.array([-math.inf, -0.5, 0.0, 1.0, 2.5, 4.0, math.inf])
    for image in several:
        shares = []
        for at in grid:
            kept = [t for s, t in zip(image.scores, image.true, strict=True) if s > at]
            shares.append(kept.count(False) / len(kept) if kept else 0.0)
        assert risk.false_share(image, grid).tolist() == pytest.approx(shares)
        assert risk.any_false(image, grid).tolist() == [float(share > 0) for share in shares]
        every = np.unique(np.r_[grid, image.scores])
        of_every = risk.false_share(image, every)
        highest = [of_every[every >= at].max() for at in grid]
        assert risk.highest_false_share(image, grid).tolist() == pytest.approx(highest)


def simulated(count: int, seed: int) -> list[ImageScores]:
    """Images that differ in difficulty, with 0 to 5 objects; true ones score higher."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        size, hard = random.integers(0, 6), random.beta(1, 3)
        true = random.random(size) > hard
        found.append(ImageScores(random.normal(size=size) + 1.5 * true - hard, true))
    return found


RUNS = 150
TEST = simulated(4000, 10_000)


def risks(counted: Callable[..., Any], **options: Any) -> Any:
    """The true risk of the thresholds of many calibrations."""
    grid = [choose_threshold(simulated(120, seed), 0.2, **options).value for seed in range(RUNS)]
    return np.mean([counted(image, np.array(grid)) for image in TEST], axis=0)


@pytest.mark.parametrize(("rule", "loss"), [("split", "any"), ("conformal risk", "share")])
def test_rules_that_hold_on_average_do_and_no_more(rule: Any, loss: Any) -> None:
    losses = risk.any_false if loss == "any" else risk.false_share
    found = risks(losses, rule=rule, loss=loss)
    assert found.mean() <= 0.2 + 3 * found.std() / math.sqrt(RUNS) + 0.01
    if loss == "any":
        assert found.mean() >= 0.2 - 1 / 121 - 0.02  # not conservative without ties
        assert (found > 0.2).mean() > 0.2  # which is why the statement says "on average"


@pytest.mark.parametrize("loss", ["any", "share"])
def test_learn_then_test_is_seldom_above_its_risk(loss: Any) -> None:
    losses = risk.any_false if loss == "any" else risk.false_share
    found = risks(losses, loss=loss, delta=0.1)
    assert (found > 0.2).mean() <= 0.1 + 3 * math.sqrt(0.09 / RUNS)
    assert found.mean() > 0.02  # it certifies something


def test_the_tolerance_is_kept_on_average() -> None:
    def above(image: ImageScores, thresholds: Any) -> Any:
        return (risk.false_share(image, thresholds) > 0.25).astype(float)

    found = risks(above, rule="tolerance", beta=0.25)
    assert found.mean() <= 0.21


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    assert images_needed("split", 0.05) == 19
    assert [images_needed("learn then test", a, d) for a, d in ((0.05, 0.1), (0.05, 0.05),
            (0.1, 0.1))] == [45, 59, 22]  # fmt: skip
    for rule, alpha, needed in (("split", 0.05, 19), ("learn then test", 0.1, 22)):
        with pytest.raises(VlmHeadsError, match=f"at least {needed}"):
            choose_threshold(simulated(needed - 1, 0), alpha, rule=rule)  # type: ignore[arg-type]
        clean = [ImageScores(np.array([1.0]), np.array([True]))] * needed
        assert choose_threshold(clean, alpha, rule=rule).value == -math.inf  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"delta": 1.0}, "delta=1.0"),
        ({"beta": 0.1}, r"beta=0.1 with the rule learn then test"),
        ({"rule": "split", "loss": "share"}, "the loss share with the rule split"),
    ],
)
def test_options_that_make_no_threshold_are_refused(options: Any, message: str) -> None:
    with pytest.raises(VlmHeadsError, match=message):
        choose_threshold(simulated(50, 0), **{"alpha": 0.2} | options)
    with pytest.raises(VlmHeadsError, match=r"scores of shape \[2\] with truths of shape \[1\]"):
        ImageScores(np.zeros(2), np.zeros(1))


def test_the_statement_says_what_holds_and_no_more() -> None:
    several = simulated(300, 1)
    sure = guarantee(choose_threshold(several, 0.3))
    assert sure.startswith("With 90 % confidence over calibrations, the share of new captions")
    mean = guarantee(choose_threshold(several, 0.3, rule="split"))
    assert mean.startswith("On average over calibrations, the share of new captions")
    assert "a single calibration may be above" in mean
    tolerant = guarantee(choose_threshold(several, 0.3, rule="tolerance", beta=0.2))
    assert "more than 20 % of what is kept is false is at most 30 %" in tolerant
    share = guarantee(choose_threshold(several, 0.3, rule="conformal risk", loss="share"))
    assert "in the mean over new captions" in share
    for text in (sure, mean, tolerant, share):
        assert text.endswith(CONDITIONS)
        assert "of the true objects" in text


def test_a_risk_that_costs_too_much_is_called_out_of_reach() -> None:
    several = simulated(300, 1)
    costly = choose_threshold(several, 0.1)
    said = guarantee(costly, most_dropped=0.2)
    assert "cannot be reached on these 300 images without dropping more than 20 %" in said
    hopeless = [ImageScores(np.array([1.0, 1.0]), np.array([True, False]))] * 50
    assert "no threshold passes" in guarantee(choose_threshold(hopeless, 0.1))


def test_other_images_verify_the_risk() -> None:
    threshold = choose_threshold(simulated(300, 1), 0.3)
    found = verify_threshold(TEST, threshold)
    kept = [image.scores > threshold.value for image in TEST]
    wrong = [bool((a & ~image.true).any()) for a, image in zip(kept, TEST, strict=True)]
    assert found.risk == pytest.approx(np.mean(wrong))
    assert found.low < found.risk < found.high
    assert "On 4000 other images" in verified(found, threshold)
    assert "agrees with" in verified(found, threshold)
    bad = [ImageScores(np.array([9.0]), np.array([False]))] * 20
    assert "ABOVE the 30 %" in verified(verify_threshold(bad, threshold), threshold)
    with pytest.raises(VlmHeadsError, match="no image to verify"):
        verify_threshold([], threshold)


def test_the_exact_interval_is_clopper_and_pearsons() -> None:
    assert risk.exact_interval(20, 0) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    assert risk.exact_interval(20, 20) == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert risk.exact_interval(10, 3) == pytest.approx((0.06673951, 0.65245285), abs=1e-6)
