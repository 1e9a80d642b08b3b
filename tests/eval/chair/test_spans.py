"""Where the objects that a caption mentions are in its text."""

from __future__ import annotations

import pytest
from vlmheads_eval.chair.spans import caption_spans, coco_objects
from vlmheads_eval.chair.variants import get_variant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man in a bow tie ate two hot dogs.", ["man=person", "bow tie=tie", "hot dogs=hot dog"]),
        ("There isn't a cat on the Dining Table.", ["Dining Table=dining table"]),
        ('The "dog" can\'t see the orange car', ["dog=dog", "car=car"]),
        ("İstanbul has a dog", ["dog=dog"]),  # a letter whose lower case is longer
        ("", []),
    ],
)
def test_objects_span_from_their_first_word_to_their_last(text: str, expected: list[str]) -> None:
    found = [f"{text[start:end]}={name}" for start, end, name in coco_objects(text)]
    assert found == expected


def test_spans_of_a_caption_are_sorted_by_what_the_image_shows() -> None:
    text = "A dog, two birds and the dog."
    spans = caption_spans(text, frozenset({"dog"}), get_variant("pattern"))
    assert [text[start:end] for start, end in spans.grounded] == ["dog", "dog"]
    assert [text[start:end] for start, end in spans.hallucinated] == ["birds"]
