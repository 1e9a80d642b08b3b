"""The plan of a search: how many images each step gets within the budget, and what it costs."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmheads.errors import VlmHeadsError
from vlmheads_eval.tune.halving import FINALISTS, Round, captions, schedule
from vlmheads_eval.tune.parts import CONFIRM, FEWEST, LEARN, PARTS, SELECT
from vlmheads_eval.tune.settings import Budget

CONTROLS = 3  # Draws of random heads or directions for a finalist.
# What a caption under a method costs on average, in plain captions: by docs/performance.md between
# 1.0 and 2.5 of them.
SLOWER = 1.5
# What it takes to learn, in plain captions per image to learn from.
LEARNING = {"attribution": 4, "gains": 12}
LEARNING_ELSE = 2
STEPS = 50  # Sizes that are tried to fit a budget.


@dataclass(frozen=True)
class Plan:
    """What a search will do.

    Args:
        images: part -> how many of its images are used.
        candidates: how many there are.
        rounds: of successive halving.
        captions: how many are made at most, plain ones and controls included.
        cost: the same in plain captions, with what is learned.
        seconds_per_caption: of a plain caption, as timed before the start.
        processes: of the job.
    """

    images: Mapping[str, int]
    candidates: int
    rounds: tuple[Round, ...]
    captions: int
    cost: float
    seconds_per_caption: float
    processes: int

    @property
    def seconds(self) -> float:
        """How long it should take at most."""
        return self.cost * self.seconds_per_caption / self.processes

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """Make a plan of what `to_dict` returned."""
        rounds = tuple(Round(**one) for one in values["rounds"])
        return cls(**{**values, "rounds": rounds})

    def lines(self) -> list[str]:
        """Return the plan in words."""
        parts = ", ".join(f"{self.images[part]} to {part}" for part in PARTS)
        rounds = ", ".join(f"{one.images} ({one.keep} go on)" for one in self.rounds)
        return [
            f"plan: {sum(self.images.values())} images: {parts}; {self.candidates} candidates",
            f"select: {len(self.rounds)} round{'s' * (len(self.rounds) > 1)} on {rounds} images",
            f"confirm: {min(self.candidates, FINALISTS)} on {self.images[CONFIRM]} images, and "
            f"{CONTROLS} draws of a control for what helps and selects heads or directions",
            f"at most {self.captions:,} captions, about {shown(self.seconds)} at "
            f"{self.seconds_per_caption:.2f} s per plain caption"
            + (f" on {self.processes} processes" if self.processes > 1 else ""),
        ]


def make_plan(
    available: Mapping[str, int],
    candidates: int,
    needs: Sequence[str],
    budget: Budget,
    seconds_per_caption: float,
    processes: int = 1,
) -> Plan:
    """Return the largest plan within the budget.

    Args:
        available: part -> images.
        candidates: how many.
        needs: what has to be learned.
        budget: see there.
        seconds_per_caption: of a plain caption on one process.
        processes: of the job.

    Raises:
        VlmHeadsError: a budget that the smallest plan exceeds.
    """
    plans = [
        _sized(available, step / STEPS, candidates, needs, seconds_per_caption, processes)
        for step in range(STEPS, -1, -1)
    ]
    for plan in plans:
        spent = plan.captions if budget.seconds is None else plan.cost
        if spent <= budget.limit(seconds_per_caption / processes):
            return plan
    least = plans[-1]
    if budget.seconds is None:
        raise VlmHeadsError(
            f"a budget of {budget.captions}img for {candidates} candidates",
            f"at least {least.captions}img",
            "name fewer --methods",
        )
    raise VlmHeadsError(
        f"a budget of {shown(budget.seconds)} for {candidates} candidates",
        f"at least {shown(least.seconds)} by the estimate",
        "name fewer --methods",
    )


def _sized(
    available: Mapping[str, int],
    share: float,
    candidates: int,
    needs: Sequence[str],
    seconds_per_caption: float,
    processes: int,
) -> Plan:
    """Return the plan on a share of the images beyond the fewest."""
    images = {part: FEWEST[part] + int(share * (available[part] - FEWEST[part])) for part in PARTS}
    rounds = schedule(candidates, images[SELECT])
    finalists = min(candidates, FINALISTS)
    learn = images[LEARN] if needs else 0
    plain = learn + images[SELECT] + images[CONFIRM]
    selected = captions(candidates, rounds) - images[SELECT]
    confirmed = finalists * (1 + CONTROLS) * images[CONFIRM]
    learning = sum(LEARNING.get(one, LEARNING_ELSE) for one in needs) * learn
    return Plan(
        images,
        candidates,
        rounds,
        plain + selected + confirmed,
        plain + learning + SLOWER * (selected + confirmed),
        seconds_per_caption,
        processes,
    )


def shown(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
