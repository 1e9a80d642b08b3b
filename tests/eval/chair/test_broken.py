"""Broken text: an article where no noun can follow, and what only looks like one."""

import pytest
from vlmheads_eval.chair.broken import broken_text


@pytest.mark.parametrize(
    "text",
    [
        "A group of people standing on the, waiting to board the train.",
        "The car is a large, and a of bread.",
        "One of them holds a.",
        "The is a dog lying on the bedspread.",
        "A small dog. A is next to it.",
        "There is a sign near the and a tree.",
        "It sits in the\nThere are two cups.",
    ],
)
def test_an_article_without_its_noun_breaks_a_text(text):
    assert broken_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "A can of soda is on the table, next to a well-lit window.",
        "The on-deck batter waits at 7 a.m. for the game.",
        "The buttons A and B are on the right.",
        "He looks at the above-ground pool and the IT department.",
        "A dog runs towards the",
        "A dog runs towards the for",
        'A sign reads "A.A. BUILDING SUPPLY." in red.',
        "",
    ],
)
def test_whole_sentences_and_cut_ones_are_not_broken(text):
    assert not broken_text(text)
