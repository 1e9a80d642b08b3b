"""Pairs of runs: differences, pooled draws, equal recall."""

import pytest
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.paired import (
    above_others,
    at_recall,
    corrected,
    differences,
    figures_of,
    paired,
)
from vlmheads_eval.compare.runs import RunScores, pooled, score_texts
from vlmheads_eval.records import Caption

TRUTH = GroundTruth({str(n): frozenset({"dog", "cat"}) for n in range(20)}, ())


def run(name: str, *texts: str) -> RunScores:
    """Twenty images, whose captions are the texts in turn."""
    captions = [Caption(n, texts[n % len(texts)]) for n in range(20)]
    return score_texts(name, captions, TRUTH, get_variant("pattern"))


def test_a_difference_is_that_of_the_measures() -> None:
    found = paired(run("one", "A dog."), run("two", "A dog and a cat."), draws=200)
    assert found["recall"].value == pytest.approx(0.5)
    assert found["CHAIRi"].value == 0.0
    assert found["object_f1"].value == pytest.approx(1 - 2 / 3)


def test_a_run_does_not_differ_from_itself() -> None:
    one, same = (run(name, "A dog.", "A bear.", "A cat and a fork.") for name in ("one", "same"))
    for found in paired(one, same, draws=200).values():
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_pooled_draws_have_the_mean_of_ratios_with_equal_denominators() -> None:
    draws = [run("a", "A dog."), run("b", "A cat and a dog."), run("c", "A bear.")]
    assert figures_of(pooled("all", draws))["recall"] == pytest.approx((0.5 + 1 + 0) / 3)


def test_the_plain_captions_cut_lie_on_their_own_frontier() -> None:
    plain = run("plain", "A dog. A cat and a fork.", "A cat. A dog. A bear.")
    cut = run("cut", "A dog.", "A cat.")
    found = at_recall(plain, [cut], draws=200)["cut"]
    assert found["object_f1"].value == pytest.approx(0.0)
    assert found["unique_hallucination"].value == pytest.approx(0.0)


def test_holm_corrects_each_measure_over_the_runs() -> None:
    plain = run("plain", "A dog.", "A cat.", "A dog and a bear.")
    others = {
        name: paired(plain, run(name, *texts), ("recall",), draws=200)
        for name, texts in {"more": ("A dog and a cat.",), "same": ("A dog.",)}.items()
    }
    found = corrected(others)
    low, high = sorted(one["recall"].p or 0 for one in others.values())
    assert found["more"]["recall"]["holm"] == pytest.approx(2 * low)
    assert found["same"]["recall"]["holm"] == pytest.approx(max(2 * low, high))


def test_many_pairs_give_what_each_gives_alone() -> None:
    one, two, three = (
        run("1", "A dog."),
        run("2", "A cat.", "A bear."),
        run("3", "A dog and a cat."),
    )
    together = differences([(one, two), (one, three)], draws=200)
    assert together == [paired(one, two, draws=200), paired(one, three, draws=200)]


def test_a_method_above_many_others_is_above_each_alone() -> None:
    ours = run("ours", "A dog. A cat.")
    others = [run(f"{n}", "A dog. A bear." if n % 2 else "A cat. A fork.") for n in range(20)]
    found = above_others(ours, others, draws=100)
    assert len(found) == 20
    alone = at_recall(others[3], [ours], draws=100)["ours"]
    assert found["3"] == alone


def test_no_pairs_have_no_differences() -> None:
    assert differences([]) == []
