"""Character spans and token masks of the mentions in a caption."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from vlmheads_eval.chair.mentions import Mention
from vlmheads_eval.chair.variants import Places, Variant, corrected_coco, object_places
from vlmheads_eval.chair.words import split_words

if TYPE_CHECKING:
    pass


def mention_spans(text: str, mentions: Iterable[Mention]) -> list[tuple[int, int]]:
    """Return start and end of every mention in the text, omitting any that cannot be located.

    Words are located one after the other in the lower-case text. After a dropped "seat" the
    positions of the reference variants are one too low, and so are the spans.
    """
    places = _word_places(text, split_words(text.lower()))
    found = (
        _covered(places[mention.place : mention.place + len(mention.word.split())])
        for mention in mentions
    )
    return [span for span in found if span]


def coco_objects(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return start, end and COCO category of every object that a text names, in order.

    These are the mentions of the variant `fixed`: written forms of CHAIR's table, singular and
    plural, without negated ones. Mentions that cannot be located are omitted.

    Raises:
        VlmHeadsError: words that only NLTK can split, and NLTK is not installed.
    """
    words = split_words(text.lower())
    places = _word_places(text, words)
    found = ((_covered(places[first:end]), name) for first, end, name in _coco_places()(words))
    return tuple((*span, name) for span, name in found if span)


@cache
def _coco_places() -> Places:
    return object_places(corrected_coco(), coco=True)


def _word_places(text: str, words: list[str]) -> list[tuple[int, int] | None]:
    """Return start and end of each word in the text, None for words that cannot be located."""
    lower = text.lower()
    if len(lower) != len(text):
        return []  # A letter whose lower case is longer shifts all that follows.
    places: list[tuple[int, int] | None] = []
    cursor = 0
    for word in words:
        found = lower.find(word, cursor)
        if found < 0:
            places.append(None)  # A quote, which the tokeniser rewrites.
            continue
        cursor = found + len(word)
        places.append((found, cursor))
    return places


def _covered(places: list[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Return the start of the first and the end of the last of some words."""
    known = [place for place in places if place]
    return (known[0][0], known[-1][1]) if known else None


@dataclass(frozen=True)
class CaptionSpans:
    """A caption with the character spans of its object words.

    Args:
        text: the caption.
        grounded: characters [start, end) of mentions of what is in the image.
        hallucinated: characters [start, end) of mentions of what is not.
    """

    text: str
    grounded: tuple[tuple[int, int], ...]
    hallucinated: tuple[tuple[int, int], ...]


def caption_spans(text: str, truth: frozenset[str], variant: Variant) -> CaptionSpans:
    """Return the spans of a caption's mentions, sorted by whether the image has the object."""
    kinds: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for mention in variant.read(text).mentions:
        kinds[mention.node in truth] += mention_spans(text, (mention,))
    return CaptionSpans(text, tuple(kinds[True]), tuple(kinds[False]))
