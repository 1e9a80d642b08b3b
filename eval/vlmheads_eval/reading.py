"""From a caption's words to the objects it mentions: the part that all readings of CHAIR share."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from vlmheads_eval.vocabulary import Vocabulary

LINEAGES = ("pattern", "wordnet", "fixed")


class Mention(NamedTuple):
    """One object word: as it was read, its category, and its place among the caption's words."""

    word: str
    node: str
    place: int


class Reading(NamedTuple):
    """What a caption says: its mentions in order, and its length in words, punctuation included."""

    mentions: list[Mention]
    length: int


Reader = Callable[[str], Reading]
Finder = Callable[[list[str]], Reading]


def find_mentions(words: list[str], vocabulary: Vocabulary) -> Reading:
    """Return the mentions among normalised words, as the CHAIR script finds them.

    Pairs of the table become one word, from left to right. Beside a "toilet" every "seat" is
    dropped. The places are those of the reference: counted before the pairs were joined, and one
    too low behind each dropped "seat".
    """
    merged, places = _join_doubles(words, vocabulary)
    counted = merged
    if "seat" in merged and "toilet" in merged:
        counted = [word for word in merged if word != "seat"]
    nodes = vocabulary.nodes
    mentions = [
        Mention(word, nodes[word], place)
        for word, place in zip(counted, places, strict=False)
        if word in nodes
    ]
    return Reading(mentions, len(merged))


def _join_doubles(words: list[str], vocabulary: Vocabulary) -> tuple[list[str], Sequence[int]]:
    first_words, doubles = vocabulary.first_words, vocabulary.doubles
    if first_words.isdisjoint(words):
        return words, range(len(words))
    merged: list[str] = []
    places: list[int] = []
    done = 0
    for position in [at for at, word in enumerate(words) if word in first_words]:
        double = doubles.get(" ".join(words[position : position + 2]))
        if double is None or position < done:  # The second word of a pair begins no other.
            continue
        merged += words[done:position]
        merged.append(double)
        places += range(done, position + 1)
        done = position + 2
    return merged + words[done:], [*places, *range(done, len(words))]
