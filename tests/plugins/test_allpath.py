"""AllPath against its formula, in float64."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.allpath import AllPath

import vlmheads
from vlmheads.registry import parse_plugin

OFF, UP = ((0, 1), (2, 3), (2, 0)), ((2, 1), (3, 2))


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("options", [{}, {"low": 0.5, "high": 3.0}, {"normalise": True}])
def test_listed_heads_are_scaled_and_no_others(family: str, options: dict[str, Any]) -> None:
    low, high = options.get("low", 0.0), options.get("high", 2.0)

    def scale(layer: int, heads: Tensor) -> Tensor:
        factors = [1.0] * heads.shape[1]
        for index, head in OFF:
            factors[head] = low if index == layer else factors[head]
        for index, head in UP:
            factors[head] = high if index == layer else factors[head]
        if options.get("normalise"):
            factors = [factor * len(factors) / sum(factors) for factor in factors]
        return heads * torch.tensor(factors, dtype=heads.dtype)[:, None]

    plugin = AllPath(suppressed=OFF, boosted=UP, **options)
    agree.assert_plugin_is(plugin, slow.Edits(heads=scale), family)


def test_heads_can_be_named_in_text() -> None:
    given = parse_plugin('allpath:suppressed=[[0,1],[2,3]],boosted=["2-1"]')
    assert given == AllPath(suppressed=((0, 1), (2, 3)), boosted=((2, 1),))


pairs = st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1).map(tuple)


@settings(max_examples=10, deadline=None)
@given(heads=pairs, factor=st.floats(0, 1), normalise=st.booleans(), up=st.booleans())
def test_no_options_give_a_logit_that_is_not_a_number(
    heads: tuple[tuple[int, int], ...], factor: float, normalise: bool, up: bool
) -> None:
    options = {"boosted": heads, "high": 1 + 9 * factor}
    if not up:
        options = {"suppressed": heads, "low": factor}
    plugin = AllPath(normalise=normalise, **options)  # type: ignore[arg-type]
    _, logits = agree.generate(tiny.build("llava-gqa"), tiny.inputs("llava-gqa"), plugin, 2)
    assert bool(logits.isfinite().all())


def test_allpath_without_heads_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="without heads"):
        vlmheads.attach(tiny.build("llava"), "allpath")


@pytest.mark.parametrize("head", [(4, 0), (0, 4)])
def test_a_head_that_the_model_does_not_have_is_refused(head: tuple[int, int]) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match=r"suppressed names \(layer, head\)"):
        vlmheads.attach(tiny.build("llava"), AllPath(suppressed=(head,)))


def test_a_head_in_both_lists_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="suppressed and boosted"):
        AllPath(suppressed=((0, 1),), boosted=((0, 1),))


@pytest.mark.parametrize("heads", ["0-1", [1, 2], ["1-2-3"], [[1.5, 2]], [[-1, 2]]])
def test_something_else_than_a_list_of_heads_is_refused(heads: Any) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="a list of heads"):
        AllPath(suppressed=heads)
