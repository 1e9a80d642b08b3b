"""Which setting is recommended, by what was found on the images that confirm."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vlmheads_eval.statistics import ALPHA
from vlmheads_eval.tune.settings import Objective

RECOMMENDED = "recommended"
NONE = "nothing shown to help; keep the plain model"
# A fault of the text that no rate at equal recall makes up for.
FAULTS = ("repeats", "at the limit", "empty", "broken text")


@dataclass(frozen=True)
class Judgement:
    """What was found of one finalist.

    Args:
        name: of the setting.
        helps: whether it is better than the plain model at equal recall.
        recommended: whether it also beats its control, or selects nothing to control for.
        reason: in words.
        value: of the measure that decides, at equal recall, minus the plain model's.
    """

    name: str
    helps: bool
    recommended: bool
    reason: str
    value: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def helps(method: Mapping[str, Any], aim: Objective) -> str:
    """Return why a finalist is not shown to help; "" where it is.

    Args:
        method: of the "methods" of `compare_chair`, which holds p values corrected by Holm.
        aim: what counts as better.
    """
    found = method["at_recall"][aim.measure]
    if _sign(found, method["holm"][f"at recall {aim.measure}"]) * aim.sign <= 0:
        return "its interval at equal recall, or its corrected p value, allows no difference"
    guard = method["at_recall"][aim.guard]
    if _sign(guard, None) * aim.guard_sign < 0:
        return f"{aim.guard} at equal recall gets worse"
    faults = [flag["name"] for flag in method["flags"] if flag["name"] in FAULTS]
    return f"its captions are flagged: {', '.join(faults)}" if faults else ""


def judge(
    method: Mapping[str, Any], aim: Objective, control: Mapping[str, Any] | None, controlled: bool
) -> Judgement:
    """Return the judgement on a finalist.

    Args:
        method: of the "methods" of `compare_chair`.
        aim: what counts as better.
        control: the finalist minus its control at equal recall, by measure; None if there is none.
        controlled: whether the method selects heads or directions, so that a control is needed.
    """
    name, value = method["name"], method["at_recall"][aim.measure]["value"]
    against = helps(method, aim)
    if against:
        return Judgement(name, False, False, f"not shown to help: {against}", value)
    if not controlled:
        return Judgement(
            name, True, True, "helps; selects no heads or directions to control for", value
        )
    if control is None or _sign(control[aim.measure], None) * aim.sign <= 0:
        return Judgement(name, True, False, "helps, but is not shown to beat its control", value)
    return Judgement(name, True, True, "helps, and beats its control", value)


def best(judgements: Mapping[str, Judgement], aim: Objective) -> str | None:
    """Return the recommended finalist of the largest effect; None where none is recommended."""
    good = [one for one in judgements.values() if one.recommended and one.value is not None]
    return max(good, key=lambda one: aim.sign * (one.value or 0)).name if good else None


def strongest(judgements: Mapping[str, Judgement], aim: Objective) -> str | None:
    """Return the finalist of the largest effect, whatever the judgement."""
    known = [one for one in judgements.values() if one.value is not None]
    return max(known, key=lambda one: aim.sign * (one.value or 0)).name if known else None


def _sign(found: Mapping[str, Any], corrected: float | None) -> int:
    """Return 1 above 0, -1 below, and 0 where the interval or a corrected p value allows 0."""
    if found["value"] is None or found["low"] is None:
        return 0
    if corrected is not None and corrected >= ALPHA:
        return 0
    return int(found["low"] > 0) - int(found["high"] < 0)
