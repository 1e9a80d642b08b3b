"""The variant `fixed` where no parser is installed: written forms and a small rule for negation."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from vlmheads_eval.chair.mentions import CaptionMentions, Finder, Mention, Vocabulary
from vlmheads_eval.chair.words import plurals

ANIMALS = frozenset("bird cat dog horse sheep cow elephant bear zebra giraffe".split())
YOUNG_OR_GROWN = frozenset(("baby", "adult"))
COLOURS = frozenset(
    """orange red yellow green blue purple pink black white grey gray brown beige tan silver gold
    golden""".split()
)
# What may follow the fruit; the colour is followed by a noun instead.
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
    """A vocabulary entry as written: its words, the entry it counts as, and its category."""

    words: tuple[str, ...]
    word: str
    node: str | None  # None: not counted, such as "home plate".


Span = tuple[int, int, Phrase]  # first word, end (exclusive), entry
Places = Callable[[list[str]], list[tuple[int, int, str]]]


def fixed_finder(vocabulary: Vocabulary, *, coco: bool) -> Finder:
    """Return a function that finds the mentions of a vocabulary by its written forms.

    It looks up singular and plural forms instead of stripping endings, so "bus", "ties" and "men"
    count. A negated mention ("there isn't a cat") does not count, and positions always refer to
    the caption's own words.

    Args:
        vocabulary: the words to count.
        coco: whether COCO's special cases apply: young animals, toilet seats, the colour orange.
    """
    return partial(_find, _phrases(vocabulary), coco)


def object_places(vocabulary: Vocabulary, *, coco: bool) -> Places:
    """Return a function that finds start, end (exclusive) and category of the same mentions."""
    phrases = _phrases(vocabulary)
    return lambda words: [
        (start, end, phrase.node)
        for start, end, phrase in _counted(_phrase_spans(phrases, coco, words), coco, words)
        if phrase.node
    ]


def _phrases(vocabulary: Vocabulary) -> dict[str, list[Phrase]]:
    """Map the first word of every written form to its phrases, longest first."""
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


def _find(phrases: dict[str, list[Phrase]], coco: bool, words: list[str]) -> CaptionMentions:
    spans = _phrase_spans(phrases, coco, words)
    mentions = [
        Mention(phrase.word, phrase.node, start)
        for start, _, phrase in _counted(spans, coco, words)
        if phrase.node
    ]
    joined = sum(end - start - 1 for start, end, _ in spans)
    return CaptionMentions(mentions, len(words) - joined)


def _phrase_spans(phrases: dict[str, list[Phrase]], coco: bool, words: list[str]) -> list[Span]:
    """Return every vocabulary phrase among the words except the colour orange."""
    return [
        (start, end, phrase)
        for start, end, phrase in _spans(words, phrases, coco)
        if not (coco and phrase.node == "orange" and _is_colour(words, start, end))
    ]


def _counted(spans: list[Span], coco: bool, words: list[str]) -> list[Span]:
    """Leave out negated mentions and toilet seats."""
    negations = negated(words, [(start, end) for start, end, _ in spans])
    on_toilet = coco and any(phrase.word == "toilet" for *_, phrase in spans)
    return [
        span
        for span, is_negated in zip(spans, negations, strict=True)
        if not is_negated and not (on_toilet and span[2].word == "seat")
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
    """Return whether a singular "orange" is the colour, judged by the words around it."""
    if words[start] != "orange":
        return False
    before = words[start - 1] if start else ""
    after = words[end] if end < len(words) else "."
    second_colour = after in ("and", "or", ",") and not COLOURS.isdisjoint(words[end + 1 : end + 2])
    return before not in BEFORE_FRUIT or after not in AFTER_FRUIT or second_colour


NEGATIONS = frozenset("no without neither nor lacks lacking absent".split())
NOT_WORDS = frozenset(("not", "n't"))
# After "not", these verbs negate the object ("does not show any cat"); other verbs negate only the
# action ("is not sitting on a bench").
NEGATED_VERBS = frozenset("have has contain include show feature see depict".split())
ARTICLES = frozenset("a an any another one many other".split())
# "No doubt" and "not only" negate nothing.
IDIOMS = frozenset("only just merely doubt longer sure clear certain matter necessarily".split())
CLAUSE_ENDS = frozenset(
    """. , ; : ! ? but while although though however except and with on in at near behind beside
    under over""".split()
)
COORDINATORS = frozenset(", or nor any a an other the".split())
WINDOW = 5  # Words between the negation and the object.


def negated(words: list[str], spans: list[tuple[int, int]]) -> list[bool]:
    """Return for every mention whether it is negated, by a small rule instead of a parser.

    A mention is negated if "no", "without", "neither", "nor", "lacks" or a "not" with an article
    ("there isn't a cat", "does not show any cars") precedes it with at most five words, and no
    clause end, preposition or other mention, in between; or if a comma, "or" or "nor" joins it to
    a negated one ("no cars, trucks or buses").

    Args:
        words: the caption's words in lower case.
        spans: start and end (exclusive) of every mention, in order.
    """
    found: list[bool] = []
    previous = 0
    for start, _ in spans:
        between = words[previous:start]
        joined = bool(found) and found[-1] and bool(between) and COORDINATORS.issuperset(between)
        found.append(joined or _in_negation(words, max(previous, start - WINDOW - 1), start))
        previous = spans[len(found) - 1][1]
    return found


def _in_negation(words: list[str], floor: int, start: int) -> bool:
    for position in range(start - 1, floor - 1, -1):
        word = words[position]
        if word in CLAUSE_ENDS:
            return False
        if word in NEGATIONS:
            return words[position + 1] not in IDIOMS
        if word in NOT_WORDS:
            following = words[position + 1 : start]
            if following and following[0] in NEGATED_VERBS:
                following = following[1:]
            return bool(following) and following[0] in ARTICLES
    return False
