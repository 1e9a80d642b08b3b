"""CHAIR of one caption, and the measures reported next to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vlmheads_eval.chair.broken import broken_text
from vlmheads_eval.chair.mentions import CaptionMentions, Mention
from vlmheads_eval.records import Caption, ImageId


@dataclass(frozen=True)
class CaptionScore:
    """The result of one caption.

    Args:
        image_id: as in the captions file.
        mentions: every object mention in order, repetitions included.
        truth: the categories that are in the image.
        words: length of the caption in words, joined pairs as one, punctuation included.
        known: whether the image is in the ground truth; if not, `truth` is empty.
    """

    image_id: ImageId
    mentions: tuple[Mention, ...]
    truth: frozenset[str]
    words: int
    known: bool = True

    @property
    def hallucinated(self) -> tuple[Mention, ...]:
        """The mentions of objects that are not in the image."""
        return tuple(mention for mention in self.mentions if mention.node not in self.truth)

    @property
    def named(self) -> frozenset[str]:
        """The distinct categories that the caption mentions."""
        return frozenset(mention.node for mention in self.mentions)

    def to_dict(self) -> dict[str, Any]:
        """Return the caption's entry of `vlmheads eval score chair --json`."""
        wrong = self.hallucinated
        return {
            "image_id": self.image_id,
            "generated": [mention.node for mention in self.mentions],
            "hallucinated": [[mention.word, mention.node] for mention in wrong],
            "indices": [mention.place for mention in wrong],
            "CHAIRs": int(bool(wrong)),
            "CHAIRi": len(wrong) / len(self.mentions) if self.mentions else 0.0,
            "recall": len(self.named & self.truth) / len(self.truth) if self.truth else 0.0,
            "words": self.words,
        }


def score_mentions(
    image_id: ImageId, mentions: CaptionMentions, truth: frozenset[str] | None
) -> CaptionScore:
    """Return the score of a caption's mentions against its image's categories (None: unknown)."""
    return CaptionScore(
        image_id, tuple(mentions.mentions), truth or frozenset(), mentions.length, truth is not None
    )


REPEATED_SHARE = 0.2  # A caption with a larger share of repeated 4-grams is repetitive.


class Counts(NamedTuple):
    """What one caption adds to the sums; every measure is a ratio of such sums."""

    captions: int
    hallucinating: int  # 1 if any mention is hallucinated
    mentions: int
    hallucinated: int  # mentions of objects that are not there
    named: int  # distinct categories mentioned
    hallucinated_named: int  # distinct categories mentioned that are not there
    recalled: int  # distinct categories mentioned that are there
    truth: int
    words: int
    repetitive: int
    at_limit: int
    limit_known: int  # 1 if the file says whether the token limit ended it
    empty: int
    broken: int  # 1 if an article has no noun; see `broken.broken_text`


# Measure -> numerator and denominator, each a sum of columns with their factors.
MEASURES: Mapping[str, tuple[Mapping[str, int], Mapping[str, int]]] = {
    "CHAIRs": ({"hallucinating": 1}, {"captions": 1}),
    "CHAIRi": ({"hallucinated": 1}, {"mentions": 1}),
    "recall": ({"recalled": 1}, {"truth": 1}),
    "precision": ({"recalled": 1}, {"named": 1}),
    "object_f1": ({"recalled": 2}, {"named": 1, "truth": 1}),
    "unique_hallucination": ({"hallucinated_named": 1}, {"named": 1}),
    "mentions": ({"mentions": 1}, {"captions": 1}),
    "objects": ({"named": 1}, {"captions": 1}),
    "words": ({"words": 1}, {"captions": 1}),
    "repetition": ({"repetitive": 1}, {"captions": 1}),
    "at_limit": ({"at_limit": 1}, {"limit_known": 1}),
    "empty": ({"empty": 1}, {"captions": 1}),
    "broken": ({"broken": 1}, {"captions": 1}),
}


def count(caption: Caption, score: CaptionScore) -> Counts:
    """Return what a scored caption adds to the sums."""
    return count_mentions(score)._replace(
        repetitive=int(repeated_share(caption.text) > REPEATED_SHARE),
        at_limit=int(caption.at_limit is True),
        limit_known=int(caption.at_limit is not None),
        empty=int(not caption.text.strip()),
        broken=int(broken_text(caption.text)),
    )


def count_mentions(score: CaptionScore) -> Counts:
    """Return what a scored text adds to the sums, without what needs a whole caption."""
    named = score.named
    hallucinated = len(score.hallucinated)
    recalled = len(named & score.truth)
    return Counts(
        captions=1,
        hallucinating=int(hallucinated > 0),
        mentions=len(score.mentions),
        hallucinated=hallucinated,
        named=len(named),
        hallucinated_named=len(named) - recalled,
        recalled=recalled,
        truth=len(score.truth),
        words=score.words,
        repetitive=0,
        at_limit=0,
        limit_known=0,
        empty=0,
        broken=0,
    )


def repeated_share(text: str) -> float:
    """Return the share of a text's word 4-grams that occurred in it before; 0 under four words."""
    words = text.lower().split()
    grams = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def measure(sums: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """Return one measure of sums [..., columns of `Counts`] as [...]; NaN where it is undefined."""
    above, below = (_combine(sums, terms) for terms in MEASURES[name])
    ratio = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=ratio, where=below != 0)
    return ratio


def _combine(sums: np.ndarray[Any, Any], terms: Mapping[str, int]) -> np.ndarray[Any, Any]:
    columns = (factor * sums[..., Counts._fields.index(name)] for name, factor in terms.items())
    return np.asarray(sum(columns), dtype=float)


def overall(sums: Sequence[int] | np.ndarray[Any, Any]) -> dict[str, float | int | None]:
    """Return all measures of the sums over a file of captions; None where undefined."""
    array = np.asarray(sums)
    result: dict[str, float | int | None] = {"captions": int(array[0])}
    for name in MEASURES:
        value = float(measure(array, name))
        result[name] = None if np.isnan(value) else value
    return result
