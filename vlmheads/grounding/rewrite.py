"""Rewrite a caption without the English clauses whose object the image does not support."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vlmheads.grounding.words import Span, Word

_WIDE = "\N{IDEOGRAPHIC FULL STOP}\N{FULLWIDTH EXCLAMATION MARK}\N{FULLWIDTH QUESTION MARK}"
_ENDS = f".!?{_WIDE}\"')] "
_SENTENCE = re.compile(rf"\S.*?(?:[.!?][\"')\]]*(?=\s|$)|[{_WIDE}]|$)", re.S)
_ABBREVIATED = re.compile(r"(?:^|\s)(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|etc|approx|e\.g|i\.e|[A-Z])\.$")
_SEPARATOR = re.compile(r"\s*,\s+and\s+|\s*,\s+|\s+and\s+")
_ONE = "a an one another".split()
_SEVERAL = "two three four five six seven eight nine ten several many few".split()
_DETERMINER = "|".join([*_ONE, *_SEVERAL, "the", "some", "his", "her", "its", "their"])
# A determiner, and the words before the noun that an object is or begins with.
_BEGINNING = re.compile(rf"(?P<determiner>{_DETERMINER})\s+(?:[\w'-]+\s+){{0,3}}", re.I)
_ONE_WORD = re.compile(rf"(?P<determiner>{_DETERMINER})\s+[\w'-]+", re.I)
# What may hang on a noun.
_HANGING = re.compile(
    r"\s+(?:(?:on|in|at|by|near|under|behind|beside|next|above|around|inside|with)\b"
    r"|\w+(?:ing|ed)\b)"
)
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|can)\b", re.I)
_WITH = r"with|including|featuring"
_BESIDE = r"near|beside|behind|alongside|next to|in front of"
_VERBS = r"is|are|has|have|shows?|features?|contains?|includes?|depicts?|displays?"
_PHRASE = re.compile(rf"\s+(?:{_WITH}|{_BESIDE})$", re.I)
_GOVERNOR = re.compile(rf"(?:\s|^)(?:{_WITH}|{_BESIDE}|(?:{_VERBS})(?:\s+also)?)$", re.I)
_THERE = re.compile(r"(?P<before>.*\bthere\s+)(?P<verb>is|are)(?P<after>\s+also)?$", re.I | re.S)
# What a clause cannot end in.
_OPEN = frozenset(
    """is are was were be been being am has have had can could will would may might must do does
    and or but of to at by in on for from as than that which who whose where while also a an the
    this these those his her its their not very""".split()
)
_BACK = re.compile(r"(?:They|Their|He|His|She|Her|Its|Both)\b")


@dataclass(frozen=True)
class Rewrite:
    """A caption without what the image does not support.

    Args:
        text: what is left, never empty unless the caption was.
        removed: what was taken out, in its order.
        unsupported: whether every sentence would have gone, and the text is the one of them whose
            weakest object has the highest score, unsupported as it is.
    """

    text: str
    removed: tuple[str, ...]
    unsupported: bool = False


def drop_clauses(text: str, words: Sequence[Word], threshold: float) -> Rewrite:
    """Take the clauses out of an English caption whose object scores below a threshold.

    An item of a list goes alone ("a cup, a fork and a knife"), and so does a phrase such as "with
    a fork" after a clause that is complete without it. Wherever it is not certain that the rest is
    a sentence, the whole sentence goes, and with it those after it that begin with "They", "He" or
    another pronoun that would point to nothing ("It" stays: "It is a sunny day").

    Args:
        text: the caption.
        words: its words; those that name no object play no part.
        threshold: objects below it go.
    """
    kept: list[str] = []
    removed: list[str] = []
    whole: list[tuple[float, str]] = []  # Of sentences that go, the lowest score.
    pointless = False
    for start, end in sentences(text):
        sentence = text[start:end]
        inside = [word for word in words if word.object and word.start < end and word.end > start]
        objects = [
            _Object(word.start - start, word.end - start, word.score < threshold) for word in inside
        ]
        if not any(one.weak for one in objects):
            pointless = pointless and bool(_BACK.match(sentence))
            (removed if pointless else kept).append(sentence)
            continue
        trimmed = _trimmed(sentence, objects)
        pointless = trimmed is None
        if trimmed is None:
            removed.append(sentence)
            whole.append((min(word.score for word in inside), sentence))
        else:
            kept.append(trimmed[0])
            removed += trimmed[1]
    if not kept and whole:
        _, best = max(whole, key=lambda found: found[0])
        removed.remove(best)
        return Rewrite(best, tuple(removed), unsupported=True)
    return Rewrite(" ".join(kept), tuple(removed))


def sentences(text: str) -> list[Span]:
    """Return start and end of each sentence; what has no end mark is one, too."""
    found: list[Span] = []
    for match in _SENTENCE.finditer(text):
        if found and _ABBREVIATED.search(text[slice(*found[-1])]):
            found[-1] = (found[-1][0], match.end())
        else:
            found.append(match.span())
    return found


@dataclass(frozen=True)
class _Object:
    """An object that a sentence names: where, and whether it has to go."""

    start: int
    end: int
    weak: bool


@dataclass(frozen=True)
class _Item:
    """One of the things that a list names, with what hangs on it."""

    text: str
    determiner: str
    weak: bool


def _trimmed(sentence: str, objects: Sequence[_Object]) -> tuple[str, list[str]] | None:
    """Return a sentence without its weak items and what went; None where that is not certain."""
    body = sentence.rstrip(_ENDS)
    mark = sentence[len(body) :]
    begin = _list_begins(body)
    if begin is None or any(one.weak and one.start < begin for one in objects):
        return None
    lead = body[:begin].rstrip()
    found = [_read_item(body, cut, objects) for cut in _cuts(body, begin)]
    items = [item for item in found if item is not None]
    left = [item for item in items if not item.weak]
    # "A dog near a bench and a cat": is it the dog that is near the cat?
    ambiguous = bool(_PHRASE.search(lead)) and any(one.start < begin for one in objects)
    if len(items) < len(found) or (ambiguous and left and items[0].weak):
        return None
    if not left:
        return _without_list(lead, items, mark)
    governed = _agreeing(lead, left, items)
    if governed is None:
        return None
    oxford = bool(re.search(r",\s+and\s", body[begin:]))
    gone = [item.text for item in items if item.weak]
    return f"{governed} {_listed([item.text for item in left], oxford)}{mark}", gone


def _list_begins(body: str) -> int | None:
    """Return where the first item begins: after the last word before a comma that governs one."""
    first = _SEPARATOR.search(body)
    head = body[: first.start()] if first else body
    begins = [match.start() for match in re.finditer(rf"\b(?:{_DETERMINER})\s", head, re.I)]
    governed = [at for at in begins if _GOVERNOR.search(head[:at].rstrip())]
    return governed[-1] if governed else None


def _cuts(body: str, begin: int) -> list[Span]:
    """Return where the items of a list stand."""
    cuts, start = [], begin
    for match in _SEPARATOR.finditer(body, begin):
        cuts.append((start, match.start()))
        start = match.end()
    return [*cuts, (start, len(body))]


def _read_item(body: str, cut: Span, objects: Sequence[_Object]) -> _Item | None:
    """Return an item of a list; None for what may be something else, such as a clause."""
    text = body[slice(*cut)]
    inside = [one for one in objects if one.start >= cut[0] and one.end <= cut[1]]
    if not inside:
        match = _ONE_WORD.fullmatch(text)
        return None if match is None else _Item(text, match["determiner"].lower(), False)
    match = _BEGINNING.fullmatch(body, cut[0], inside[0].start)
    hanging = body[inside[0].end : cut[1]]
    if match is None or _VERB.search(match[0]) or _VERB.search(hanging):
        return None
    if hanging and not _HANGING.match(hanging):
        return None
    return _Item(text, match["determiner"].lower(), any(one.weak for one in inside))


def _without_list(lead: str, items: Sequence[_Item], mark: str) -> tuple[str, list[str]] | None:
    """Return a sentence without its whole list, where the list hangs on a clause."""
    phrase = _PHRASE.search(lead)
    if phrase is None:
        return None
    clause = lead[: phrase.start()].rstrip(" ,")
    words = re.findall(r"[\w'-]+", clause)
    if len(words) < 2 or words[-1].lower() in _OPEN:
        return None
    gone = f"{phrase[0].strip()} {_listed([item.text for item in items], False)}"
    return f"{clause}{mark}", [gone]


def _agreeing(lead: str, left: Sequence[_Item], items: Sequence[_Item]) -> str | None:
    """Return what comes before the items, "there is" in the number of what is left."""
    there = _THERE.match(lead)
    unchanged = left[0] is items[0]
    if there is None or (unchanged and (len(left) > 1 or there["verb"].lower() == "is")):
        return lead
    determiner = left[0].determiner
    if determiner in _ONE:
        verb = there["verb"] if len(left) > 1 else "is"
    elif determiner in _SEVERAL:
        verb = "are"
    else:
        return None  # "Some" and "the" do not tell.
    return f"{there['before']}{verb}{there['after'] or ''}"


def _listed(items: Sequence[str], oxford: bool) -> str:
    """Join items as English does: "a", "a and b", "a, b and c" or "a, b, and c"."""
    if len(items) < 2:
        return items[0]
    comma = "," if oxford and len(items) > 2 else ""
    return f"{', '.join(items[:-1])}{comma} and {items[-1]}"
