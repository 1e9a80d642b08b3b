"""Where in a caption's text its mentions stand."""

from collections.abc import Iterable
from functools import cache

from vlmheads_eval.fixed import Places, mended_coco, object_places
from vlmheads_eval.reading import Mention
from vlmheads_eval.words import split_words


def mention_spans(text: str, mentions: Iterable[Mention]) -> list[tuple[int, int]]:
    """Return start and end of every mention in the text; nothing where it cannot be told.

    Words are found one after the other in the lower-case text. Behind a dropped "seat" the places
    of the reference lineages are one too low, and so is the mark.
    """
    places = _word_places(text, split_words(text.lower()))
    found = (
        _covered(places[mention.place : mention.place + len(mention.word.split())])
        for mention in mentions
    )
    return [span for span in found if span]


def coco_objects(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return start, end and COCO category of every object that a text names, in order.

    They are the mentions of the lineage `fixed`: written forms of CHAIR's table, singular and
    plural; what the text denies is left out. Nothing where the places cannot be told.

    Raises:
        VlmHeadsError: words that only NLTK can take apart, where it is not installed.
    """
    words = split_words(text.lower())
    places = _word_places(text, words)
    found = ((_covered(places[first:end]), name) for first, end, name in _coco_places()(words))
    return tuple((*span, name) for span, name in found if span)


@cache
def _coco_places() -> Places:
    return object_places(mended_coco(), coco=True)


def _word_places(text: str, words: list[str]) -> list[tuple[int, int] | None]:
    """Return start and end of each word in the text, None where it cannot be told."""
    lower = text.lower()
    if len(lower) != len(text):
        return []  # A letter whose lower case is longer moves all that follows.
    places: list[tuple[int, int] | None] = []
    cursor = 0
    for word in words:
        found = lower.find(word, cursor)
        if found < 0:
            places.append(None)  # A quote, which the tokeniser writes in another way.
            continue
        cursor = found + len(word)
        places.append((found, cursor))
    return places


def _covered(places: list[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Return where the first of some words begins and the last ends."""
    known = [place for place in places if place]
    return (known[0][0], known[-1][1]) if known else None
