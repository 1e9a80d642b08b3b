"""ResDec against its formulas, in float64 on the logits of each step."""

from __future__ import annotations

import math
from itertools import pairwise

import agree
import pytest
import slow
import streams
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.resdec import ResDec

import vlmheads


def jensen_shannon(one: list[float], other: list[float]) -> float:
    middle = [(a + b) / 2 for a, b in zip(one, other, strict=True)]
    return sum(
        sum(a * math.log(a / m) for a, m in zip(side, middle, strict=True)) / 2
        for side in (one, other)
    )


def mixed(alpha: float, window: int, pool: int, cutoff: float, used: list[int]) -> slow.Edits:
    """The formulas a token and a step at a time; `used` is told how many steps were mixed in."""
    said: list[Tensor] = []

    def edit(step: int, logits: Tensor) -> Tensor:
        result = logits.clone()
        if step:
            recent = said[-window:]
            omega = sorted(range(len(logits)), key=lambda token: -float(logits[token]))[:pool]
            shares = []
            for one in recent:
                total = sum(math.exp(float(one[token])) for token in omega)
                shares.append([math.exp(float(one[token])) / total for token in omega])
            jumps = [jensen_shannon(a, b) for a, b in pairwise(shares)]
            first = 1 + jumps.index(min(jumps)) if jumps else 0
            weights = [-sum(map(math.log, one)) / pool for one in shares]
            total = sum(weights[first:])
            residual = sum(weights[at] / total * recent[at] for at in range(first, len(recent)))
            used.append(len(recent) - first)
            result = (1 - alpha) * logits + alpha * residual
        said.append(logits.clone())
        return slow.settled(streams.cut(result, logits, cutoff), logits)

    return slow.Edits(logits=edit)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("values", [(0.5, 8, 16, 0.1), (0.7, 3, 5, 0.0), (1.0, 1, 64, 0.0)])
def test_recent_logits_are_mixed_in(family: str, values: tuple[float, int, int, float]) -> None:
    alpha, window, pool, cutoff = values
    model, row, used = tiny.build(family), tiny.inputs(family), list[int]()
    expected = slow.decode(model, row, mixed(*values, used))
    plain = slow.decode(model, row)
    assert float((expected[1] - plain[1]).abs().max()) > 1e-3
    assert window == 1 or len(set(used)) > 1
    plugin = ResDec(alpha=alpha, window=window, pool=pool, cutoff=cutoff)
    agree.assert_same(expected, agree.generate(model, row, plugin))


def test_beams_keep_their_own_steps() -> None:
    agree.assert_state_follows_beams(ResDec(cutoff=0.0, window=3))


def test_the_first_token_is_only_cut() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    plain = agree.generate(model, row, ResDec.neutral(), 1)[1]
    found = agree.generate(model, row, ResDec(cutoff=0.0), 1)[1]
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=0)


def test_tokens_that_the_model_leaves_out_stay_out() -> None:
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    past = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    logits[:, 4], past[:, :, 4] = -torch.inf, -torch.inf
    found = ResDec(pool=6)._residual(logits, past)
    assert bool((found[:, 4] == -torch.inf).all())
    assert bool(found[:, :4].isfinite().all())


def test_generation_without_a_cache_is_refused() -> None:
    model = tiny.build("llava")
    with (
        vlmheads.attach(model, "resdec"),
        pytest.raises(vlmheads.VlmHeadsError, match="without a cache"),
    ):
        model.generate(**tiny.inputs("llava"), max_new_tokens=2, use_cache=False)
