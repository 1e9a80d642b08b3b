"""The variants of CHAIR that the literature mixes, and `fixed`, our corrected one."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.chair.lexicon import corrected_coco, larger_coco
from vlmheads_eval.chair.mentions import (
    VARIANTS,
    CaptionMentions,
    Finder,
    Mention,
    Vocabulary,
    coco_vocabulary,
    find_mentions,
)
from vlmheads_eval.chair.parsed import Reader, parsed_reader
from vlmheads_eval.chair.parser import WORD_LISTS, lowered, parse_all, parser_name, require_parser
from vlmheads_eval.chair.vocabulary import load_vocabulary
from vlmheads_eval.chair.wordlists import fixed_finder
from vlmheads_eval.chair.words import singularise, split_words, word_places
from vlmheads_eval.compat import lemmatiser, tagger


class Reading(NamedTuple):
    """A caption as a variant reads it: its words, normalised, and the mentions among them."""

    words: list[str]
    mentions: CaptionMentions


@dataclass(frozen=True)
class Variant:
    """How one variant of CHAIR finds the objects in a caption.

    Args:
        name: "pattern", "wordnet" or "fixed".
        vocabulary: the words and categories that it counts.
        read_all: from captions to their readings, in order.
        cut: from a caption's words, its mentions and a number of words to the mentions among so
            many words.
        read_with: the parser and its version, or "word lists"; None for the reference variants.
    """

    name: str
    vocabulary: Vocabulary
    read_all: Callable[[Iterable[str]], Iterator[Reading]]
    cut: Callable[[list[str], Sequence[Mention], int], CaptionMentions]
    read_with: str | None = None

    def read(self, caption: str) -> CaptionMentions:
        """Return the mentions of a caption."""
        return next(self.read_all((caption,))).mentions


def get_variant(
    name: str = "pattern", vocabulary: Path | None = None, *, parser: bool | None = None
) -> Variant:
    """Return a variant by name.

    Args:
        name: "pattern" as the CHAIR script of Rohrbach et al. (2018) and its standalone port;
            "wordnet" as the OPERA variant of it, which most papers since 2024 use; "fixed"
            reads captions with a parser (docs/evaluation.md). Figures of different variants must
            not be compared.
        vocabulary: a file of other categories, for "fixed" only; see `load_vocabulary`.
        parser: whether "fixed" reads with spaCy (True: refuse where it is not installed) or with
            its word lists (False); None for spaCy where it is installed.

    Raises:
        VlmHeadsError: an unknown name, a vocabulary or parser for another variant, or none there.
    """
    if name not in VARIANTS:
        raise VlmHeadsError(f"variant {name!r}", " or ".join(VARIANTS))
    if name == "fixed":
        if parser:
            require_parser()
        found = parser_name() if parser is not False else WORD_LISTS
        return _word_lists(vocabulary) if found == WORD_LISTS else _parsed(vocabulary, found)
    for given, what in ((vocabulary, "a custom vocabulary"), (parser, "a parser")):
        if given is not None:
            raise VlmHeadsError(
                f"{what} with the variant {name!r}",
                "the variant 'fixed'",
                "the others reproduce a reference that knows only COCO's 80 categories",
            )
    if name == "wordnet":
        tagger(), lemmatiser()  # Report missing data before the first caption.
    words = pattern_words if name == "pattern" else wordnet_words
    table = coco_vocabulary()
    return _by_words(name, table, words, partial(find_mentions, vocabulary=table))


def _by_words(
    name: str,
    table: Vocabulary,
    words: Callable[[str], list[str]],
    find: Finder,
    read_with: str | None = None,
) -> Variant:
    def read_all(captions: Iterable[str]) -> Iterator[Reading]:
        for caption in captions:
            found = words(caption)
            yield Reading(found, find(found))

    return Variant(name, table, read_all, lambda words, _, end: find(words[:end]), read_with)


def _word_lists(vocabulary: Path | None) -> Variant:
    table = load_vocabulary(vocabulary) if vocabulary else corrected_coco()
    find = fixed_finder(table, coco=vocabulary is None)
    return _by_words("fixed", table, plain_words, find, WORD_LISTS)


def _parsed(vocabulary: Path | None, read_with: str) -> Variant:
    table = load_vocabulary(vocabulary) if vocabulary else larger_coco()
    reader = parsed_reader(table, coco=vocabulary is None)
    return Variant("fixed", table, partial(_read_parsed, reader), _cut_parsed, read_with)


def _read_parsed(reader: Reader, captions: Iterable[str]) -> Iterator[Reading]:
    """Yield readings of captions whose mentions have the places of NLTK's words."""
    whole = list(captions)
    # The parser needs the capitals, which tell names.
    for caption, parse in zip(whole, parse_all(whole), strict=True):
        text = lowered(caption)
        words = split_words(text)
        places = [(at, place[0]) for at, place in enumerate(word_places(text, words)) if place]
        starts = [start for _, start in places]
        mentions = []
        for match in reader(parse):
            end = parse.starts[match.last] + len(parse.forms[match.last])
            start = parse.starts[match.first]
            first = places[max(0, bisect_right(starts, start) - 1)][0] if places else 0
            last = places[max(0, bisect_right(starts, end - 1) - 1)][0] if places else 0
            written = " ".join(words[first : last + 1])
            entry = match.entry
            same = written.count(" ") == entry.word.count(" ")
            mentions.append(Mention(entry.word if same else written, entry.node or "", first))
        yield Reading(words, _cut_parsed(words, mentions, len(words)))


def _cut_parsed(words: list[str], mentions: Sequence[Mention], end: int) -> CaptionMentions:
    kept = [mention for mention in mentions if mention.place < end]
    joined = sum(mention.word.count(" ") for mention in kept)
    return CaptionMentions(kept, min(end, len(words)) - joined)


def plain_words(caption: str) -> list[str]:
    """Return a caption's words in lower case, otherwise unchanged."""
    return split_words(caption.lower())


def pattern_words(caption: str) -> list[str]:
    """Return a caption's words, each in the singular, verbs and function words included."""
    return [singularise(word) for word in split_words(caption.lower())]


def wordnet_words(caption: str) -> list[str]:
    """Return a caption's words as lemmas of WordNet 3.0, by the part of speech that NLTK tags."""
    tagged = tagger().tag(split_words(caption.lower()))
    return [wordnet_lemma(word, _WORDNET_TAGS.get(tag[:1], "n")) for word, tag in tagged]


_WORDNET_TAGS = {"J": "a", "V": "v", "N": "n", "R": "r"}


@lru_cache(maxsize=65536)
def wordnet_lemma(word: str, part_of_speech: str) -> str:
    """Return the lemma of a word as one of WordNet's parts of speech: "n", "v", "a" or "r"."""
    lemma: str = lemmatiser().lemmatize(word, part_of_speech)
    return lemma
