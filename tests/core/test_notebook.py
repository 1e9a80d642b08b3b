"""What a notebook shows, and that nothing in it can be more than text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
import torch

import vlmheads
from vlmheads import Caption, HeadMap, VlmHeadsError, Word
from vlmheads.grounding import Grounding
from vlmheads.model.geometry import Geometry

EVIL = "<img src=x onerror=alert(1)>"
GEOMETRY = Geometry("llava", 2, 3)


class Tags(HTMLParser):
    """Collects the tags of a text and checks that each is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def word(text: str, start: int, score: float, name: str | None) -> Word:
    measured = {"divergence": 1.0, "attention": 0.5}
    return Word(
        text, start, start + len(text), 0, 1, name, **measured,
        log_probability=-1.0, log_probability_without=-3.0, score=score,
    )  # fmt: skip


def head_map(value: float = 1.0, **about: object) -> HeadMap:
    return HeadMap(torch.full((1, 2, 3), value), GEOMETRY, "vhd", about)


def test_a_caption_shows_its_object_words_with_their_scores_and_the_map_of_its_heads() -> None:
    text = "A dog & a cat."
    words = (word("dog", 2, 0.9, "dog"), word("cat", 10, 0.1, "cat"), word("A", 0, 0.2, None))
    caption = Caption(text, 6, False, words=words, threshold=0.5, heads=head_map())
    html = vlmheads.show(caption).html
    assert re.sub(r"<sup>.*?</sup>|<[^>]+>", "", html).startswith("A dog &amp; a cat.")
    assert html.count("<sup>") == 2
    assert html.count("dashed rgb") == 1
    assert "cat: score 0.10, weakly supported; image gain +2.00 nats" in html
    assert html.count("<td") == 6
    assert {"span", "table", "p"} <= set(Tags(html).seen)
    bare = vlmheads.show(Caption("A dog.", 2, True)).html
    assert "cut off" in bare
    assert "not measured" in bare


def test_texts_of_models_and_files_are_escaped_everywhere() -> None:
    words = (word(EVIL, 0, 0.1, EVIL),)
    caption = Caption(EVIL, 3, False, words=words, threshold=0.5)
    found = HeadMap(torch.ones(1, 2, 3), GEOMETRY, EVIL, {EVIL: EVIL})
    for html in (caption._repr_html_(), found._repr_html_(), Caption(EVIL, 1, False)._repr_html_()):
        assert "<img" not in html
        assert "img" not in Tags(html).seen


def test_a_head_map_has_a_cell_for_every_head_and_none_where_there_is_none() -> None:
    values = torch.tensor([[[1.0, -2.0, 0.0], [torch.nan] * 3]])
    html = HeadMap(values, GEOMETRY, "attribution", {"factor": 0})._repr_html_()
    Tags(html)
    assert 'title="layer 0, head 1: -2"' in html
    assert html.count("no heads") == 3
    assert "rgba(230,110,34,1.00)" in html
    assert "rgba(8,117,181,0.50)" in html


def test_a_grounding_shows_the_image_gain_of_each_token() -> None:
    said, blind = torch.tensor([[-1.0, -4.0]]), torch.tensor([[-3.0, -1.0]])
    zeros = torch.ones(1, 2, 2, 3)
    html = Grounding(zeros, zeros, said, blind, scores={EVIL: said})._repr_html_()
    assert "token 0: +2.00 nats" in html
    assert "token 1: -3.00 nats" in html
    assert "image gain of each token, in nats" in html
    assert "img" not in Tags(html).seen


def test_a_long_answer_says_how_many_of_its_tokens_are_shown() -> None:
    long = torch.ones(1, 201)
    heads = torch.ones(1, 201, 2, 3)
    html = Grounding(heads, heads, long, long)._repr_html_()
    assert "image gain of the first 200 of them" in html
    assert html.count('title="token ') == 200


def test_what_cannot_be_shown_is_refused_and_what_can_is_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for wrong in ((), ("text",), (Caption,)):
        with pytest.raises(VlmHeadsError, match="a caption, a head map"):
            vlmheads.show(*wrong)
    found = vlmheads.show(head_map(), head_map(2.0))
    found.save(tmp_path / "shown.html")
    assert found.html in (tmp_path / "shown.html").read_text()
    assert found._repr_html_() == found.html
