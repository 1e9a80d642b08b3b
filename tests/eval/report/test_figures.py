"""The report's figures: every run where it belongs, in colours that follow the page's theme."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.variants import get_variant
from vlmheads_eval.compare.chair import compare_chair
from vlmheads_eval.compare.runs import score_texts
from vlmheads_eval.records import Caption
from vlmheads_eval.report.figures import bar_chart, frontier_plot
from vlmheads_eval.report.page import page

from vlmheads.plotting.palette import DARK, LIGHT

DATA = Path(__file__).parents[3] / "docs" / "data" / "wrong-places.json"


@pytest.fixture(scope="module")
def result():
    return json.loads(DATA.read_text("utf-8"))


def words_of(svg: str) -> set[str | None]:
    return {element.text for element in ElementTree.fromstring(svg).iter("text")}


def test_the_frontier_names_its_axes_and_every_run_but_those_far_off(result):
    shown = {"recall (%)", "CHAIR_S (%)", "plain", "vhr", "random-heads-1"}
    assert shown | {"text-only"} <= words_of(frontier_plot(result, "CHAIRs", "CHAIR_S"))
    others = copy.deepcopy(result)
    for run in others["runs"]:
        if run["name"] != "text-only":
            run["overall"]["unique_hallucination"] /= 3
    words = words_of(frontier_plot(others, "CHAIRs", "CHAIR_S"))
    assert shown <= words
    assert "text-only" not in words


def test_a_run_keeps_its_colour_where_others_are_left_out(result):
    svg = bar_chart(["fork"], {"vhr": [1.0]}, "in 100 captions", "Invented", positions=[2])
    assert "--figure-category-2" in svg
    assert "--figure-category-1" not in svg


def test_a_comparison_without_recall_is_said_to_have_no_figure(result):
    empty = result | {"frontier": [], "runs": []}
    assert "No recall to draw" in frontier_plot(empty, "CHAIRs", "CHAIR_S")


def test_the_page_has_both_themes_and_names_only_colours_that_they_have(result):
    text = page(result, [])
    for theme in (LIGHT, DARK):
        assert f"--figure-background:{theme.background};" in text
    used = set(re.findall(r"var\((--figure-[\w-]+)", text))
    assert used <= set(re.findall(r"(--figure-[\w-]+):", text))
    assert "<script" not in text


def test_a_run_without_bars_keeps_its_colour_in_the_legend():
    svg = bar_chart(["fork"], {"plain": [None], "vhr": [None]}, "%", "Share", positions=[0, 1])
    assert "--figure-category-0" in svg
    assert "--figure-category-1" in svg


def test_short_runs_get_a_sentence_in_place_of_an_empty_chart():
    truth = GroundTruth({str(n): frozenset({"dog"}) for n in range(4)}, ())
    runs = [
        score_texts(name, [Caption(n, "A cat.") for n in range(4)], truth, get_variant("pattern"))
        for name in ("a", "b")
    ]
    result = compare_chair(runs, draws=100) | {"variant": "pattern"}
    assert "No run mentions one of these categories 10 times" in page(result, runs)
