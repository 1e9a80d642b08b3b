from __future__ import annotations

from vlmheads_demo.services.result import Selection
from vlmheads_demo.views.word_view import head_map, picture_view


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
