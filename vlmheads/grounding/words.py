"""The words of a caption, each with what the image gives it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmheads.entries import FIX, called, installed, load_entry, report, working
from vlmheads.errors import VlmHeadsError, install_hint

if TYPE_CHECKING:
    from torch import Tensor

    from vlmheads.grounding.measure import Grounding
    from vlmheads.grounding.scores import Scorer

GROUP = "vlmheads.objects"
VOCABULARIES = "vlmheads.vocabularies"
_JOINING = "'-\N{RIGHT SINGLE QUOTATION MARK}"

Span = tuple[int, int]
Decode = Callable[[list[list[int]]], list[str]]
Finder = Callable[[str], Iterable[tuple[int, int, str]]]


@dataclass(frozen=True)
class Word:
    """A word of a caption; an object's name of several words counts as one.

    What is measured belongs to the positions that predict the word's tokens, of the plain model.

    Args:
        text: the word as it is written.
        start: its first character in the caption.
        end: the character after its last.
        first: its first token among `Caption.ids`. A token that holds parts of two words belongs
            to both.
        last: the token after its last.
        object: the object that it names, None where it names none that is looked for.
        divergence: T-VHD, mean of its tokens.
        attention: share of attention that is on the image, mean of its tokens and of all heads.
        log_probability: of all its tokens, with the image.
        log_probability_without: of all its tokens, with the image deleted.
        score: how well the image supports it, from 0 to 1; see `Scorer` in
            `vlmheads.grounding.scores`. It is meant for objects and says little of other words.
        repeat: whether the caption named the same object before.
        scores: further scores by name, those that the scorer weighs or that were asked for.
    """

    text: str
    start: int
    end: int
    first: int
    last: int
    object: str | None
    divergence: float
    attention: float
    log_probability: float
    log_probability_without: float
    score: float
    repeat: bool = False
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def place(self) -> int:
        """How many tokens of the caption come before it: alone, it tells a lot."""
        return self.first

    @property
    def image_gain(self) -> float:
        """By how much the image raises the word's log-probability."""
        return self.log_probability - self.log_probability_without

    @property
    def measures(self) -> dict[str, float]:
        """Everything that a scorer may weigh, by name."""
        return {
            "divergence": self.divergence,
            "attention": self.attention,
            "log_probability": self.log_probability,
            "log_probability_without": self.log_probability_without,
            "place": self.place,
            "repeat": float(self.repeat),
            **self.scores,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; a score that is no number is None."""
        scores = {name: value if value == value else None for name, value in self.scores.items()}
        return asdict(self) | {"scores": scores}


def find_objects(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return start, end and name of the objects that a text names, in order.

    Every installed finder of the entry-point group "vlmheads.objects" is called, by name; it takes
    a text and returns such places. Of two that overlap the earlier finder's counts.
    """
    found: list[tuple[int, int, str]] = []
    for find in _finders():
        for start, end, name in find(text):
            if all(end <= other[0] or start >= other[1] for other in found):
                found.append((start, end, name))
    return tuple(sorted(found))


@cache
def _finders() -> tuple[Callable[[str], Iterable[tuple[int, int, str]]], ...]:
    """Every finder that can be imported, in the order of their names."""
    found = []
    for entry, find in working(GROUP):
        if callable(find):
            found.append(find)
        else:
            report(VlmHeadsError(f"{called(entry)} is {find!r}", "a function", FIX))
    return tuple(found)


def require_finders() -> None:
    """Refuse to go on where nothing is installed that finds objects.

    Raises:
        VlmHeadsError: no entry point of the group "vlmheads.objects".
    """
    if not _finders():
        raise VlmHeadsError(
            "nothing installed that finds the objects of a caption",
            f"an entry point of the group {GROUP!r}",
            f"install vlmheads with its evaluator: {install_hint('eval')}",
        )


def object_finder(vocabulary: str | None) -> Finder:
    """Return what finds the objects of a caption: the installed finders, or those of a vocabulary.

    Args:
        vocabulary: None for `find_objects`; the name of an entry point of the group
            "vlmheads.vocabularies", such as "nouns"; or a file of categories, for its entry "file".

    Raises:
        VlmHeadsError: neither such a name nor a file, or nothing installed that finds objects.
    """
    require_finders()
    if vocabulary is None:
        return find_objects
    known = installed(VOCABULARIES)
    reader = known.pop("file", None)
    if vocabulary in known:
        find: Finder = load_entry(known[vocabulary])
        find("")  # It refuses now where something is missing, and not after a caption is made.
        return find
    if reader is None or not Path(vocabulary).is_file():
        names = " or ".join([*sorted(known), "a file of categories"])
        raise VlmHeadsError(f"vocabulary {vocabulary!r}", names)
    made: Finder = load_entry(reader)(Path(vocabulary))
    return made


def token_spans(
    ids: Sequence[int], text: str, decode: Decode, special: Collection[int] = ()
) -> list[Span]:
    """Return the characters [start, end) of a text that each of its tokens stands for.

    They are found from the decoded prefixes of the caption, so it does not matter how the
    tokenizer marks spaces or bytes. Tokens that only together make a character all stand for it;
    special tokens stand for nothing.

    Args:
        ids: the tokens of the text, as they were generated.
        text: what they decode to, without white space around it.
        decode: from lists of tokens to their texts, special tokens left out.
        special: tokens that never stand for text.

    Raises:
        VlmHeadsError: tokens that decode to another text.
    """
    if not ids and not text:
        return []
    beginnings = decode([list(ids[: count + 1]) for count in range(len(ids))])
    whole = beginnings[-1] if beginnings else ""
    if whole.strip() != text:
        raise VlmHeadsError(f"tokens that decode to {whole!r}", f"those of {text!r}")
    shift = len(whole) - len(whole.lstrip())
    spans: list[Span] = []
    reached, waiting = 0, list[int]()
    for token, beginning in zip(ids, beginnings, strict=True):
        new = max(reached, _shared(beginning, whole))
        spans.append((reached, new))
        if new > reached:
            for place in waiting:
                spans[place] = (reached, new)
            reached, waiting = new, []
        elif token not in special:
            waiting.append(len(spans) - 1)
    size = len(text)
    return [
        (min(max(start - shift, 0), size), min(max(end - shift, 0), size)) for start, end in spans
    ]


def _shared(one: str, other: str) -> int:
    """Return how many characters two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def token_masks(
    tokenizer: Any, texts: Sequence[str], *kinds: Sequence[Collection[Span]]
) -> tuple[Tensor, ...]:
    """Return the tokens [N, T] of texts, and for each kind of span a mask [N, T] of its tokens.

    Args:
        tokenizer: a fast one, which reports offsets; no special tokens are added, and rows are
            padded on the right.
        texts: N texts.
        kinds: for each kind, N collections of characters [start, end).
    """
    import torch

    coded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    shape = (len(texts), max(1, *map(len, coded["input_ids"])))
    ids = torch.full(shape, tokenizer.pad_token_id or 0)
    masks = torch.zeros(len(kinds), *shape, dtype=torch.bool)
    for row, (tokens, offsets) in enumerate(
        zip(coded["input_ids"], coded["offset_mapping"], strict=True)
    ):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        for kind, spans in enumerate(kinds):
            for place, (start, end) in enumerate(offsets):
                masks[kind, row, place] = any(start < b and end > a for a, b in spans[row])
    return ids, *masks


def word_spans(
    text: str, objects: Sequence[tuple[int, int, str]]
) -> list[tuple[int, int, str | None]]:
    """Return start and end of each word of a text, and the object that it names if any.

    A word is a run of letters, digits and marks, with apostrophes and hyphens inside of it; the
    words that an object's name touches are one word with it. Writing without spaces between words
    gives one word a run.
    """
    plain = list(_plain_spans(text))
    found: list[tuple[int, int, str | None]] = []
    for start, end, name in objects:
        touched = [span for span in plain if span[0] < end and span[1] > start]
        begin, stop = min([start, *(a for a, _ in touched)]), max([end, *(b for _, b in touched)])
        if sum(begin < b and stop > a for a, b, _ in objects) > 1:
            begin, stop = start, end  # Two objects in one word: each has its own characters.
        found.append((begin, stop, name))
    named = [span[:2] for span in found]
    found += [
        (start, end, None)
        for start, end in plain
        if not any(start < b and end > a for a, b in named)
    ]
    return sorted(found, key=lambda span: span[:2])


def _plain_spans(text: str) -> Iterator[Span]:
    start: int | None = None
    for index, letter in enumerate(text):
        inside = _is_letter(letter) or (start is not None and _joins(text, index))
        if inside and start is None:
            start = index
        elif not inside and start is not None:
            yield start, index
            start = None
    if start is not None:
        yield start, len(text)


def _joins(text: str, index: int) -> bool:
    """Whether a mark inside of a text joins the letters, or the digits, on both of its sides."""
    around = text[index - 1], text[index + 1 : index + 2]
    if text[index] in _JOINING:
        return all(map(_is_letter, around))
    return text[index] in ".," and all(map(str.isdigit, around))


def _is_letter(letter: str) -> bool:
    return letter.isalnum() or letter == "_" or unicodedata.category(letter or " ")[0] == "M"


def ground_words(
    text: str,
    spans: Sequence[Span],
    grounding: Grounding,
    row: int,
    scorer: Scorer,
    k: int,
    asked: Mapping[str, Mapping[str, float]] | None = None,
    find: Finder = find_objects,
) -> tuple[Word, ...]:
    """Return the words of a caption with what was measured at their tokens.

    Args:
        text: the caption.
        spans: what `token_spans` says of its tokens.
        grounding: what was measured at these tokens.
        row: the caption's row in it.
        scorer: makes the score.
        k: heads of each layer that T-VHD sums.
        asked: name of a score -> object -> its value, for scores that the model was asked for.
        find: finds its objects.
    """
    from vlmheads.grounding.catalogue import of_word

    measured = {
        "divergence": grounding.token_divergence(k)[row],
        "attention": grounding.attention[row].mean(dim=(1, 2)),
        "log_probability": grounding.log_probability[row],
        "log_probability_without": grounding.log_probability_without[row],
    }
    further = {name: values[row] for name, values in grounding.scores.items()}
    words: list[Word] = []
    named = set[str]()
    for start, end, name in word_spans(text, tuple(find(text))):
        covering = [at for at, (a, b) in enumerate(spans) if a < end and b > start]
        first, last = covering[0], covering[-1] + 1
        part = slice(first, last)
        scores = {score: of_word(score, values[part]) for score, values in further.items()}
        for score, values in (asked or {}).items():
            scores[score] = values.get(name or "", float("nan"))
        word = Word(
            text[start:end],
            start,
            end,
            first,
            last,
            name,
            **{measure: of_word(measure, values[part]) for measure, values in measured.items()},
            score=0.0,
            repeat=name in named,
            scores=scores,
        )
        words.append(replace(word, score=scorer(word.measures)))
        named |= {name} if name else set()
    return tuple(words)
