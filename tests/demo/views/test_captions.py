from __future__ import annotations

from vlmheads_demo.services.result import Selection
from vlmheads_demo.views.captions import (
    comparison_table,
    error_card,
    marked_captions,
    partial_captions,
)


def test_the_page_marks_an_invented_word_and_shows_its_score(result):
    page = marked_captions(result, Selection.initial(result))
    number = next(n for n, w in enumerate(result.captions[0].measured.words) if w.text == "horse")
    score = result.captions[0].measured.words[number].score
    assert f'aria-label="horse: grounding score {score:.2f}' in page
    assert "not in the picture" in page
    assert "In this scene: cat, potted plant<" in page


def test_a_caption_is_escaped_wherever_it_is_shown(model):
    spoken = partial_captions(("<b>x</b>",), (), "<i>")
    assert "<b>x</b>" not in spoken
    assert "<i>" not in spoken
    assert "&lt;script&gt;" in error_card("<script>")


def test_one_sentence_says_what_is_seen(result):
    page = marked_captions(result, None)
    assert '<p class="vh-seen">The plain model invents a horse and a cow; ' in page


def test_every_word_can_be_selected_and_object_words_are_reached_with_the_tab_key(result):
    page = marked_captions(result, Selection.initial(result))
    words = [word for one in result.captions for word in one.measured.words]
    assert len(words) == page.count('data-group="word"')
    assert sum(word.object is None for word in words) == page.count('tabindex="-1"')


def test_the_comparison_names_what_is_hallucinated(result):
    table = comparison_table(result)
    assert (
        '<th scope="row">invented</th><td>2 <span class="vh-bad">(horse, cow)</span></td>' in table
    )
