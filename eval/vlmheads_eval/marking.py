"""Where in a caption's text its mentions stand."""

from collections.abc import Iterable

from vlmheads_eval.reading import Mention
from vlmheads_eval.words import split_words


def mention_spans(text: str, mentions: Iterable[Mention]) -> list[tuple[int, int]]:
    """Return start and end of every mention in the text; nothing where it cannot be told.

    Words are found one after the other in the lower-case text. Behind a dropped "seat" the places
    of the reference lineages are one too low, and so is the mark.
    """
    lower = text.lower()
    if len(lower) != len(text):
        return []  # A letter whose lower case is longer moves all that follows.
    places: list[tuple[int, int] | None] = []
    cursor = 0
    for word in split_words(lower):
        found = lower.find(word, cursor)
        if found < 0:
            places.append(None)  # A quote, which the tokeniser writes in another way.
            continue
        cursor = found + len(word)
        places.append((found, cursor))
    spans = []
    for mention in mentions:
        last = mention.place + len(mention.word.split()) - 1
        covered = [span for span in places[mention.place : last + 1] if span]
        if covered:
            spans.append((covered[0][0], covered[-1][1]))
    return spans
