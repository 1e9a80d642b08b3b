"""Runs at equal recall: whichever recalls more is cut, and exchanging them changes only signs."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.chair import AT_RECALL, compare_chair
from vlmheads_eval.compare.recall import difference_at_recall
from vlmheads_eval.compare.runs import score_texts
from vlmheads_eval.compare.verdict import MIRRORED
from vlmheads_eval.records import Caption, read_captions

PATTERN = get_variant("pattern")
TRUTH = GroundTruth({str(n): frozenset({"dog", "cat", "car"}) for n in range(6)}, ())
SENTENCES = ("A dog.", "A cat.", "A car and a dog.", "A bear.", "A fork and a cat.", "A tree.", "")
captions = st.lists(
    st.lists(st.sampled_from(SENTENCES), max_size=4).map(" ".join), min_size=6, max_size=6
)


def run(name, texts):
    return score_texts(name, [Caption(n, text) for n, text in enumerate(texts)], TRUTH, PATTERN)


def sums(texts):
    return run("", texts).cut.sum(axis=0)[np.newaxis]


def assert_mirrored(result, exchanged):
    """Everything that is said of two runs is said of them exchanged, with the sides exchanged."""
    (one,), (other,) = result["methods"], exchanged["methods"]
    assert other["verdict"] == MIRRORED[one["verdict"]]
    for kind in ("difference", "at_recall"):
        for name, found in one[kind].items():
            back = other[kind][name]
            if found["value"] is None:
                assert back["value"] is None
                continue
            assert back["value"] == pytest.approx(-found["value"], abs=1e-12)
            assert (back["low"], back["high"]) == pytest.approx(
                (-found["high"], -found["low"]), abs=1e-9
            )
            assert back["p"] == pytest.approx(found["p"])
    assert one["mcnemar"]["p"] == other["mcnemar"]["p"]
    assert one["images_needed"] == other["images_needed"]
    levels = [{run["name"]: run["overall"] for run in part["runs"]} for part in (result, exchanged)]
    assert levels[0] == levels[1]


@settings(deadline=None, max_examples=40)
@given(captions, captions)
def test_exchanging_small_runs_mirrors_everything(first, second):
    runs = [run("first", first), run("second", second)]
    assert_mirrored(compare_chair(runs, draws=100), compare_chair(runs[::-1], draws=100))


@pytest.mark.parametrize("pair", list(permutations(range(4), 2)))
def test_a_run_that_recalls_more_is_the_one_that_is_cut(pair):
    whole = "A dog. A cat. A bear."
    texts = ["A dog.", "A dog. A cat.", whole, whole + " A car. A fork."]
    found = difference_at_recall("CHAIRs", *(sums([texts[n]] * 6) for n in pair))
    # All are one text, cut. The bear adds no recall: a run that is cut is cut before it.
    shorter, longer = sorted(pair)
    expected = {(1, 2): 1.0, (2, 3): -1.0}.get((shorter, longer), 0.0)
    assert found[0] == pytest.approx(expected if pair[0] < pair[1] else -expected)


def test_a_run_without_recall_differs_by_nothing_that_is_known():
    empty = GroundTruth({"0": frozenset()}, ())
    cut = score_texts("", [Caption(0, "A dog.")], empty, PATTERN).cut.sum(axis=0)[np.newaxis]
    assert np.isnan(difference_at_recall("CHAIRs", cut, cut)).all()


PUBLISHED = ("adaiat_greedy", "adaiat_pai", "adaiat_ada", "cca_base_long", "areebol_vcdtypo")


@pytest.fixture(scope="module")
def published(shared):
    """The published runs, on 60 of the images that they share."""
    folder = shared("published")
    objects = json.loads(shared("coco/gt_objects_2014.json").read_text("utf-8"))
    files = {name: list(read_captions(folder / f"{name}.jsonl")) for name in PUBLISHED}
    common = set.intersection(*({str(c.image_id) for c in some} for some in files.values()))
    chosen = sorted(common)[:60]
    assert chosen
    truth = GroundTruth({key: frozenset(objects["imid_to_objects"][key]) for key in chosen}, ())
    return {
        name: score_texts(name, (c for c in some if str(c.image_id) in chosen), truth, PATTERN)
        for name, some in files.items()
    }


@pytest.mark.parametrize("pair", [pair for pair in permutations(PUBLISHED, 2) if pair[0] < pair[1]])
def test_exchanging_published_runs_mirrors_everything(published, pair):
    runs = [published[name] for name in pair]
    assert_mirrored(compare_chair(runs, draws=200), compare_chair(runs[::-1], draws=200))


def test_the_at_recall_measures_are_all_there(published):
    result = compare_chair(list(published.values())[:2], draws=100)
    assert set(result["methods"][0]["at_recall"]) == set(AT_RECALL)
