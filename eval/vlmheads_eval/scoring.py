"""A file of captions in, the whole CHAIR result out."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from vlmheads_eval.captions import Caption
from vlmheads_eval.chair import CaptionScore, score_captions
from vlmheads_eval.frontier import LONGEST, frontier, truncated_counts
from vlmheads_eval.ground_truth import GroundTruth
from vlmheads_eval.lineages import Lineage
from vlmheads_eval.measures import Counts, count, overall


def score_chair(
    captions: Iterable[Caption],
    truth: GroundTruth,
    lineage: Lineage,
    each: Callable[[Caption, CaptionScore], None] | None = None,
) -> dict[str, Any]:
    """Return CHAIR of captions, with what makes it honest beside it, in flat memory.

    Args:
        captions: one or more an image.
        truth: the categories in each image.
        lineage: how captions are read.
        each: is handed every caption's score as it is made, in order.

    Returns:
        "lineage"; "overall": the measures of `measures.MEASURES` as fractions, None where nothing
        counts; "frontier": the same for the captions cut after 1, 2, ... sentences; "reference":
        the figures under the names and units of the reference scripts; "unknown_images": captions
        of images that the ground truth does not have.
    """
    sums = np.zeros(len(Counts._fields), dtype=np.int64)
    cut = np.zeros((LONGEST, len(Counts._fields)), dtype=np.int64)
    unknown = 0
    for caption, words, score in score_captions(captions, truth, lineage):
        sums += count(caption, score)
        cut += truncated_counts(words, score, lineage)
        unknown += not score.known
        if each is not None:
            each(caption, score)
    figures = overall(sums)
    words_a_caption = figures["words"]
    return {
        "lineage": lineage.name,
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
