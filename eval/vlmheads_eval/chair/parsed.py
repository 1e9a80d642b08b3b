"""The mentions of a vocabulary's objects in a parsed text."""

from collections.abc import Callable, Sequence
from functools import partial

from vlmheads_eval.chair.lexicon import Entry, Forms, Match, matches, words_of, written_forms
from vlmheads_eval.chair.likeness import compared, depicted, written
from vlmheads_eval.chair.mentions import Vocabulary
from vlmheads_eval.chair.parser import Parse
from vlmheads_eval.chair.phrases import (
    ANIMALS,
    anchor,
    is_noun,
    likeness,
    modified,
    owner_counts,
)
from vlmheads_eval.chair.scope import absent, hypothetical
from vlmheads_eval.chair.senses import other_sense

Reader = Callable[[Parse], list[Match]]


def parsed_reader(vocabulary: Vocabulary, *, coco: bool) -> Reader:
    """Return a function from a parsed text to the matches that name an object that is there.

    Args:
        vocabulary: the words to count.
        coco: whether the rules for COCO's words apply: other senses, young animals, toilet seats.
    """
    people = frozenset(form for form, node in vocabulary.nodes.items() if node == "person")
    return partial(_read, written_forms(vocabulary), people, coco)


def _read(forms: Forms, people: frozenset[str], coco: bool, parse: Parse) -> list[Match]:
    found: list[tuple[Match, int]] = []
    for match in matches(parse.words, forms):
        if match.entry.node is None:
            continue
        head = anchor(parse, match, people)
        if head is None or not _is_meant(parse, match, head, coco):
            continue
        found.append((match, head))
    if coco:
        found = _young(parse, _toilet_seats(found))
    return [
        match for match, head in found if not (absent(parse, head) or hypothetical(parse, head))
    ]


def _is_meant(parse: Parse, match: Match, head: int, coco: bool) -> bool:
    return not (
        likeness(parse, match, head)
        or not owner_counts(parse, match)
        or compared(parse, head)
        or depicted(parse, match, head)
        or written(parse, match, head)
        or (coco and other_sense(parse, match, head))
    )


def _toilet_seats(found: list[tuple[Match, int]]) -> list[tuple[Match, int]]:
    """Leave out the seats of toilets, as CHAIR does."""
    if not any(match.entry.word == "toilet" for match, _ in found):
        return found
    return [pair for pair in found if pair[0].entry.word != "seat"]


def _young(parse: Parse, found: list[tuple[Match, int]]) -> list[tuple[Match, int]]:
    """Count a young animal as its kind, and an animal's mother as no person.

    "A bear cub" and "a zebra and her foal" name one kind; "its mother" is a person only where
    nothing else in the text is an animal.
    """
    kept: list[tuple[Match, int]] = []
    animals = {match.entry.node for match, _ in found if match.entry.node in ANIMALS}
    for match, head in found:
        word = parse.words[match.last]
        owned = any(
            parse.words[child] in ("its", "their", "her", "his")
            for child in parse.children[match.last]
        )
        before = _animal_before(found, match)
        if word in words_of("young") and match.entry.node in ANIMALS:
            others = sorted(animals - {match.entry.node} - {None}, key=str)
            node = before or (others[0] if owned and len(others) == 1 else None)
            if node:
                match = match._replace(entry=Entry(match.entry.word, node))
        if match.entry.node == "person" and word in words_of("kin") and animals:
            people = any(
                other.entry.node == "person" and parse.words[other.last] not in words_of("kin")
                for other, _ in found
            )
            if before or (owned and not people):
                continue
        kept.append((match, head))
    return kept


def _animal_before(found: Sequence[tuple[Match, int]], match: Match) -> str | None:
    """Return the animal right before a match, which it is the young of: "elephant calf"."""
    for other, head in found:
        if other.last == match.first - 1 and other.entry.node in ANIMALS and head >= match.last:
            return other.entry.node
    return None


def nouns(parse: Parse) -> list[Match]:
    """Return the noun phrases of a parsed text that name things that are there, without a list.

    A match runs from the first noun of a compound to its head ("garden gnomes").
    """
    found: list[Match] = []
    for head, tag in enumerate(parse.tags):
        if tag not in ("NN", "NNS") or modified(parse, head) is not None:
            continue
        first = head
        while (
            first
            and parse.tags[first - 1] in ("NN", "NNP", "NNS")
            and (parse.heads[first - 1] in range(first, head + 1))
        ):
            first -= 1
        match = Match(first, head, Entry(parse.words[head], parse.words[head]))
        abstract = parse.words[head] in words_of("abstract") or not is_noun(parse, head)
        meant = not abstract and _is_meant(parse, match, head, coco=False)
        if meant and not (absent(parse, head) or hypothetical(parse, head)):
            found.append(match)
    return found
