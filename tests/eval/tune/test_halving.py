"""Successive halving, with standings that are given."""

from collections.abc import Mapping, Sequence

import pytest
from vlmheads_eval.tune.halving import Round, Standing, captions, halve, schedule


class Scorer:
    """Fixed standings, and a record of what was asked."""

    def __init__(self, standings: Mapping[str, Standing]) -> None:
        self.standings, self.asked = standings, list[tuple[list[str], int]]()

    def __call__(self, names: Sequence[str], images: int) -> dict[str, Standing]:
        self.asked.append((list(names), images))
        return {name: self.standings[name] for name in names}


def test_rounds_halve_the_candidates_and_double_the_images() -> None:
    assert schedule(24, 80) == (Round(20, 12), Round(40, 6), Round(80, 3))
    assert schedule(3, 80) == schedule(1, 80) == (Round(80, 3),)


def test_no_round_has_too_few_images_to_say_anything() -> None:
    assert [one.images for one in schedule(96, 64)] == [8, 8, 16, 32, 64]


def test_the_captions_of_all_rounds_are_counted_with_the_plain_ones() -> None:
    rounds = (Round(10, 4), Round(30, 3))
    scorer = Scorer({str(n): Standing(float(n)) for n in range(8)})
    halve([str(n) for n in range(8)], rounds, scorer)
    before, made = 0, 0
    for names, images in scorer.asked:
        made += (len(names) + 1) * (images - before)
        before = images
    assert captions(8, rounds) == made == 9 * 10 + 5 * 20


def test_the_better_half_goes_on_and_three_are_left_best_first() -> None:
    names = [f"c{number}" for number in range(12)]
    scorer = Scorer({name: Standing(float(at)) for at, name in enumerate(names)})
    left, results = halve(names, schedule(12, 32), scorer)
    assert left == ["c11", "c10", "c9"]
    assert scorer.asked == [
        (names, 16),
        (["c11", "c10", "c9", "c8", "c7", "c6"], 32),
    ]
    assert [name for name, one in results.items() if one.kept] == ["c9", "c10", "c11"]
    assert (results["c0"].round, results["c6"].round) == (1, 2)


def test_a_degenerate_candidate_is_out_at_once_whatever_its_value() -> None:
    names = ["loop", "good", "fair", "undefined", "poor"]
    standings = {
        "loop": Standing(9.0, out="repeats itself"),
        "good": Standing(2.0),
        "fair": Standing(1.0),
        "undefined": Standing(None),
        "poor": Standing(-1.0),
    }
    left, results = halve(names, schedule(5, 32), Scorer(standings))
    assert left == ["good", "fair", "poor"]
    assert results["loop"].standing.out == "repeats itself"


def test_nothing_is_left_where_all_are_degenerate() -> None:
    scorer = Scorer({name: Standing(1.0, out="says nothing") for name in "abcdefgh"})
    left, results = halve("abcdefgh", schedule(8, 32), scorer)
    assert left == []
    assert len(scorer.asked) == 1
    assert not any(one.kept for one in results.values())


@pytest.mark.parametrize(("second", "first"), [((0.0, 1.0), "b"), ((1.0, 1.0), "a")])
def test_the_guard_and_then_the_order_decide_between_equal_values(
    second: tuple[float, float], first: str
) -> None:
    standings = {name: Standing(1.0, s) for name, s in zip("ab", second, strict=True)}
    assert halve("ab", schedule(2, 16), Scorer(standings))[0][0] == first
