"""Budgets, and plans that keep to them."""

import pytest
from vlmheads_eval.tune.parts import FEWEST, NEEDED, sizes
from vlmheads_eval.tune.plan import Plan, make_plan
from vlmheads_eval.tune.settings import Budget

from vlmheads.errors import VlmHeadsError


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("30m", Budget(seconds=1800)),
        ("1.5h", Budget(seconds=5400)),
        ("45s", Budget(seconds=45)),
        ("2000img", Budget(captions=2000)),
        (None, Budget()),
    ],
)
def test_a_budget_is_a_time_or_a_number_of_captions(text: str | None, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["", "30", "0m", "0img", "1.5img", "-3m", "30 m m", "2000images"])
def test_any_other_budget_is_refused(text: str) -> None:
    with pytest.raises(VlmHeadsError, match="budget"):
        Budget.parse(text)


def test_parts_grow_in_the_ratio_of_one_two_and_three() -> None:
    assert sizes(NEEDED) == FEWEST
    assert sizes(600) == {"learn": 100, "select": 200, "confirm": 300}
    assert sum(sizes(601).values()) == 601


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    with pytest.raises(VlmHeadsError, match=f"at least {NEEDED}"):
        sizes(NEEDED - 1)


def test_a_plan_without_a_budget_uses_all_images() -> None:
    plan = make_plan(sizes(600), 24, ["attribution"], Budget(), 0.5)
    assert plan.images == sizes(600)
    assert plan.rounds[-1].images == 200


@pytest.mark.parametrize("budget", [Budget(captions=3000), Budget(seconds=1200)])
def test_a_plan_keeps_to_its_budget_and_uses_most_of_it(budget: Budget) -> None:
    plan = make_plan(sizes(600), 24, [], budget, 0.5)
    spent = plan.captions / 3000 if budget.seconds is None else plan.seconds / 1200
    assert 0.85 < spent <= 1


def test_more_processes_do_more_in_the_same_time() -> None:
    one, two = (make_plan(sizes(600), 24, [], Budget(seconds=1200), 0.5, n) for n in (1, 2))
    assert two.captions > one.captions
    assert two.seconds <= 1200


@pytest.mark.parametrize("budget", [Budget(captions=50), Budget(seconds=10)])
def test_a_budget_that_is_too_small_is_refused_with_what_it_takes(budget: Budget) -> None:
    with pytest.raises(VlmHeadsError, match="at least") as refusal:
        make_plan(sizes(600), 24, [], budget, 0.5)
    least = make_plan(FEWEST, 24, [], Budget(), 0.5)
    if budget.captions:
        assert f"at least {least.captions}img" in str(refusal.value)


def test_a_plan_is_the_same_after_it_was_stored() -> None:
    plan = make_plan(sizes(100), 9, ["gains"], Budget(), 0.1)
    assert Plan.from_dict(plan.to_dict()) == plan
