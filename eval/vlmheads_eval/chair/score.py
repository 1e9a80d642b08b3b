"""Captions in, CHAIR out (Rohrbach et al., 2018), with the truncation frontier."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
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
    """Return CHAIR of captions with the measures that qualify it, in constant memory.

    Args:
        captions: one or more per image.
        truth: the categories in each image.
        variant: how mentions are found.
        each: called with every caption and its score, in order.

    Returns:
        "variant"; "read_with": of "fixed", its parser or "word lists"; "overall": the measures of
        `measures.MEASURES` as fractions, None where undefined; "frontier": the same for the
        captions cut after 1, 2, ... sentences; "reference": the figures with the names and units
        of the reference scripts; "unknown_images": captions of images that are not in the ground
        truth.
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
    words_per_caption = figures["words"]
    return {
        "variant": variant.name,
        **({"read_with": variant.read_with} if variant.read_with else {}),
        "overall": figures,
        "reference": {
            "CHAIRs": figures["CHAIRs"],
            "CHAIRi": figures["CHAIRi"],
            "Recall": figures["recall"],
            "Len": None if words_per_caption is None else 0.01 * words_per_caption,
        },
        "frontier": frontier(cut),
        "unknown_images": unknown,
    }


def score_captions(
    captions: Iterable[Caption], truth: GroundTruth, variant: Variant
) -> Iterator[tuple[Caption, list[str], CaptionScore]]:
    """Yield every caption with its words and its score, in order.

    An image that is not in the ground truth counts as one without objects, as in the reference;
    its score says so (`known`).
    """
    waiting = iter(captions)
    while batch := list(islice(waiting, BATCH)):
        readings = variant.read_all([caption.text for caption in batch])
        for caption in batch:
            try:
                words, mentions = next(readings)
            except VlmHeadsError as error:
                raise VlmHeadsError(f"{caption.place}: {error}") from error
            objects = truth.objects.get(image_key(caption.image_id))
            yield caption, words, score_mentions(caption.image_id, mentions, objects)


BATCH = 64  # Captions that are read at once.
SENTENCE_ENDS = frozenset(".!?")
# Quotes and brackets, also in the form that the variant "pattern" gives them.
CLOSERS = frozenset(("''", '"', ")", "]", "\u201d", "\u2019", "'", "'s", "'s's"))
# The measures of truncated captions; the others describe whole captions.
CUT_MEASURES = (
    *("CHAIRs", "CHAIRi", "unique_hallucination", "recall", "precision", "object_f1"),
    *("mentions", "objects", "words"),
)
LONGEST = 10  # Sentences; captions rarely have more.


def sentence_ends(words: Sequence[str]) -> list[int]:
    """Return for every sentence the number of words up to its end, closing marks included.

    A period is a separate word only at the end of a sentence, so the words are enough.
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
    """Return the counts [LONGEST, columns] of a caption truncated after 1, 2, ... sentences."""
    full = count_mentions(score)
    ends = sentence_ends(words)
    rows = [full] * LONGEST
    for kept, end in enumerate(ends[:LONGEST]):
        if end < len(words):
            mentions = variant.cut(words, score.mentions, end)
            cut = score_mentions(score.image_id, mentions, score.truth)
            rows[kept] = count_mentions(cut)
    return np.array(rows, dtype=np.int64)


def frontier(sums: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Return the measures of sums [LONGEST, columns] for each number of sentences kept.

    It stops at the number of sentences that leaves every caption whole.
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
    """Return a method's rate minus that of the baseline's captions truncated to the same recall.

    Below zero, the method hallucinates less than truncation that recalls as many objects. Between
    whole numbers of sentences the frontier is linear in recall. Above the baseline's recall it
    stays at the baseline's rate; below one sentence CHAIR_S falls linearly to zero, as for empty
    captions, and the other rates stay constant.

    Args:
        name: a measure.
        frontier: sums of the truncated captions [points, columns] and of their draws [draws,
            points, columns]; the last point is whole captions.
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

    x must not decrease along a row. Outside its range the nearest end is used.
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
