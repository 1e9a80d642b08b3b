from __future__ import annotations

import pytest
from vlmheads_demo.services.result import Selection, caption_objects, comparison_rows

from vlmheads import VlmHeadsError


def test_mentions_are_correct_or_hallucinated_as_in_chair():
    objects = caption_objects("There is a kitten and a horse near two kittens.", {"cat", "dog"})
    assert [(mention.object, mention.correct) for mention in objects.mentions] == [
        ("cat", True),
        ("horse", False),
        ("cat", True),
    ]
    assert objects.hallucinated == ("horse",)
    assert objects.missed == ("dog",)
    assert caption_objects("There is a kitten.", None).hallucinated is None


def test_captions_are_compared_by_what_they_name(result):
    rows = comparison_rows(result)
    assert rows[0]["hallucinated"] == ["horse", "cow"]
    assert [row["caption"] for row in rows] == ["plain", "vhr", "cfg"]


def test_the_least_supported_object_word_is_selected_at_first(result):
    words = result.captions[0].measured.words
    scores = {number: word.score for number, word in enumerate(words) if word.object}
    assert Selection.initial(result) == Selection(0, min(scores, key=scores.get))


@pytest.mark.parametrize(
    "given",
    [
        {"caption": 3},
        {"caption": -1},
        {"caption": "0"},
        {"word": 10_000},
        {"word": 0, "layer": 1},
        {"word": 0, "layer": 8, "head": 0},
        {"word": 0, "layer": 0, "head": 8},
        {"word": True},
    ],
)
def test_a_selection_that_the_run_does_not_have_is_refused(result, given):
    with pytest.raises(VlmHeadsError):
        Selection.parse(result, given)
