"""Vectors on heads as they are learned: directions, probes, and training by preference."""

from __future__ import annotations

import math

import pytest
import slow
import tiny
import torch
from torch import Tensor

from vlmheads import VlmHeadsError
from vlmheads.gains import offsets
from vlmheads.gains.offsets import Preference, head_states, mass_mean, probe_accuracy

ANSWERS = ([7, 8, 9], [11, 12])


def samples(seed: int, count: int = 12) -> Tensor:
    """[N, 2, 3, 4], with another spread along each axis."""
    draws = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 2, 3, 4, generator=draws)
    return noise * torch.tensor([3.0, 1.0, 0.5, 0.1])


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_head_states_are_those_of_the_last_token(family: str) -> None:
    model, row = tiny.build(family), tiny.inputs(family)
    kept: list[Tensor] = []

    def keep(_: int, heads: Tensor) -> Tensor:
        kept.append(heads[-1])
        return heads

    slow.Slow(model, slow.Edits(heads=keep)).prompt(row)
    found = head_states(model, row)
    torch.testing.assert_close(found.double(), torch.stack(kept), atol=1e-5, rtol=0)


def test_iti_goes_from_one_mean_to_the_other_by_the_deviation_along_it() -> None:
    one, two = samples(1) + 1, samples(2)
    found = mass_mean(one, two)
    for layer in range(2):
        for head in range(3):
            a, b = one[:, layer, head].double(), two[:, layer, head].double()
            d = a.mean(dim=0) - b.mean(dim=0)
            d = d / d.norm()
            along = [float(x @ d) for x in (*a, *b)]
            mean = sum(along) / len(along)
            deviation = math.sqrt(sum((x - mean) ** 2 for x in along) / len(along))
            expected = deviation * d
            torch.testing.assert_close(found[layer, head].double(), expected, atol=1e-5, rtol=0)


def test_the_probe_is_where_its_cost_has_no_slope() -> None:
    one, two = samples(1) + 0.5, samples(2)
    found = offsets.probe_direction(one, two)
    x = torch.cat([one, two])[:, 1, 2].double()
    y = torch.cat([torch.ones(12), torch.zeros(12)]).double()
    weights = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    minimise = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-10)

    def cost() -> Tensor:
        minimise.zero_grad()
        said = x @ weights[:4] + weights[4]
        value = (torch.nn.functional.softplus(said) - y * said).sum()
        value = value + weights[:4].square().sum() / 2
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        minimise.step(cost)  # type: ignore[no-untyped-call]
    d = weights.detach()[:4] / weights.detach()[:4].norm()
    expected = (x @ d).std(correction=0) * d
    torch.testing.assert_close(found[1, 2].double(), expected, atol=1e-4, rtol=0)


def test_the_accuracy_is_on_pairs_that_the_probe_has_not_seen() -> None:
    one, two = samples(3, 40), samples(4, 40)
    one[:, 0, 1] += 20  # told apart by anything
    # Pairs of one half lie the other way round than those of the other: learned, and wrong.
    one[::2, 1, 0, 0], two[::2, 1, 0, 0] = 50, -50
    one[1::2, 1, 0, 0], two[1::2, 1, 0, 0] = -50, 50
    found = probe_accuracy(one, two)
    assert found.shape == (2, 3)
    assert float(found[0, 1]) == 1
    assert float(found[1, 0]) < 0.05
    assert 0.25 < float(found[1, 2]) < 0.75
    with pytest.raises(VlmHeadsError, match="1 pairs"):
        probe_accuracy(one[:1], two[:1])


def preference(seed: int = 0) -> Preference:
    ids = torch.zeros(2, 3, dtype=torch.long)
    for row, answer in enumerate(ANSWERS):
        ids[row, : len(answer)] = torch.tensor(answer)
    one = tiny.inputs("llava-gqa", (4,), seed)
    inputs = {name: torch.cat([value, value]) for name, value in one.items()}
    return Preference(inputs, ids, torch.tensor([3, 2]))


def log_probability(seed: int, answer: list[int], edit: slow.Edit) -> Tensor:
    row = tiny.inputs("llava-gqa", (4,), seed)
    edits = slow.Edits(heads=edit)
    _, logits = slow.decode(tiny.build("llava-gqa"), row, edits, tokens=answer)
    return logits.log_softmax(dim=-1)[torch.arange(len(answer)), answer].sum()


@pytest.mark.parametrize("scaling", [True, False])
def test_the_slope_is_that_of_the_preference(scaling: bool) -> None:
    """Against the formula of DPO with the slow decoder, by central differences."""
    from vlmheads.detect.replay import Replay, teacher_forced
    from vlmheads.model.anatomy import examine

    model, one = tiny.build("llava-gqa"), preference()
    replay = Replay.of(model, teacher_forced(examine(model), one.inputs, one.targets))
    values = 0.1 * torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(1))
    plain = offsets._said(replay, one, lambda _, heads: heads)
    loss, slope = offsets._slope(one, replay, plain, values, scaling=scaling)

    def cost(changed: Tensor) -> float:
        def edit(layer: int, heads: Tensor) -> Tensor:
            own = changed[layer].double()
            return heads + heads * own if scaling else heads + own

        gains = [
            log_probability(0, answer, edit) - log_probability(0, answer, lambda _, heads: heads)
            for answer in ANSWERS
        ]
        return math.log(1 + math.exp(-0.5 * float(gains[0] - gains[1])))

    assert loss == pytest.approx(cost(values), abs=1e-5)
    at = (0, 1, 2)
    step = torch.zeros_like(values)
    step[at] = 1e-3
    expected = (cost(values + step) - cost(values - step)) / 2e-3
    assert float(slope[at]) == pytest.approx(expected, abs=1e-4)


def test_training_chooses_heads_and_prefers_the_first_answers() -> None:
    model = tiny.build("llava-gqa")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = [preference(seed) for seed in range(3)]
    found = offsets.train_offsets(model, given, 3, epochs=3)
    assert int(found.offsets.any(dim=-1).sum()) == 3
    chosen = found.offsets.any(dim=-1).flatten().nonzero().flatten().tolist()
    assert set(chosen) == set(found.sizes.flatten().argsort(descending=True)[:3].tolist())
    assert math.log(2) + 0.01 > found.losses[0] > found.losses[1] > found.losses[2]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    again = offsets.train_offsets(model, given, 3, epochs=3)
    assert torch.equal(again.offsets, found.offsets)
    with pytest.raises(VlmHeadsError, match="17 heads to train on 1 pairs"):
        offsets.train_offsets(model, given[:1], 17)
