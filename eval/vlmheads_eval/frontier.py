"""The truncation frontier: what plain cutting of the same captions would reach."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlmheads_eval.chair import CaptionScore, score_reading
from vlmheads_eval.lineages import Lineage
from vlmheads_eval.measures import Counts, count_mentions, overall

SENTENCE_ENDS = frozenset(".!?")
# Quotes and brackets, also as the lineage "pattern" puts quotes into the singular.
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
    words: list[str], score: CaptionScore, lineage: Lineage
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the counts [LONGEST, columns] of a caption cut after 1, 2, ... sentences."""
    full = count_mentions(score)
    ends = sentence_ends(words)
    rows = [full] * LONGEST
    for kept, end in enumerate(ends[:LONGEST]):
        if end < len(words):
            reading = lineage.find(words[:end])
            cut = score_reading(score.image_id, reading, score.truth)
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
