"""Separation of true from invented words, flags, and the fit, against slow or plain forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vlmheads_eval.calibrate.scorer import (
    choose_features,
    fit_scorer,
    flag_figures,
    logistic,
    with_evidence,
)
from vlmheads_eval.word_scores import (
    COLUMNS,
    WordTable,
    auroc,
    auroc_interval,
    auroc_within,
    directed,
    separation,
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
        "place": random.integers(0, 60, size=words) + 8 * ~true,
        "repeat": (random.random(words) < 0.3).astype(float),
    }
    return WordTable(np.arange(words) // 4, true, values, divergences, words // 4 + 1)


def test_the_interval_is_the_bootstrap_over_images() -> None:
    words = table()
    scores = words.values["log_probability"]
    found = auroc_interval(words, scores, 300, seed=3)
    random = np.random.default_rng(3)
    images = words.images
    drawn = []
    for _ in range(300):
        weights = np.bincount(random.integers(0, images, images), minlength=images)
        at = np.repeat(np.arange(400), weights[words.image])
        drawn.append(slow_auroc(scores[at], words.true[at]))
    assert found.value == pytest.approx(slow_auroc(scores, words.true))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))))


def test_flags_are_counted_by_hand() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.9, 0.4])
    true = np.array([False, True, False, False, True])
    values = {"place": np.array([1, 9, 3, 4, 8]), "repeat": np.array([0, 0, 0, 0, 1])}
    words = WordTable(np.array([0, 0, 1, 1, 2]), true, values, np.zeros((5, 1)), 3)
    found = flag_figures(words, scores, 0.35, 50)
    assert found["precision of the latest words"].value == pytest.approx(1 / 3)  # of 9, 8 and 4
    assert found["precision less that of the latest"].value == pytest.approx(1 / 3)
    assert found["precision, first mentions"].value == pytest.approx(2 / 3)
    assert found["precision, repeats"].value is None
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


def slow_within(scores: Any, true: Any, place: Any) -> float:
    """Bin after bin, pair after pair."""
    won = pairs = 0.0
    for start in range(0, int(place.max()) + 1, 10):
        inside = [at for at, where in enumerate(place) if start <= where < start + 10]
        good = [at for at in inside if true[at]]
        bad = [at for at in inside if not true[at]]
        if len(inside) < 10 or not good or not bad:
            continue
        area = slow_auroc(scores[inside], true[inside])
        won += area * len(good) * len(bad)
        pairs += len(good) * len(bad)
    return won / pairs if pairs else float("nan")


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 35)), min_size=1, max_size=60
    )
)
def test_auroc_within_bins_weighs_bins_by_their_pairs(rows: list[tuple[int, bool, int]]) -> None:
    scores = np.array([float(score) for score, *_ in rows])
    true = np.array([flag for _, flag, _ in rows])
    place = np.array([at for *_, at in rows])
    expected = slow_within(scores, true, place)
    assert auroc_within(scores, true, place)[0] == pytest.approx(expected, nan_ok=True)


def test_a_score_that_only_knows_the_place_tells_nothing_within_bins() -> None:
    random = np.random.default_rng(0)
    count = 4000
    place = random.integers(0, 100, size=count)
    true = random.random(count) > place / 110
    values = {"place": place, "repeat": np.zeros(count)}
    table = WordTable(np.arange(count) // 8, true, values, np.zeros((count, 1)), count // 8)
    found = separation(table, -(place // 10) + random.normal(size=count) * 0.01, 200)
    assert found["all"].value is not None
    assert found["within bins"].value is not None
    assert found["all"].value > 0.8
    assert abs(found["within bins"].value - 0.5) < 0.03
    assert found["less place within bins"].low is not None
    assert found["less place within bins"].low < 0


def test_every_column_is_the_plain_auroc_of_its_words() -> None:
    words = table(600, seed=5)
    scores = words.values["log_probability"].copy()
    scores[::7] = np.nan  # words without the score are left out, of place alone, too
    known = ~np.isnan(scores)
    first = known & (words.values["repeat"] == 0)
    place = words.values["place"]
    found = separation(words, scores, 100)
    for column, expected in {
        "all": slow_auroc(scores[known], words.true[known]),
        "place alone": slow_auroc(-place[known], words.true[known]),
        "within bins": slow_within(scores[known], words.true[known], place[known]),
        "place within bins": slow_within(-place[known], words.true[known], place[known]),
        "first mentions": slow_auroc(scores[first], words.true[first]),
        "place alone, first mentions": slow_auroc(-place[first], words.true[first]),
        "repeats": slow_auroc(scores[known & ~first], words.true[known & ~first]),
    }.items():
        assert found[column].value == pytest.approx(expected), column
    assert set(COLUMNS) < set(found)
    for one in found.values():
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.high


def test_directions_are_turned_where_low_means_true() -> None:
    values = {name: np.arange(3.0) for name in ("svar", "entropy", "pas", "place", "p_yes")}
    found = directed(values, values)
    assert {name for name, column in found.items() if column[2] < 0} == {"entropy", "pas", "place"}


def test_features_are_chosen_and_tested_on_other_images() -> None:
    words = table(1200, seed=2)
    candidates = {"noise": ("attention", "place"), "tells": ("divergence", "log_probability")}
    best, found = choose_features(words, GEOMETRY, candidates)
    assert best == "tells"
    assert found["tells"] > found["noise"]
    scorer = fit_scorer(words, GEOMETRY, {}, features=candidates[best])
    assert "not tested on images" in scorer.caveat
    other = table(1200, seed=9)
    tested = with_evidence(scorer, {"other": other}, GEOMETRY, 200)
    evidence = tested.provenance["held_out"]["other"]
    scores = other.scores(scorer, GEOMETRY)
    within = auroc_within(scores, other.true, other.values["place"])[0]
    assert evidence["within_bins"]["value"] == pytest.approx(within)
    assert evidence["less_place_within_bins"]["low"] > 0
    assert tested.caveat == ""
    poor = fit_scorer(words, GEOMETRY, {}, features=("attention",))
    said = with_evidence(poor, {"other": other}, GEOMETRY, 200).caveat
    assert said.startswith("on other the score is not shown to tell")


def test_words_of_some_images_are_numbered_anew() -> None:
    words = table(40)
    chosen = np.arange(words.images) % 2 == 1
    part = words.of_images(chosen)
    assert part.images == chosen.sum()
    assert part.image.tolist() == [at // 2 for at in words.image if at % 2]
    assert part.values["place"].tolist() == words.values["place"][words.image % 2 == 1].tolist()
