import random

import numpy as np
import pytest
from vlmheads_eval.benchmarks.clustered import exchange_test, intervals, paired_differences
from vlmheads_eval.benchmarks.record import Figure, Tally, share
from vlmheads_eval.statistics import mcnemar

ACCURACY = [Figure("accuracy", share("right", "asked"), "asked")]


def tally(rights):
    """A tally of clusters, each a list of right and wrong answers."""
    result = Tally()
    for name, cluster in enumerate(rights):
        for number, right in enumerate(cluster):
            result.add(str(name), asked=1, right=int(right))
            result.correct[f"{name}/{number}"] = bool(right)
    return result


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (5, 0), (7, 2), (3, 3), (40, 21)])
def test_with_one_question_a_cluster_whole_clusters_are_mcnemars_test(won, lost):
    gains = [1] * won + [-1] * lost + [0] * 10
    assert exchange_test(gains) == pytest.approx(mcnemar(lost, won))


def test_whole_clusters_weigh_as_one_observation():
    # Ten questions won in two clusters are two observations, not ten.
    assert exchange_test([5, 5]) == 0.5
    assert exchange_test([1] * 10) == pytest.approx(2 / 2**10)


def test_the_exchange_test_gives_what_all_signs_give():
    gains = [3, -1, 2, 2, -1, 4]
    totals = [
        abs(sum(gain if mask >> at & 1 else -gain for at, gain in enumerate(gains)))
        for mask in range(2 ** len(gains))
    ]
    expected = np.mean([total >= abs(sum(gains)) for total in totals])
    assert exchange_test(gains) == pytest.approx(expected)


def test_intervals_are_those_of_clusters_and_not_of_questions():
    draws = random.Random(0)
    same = [[draws.random() < 0.5] * 10 for _ in range(40)]
    mixed = [[draws.random() < 0.5 for _ in range(10)] for _ in range(40)]
    width = {}
    for name, rights in (("same", same), ("mixed", mixed)):
        found = intervals(tally(rights), ACCURACY, 2000, 0)["accuracy"]
        width[name] = found.high - found.low
        assert found.low <= found.value <= found.high
    assert width["same"] > 2 * width["mixed"]


def test_one_cluster_has_a_figure_and_no_interval():
    found = intervals(tally([[True, False]]), ACCURACY, 200, 0)["accuracy"]
    assert (found.value, found.low, found.high) == (0.5, None, None)


def test_differences_are_paired_and_antisymmetric():
    first = tally([[1, 0], [0, 0], [1, 1], [0, 1]])
    second = tally([[1, 1], [0, 0], [1, 1], [1, 1]])
    forth = paired_differences(first, second, ACCURACY, 500, 0)["accuracy"]
    back = paired_differences(second, first, ACCURACY, 500, 0)["accuracy"]
    assert forth.value == 0.25
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    same = paired_differences(first, first, ACCURACY, 500, 0)["accuracy"]
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
