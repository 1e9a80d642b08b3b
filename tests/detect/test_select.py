"""Choosing heads against slow decoders in which the change is made by hand."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pytest
import slow
import tiny
import torch
from torch import Tensor

import vlmheads
from vlmheads import VlmHeadsError
from vlmheads.detect import Answers, Selection, attribution, select
from vlmheads.detect.groups import principal_angles

TARGETS = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])
GROUNDED = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]]).bool()
HALLUCINATED = torch.tensor([[0, 0, 0, 1], [1, 0, 0, 1]]).bool()
LENGTHS = (5, 3)
Heads = Collection[tuple[int, int]]


@pytest.fixture(autouse=True, scope="module")
def features_made_once() -> Iterator[None]:
    """The same few images are encoded again and again."""
    made: dict[Any, Tensor] = {}
    encode = slow.image_features

    def once(model: Any, row: dict[str, Tensor]) -> Tensor:
        key = (id(model), float(row["pixel_values"].sum()))
        if key not in made:
            made[key] = encode(model, row)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slow, "image_features", once)
        yield


def answers(family: str = "llava") -> Answers:
    return Answers(tiny.inputs(family, LENGTHS), TARGETS, GROUNDED, HALLUCINATED)


def chosen(family: str = "llava", **options: Any) -> Selection:
    return select(tiny.build(family), answers(family), **options)


def changed(family: str, heads: Heads, factor: float, identity: bool) -> list[slow.Slow]:
    """Decode both rows along their answers with some heads changed; a state per token is kept."""
    done = []
    for index in range(2):
        decoders: list[slow.Slow] = []

        def mixed(layer: int, weights: Tensor, own: Any = decoders) -> Tensor:
            made = weights.clone()
            first = own[0].columns
            for at, head in heads:
                if at == layer and identity:
                    made[head] *= factor
                    for row in range(made.shape[1]):
                        made[head, row, first + row] += 1 - factor
            return made

        def scaled(layer: int, outputs: Tensor) -> Tensor:
            made = outputs.clone()
            for at, head in heads:
                if at == layer and not identity:
                    made[:, head] *= factor
            return made

        last: list[Tensor] = []

        def keep(layer: int, hidden: Tensor, into: Any = last, own: Any = decoders) -> Tensor:
            if layer == 3:
                into.append(own[0].norm("norm", hidden[-1:])[0])
            return hidden

        edits = slow.Edits(weights=mixed, heads=scaled, residual=keep)
        decoder = slow.Slow(tiny.build(family), edits)
        decoders.append(decoder)
        decoder.prompt(tiny.row(family, LENGTHS, index))
        for token in TARGETS[index, :-1].tolist():
            decoder.token(token)
        decoder.states = torch.stack(last)
        done.append(decoder)
    return done


def contrast(family: str, heads: Heads, factor: float = 0.0, *, identity: bool = False) -> float:
    """Mean of grounded less hallucinated log-probability with some heads changed."""
    found = []
    for index, decoder in enumerate(changed(family, heads, factor, identity)):
        states: Tensor = decoder.states
        logits = states @ decoder.weights["lm_head.weight"].T
        said = logits.log_softmax(-1).gather(-1, TARGETS[index][:, None])[:, 0].tolist()
        means = []
        for kind in (GROUNDED, HALLUCINATED):
            some = [value for value, marked in zip(said, kind[index], strict=True) if marked]
            means.append(sum(some) / len(some))
        found.append(means[0] - means[1])
    return sum(found) / len(found)


EVERY = [(layer, head) for layer in range(4) for head in range(4)]


def test_ablation_and_gradient_are_the_two_of_attribution() -> None:
    for method in ("ablation", "gradient"):
        found = chosen(method=method, count=4, rows=10)
        inputs = tiny.inputs("llava", LENGTHS)
        model = tiny.build("llava")
        known = attribution(model, inputs, TARGETS, GROUNDED, HALLUCINATED, method=method)
        torch.testing.assert_close(found.scores.values, known.score.values, atol=1e-6, rtol=1e-4)
        assert list(found.heads) == known.heads(4)
        assert found.scores.measure == "attribution"


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_towards_the_identity_a_head_attends_to_its_own_position(family: str) -> None:
    found = chosen(family, method="ablation", factor=0.25, towards="identity")
    plain = contrast(family, ())
    for head in ((0, 1), (2, 3)):
        expected = contrast(family, [head], 0.25, identity=True) - plain
        assert float(found.scores.mean()[head]) == pytest.approx(expected, abs=1e-5)


def test_towards_the_identity_the_gradient_is_the_effect_of_a_small_change() -> None:
    near = {"factor": 0.99, "towards": "identity"}
    gradient, ablation = (chosen(method=method, **near) for method in ("gradient", "ablation"))
    largest = float(ablation.scores.values.abs().max())
    torch.testing.assert_close(
        gradient.scores.values, ablation.scores.values, atol=0.05 * largest, rtol=0.05
    )


@pytest.mark.parametrize("identity", [False, True])
def test_greedy_adds_the_head_that_helps_most_beside_those_before(identity: bool) -> None:
    towards = "identity" if identity else "zero"
    found = chosen(method="greedy", count=2, factor=0.5, towards=towards, rows=6)
    alone = {head: contrast("llava", [head], 0.5, identity=identity) for head in EVERY}
    first = max(EVERY, key=lambda head: alone[head])
    assert found.heads[0] == first
    assert found.curve[0] == pytest.approx(alone[first], abs=1e-5)
    beside = [head for head in EVERY if head != first][::3]
    values = [contrast("llava", [first, head], 0.5, identity=identity) for head in beside]
    expected = contrast("llava", found.heads, 0.5, identity=identity)
    assert found.curve[1] == pytest.approx(expected, abs=1e-5)
    assert max(values) <= expected + 1e-5
    assert found.plain == pytest.approx(contrast("llava", ()), abs=1e-5)


def test_greedy_stops_where_no_head_raises_the_objective() -> None:
    def constant(found: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        return found.sum(dim=-1) * 0

    found = chosen(method="greedy", objective=constant, count=3)
    assert (found.heads, found.curve) == ((), ())


def test_steps_of_several_heads_are_those_with_the_largest_effects() -> None:
    found = chosen(method="greedy", count=3, step=3)
    alone = chosen(method="ablation", count=3)
    assert (found.heads, len(found.curve)) == (alone.heads, 1)


def turned(heads: Heads, rank: int, plain: list[slow.Slow]) -> float:
    """Principal angles at hallucinated words, less those at grounded words."""
    total = 0.0
    removed = changed("llava", heads, 0.0, False)
    for kind, sign in ((HALLUCINATED, 1), (GROUNDED, -1)):
        bases = []
        for parts in (plain, removed):
            states = [part.states[kind[row]] for row, part in enumerate(parts)]
            matrix = torch.cat(states)
            bases.append(torch.linalg.svd(matrix).U[:, : min(rank, len(matrix) - 1)])
        cosines = torch.linalg.svd(bases[0].T @ bases[1]).S.clamp(max=1)
        total += sign * float(torch.arccos(cosines).sum())
    return total


def test_a_group_grows_by_the_head_that_turns_the_words_most() -> None:
    found = chosen(method="group", count=2, rank=2)
    plain = changed("llava", (), 0.0, False)
    first = {head: turned([head], 2, plain) for head in EVERY}
    for head in EVERY:
        assert float(found.scores.mean()[head]) == pytest.approx(first[head], abs=1e-3)
    best = max(EVERY, key=lambda head: first[head])
    assert found.heads[0] == best
    expected = turned(found.heads, 2, plain)
    assert found.curve[1] == pytest.approx(expected, abs=1e-3)
    beside = [head for head in EVERY if head != best][::3]
    assert max(turned([best, head], 2, plain) for head in beside) <= expected + 1e-3


def test_a_subspace_is_at_no_angle_to_itself_and_at_right_angles_to_another() -> None:
    one, other = torch.eye(4)[:, :2], torch.eye(4)[:, 2:]
    assert float(principal_angles(one, 3 * one, 2)) == pytest.approx(0, abs=1e-6)
    assert float(principal_angles(one, other, 2)) == pytest.approx(torch.pi, abs=1e-6)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("method", ["path-patching", "cd-t", "greedy", "group"])
def test_every_family_can_be_asked(family: str, method: str) -> None:
    options = {"towards": "identity"} if method == "greedy" else {}
    found = chosen(family, method=method, count=1, **options)
    assert bool(found.scores.values.isfinite().all())
    assert len(found.heads) <= 1
    assert found.passes > 0
    model = tiny.build(family)
    before = model.get_decoder().config._attn_implementation
    assert before == "sdpa"


def test_what_is_chosen_is_taken_by_plugins() -> None:
    found = chosen(method="gradient", count=2)
    plugins = [
        vlmheads.get_plugin("gains").from_dict({"head_map": found.gains(0.5)}),
        vlmheads.get_plugin("adhh").from_dict({"heads": [list(pair) for pair in found.heads]}),
    ]
    assert float(found.gains(0.5).values.sum()) == 16 - 2 * 0.5
    with vlmheads.attach(tiny.build("llava"), plugins):
        tiny.build("llava").generate(**tiny.inputs("llava"), max_new_tokens=2)


def test_batches_give_what_one_batch_gives() -> None:
    rows = [
        Answers(
            tiny.row("llava", LENGTHS, row),
            TARGETS[row : row + 1],
            GROUNDED[row : row + 1],
            HALLUCINATED[row : row + 1],
        )
        for row in range(2)
    ]
    for method in ("gradient", "path-patching", "cd-t"):
        apart = select(tiny.build("llava"), rows, method=method)
        together = chosen(method=method)
        torch.testing.assert_close(
            apart.scores.values, together.scores.values, atol=2e-5, rtol=1e-3
        )


def test_what_cannot_be_chosen_is_refused() -> None:
    for options, message in (
        ({"method": "guess"}, "method='guess'"),
        ({"objective": "fame"}, "objective 'fame'"),
        ({"count": 17}, "count=17"),
        ({"method": "cd-t", "factor": 0.5}, "factor=0.5 with method='cd-t'"),
        ({"method": "gradient", "step": 2}, "step=2 with method='gradient'"),
        ({"method": "greedy", "step": 0}, "step=0"),
        ({"method": "group", "objective": lambda a, b, c: a.sum(-1)}, "an objective of your own"),
        ({"objective": lambda a, b, c: a}, "one number per answer"),
    ):
        with pytest.raises(VlmHeadsError, match=message):
            chosen(**options)
    none = GROUNDED & False
    with pytest.raises(VlmHeadsError, match="words that the objective asks for"):
        select(tiny.build("llava"), Answers(tiny.inputs("llava", LENGTHS), TARGETS, none, none))
