import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vlmheads_eval.chair.score import interpolate
from vlmheads_eval.statistics import (
    Estimate,
    draw,
    estimate,
    holm,
    mcnemar,
    resample,
    weight_blocks,
)


def test_mcnemar_is_the_exact_binomial_test():
    tail = sum(math.comb(17, k) for k in range(6)) / 2**17
    assert mcnemar(12, 5) == pytest.approx(2 * tail)


@pytest.mark.parametrize("pair", [(0, 0), (7, 7), (58, 57)])
def test_mcnemar_of_equal_counts_is_one(pair):
    assert mcnemar(*pair) == pytest.approx(1.0)


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_symmetric_and_a_probability(first, second):
    p = mcnemar(first, second)
    assert p == mcnemar(second, first)
    assert 0 <= p <= 1


def test_holm_multiplies_step_by_step_and_never_falls():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "none": None})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "none": None})


def test_the_same_seed_draws_the_same_weights():
    first, second = (np.concatenate(list(weight_blocks(7, 50, 3))) for _ in range(2))
    assert (first == second).all()
    assert (first.sum(axis=1) == 7).all()


def test_draws_are_paired_between_runs():
    counts = np.arange(20).reshape(10, 2)
    drawn = resample({"a": counts, "b": counts + 1}, draws=200, seed=0)
    assert (drawn["b"] - drawn["a"] == 10).all()


def test_the_interval_of_a_mean_is_that_of_theory():
    generator = np.random.default_rng(0)
    values = generator.normal(size=400)
    drawn = resample({"x": values}, draws=4000, seed=1)["x"] / 400
    found = estimate(values.mean(), drawn)
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.01
    )
    assert found.detectable == pytest.approx(2.8016 * values.std() / 20, rel=0.05)


def test_a_figure_that_nothing_counts_for_has_no_interval():
    assert estimate(np.nan, np.full(5, np.nan)).value is None


def test_interpolation_is_that_of_numpy_row_by_row():
    x = np.array([[0.0, 1.0, 1.0, 3.0], [0.0, 2.0, 4.0, 5.0]])
    y = np.array([[0.0, 2.0, 2.5, 7.0], [1.0, 2.0, 3.0, 9.0]])
    at = np.array([2.0, 9.0])
    assert interpolate(at, x, y).tolist() == [
        np.interp(value, *rows) for value, *rows in zip(at, x, y, strict=True)
    ]


def test_a_p_value_is_never_zero_for_lack_of_draws():
    assert estimate(1.0, np.ones(99)).p == pytest.approx(2 / 100)


def test_figures_drawn_block_by_block_are_those_of_all_draws():
    counts = np.arange(60).reshape(20, 3)
    sums = resample({"a": counts}, draws=300, seed=2)["a"]
    drawn = draw({"a": counts}, lambda part: {"ratio": part["a"][:, 0] / part["a"][:, 1]}, 300, 2)
    assert (drawn["ratio"] == sums[:, 0] / sums[:, 1]).all()


def test_the_images_that_a_difference_needs_detect_it():
    found = Estimate(-0.04, -0.1, 0.02, 0.2, 0.03)
    assert found.needs(500) == 2208
    assert found.detectable * (500 / 2208) ** 0.5 == pytest.approx(0.04, abs=1e-4)
    assert Estimate(0.0, -0.1, 0.1, 1.0, 0.03).needs(500) is None
    assert Estimate(None).needs(500) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 0.2, True), (-0.2, -0.1, True), (0.0, 0.1, False)]
)
def test_an_interval_that_touches_zero_does_not_exclude_it(low, high, expected):
    assert Estimate(0.1, low, high).excludes_zero == expected
