"""Separation of true from invented words, flags, and the fit, against slow or plain forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vlmheads_eval.word_scores import (
    WordTable,
    auroc,
    auroc_interval,
    fit_scorer,
    flag_figures,
    logistic,
)

from vlmheads import VlmHeadsError
from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 8, 4)


def slow_auroc(scores: Any, true: Any) -> float:
    """Pair after pair."""
    pairs = [
        1.0 if good > bad else 0.5 if good == bad else 0.0
        for good in scores[true]
        for bad in scores[~true]
    ]
    return sum(pairs) / len(pairs) if pairs else float("nan")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=1))
def test_auroc_counts_pairs_ties_and_repeated_words(rows: list[tuple[int, bool, int]]) -> None:
    scores = np.array([float(score) for score, _, _ in rows])
    true = np.array([flag for _, flag, _ in rows])
    times = np.array([count for *_, count in rows])
    assert auroc(scores, true)[0] == pytest.approx(slow_auroc(scores, true), nan_ok=True)
    repeated = np.repeat(scores, times), np.repeat(true, times)
    expected = slow_auroc(*repeated)
    assert auroc(scores, true, times[None])[0] == pytest.approx(expected, nan_ok=True)


def table(words: int = 400, seed: int = 0) -> WordTable:
    """Words whose log-probability tells, and whose third k of T-VHD tells most of all k."""
    random = np.random.default_rng(seed)
    true = random.random(words) < 0.8
    noise = random.normal(size=(words, 8))
    divergences = noise[:, :4] + true[:, None] * np.array([0.1, 0.3, 0.9, 0.2])
    values = {
        "divergence": divergences[:, 0],
        "attention": noise[:, 4],
        "log_probability": noise[:, 5] + true - 3,
        "log_probability_without": noise[:, 6] - 4,
    }
    return WordTable(np.arange(words) // 4, true, values, divergences, words // 4 + 1)


def test_the_interval_is_the_bootstrap_over_images() -> None:
    words = table()
    scores = words.values["log_probability"]
    found = auroc_interval(words, scores, 300, seed=3)
    random = np.random.default_rng(3)
    images = words.images
    drawn = []
    for weights in random.multinomial(images, np.full(images, 1 / images), size=300):
        at = np.repeat(np.arange(400), weights[words.image])
        drawn.append(slow_auroc(scores[at], words.true[at]))
    assert found.value == pytest.approx(slow_auroc(scores, words.true))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))))


def test_flags_are_counted_by_hand() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.9, 0.4])
    true = np.array([False, True, False, False, True])
    words = WordTable(np.array([0, 0, 1, 1, 2]), true, {}, np.zeros((5, 1)), 3)
    found = flag_figures(words, scores, 0.35, 50)
    assert found["precision"].value == pytest.approx(2 / 3)
    assert found["recall"].value == pytest.approx(2 / 3)
    assert found["false alarms"].value == pytest.approx(1 / 2)
    assert flag_figures(words, scores, 0.0, 50)["precision"].value is None


def test_the_regression_stands_where_its_loss_is_least() -> None:
    random = np.random.default_rng(1)
    columns, true = random.normal(size=(200, 3)), random.random(200) < 0.9
    weights, bias = logistic(columns, true, penalty=0.01)

    def loss(at: Any) -> float:
        margin = np.where(true, 1, -1) * (columns @ at[:3] + at[3])
        each = np.logaddexp(0, -margin)
        balanced = (each[true].mean() + each[~true].mean()) / 2
        return float(balanced + 0.005 * (at[:3] ** 2).sum())

    here = np.append(weights, bias)
    for axis in range(4):
        for step in (-1e-3, 1e-3):
            assert loss(here + step * np.eye(4)[axis]) > loss(here)


def test_a_fitted_scorer_takes_its_k_and_threshold_from_the_words() -> None:
    words = table()
    scorer = fit_scorer(words, GEOMETRY, {"model": "some"}, false_alarms=0.1)
    assert (scorer.k, scorer.geometry, scorer.provenance["model"]) == (3, GEOMETRY, "some")
    scores = words.scores(scorer, GEOMETRY)
    flagged = (scores < scorer.threshold)[words.true].mean()
    assert 0.09 < flagged <= 0.1
    assert auroc(scores, words.true)[0] > auroc(words.divergences[:, 2], words.true)[0]
    assert scorer.provenance["auroc"] == pytest.approx(auroc(scores, words.true)[0])
    measures = {name: float(column[7]) for name, column in words.at(3).items()}
    assert scores[7] == pytest.approx(scorer(measures))


def test_words_of_one_kind_cannot_be_fitted_on() -> None:
    words = table()
    alike = WordTable(words.image, np.ones_like(words.true), words.values, words.divergences, 101)
    with pytest.raises(VlmHeadsError, match="400 object words, 400 of them true"):
        fit_scorer(alike, GEOMETRY, {})


@pytest.mark.parametrize("false_alarms", [0.0, 0.05, 0.1, 0.25])
def test_the_threshold_flags_no_larger_share_of_true_words(false_alarms: float) -> None:
    words = table(14)
    scorer = fit_scorer(words, GEOMETRY, {}, false_alarms=false_alarms)
    flagged = words.scores(scorer, GEOMETRY) < scorer.threshold
    assert flagged[words.true].mean() <= false_alarms
