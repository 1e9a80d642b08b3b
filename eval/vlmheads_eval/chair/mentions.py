"""The vocabulary of objects, and the mentions of them that the reference CHAIR script finds."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

from vlmheads.errors import VlmHeadsError
from vlmheads.schema import read


@dataclass(frozen=True)
class Vocabulary:
    """Words for categories, and word pairs that are read as one word.

    Args:
        nodes: word -> category ("puppy" -> "dog"); a word may contain spaces.
        doubles: two words -> the word they are read as ("bow tie" -> "tie"). A value that is not
            in `nodes` keeps the pair from being counted ("home plate").
    """

    nodes: Mapping[str, str]
    doubles: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def first_words(self) -> frozenset[str]:
        """The first words of the pairs."""
        return frozenset(double.partition(" ")[0] for double in self.doubles)

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories in the order of the table."""
        return tuple(dict.fromkeys(self.nodes.values()))


@cache
def coco_vocabulary() -> Vocabulary:
    """Return CHAIR's own table: 80 COCO categories, 403 words, 55 pairs, with its typing errors."""
    text = files("vlmheads_eval").joinpath("chair/coco_objects.json").read_text("utf-8")
    return _from_table(json.loads(text))


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a table of other categories: `{"categories": {name: [word, ...]}, "doubles": {...}}`.

    A category's own name always counts. Raises VlmHeadsError for any other content.
    """
    expected = '{"categories": {name: [word, ...]}} and optionally "doubles": {"two words": word}'
    table: _Table = read(path, _Table, expected)
    vocabulary = _from_table({**table})
    if not vocabulary.nodes:
        raise VlmHeadsError(f"{path} names no category", expected)
    return vocabulary


class _Table(TypedDict):
    """The form of a vocabulary file."""

    categories: dict[str, list[str]]
    doubles: NotRequired[dict[str, str]]


def _from_table(table: dict[str, Any]) -> Vocabulary:
    nodes: dict[str, str] = {}
    for category, words in table["categories"].items():
        if isinstance(words, str):
            raise TypeError(f"the words of {category!r} are one string")
        nodes.setdefault(category, category)
        nodes.update(dict.fromkeys(words, category))
    return Vocabulary(nodes, dict(table.get("doubles", {})))


VARIANTS = ("pattern", "wordnet", "fixed")


class Mention(NamedTuple):
    """One object word: as looked up, its category, and its position among the caption's words."""

    word: str
    node: str
    place: int


class CaptionMentions(NamedTuple):
    """The mentions of a caption in order, and its length in words, punctuation included."""

    mentions: list[Mention]
    length: int


Finder = Callable[[list[str]], CaptionMentions]


def find_mentions(words: list[str], vocabulary: Vocabulary) -> CaptionMentions:
    """Return the mentions among normalised words, as the CHAIR script finds them.

    Pairs in the table are joined into one word, from left to right. If there is a "toilet", every
    "seat" is dropped. Positions are those of the reference: counted before the pairs are joined,
    and one too low after each dropped "seat".
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
    return CaptionMentions(mentions, len(merged))


def _join_doubles(words: list[str], vocabulary: Vocabulary) -> tuple[list[str], Sequence[int]]:
    first_words, doubles = vocabulary.first_words, vocabulary.doubles
    if first_words.isdisjoint(words):
        return words, range(len(words))
    merged: list[str] = []
    places: list[int] = []
    done = 0
    for position in [at for at, word in enumerate(words) if word in first_words]:
        double = doubles.get(" ".join(words[position : position + 2]))
        if double is None or position < done:  # The second word of a pair starts no other pair.
            continue
        merged += words[done:position]
        merged.append(double)
        places += range(done, position + 1)
        done = position + 2
    return merged + words[done:], [*places, *range(done, len(words))]
