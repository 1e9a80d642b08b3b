"""Character spans and token masks of the mentions in a caption."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from vlmheads_eval.chair.lexicon import Match, corrected_coco, larger_coco
from vlmheads_eval.chair.mentions import Mention, Vocabulary
from vlmheads_eval.chair.parsed import Reader, nouns, parsed_reader
from vlmheads_eval.chair.parser import (
    WORD_LISTS,
    Parse,
    lowered,
    parse,
    parser_name,
    require_parser,
)
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.chair.vocabulary import load_vocabulary
from vlmheads_eval.chair.wordlists import Places, object_places
from vlmheads_eval.chair.words import split_words, word_places


def mention_spans(text: str, mentions: Iterable[Mention]) -> list[tuple[int, int]]:
    """Return start and end of every mention in the text, omitting any that cannot be located.

    Words are located one after the other in the lower-case text. After a dropped "seat" the
    positions of the reference variants are one too low, and so are the spans.
    """
    plain = lowered(text)
    places = word_places(plain, split_words(plain))
    found = (
        _covered(places[mention.place : mention.place + len(mention.word.split())])
        for mention in mentions
    )
    return [span for span in found if span]


Spans = tuple[tuple[int, int, str], ...]
ObjectFinder = Callable[[str], Spans]


def coco_objects(text: str) -> Spans:
    """Return start, end and COCO category of every object that a text names, in order.

    These are the mentions of the variant `fixed`, read with the parser where it is installed.

    Raises:
        VlmHeadsError: words that only NLTK can split, and NLTK is not installed.
    """
    return _coco()(text)


def vocabulary_objects(path: Path) -> ObjectFinder:
    """Return a function from a text to the objects in it of the categories in a file.

    Raises:
        VlmHeadsError: the file is no vocabulary; see `load_vocabulary`.
    """
    return _finder(load_vocabulary(path), coco=False)


def noun_phrases(text: str) -> Spans:
    """Return start, end and noun of every thing that a text says is there, without any list.

    The name is the head noun with the nouns before it, in lower case ("garden gnomes"). Pronouns,
    verbs, negated and depicted things are left out, as `fixed` does with listed objects.

    Raises:
        VlmHeadsError: the parser is not installed.
    """
    require_parser()
    found = parse(text)
    return tuple(
        (*_characters(found, match), " ".join(found.words[match.first : match.last + 1]))
        for match in nouns(found)
    )


@cache
def _coco() -> ObjectFinder:
    parsed = parser_name() != WORD_LISTS
    return _finder(larger_coco() if parsed else corrected_coco(), coco=True)


def _finder(vocabulary: Vocabulary, *, coco: bool) -> ObjectFinder:
    if parser_name() == WORD_LISTS:
        return partial(_by_word_lists, object_places(vocabulary, coco=coco))
    return partial(_by_parser, parsed_reader(vocabulary, coco=coco))


def _by_parser(read: Reader, text: str) -> Spans:
    found = parse(text)
    return tuple((*_characters(found, match), match.entry.node or "") for match in read(found))


def _characters(found: Parse, match: Match) -> tuple[int, int]:
    return found.starts[match.first], found.starts[match.last] + len(found.forms[match.last])


def _by_word_lists(find: Places, text: str) -> Spans:
    plain = lowered(text)
    words = split_words(plain)
    places = word_places(plain, words)
    found = ((_covered(places[first:end]), name) for first, end, name in find(words))
    return tuple((*span, name) for span, name in found if span)


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
