"""Which objects a caption mentions, and which of them are there: CHAIR's marks in the text."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vlmheads_eval.chair.measures import repeated_share, score_mentions
from vlmheads_eval.chair.spans import mention_spans
from vlmheads_eval.chair.variants import get_variant

VARIANT = "pattern"


@dataclass(frozen=True)
class Mention:
    """An object word in a caption.

    Args:
        start: its first character in the text.
        end: the character after its last.
        object: the category that it names.
        right: whether that is in the picture; None where nobody knows.
    """

    start: int
    end: int
    object: str
    right: bool | None


@dataclass(frozen=True)
class Reading:
    """What a caption says, as the evaluator reads it.

    Args:
        mentions: object words that were found in the text, in order.
        objects: the distinct categories that it mentions.
        invented: those of them that are not there; None where nobody knows what is.
        missed: categories that are there and not mentioned; None likewise.
        words: length of the caption.
        repetition: share of its 4-grams that came before in it.
    """

    mentions: tuple[Mention, ...]
    objects: tuple[str, ...]
    invented: tuple[str, ...] | None
    missed: tuple[str, ...] | None
    words: int
    repetition: float


def read_caption(text: str, truth: Collection[str] | None) -> Reading:
    """Read a caption as CHAIR's variant "pattern" does.

    Args:
        text: the caption.
        truth: names of COCO categories in the picture; None where they are not known.
    """
    reader = get_variant(VARIANT)
    known = None if truth is None else frozenset(reader.vocabulary.nodes[name] for name in truth)
    score = score_mentions(0, reader.find(reader.words(text)), known)
    mentions = [
        Mention(start, end, mention.node, None if known is None else mention.node in known)
        for mention in score.mentions
        for start, end in mention_spans(text, [mention])
    ]
    named = tuple(dict.fromkeys(mention.node for mention in score.mentions))
    return Reading(
        tuple(mentions),
        named,
        None if known is None else tuple(name for name in named if name not in known),
        None if known is None else tuple(sorted(known - score.named)),
        score.words,
        repeated_share(text),
    )
