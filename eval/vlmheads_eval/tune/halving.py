"""Successive halving: all candidates on few images, the better half on more, down to three."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

FINALISTS = 3
FIRST = 8  # Images of the first round, at least.


@dataclass(frozen=True)
class Round:
    """One round.

    Args:
        images: on how many images its candidates are compared, those of earlier rounds included.
        keep: how many candidates go on, at most.
    """

    images: int
    keep: int


@dataclass(frozen=True)
class Standing:
    """How a candidate stands after a round.

    Args:
        value: the more the better; None if undefined.
        second: decides between candidates of the same value.
        out: why it is out whatever its value; "" if it is not.
    """

    value: float | None
    second: float = 0.0
    out: str = ""


@dataclass(frozen=True)
class Result:
    """A candidate's last round.

    Args:
        round: its number, from 1 on.
        images: of that round.
        standing: in that round.
        kept: whether it is among the last.
    """

    round: int
    images: int
    standing: Standing
    kept: bool


def schedule(candidates: int, images: int) -> tuple[Round, ...]:
    """Return the rounds: each halves the candidates, down to three, and doubles the images.

    The last round is on all images. Where doubling would start below `FIRST` images, rounds share a
    number.
    """
    count = max(1, math.ceil(math.log2(max(candidates, 1) / FINALISTS))) if candidates else 1
    rounds, left = [], candidates
    for number in range(count):
        last = number == count - 1
        left = FINALISTS if last else max(FINALISTS, math.ceil(left / 2))
        share = images if last else max(min(FIRST, images), images >> (count - 1 - number))
        rounds.append(Round(share, left))
    return tuple(rounds)


def captions(candidates: int, rounds: Sequence[Round]) -> int:
    """Return how many captions the rounds make at most, those of the plain model included."""
    total, before, alive = 0, 0, candidates
    for one in rounds:
        total += (alive + 1) * (one.images - before)
        before, alive = one.images, min(alive, one.keep)
    return total


def halve(
    candidates: Sequence[str],
    rounds: Sequence[Round],
    score: Callable[[Sequence[str], int], Mapping[str, Standing]],
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[str], dict[str, Result]]:
    """Return the last candidates, the best first, and the last round of every one.

    Args:
        candidates: distinct names; the order decides between equal standings.
        rounds: of `schedule`.
        score: from names and a number of images to their standings.
        say: called with what each round left.
    """
    alive = list(candidates)
    results: dict[str, Result] = {}
    for number, one in enumerate(rounds, 1):
        if not alive:
            break
        standings = score(alive, one.images)
        good = [name for name in alive if not _out(standings[name])]
        good.sort(key=lambda name: _order(standings[name]), reverse=True)
        kept = good[: one.keep]
        for name in alive:
            results[name] = Result(number, one.images, standings[name], name in kept)
        say(
            f"round {number} of {len(rounds)}, {one.images} images: {len(alive)} candidates, "
            f"{len(alive) - len(good)} degenerate, {len(kept)} go on"
            + (f", {kept[0]} in front" if kept else "")
        )
        alive = kept
    return alive, results


def _out(standing: Standing) -> bool:
    return bool(standing.out) or standing.value is None


def _order(standing: Standing) -> tuple[float, float]:
    assert standing.value is not None  # `_out` leaves no other.
    return standing.value, standing.second
