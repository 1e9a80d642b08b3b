"""FLB against its formula, in float64 on logits."""

from __future__ import annotations

import math

import agree
import pytest
import slow
import streams
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.flb import FLB


def boosted(gamma: float, kappa: float, cutoff: float) -> slow.Edits:
    first: list[Tensor] = []

    def edit(step: int, logits: Tensor) -> Tensor:
        if step == 0:
            first.append(logits.clone())
        weight = gamma * (1 - math.exp(-kappa * step))
        return slow.settled(streams.cut(logits + weight * first[0], logits, cutoff), logits)

    return slow.Edits(logits=edit)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("values", [(0.3, 0.05, 0.1), (2.0, 1.0, 0.0), (0.0, 0.05, 0.4)])
def test_later_logits_gain_the_first_ones(family: str, values: tuple[float, float, float]) -> None:
    model, row = tiny.build(family), tiny.inputs(family)
    gamma, kappa, cutoff = values
    expected = slow.decode(model, row, boosted(*values))
    agree.assert_same(
        expected, agree.generate(model, row, FLB(gamma=gamma, kappa=kappa, cutoff=cutoff))
    )


def test_the_first_token_gets_no_boost() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    plain = agree.generate(model, row, FLB.neutral(), 2)[1]
    found = agree.generate(model, row, FLB(gamma=5.0, kappa=1.0, cutoff=0.0), 2)[1]
    torch.testing.assert_close(found[0], plain[0], atol=1e-5, rtol=0)
    assert float((found[1] - plain[1]).abs().max()) > 1e-2


def test_no_boost_leaves_the_cut_off_alone() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    plain = agree.generate(model, row, FLB.neutral())
    found = agree.generate(model, row, FLB(gamma=0.0))
    assert plain[0] == found[0]  # greedy search takes the likeliest token, which is never cut
    kept = plain[1] >= plain[1].amax(dim=-1, keepdim=True) + math.log(0.1)
    assert bool((found[1][kept] >= plain[1][kept] - 1e-4).all())
    assert bool((found[1][~kept] <= plain[1][~kept] - 999).all())


def test_generations_do_not_share_their_first_logits() -> None:
    model = tiny.build("llava")
    rows = [tiny.inputs("llava", (length,), seed=length) for length in (3, 6)]
    plugin = FLB(gamma=2.0, kappa=1.0)
    alone = [agree.generate(model, row, plugin, 4)[1] for row in rows]
    again = agree.generate(model, rows[0], plugin, 4)[1]
    assert torch.equal(alone[0], again)
    assert not torch.equal(alone[0], alone[1])
