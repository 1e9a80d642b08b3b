"""Runs of captions: several captions per image, pooled seeds, and what a report shows of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.measures import Counts
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare import compared
from vlmheads_eval.compare.runs import pool_seeds, pooled, score_run, score_texts
from vlmheads_eval.records import Caption

from vlmheads.errors import VlmHeadsError

TRUTH = GroundTruth({str(n): frozenset({"dog"}) for n in range(9)}, ())
CAPTIONS = Counts._fields.index("captions")


def run(name, texts, decoding=None):
    captions = [Caption(image, text) for image, text in texts]
    return score_texts(name, captions, TRUTH, get_variant("pattern"), decoding)


def test_captions_of_one_image_are_summed_and_images_sorted():
    found = run("a", [(2, "A dog."), (1, "A cat."), (2, "A dog.")])
    assert found.images == ("1", "2")
    assert found.counts[:, CAPTIONS].tolist() == [1, 2]
    assert found.cut[:, -1, CAPTIONS].tolist() == [1, 2]


def test_the_order_of_the_file_changes_nothing():
    texts = [(n, "A dog." if n % 2 else "A cat.") for n in range(9)]
    one, other = run("a", texts), run("a", texts[::-1])
    assert one.images == other.images
    assert (one.counts == other.counts).all()
    assert (one.cut == other.cut).all()


def test_pooled_runs_count_an_image_once_however_many_have_it():
    found = pooled("a", [run("a1", [(1, "A dog."), (2, "A dog.")]), run("a2", [(1, "A cat.")])])
    assert found.images == ("1", "2")
    assert found.counts[:, CAPTIONS].tolist() == [1, 1]
    hallucinating = found.counts[:, Counts._fields.index("hallucinating")]
    assert hallucinating.tolist() == [0.5, 0]
    assert found.kind == "decoding not stated, 2 runs pooled"
    assert found.gallery.captions == 3


@pytest.mark.parametrize(
    "names",
    [("vcd-0", "vcd-1"), ("vcd_s0", "vcd_s4"), ("vcd seed 1", "vcd seed 2"), ("vcd", "vcd")],
)
def test_names_that_differ_in_a_seed_are_pooled(names):
    plain = run("plain", [(1, "A dog.")])
    found = pool_seeds([plain, *(run(name, [(1, "A dog.")], "sampled") for name in names)])
    assert [(one.name, one.seeds) for one in found] == [("plain", 1), ("vcd", 2)]
    assert found[1].kind == "sampled, 2 runs pooled"


def test_nothing_to_pool_is_refused():
    with pytest.raises(VlmHeadsError, match="--pool with a, b"):
        pool_seeds([run("a", [(1, "A dog.")]), run("b", [(1, "A dog.")])])


def test_the_worst_captions_come_first_and_ties_in_the_order_of_the_file():
    texts = [(n, "A cat and a fork." if n == 5 else "A cat.") for n in range(9)]
    worst = run("a", texts).gallery.worst
    assert [caption.image_id for caption, _ in worst] == [5, 0, 1, 2, 3, 4, 6, 7]


@pytest.fixture
def folder(tmp_path):
    """Three files of captions and their objects."""
    for name in ("a-0", "a-1", "b"):
        lines = [json.dumps({"image_id": n, "caption": "A dog."}) for n in range(9)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "truth.json").write_text(json.dumps({str(n): ["dog"] for n in range(9)}))
    return tmp_path


def compare(folder, *, names=None, **options):
    files = tuple(folder / f"{name}.jsonl" for name in ("b", "a-0", "a-1"))
    truth = (folder / "truth.json",)
    return compared(files, truth, names, None, "pattern", "strict", 100, 0, **options)[0]


def test_decodings_and_pooled_seeds_reach_the_result(folder):
    result = compare(folder, decoding="greedy,sampled,sampled", pool=True)
    assert [run["kind"] for run in result["runs"]] == ["greedy", "sampled, 2 runs pooled"]
    assert result["methods"][0]["mcnemar"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoding": "hot"}, "decoding 'hot'"),
        ({"decoding": "greedy,sampled"}, "2 decodings"),
        ({"names": "x,y"}, "2 names"),
        ({"names": "x,y,y"}, "two runs of one name"),
    ],
)
def test_options_that_do_not_fit_the_runs_are_refused(folder, options, message):
    with pytest.raises(VlmHeadsError, match=message):
        compare(folder, **options)


def test_answers_of_two_runs_of_one_name_are_refused(tmp_path):
    runs = tuple(tmp_path / name / "run" for name in "ab")
    with pytest.raises(VlmHeadsError, match="two runs of one name"):
        compared(runs, (), None, "pope", "pattern", "strict", 100, 0)


def test_a_run_folder_says_how_it_was_decoded(tmp_path):
    (tmp_path / "predictions.jsonl").write_text(
        json.dumps({"image_id": 1, "caption": "A dog."}) + "\n"
    )
    variant = get_variant("pattern")
    assert score_run("a", tmp_path, TRUTH, variant).decoding is None
    (tmp_path / "config.json").write_text(json.dumps({"task": "caption"}))
    assert score_run("a", tmp_path, TRUTH, variant).decoding == "greedy"
    (tmp_path / "config.json").write_text(json.dumps({"decoding": "sampled"}))
    assert score_run("a", tmp_path, TRUTH, variant).decoding == "sampled"
    assert score_run("a", tmp_path, TRUTH, variant, "beams").decoding == "beams"
    assert np.issubdtype(score_run("a", tmp_path, TRUTH, variant).counts.dtype, np.integer)
