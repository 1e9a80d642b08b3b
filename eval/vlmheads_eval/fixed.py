"""The lineage `fixed`: CHAIR's reading with the documented faults of the reference mended."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from vlmheads_eval.denial import denied
from vlmheads_eval.plurals import plurals
from vlmheads_eval.reading import Finder, Mention, Reading
from vlmheads_eval.vocabulary import Vocabulary, coco_vocabulary

ANIMALS = frozenset("bird cat dog horse sheep cow elephant bear zebra giraffe".split())
YOUNG_OR_GROWN = frozenset(("baby", "adult"))
# What the table of the reference misses; its other faults are of letters, spaces and capitals.
ADDED_TO_COCO = {"hair dryer": "hair drier", "soldier": "person", "knife": "knife"}
TYPING_ERRORS = ("solider", "televison", "phon", "knive")
COLOURS = frozenset(
    """orange red yellow green blue purple pink black white grey gray brown beige tan silver gold
    golden""".split()
)
# What may stand behind the fruit, in place of the noun that the colour would describe.
AFTER_FRUIT = frozenset(
    """. , ; : ! ? ) and or is are was were with on in at from by near next beside behind under
    over between to for that which sits lies sitting lying placed resting hanging cut sliced
    peeled""".split()
)
BEFORE_FRUIT = frozenset(
    """a an the one two single whole half ripe fresh peeled sliced cut another each this that small
    large juicy""".split()
)


class Phrase(NamedTuple):
    """A word of the vocabulary as it is written: its words, what it is read as, its category."""

    words: tuple[str, ...]
    word: str
    node: str | None  # None: read over, such as "home plate".


Span = tuple[int, int, Phrase]  # first word, word after the last, and what they are read as
Places = Callable[[list[str]], list[tuple[int, int, str]]]


def fixed_finder(vocabulary: Vocabulary, *, coco: bool) -> Finder:
    """Return what finds mentions by CHAIR's own table, mended, or by one of other categories.

    It looks up written forms, singular and plural, and cuts no endings, so "bus", "ties" and "men"
    count. A mention that the caption denies ("there isn't a cat") is left out, and places are
    always those of the caption's own words.

    Args:
        vocabulary: the words to count.
        coco: whether COCO's own cases apply too: young animals, toilet seats, the colour orange.
    """
    return partial(_find, _phrases(vocabulary), coco)


def object_places(vocabulary: Vocabulary, *, coco: bool) -> Places:
    """Return what finds first word, word after the last, and category of the same mentions."""
    phrases = _phrases(vocabulary)
    return lambda words: [
        (start, end, phrase.node)
        for start, end, phrase in _counted(_phrase_spans(phrases, coco, words), coco, words)
        if phrase.node
    ]


def mended_coco() -> Vocabulary:
    """Return CHAIR's table without dead entries: spaces, capitals and typing errors mended."""
    table = coco_vocabulary()
    nodes = {
        word.strip().lower(): node
        for word, node in table.nodes.items()
        if word not in TYPING_ERRORS
    }
    return Vocabulary({**nodes, **ADDED_TO_COCO}, table.doubles)


def _phrases(vocabulary: Vocabulary) -> dict[str, list[Phrase]]:
    """Map the first word of every written form to its phrases, the longest first."""
    written: dict[tuple[str, ...], Phrase] = {}
    readings: dict[str, tuple[str, str | None]] = {
        word: (word, node) for word, node in vocabulary.nodes.items()
    }
    for double, word in vocabulary.doubles.items():
        readings.setdefault(double, (word, vocabulary.nodes.get(word)))
    for plural in (False, True):
        for form, (word, node) in readings.items():
            for text in plurals(form) if plural else (form,):
                for parts in {tuple(text.split(" ")), (text.replace(" ", "-"),)}:
                    written.setdefault(parts, Phrase(parts, word, node))
    found: dict[str, list[Phrase]] = {}
    for phrase in sorted(written.values(), key=lambda phrase: -len(phrase.words)):
        found.setdefault(phrase.words[0], []).append(phrase)
    return found


def _find(phrases: dict[str, list[Phrase]], coco: bool, words: list[str]) -> Reading:
    spans = _phrase_spans(phrases, coco, words)
    mentions = [
        Mention(phrase.word, phrase.node, start)
        for start, _, phrase in _counted(spans, coco, words)
        if phrase.node
    ]
    joined = sum(end - start - 1 for start, end, _ in spans)
    return Reading(mentions, len(words) - joined)


def _phrase_spans(phrases: dict[str, list[Phrase]], coco: bool, words: list[str]) -> list[Span]:
    """Return every phrase of the vocabulary among the words, but the colour orange."""
    return [
        (start, end, phrase)
        for start, end, phrase in _spans(words, phrases, coco)
        if not (coco and phrase.node == "orange" and _is_colour(words, start, end))
    ]


def _counted(spans: list[Span], coco: bool, words: list[str]) -> list[Span]:
    """Leave out what the caption denies, and a toilet's seat."""
    refused = denied(words, [(start, end) for start, end, _ in spans])
    on_toilet = coco and any(phrase.word == "toilet" for *_, phrase in spans)
    return [
        span
        for span, no in zip(spans, refused, strict=True)
        if not no and not (on_toilet and span[2].word == "seat")
    ]


def _spans(words: list[str], phrases: dict[str, list[Phrase]], coco: bool) -> list[Span]:
    spans: list[Span] = []
    position = 0
    while position < len(words):
        phrase = _longest(words, position, phrases)
        if phrase is None:
            position += 1
            continue
        end = position + len(phrase.words)
        if coco and phrase.word in YOUNG_OR_GROWN and len(phrase.words) == 1:
            animal = _longest(words, end, phrases)
            if animal and animal.node in ANIMALS:
                end += len(animal.words)
                phrase = animal
        spans.append((position, end, phrase))
        position = end
    return spans


def _longest(words: list[str], position: int, phrases: dict[str, list[Phrase]]) -> Phrase | None:
    if position >= len(words):
        return None
    for phrase in phrases.get(words[position], ()):
        if tuple(words[position : position + len(phrase.words)]) == phrase.words:
            return phrase
    return None


def _is_colour(words: list[str], start: int, end: int) -> bool:
    """Say whether a singular "orange" is the colour: by the words before and behind it."""
    if words[start] != "orange":
        return False
    before = words[start - 1] if start else ""
    after = words[end] if end < len(words) else "."
    second_colour = after in ("and", "or", ",") and not COLOURS.isdisjoint(words[end + 1 : end + 2])
    return before not in BEFORE_FRUIT or after not in AFTER_FRUIT or second_colour
