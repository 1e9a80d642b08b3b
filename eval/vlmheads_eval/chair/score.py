"""Captions in, CHAIR out (Rohrbach et al., 2018), with the truncation frontier."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.chair.ground_truth import GroundTruth
from vlmheads_eval.chair.measures import (
    CaptionScore,
    Counts,
    count,
    count_mentions,
    measure,
    overall,
    score_mentions,
)
from vlmheads_eval.chair.variants import Variant
from vlmheads_eval.records import Caption, image_key
from vlmheads_eval.statistics import Array, Estimate, estimate


def score_chair(
    captions: Iterable[Caption],
    truth: GroundTruth,
    variant: Variant,
    each: Callable[[Caption, CaptionScore], None] | None = None,
) -> dict[str, Any]:
    """Return CHAIR of captions, with what makes it honest beside it, in flat memory.

    Args:
        captions: one or more an image.
        truth: the categories in each image.
        variant: how captions are read.
        each: is handed every caption's score as it is made, in order.

    Returns:
        "variant"; "overall": the measures of `measures.MEASURES` as fractions, None where nothing
        counts; "frontier": the same for the captions cut after 1, 2, ... sentences; "reference":
        the figures under the names and units of the reference scripts; "unknown_images": captions
        of images that the ground truth does not have.
    """
    sums = np.zeros(len(Counts._fields), dtype=np.int64)
    cut = np.zeros((LONGEST, len(Counts._fields)), dtype=np.int64)
    unknown = 0
    for caption, words, score in score_captions(captions, truth, variant):
        sums += count(caption, score)
        cut += truncated_counts(words, score, variant)
        unknown += not score.known
        if each is not None:
            each(caption, score)
    figures = overall(sums)
    words_a_caption = figures["words"]
    return {
        "variant": variant.name,
        "overall": figures,
        "reference": {
            "CHAIRs": figures["CHAIRs"],
            "CHAIRi": figures["CHAIRi"],
            "Recall": figures["recall"],
            "Len": None if words_a_caption is None else 0.01 * words_a_caption,
        },
        "frontier": frontier(cut),
        "unknown_images": unknown,
    }


def score_captions(
    captions: Iterable[Caption], truth: GroundTruth, variant: Variant
) -> Iterator[tuple[Caption, list[str], CaptionScore]]:
    """Yield every caption with its words and its score, one at a time and in the order given.

    An image that the ground truth does not know counts as an empty one, as in the reference, and
    its score says so (`known`).
    """
    for caption in captions:
        objects = truth.objects.get(image_key(caption.image_id))
        try:
            words = variant.words(caption.text)
        except VlmHeadsError as error:
            raise VlmHeadsError(f"{caption.place}: {error}") from error
        yield caption, words, score_mentions(caption.image_id, variant.find(words), objects)


SENTENCE_ENDS = frozenset(".!?")
# Quotes and brackets, also as the variant "pattern" puts quotes into the singular.
CLOSERS = frozenset(("''", '"', ")", "]", "\u201d", "\u2019", "'", "'s", "'s's"))
# The measures of cut captions; the rest describe whole captions.
CUT_MEASURES = (
    *("CHAIRs", "CHAIRi", "unique_hallucination", "recall", "precision", "object_f1"),
    *("mentions", "objects", "words"),
)
LONGEST = 10  # Sentences; the captions of today's models rarely have more.


def sentence_ends(words: Sequence[str]) -> list[int]:
    """Return for every sentence the number of words up to its end, marks and quotes included.

    A period is a word of its own only at the end of a sentence, so the words tell by themselves.
    """
    ends = []
    for position, word in enumerate(words, 1):
        if word in SENTENCE_ENDS:
            ends.append(position)
        elif ends and ends[-1] == position - 1 and word in CLOSERS:
            ends[-1] = position
    if not ends or ends[-1] < len(words):
        ends.append(len(words))
    return ends


def truncated_counts(
    words: list[str], score: CaptionScore, variant: Variant
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the counts [LONGEST, columns] of a caption cut after 1, 2, ... sentences."""
    full = count_mentions(score)
    ends = sentence_ends(words)
    rows = [full] * LONGEST
    for kept, end in enumerate(ends[:LONGEST]):
        if end < len(words):
            mentions = variant.find(words[:end])
            cut = score_mentions(score.image_id, mentions, score.truth)
            rows[kept] = count_mentions(cut)
    return np.array(rows, dtype=np.int64)


def frontier(sums: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Return the measures of sums [LONGEST, columns] for each number of sentences that are kept.

    Numbers of sentences from which nothing changes any more are left out.
    """
    words = Counts._fields.index("words")
    points = []
    for kept, row in enumerate(sums, 1):
        figures = overall(row)
        points.append({"sentences": kept, **{name: figures[name] for name in CUT_MEASURES}})
        if row[words] == sums[-1][words]:
            break
    return points


def frontier_distance(
    name: str, frontier: tuple[Array, Array], method: tuple[Array, Array]
) -> Estimate:
    """Return the method's rate minus that of the baseline's captions cut to the same recall.

    Below zero the method invents less than plain truncation that names as much of what is there.
    Between whole numbers of sentences the frontier is a straight line in recall. Above the
    baseline's own recall it stays at the baseline's rate; below one sentence CHAIR_S goes straight
    to zero, as it does for empty captions, and the other rates stay.

    Args:
        name: a measure.
        frontier: sums of the cut captions [points, columns] and of their draws [draws, points,
            columns], the last point whole captions.
        method: sums [columns] and their draws [draws, columns].
    """
    value = _distance(name, frontier[0][np.newaxis], method[0][np.newaxis])[0]
    return estimate(value, _distance(name, frontier[1], method[1]))


def _distance(name: str, frontier: Array, method: Array) -> Array:
    recalls, rates = measure(frontier, "recall"), measure(frontier, name)
    start = np.zeros((len(rates), 1))
    first_rate = start if name == "CHAIRs" else rates[:, :1]
    recalls = np.hstack([start, recalls])
    rates = np.hstack([first_rate, rates])
    return measure(method, name) - interpolate(measure(method, "recall"), recalls, rates)


def interpolate(at: Array, x: Array, y: Array) -> Array:
    """Return for every row the value at `at` [rows] of the line through x, y [rows, points].

    x does not fall along a row. Outside of it the nearest end counts.
    """
    points = x.shape[1]
    after = np.clip((x < at[:, np.newaxis]).sum(axis=1), 1, points - 1)
    rows = np.arange(len(at))
    x0, x1 = x[rows, after - 1], x[rows, after]
    y0, y1 = y[rows, after - 1], y[rows, after]
    width = x1 - x0
    share = np.zeros(len(at))
    np.divide(at - x0, width, out=share, where=width > 0)
    return np.asarray(y0 + np.clip(share, 0, 1) * (y1 - y0))
