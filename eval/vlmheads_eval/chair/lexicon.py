"""The written forms of a vocabulary, and the words that the rules of `fixed` turn on."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from vlmheads_eval.chair.mentions import Vocabulary, coco_vocabulary
from vlmheads_eval.chair.words import plurals

# Missing from the reference's table; its other errors are in spelling, spaces and capitals.
ADDED_TO_COCO = {"hair dryer": "hair drier", "soldier": "person", "knife": "knife"}
TYPING_ERRORS = ("solider", "televison", "phon", "knive")


class Entry(NamedTuple):
    """What a written form counts as: an entry of the vocabulary, and its category."""

    word: str
    node: str | None  # None: not counted, such as "home plate".


class Match(NamedTuple):
    """A written form among the tokens of a text: the first and the last of them, and its entry."""

    first: int
    last: int
    entry: Entry


Forms = Mapping[str, Sequence[tuple[tuple[str, ...], Entry]]]


def corrected_coco() -> Vocabulary:
    """Return CHAIR's table with its spaces, capitals and typing errors corrected."""
    table = coco_vocabulary()
    nodes = {
        word.strip().lower(): node
        for word, node in table.nodes.items()
        if word not in TYPING_ERRORS
    }
    return Vocabulary({**nodes, **ADDED_TO_COCO}, table.doubles)


@cache
def larger_coco() -> Vocabulary:
    """Return the corrected table with the words for COCO's categories that it lacks.

    Compounds that name no object ("jet ski", "couch potato") are doubles without a category.
    """
    table = corrected_coco()
    added = json.loads(_data("more_objects.json"))
    nodes = dict(table.nodes)
    for node, words in added["categories"].items():
        for word in words.split(", "):
            nodes.setdefault(word, node)
    doubles = dict.fromkeys(added["not_objects"].split(", "), "-")
    return Vocabulary(nodes, {**doubles, **table.doubles})


@cache
def words_of(kind: str) -> frozenset[str]:
    """Return the words of one kind in english.json."""
    return frozenset(json.loads(_data("english.json"))[kind].split(", "))


@cache
def inert_negations() -> dict[str, list[tuple[str, ...]]]:
    """Return phrases that negate nothing ("no less than"), by their first words."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for phrase in words_of("inert"):
        parts = tuple(phrase.split(" "))
        found.setdefault(parts[0], []).append(parts)
    return found


def _data(name: str) -> str:
    return files("vlmheads_eval").joinpath("chair", name).read_text("utf-8")


def written_forms(vocabulary: Vocabulary) -> Forms:
    """Return every way to write a vocabulary's entries, by first word, longest first.

    Singular and plural, and compounds open, hyphenated and closed ("hot dog", "hot-dog", "hotdog").
    """
    entries = {word: Entry(word, node) for word, node in vocabulary.nodes.items()}
    for double, word in vocabulary.doubles.items():
        entries.setdefault(double, Entry(word, vocabulary.nodes.get(word)))
    found: dict[tuple[str, ...], Entry] = {}
    for form, entry in entries.items():
        found.setdefault(tuple(re.split("[ -]", form)), entry)
    for form, entry in entries.items():
        for text in plurals(form):
            found.setdefault(tuple(re.split("[ -]", text)), entry)
    for form, entry in entries.items():
        for text in (form, *plurals(form)):
            for other in (text.replace(" ", ""), text.replace(" ", "-")):
                found.setdefault((other,), entry)
    by_first: dict[str, list[tuple[tuple[str, ...], Entry]]] = {}
    for parts, entry in sorted(found.items(), key=lambda item: -len(item[0])):
        by_first.setdefault(parts[0], []).append((parts, entry))
    return by_first


def matches(words: Sequence[str], forms: Forms) -> Iterator[Match]:
    """Yield the longest forms among lower-case tokens, from left to right, without overlap."""
    place = 0
    while place < len(words):
        for parts, entry in forms.get(words[place], ()):
            last = _reach(words, place, parts)
            if last is not None:
                yield Match(place, last, entry)
                place = last
                break
        place += 1


def _reach(words: Sequence[str], place: int, parts: tuple[str, ...]) -> int | None:
    """Return the last token of a form that starts here; hyphens are tokens of their own."""
    for at, part in enumerate(parts):
        if at:
            place += 1
            if place < len(words) and words[place] == "-":
                place += 1
        if place >= len(words) or words[place] != part:
            return None
    return place
