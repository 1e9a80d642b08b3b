"""What a comparison comes to, in words."""

from collections.abc import Mapping
from typing import Any

from vlmheads_eval.statistics import Estimate

ALPHA = 0.05
BETTER, WORSE = "better", "worse"
SAME, SHORTER = "not distinguishable", "shorter, not better"
# Rates that a looping caption cannot talk down by naming the same safe object again.
FRONTIER_RATES = ("CHAIRs", "unique_hallucination")


def judge(
    difference: Mapping[str, Estimate],
    frontier: Mapping[str, Estimate],
    holm: Mapping[str, float | None],
) -> str:
    """Return the verdict on a method against its baseline.

    "worse": CHAIR_S or CHAIR_I is higher and neither is lower, after Holm's correction at 5 %.
    "better": one is lower, neither higher, and at equal recall CHAIR_S or the unique-object rate
    lies below the baseline's truncation frontier, neither above. "shorter, not better": lower, yet
    not below that frontier: cutting the baseline's captions does as much. Else "not
    distinguishable".
    """
    signs = [_sign(difference[name].value, holm[name]) for name in ("CHAIRs", "CHAIRi")]
    if sum(signs) > 0 and min(signs) >= 0:
        return WORSE
    if sum(signs) >= 0 or max(signs) > 0:
        return SAME
    sides = [_sign(frontier[name].value, holm[f"frontier {name}"]) for name in FRONTIER_RATES]
    return BETTER if min(sides) < 0 and max(sides) <= 0 else SHORTER


def _sign(value: float | None, p: float | None) -> int:
    if value is None or p is None or p >= ALPHA:
        return 0
    return (value > 0) - (value < 0)


def notes(difference: Mapping[str, Estimate], figures: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know beside the rates: loops, cut captions, lost recall."""
    found = []
    if (figures["repetition"] or 0) > 0.01:
        found.append(f"{figures['repetition']:.1%} of its captions repeat themselves")
    if (figures["at_limit"] or 0) > 0.01:
        found.append(f"{figures['at_limit']:.1%} of its captions stop at the token limit")
    if figures["empty"]:
        found.append(f"{figures['empty']:.1%} of its captions are empty")
    recall = difference["recall"]
    if recall.value is not None and recall.p is not None and recall.p < ALPHA:
        word = "less" if recall.value < 0 else "more"
        found.append(f"names {abs(recall.value) * 100:.1f} points {word} of what is there")
    return found
