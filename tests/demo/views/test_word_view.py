from __future__ import annotations

import json
import re
from html import unescape

import torch
from vlmheads_demo.services.result import Selection
from vlmheads_demo.views.head_map import dominance_reach, head_map
from vlmheads_demo.views.inspector import departures, inspector
from vlmheads_demo.views.word_view import picture_view


def test_the_map_outlines_edited_heads_and_shows_every_layer(result):
    page = head_map(result, Selection(1))
    assert int(result.captions[1].measured.edited.sum()) == page.count("vh-acted")
    assert page.count('<th scope="row">') == 8
    assert page.count('role="gridcell"') == 64
    assert page.count('role="gridcell" tabindex="0"') == 1
    assert "edits no head in particular" in head_map(result, Selection(2))


def test_sinks_are_drawn_where_the_detector_finds_them(result):
    page = picture_view(result, Selection.initial(result))
    tokens = int(result.prompt_measured.sinks.any(dim=0).sum())
    assert tokens > 0
    assert tokens == page.count("<rect")


def test_the_scale_of_text_dominance_is_as_wide_as_the_largest_needs():
    assert dominance_reach(torch.tensor([1.0, 1.5])) == 1
    assert dominance_reach(torch.tensor([0.01, 3.0, float("nan")])) == 7
    assert dominance_reach(torch.tensor([300.0, float("inf"), 0.0])) == 9
    assert dominance_reach(torch.tensor([0.0])) == 1


def test_no_bar_of_text_dominance_is_longer_than_its_half(result):
    page = head_map(result, Selection(0))
    widths = [float(width) for width in re.findall(r"%;width:([\d.]+)%", page)]
    assert len(widths) == 8
    assert max(widths) <= 50
    assert len(set(widths)) > 4


def test_the_inspector_shows_five_candidates_of_each_stream_and_of_the_method(result):
    first = inspector(result, Selection.initial(result))
    assert first.count("<ol>") >= 2
    written = inspector(result, Selection(2, token=1))
    assert written.count("<ol>") == 3
    assert written.count("<li") == 15
    assert "<h3>cfg</h3>" in written
    tokens = result.captions[2].measured.tokens
    assert written.count('data-group="token"') == len(tokens.ids)


def test_a_fork_stands_where_a_method_leaves_the_plain_caption(result):
    plain, other = (result.captions[n].caption.ids for n in (0, 1))
    forks = departures(result, 0)
    place = next(n for n, (a, b) in enumerate(zip(plain, other, strict=False)) if a != b)
    assert forks[place] == "vhr"
    assert departures(result, 1)[place] == "plain"
    page = inspector(result, Selection(0, token=place))
    # The method's own candidates after the same beginning.
    assert "<h3>vhr</h3>" in page
    assert "vhr goes another way from here" in page


def test_a_place_of_the_picture_can_be_read_and_keeps_what_is_selected(result):
    page = picture_view(result, Selection(0, 3, patch=9))
    (data,) = re.findall(r'class="vh-cursor vh-here" [^>]*?data-select="([^"]+)"', page)
    expected = {"result": result.key, "caption": 0, "word": 3, "patch": 9}
    assert json.loads(unescape(data)) == expected
