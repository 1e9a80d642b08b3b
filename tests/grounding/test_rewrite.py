"""What is left of a caption when clauses about unsupported objects go."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vlmheads_testbed.captions import truthful
from vlmheads_testbed.scenes import scene

from vlmheads.grounding.rewrite import Rewrite, drop_clauses, sentences
from vlmheads.grounding.words import Word, find_objects

THRESHOLD = 0.5


def word(text: str, start: int, end: int, name: str, score: float) -> Word:
    return Word(text[start:end], start, end, 0, 1, name, 0, 0, 0, 0, score)


def without(text: str, *weak: str) -> Rewrite:
    """Drop the named objects; an earlier mention is weaker than a later one."""
    words = [
        word(text, start, end, name, 0.1 + start / 1000 if name in weak else 0.9)
        for start, end, name in find_objects(text)
    ]
    assert set(weak) <= {one.object for one in words}
    return drop_clauses(text, words, THRESHOLD)


@pytest.mark.parametrize(
    ("text", "weak", "left"),
    [
        # items of a list
        ("A savanna with a giraffe and an elephant.", "elephant", "A savanna with a giraffe."),
        ("A savanna with a giraffe and an elephant.", "giraffe", "A savanna with an elephant."),
        ("It has a cup, a fork, and a knife.", "fork", "It has a cup and a knife."),
        ("It has a cup, a fork, a tie, and a knife.", "fork", "It has a cup, a tie, and a knife."),
        ("It has a cup, a fork, a bowl and a knife.", "fork", "It has a cup, a bowl and a knife."),
        ("A tray with a cup, a pizza, and a knife placed on it.", "cup",
         "A tray with a pizza and a knife placed on it."),
        ("A table with a cup, a pizza, and a knife placed on it.", "knife",
         "A table with a cup and a pizza."),
        ("There is a cup and a tree.", "cup", "There is a tree."),
        # agreement
        ("There are two dogs and a cat.", "dog", "There is a cat."),
        ("There are a dog and a cat.", "cat", "There is a dog."),
        ("There is a cat and two dogs.", "cat", "There are two dogs."),
        ("There are also two dogs, a cat and a cow.", "dog", "There are also a cat and a cow."),
        ("There is some broccoli and a cat.", "cat", "There is some broccoli."),
        # phrases behind a clause
        ("This is a park with a dog. It is late.", "dog", "This is a park. It is late."),
        ("There is a cup next to the laptop.", "laptop", "There is a cup."),
        ("A man is sitting with a dog.", "dog", "A man is sitting."),
    ],
)  # fmt: skip
def test_a_clause_goes_and_leaves_a_sentence(text: str, weak: str, left: str) -> None:
    assert without(text, weak).text == left


@pytest.mark.parametrize(
    "sentence",
    [
        "There is a dog.",
        "A dog can be seen.",
        "A dog and a cat are sitting on the couch.",  # "a cat are sitting"
        "A man is with a dog.",  # "a man is"
        "There is a cup and a man walks a dog.",  # "a cup and a man walks"
        "The dog, which is small, has a ball.",
        "There is a man near a dog and a cat.",  # near what is the cat?
    ],
)
def test_where_no_sentence_would_surely_be_left_the_whole_one_goes(sentence: str) -> None:
    found = without(f"The sky is grey. {sentence} It is late.", "dog")
    assert found == Rewrite("The sky is grey. It is late.", (sentence,))


def test_sentences_that_would_point_to_nothing_go_along() -> None:
    text = "There is a dog. They play. Its tail is short. It is a sunny day. They are cats."
    found = without(text, "dog")
    assert found.text == "It is a sunny day. They are cats."
    assert found.removed == ("There is a dog.", "They play.", "Its tail is short.")


def test_where_everything_would_go_the_least_unsupported_sentence_stays() -> None:
    found = without("There is a dog. There is a cat. A cow can be seen.", "dog", "cat", "cow")
    assert found == Rewrite("A cow can be seen.", ("There is a dog.", "There is a cat."), True)
    assert without("There is a dog", "dog") == Rewrite("There is a dog", (), True)


def test_a_caption_without_weak_objects_stays_as_it_is() -> None:
    text = "A dog, a cat and 3.5 kg of Mr. Smith's food. 猫がいる。犬もいる。"
    assert drop_clauses(text, [], THRESHOLD) == Rewrite(text.replace("。犬", "。 犬"), ())
    assert drop_clauses("", [], THRESHOLD) == Rewrite("", ())


def test_sentences_end_at_marks_but_not_at_abbreviations_and_decimals() -> None:
    text = 'Dr. Who weighs 3.5 kg. "Hm." He said so! 猫。犬'
    found = [text[start:end] for start, end in sentences(text)]
    assert found == ["Dr. Who weighs 3.5 kg.", '"Hm."', "He said so!", "猫。", "犬"]


@cache
def scene_caption(index: int) -> str:
    return truthful(scene("val", 3, index), np.random.default_rng(index))


BROKEN = re.compile(
    r"\b(?:with|and|is|are|also|shows|a|an|the|to|near)[.!?,]|[ ,][.,]|\.\.|,,"
    r"|There is (?:also )?(?:two|three) |There are (?:also )?an? [\w ]+\.|^[a-z]|[^.!?]$"
)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 80), st.randoms(use_true_random=False))
def test_captions_of_scenes_stay_whole_whatever_goes(index: int, random: object) -> None:
    text = scene_caption(index)
    scores = iter(np.random.default_rng(random.getrandbits(32)).random(50))  # type: ignore[attr-defined]
    words = [word(text, *span, float(next(scores))) for span in find_objects(text)]
    found = drop_clauses(text, words, THRESHOLD)
    assert found.text
    assert not BROKEN.search(found.text), found.text
    weak = {one.object for one in words if one.score < THRESHOLD}
    strong = {one.object for one in words if one.score >= THRESHOLD}
    left = {name for *_, name in find_objects(found.text)}
    if not found.unsupported:
        assert not left & (weak - strong)
    if not weak:
        assert found == Rewrite(text, ())
