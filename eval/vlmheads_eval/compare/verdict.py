"""The verdict on a run against its baseline, and the flags that stand beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmheads_eval.statistics import ALPHA, BETTER, SAME, WORSE, Estimate

SAYS_LESS = "on the frontier, says less"
SAYS_MORE = "on the frontier, says more"
VERDICTS = (BETTER, WORSE, SAYS_LESS, SAYS_MORE, SAME)
# With the two runs exchanged.
MIRRORED = {
    BETTER: WORSE,
    WORSE: BETTER,
    SAYS_LESS: SAYS_MORE,
    SAYS_MORE: SAYS_LESS,
    SAME: SAME,
}


def sign(found: Estimate, corrected: float | None) -> int:
    """Return 1 above 0, -1 below, and 0 where the interval or the corrected p value allows 0."""
    if found.value is None or corrected is None:
        return 0
    if corrected >= ALPHA or not found.excludes_zero:
        return 0
    return (found.value > 0) - (found.value < 0)


def judge(rate: int, objects: int, recall: int) -> str:
    """Return the verdict from three signs, each of the run minus its baseline.

    "better": CHAIR_S is lower at equal recall, and the unique-object rate is not higher there.
    "worse": the reverse. Where CHAIR_S does not differ at equal recall, both runs are on one
    frontier, and the recall of the whole captions tells which of them says less. "not
    distinguishable": neither differs, or the two rates contradict each other.

    Args:
        rate: of CHAIR_S at equal recall.
        objects: of the unique-object rate at equal recall.
        recall: of the recall of the whole captions.
    """
    if rate * objects < 0:
        return SAME
    if rate:
        return BETTER if rate < 0 else WORSE
    return {-1: SAYS_LESS, 0: SAME, 1: SAYS_MORE}[recall]


@dataclass(frozen=True)
class Flag:
    """What a reader of a verdict has to know: a fault that the rates do not see.

    Args:
        name: such as "repeats".
        value: the run's.
        baseline: the baseline's; None if unknown.
        difference: run minus baseline, with its paired interval; of words, their ratio minus 1.
    """

    name: str
    value: float
    baseline: float | None
    difference: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "name": self.name,
            "value": self.value,
            "baseline": self.baseline,
            "difference": self.difference.to_dict(),
        }


SHARES = {
    "repetition": "repeats",
    "at_limit": "at the limit",
    "empty": "empty",
    "broken": "broken text",
}
LONGER = "much longer"
NOTABLE = 0.01  # A share that is less than a point higher is no flag.
MUCH = 0.5  # Longer by half.


def flags(
    own: Mapping[str, float | None],
    baseline: Mapping[str, float | None],
    difference: Mapping[str, Estimate],
    longer: Estimate,
) -> list[Flag]:
    """Return the flags of a run.

    A share of captions (repetitive, ended by the token limit, empty, with broken text) is a flag
    where it is at least a point above the baseline's and the interval of the difference lies above
    0; where the baseline's is unknown, from one point on. "much longer": the captions have at least
    half as many words again, and the interval of the ratio lies above 1.

    Args:
        own: the run's figures.
        baseline: those of the baseline.
        difference: run minus baseline.
        longer: the ratio of words per caption, minus 1.
    """
    found = []
    for name, title in SHARES.items():
        value, change = own[name], difference[name]
        if value is None or value < NOTABLE:
            continue
        higher = change.value is None or (change.value >= NOTABLE and change.excludes_zero)
        if higher:
            found.append(Flag(title, value, baseline[name], change))
    words = own["words"]
    if words is not None and (longer.value or 0) >= MUCH and longer.excludes_zero:
        found.append(Flag(LONGER, words, baseline["words"], longer))
    return found


def labelled(method: Mapping[str, Any]) -> str:
    """Return a verdict together with the names of its flags, as it stands in tables."""
    names = [flag["name"] for flag in method.get("flags", ())]
    return f"{method['verdict']}; {', '.join(names)}" if names else str(method["verdict"])


def described(flag: Mapping[str, Any]) -> str:
    """Return a flag with its figures: "repeats (3.3% against 0.0%: +3.3 [+1.0, +6.0])"."""
    name, value, baseline = flag["name"], flag["value"], flag["baseline"]
    value_of, low, high = (flag["difference"][part] for part in ("value", "low", "high"))
    if name == LONGER:
        ratio = f"{1 + value_of:.2f} [{1 + low:.2f}, {1 + high:.2f}]"
        return f"{name} ({value:.0f} words against {baseline:.0f}: times {ratio})"
    if baseline is None:
        return f"{name} ({100 * value:.1f}%, unknown for the baseline)"
    change = f"{100 * value_of:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{name} ({100 * value:.1f}% against {100 * baseline:.1f}%: {change})"


def verdict_line(method: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """Return the verdict on a run in one line, with its baseline's kind and its flags.

    Args:
        method: of a comparison's "methods".
        baseline: the first of its "runs".
    """
    against = f"{baseline['name']} ({baseline['kind']})"
    verdict = method["verdict"]
    said = f"{verdict} than" if verdict in (BETTER, WORSE) else f"{verdict}; baseline"
    if verdict == SAME:
        said = f"{verdict} from"
    parts = [f"{method['name']} ({method['kind']}): {said} {against}"]
    found = method["at_recall"]["CHAIRs"]
    if found["value"] is not None:
        low, high = 100 * found["low"], 100 * found["high"]
        parts.append(
            f"CHAIR_S at equal recall {100 * found['value']:+.1f} [{low:+.1f}, {high:+.1f}]"
        )
    if method["flags"]:
        parts.append(f"flagged: {', '.join(described(flag) for flag in method['flags'])}")
    return "; ".join([*parts, *method["notes"]])
