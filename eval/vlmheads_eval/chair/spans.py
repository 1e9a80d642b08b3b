"""Where in a caption's text and among its tokens its mentions stand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from vlmheads_eval.chair.mentions import Mention
from vlmheads_eval.chair.variants import Places, Variant, corrected_coco, object_places
from vlmheads_eval.chair.words import split_words

if TYPE_CHECKING:
    from torch import Tensor


def mention_spans(text: str, mentions: Iterable[Mention]) -> list[tuple[int, int]]:
    """Return start and end of every mention in the text; nothing where it cannot be told.

    Words are found one after the other in the lower-case text. Behind a dropped "seat" the places
    of the reference variants are one too low, and so is the mark.
    """
    places = _word_places(text, split_words(text.lower()))
    found = (
        _covered(places[mention.place : mention.place + len(mention.word.split())])
        for mention in mentions
    )
    return [span for span in found if span]


def coco_objects(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return start, end and COCO category of every object that a text names, in order.

    They are the mentions of the variant `fixed`: written forms of CHAIR's table, singular and
    plural; what the text denies is left out. Nothing where the places cannot be told.

    Raises:
        VlmHeadsError: words that only NLTK can take apart, where it is not installed.
    """
    words = split_words(text.lower())
    places = _word_places(text, words)
    found = ((_covered(places[first:end]), name) for first, end, name in _coco_places()(words))
    return tuple((*span, name) for span, name in found if span)


@cache
def _coco_places() -> Places:
    return object_places(corrected_coco(), coco=True)


def _word_places(text: str, words: list[str]) -> list[tuple[int, int] | None]:
    """Return start and end of each word in the text, None where it cannot be told."""
    lower = text.lower()
    if len(lower) != len(text):
        return []  # A letter whose lower case is longer moves all that follows.
    places: list[tuple[int, int] | None] = []
    cursor = 0
    for word in words:
        found = lower.find(word, cursor)
        if found < 0:
            places.append(None)  # A quote, which the tokeniser writes in another way.
            continue
        cursor = found + len(word)
        places.append((found, cursor))
    return places


def _covered(places: list[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Return where the first of some words begins and the last ends."""
    known = [place for place in places if place]
    return (known[0][0], known[-1][1]) if known else None


@dataclass(frozen=True)
class CaptionSpans:
    """A caption with the places of its object words.

    Args:
        text: the caption.
        grounded: characters [start, end) of mentions of what is in the image.
        invented: characters [start, end) of mentions of what is not.
    """

    text: str
    grounded: tuple[tuple[int, int], ...]
    invented: tuple[tuple[int, int], ...]


def caption_spans(text: str, truth: frozenset[str], variant: Variant) -> CaptionSpans:
    """Mark the mentions of a caption, as CHAIR reads it, against its image's categories."""
    kinds: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for mention in variant.read(text).mentions:
        kinds[mention.node in truth] += mention_spans(text, (mention,))
    return CaptionSpans(text, tuple(kinds[True]), tuple(kinds[False]))


def token_masks(
    tokenizer: Any, captions: Sequence[CaptionSpans]
) -> tuple["Tensor", "Tensor", "Tensor"]:
    """Return tokens [N, T] of captions, and which of them are grounded and invented words [N, T].

    Rows are padded behind. The tokenizer has to be a fast one, which knows places in the text.
    """
    import torch

    coded = tokenizer(
        [caption.text for caption in captions],
        add_special_tokens=False,
        return_offsets_mapping=True,
    )
    longest = max(1, *(len(row) for row in coded["input_ids"]))
    shape = (len(captions), longest)
    ids = torch.full(shape, tokenizer.pad_token_id or 0)
    marks = torch.zeros(2, *shape, dtype=torch.bool)
    for row, caption in enumerate(captions):
        tokens = coded["input_ids"][row]
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        for place, (start, end) in enumerate(coded["offset_mapping"][row]):
            for kind, spans in enumerate((caption.grounded, caption.invented)):
                marks[kind, row, place] = any(start < last and end > first for first, last in spans)
    return ids, marks[0], marks[1]
