"""ZeroTuning against its formula, in float64 on full attention maps."""

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
from vlmheads_plugins.pai import PAI
from vlmheads_plugins.zerotuning import ZeroTuning

import vlmheads

PAIRS = ["llava", "llava-gqa"]


def tune(gamma: float, heads: list[tuple[int, int]], from_row: int = 0) -> Any:
    """The first column times gamma, row by row, and each row divided by its sum."""

    def edit(layer: int, weights: Tensor) -> Tensor:
        weights = weights.clone()
        first = from_row if weights.shape[1] > 1 else 0
        for head in range(len(weights)):
            if (layer, head) in heads:
                for row in weights[head][first:]:
                    row[0] *= gamma
                    row /= row.sum()
        return weights

    return edit


@pytest.mark.parametrize("family", PAIRS)
@pytest.mark.parametrize("gamma", [0.3, 2.5])
def test_the_first_token_is_scaled_in_the_chosen_heads(family: str, gamma: float) -> None:
    heads = [(0, 1), (1, 0), (1, 3), (3, 2)]
    edits = slow.Edits(weights=tune(gamma, heads))
    agree.assert_plugin_is(ZeroTuning(gamma=gamma, heads=heads), edits, family)


def test_by_default_all_heads_of_all_layers_are_tuned() -> None:
    heads = [(layer, head) for layer in range(4) for head in range(4)]
    agree.assert_plugin_is(ZeroTuning(), slow.Edits(weights=tune(0.6, heads)), "llava-gqa")


def test_rows_up_to_the_image_can_be_left_alone() -> None:
    heads = [(2, head) for head in range(4)]
    edits = slow.Edits(weights=tune(0.2, heads, from_row=6))
    agree.assert_plugin_is(ZeroTuning(gamma=0.2, layers=(2,), rows="text"), edits, "llava-gqa")


def test_beside_it_a_plugin_of_text_rows_edits_what_it_edits_alone() -> None:
    family, heads = "llava-gqa", [(layer, head) for layer in range(4) for head in range(4)]
    images = slow.image_columns(tiny.build(family), tiny.inputs(family))

    def boost(layer: int, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, -1, : len(images)][:, images] += scores[:, -1, : len(images)][:, images].abs()
        return scores

    edits = slow.Edits(scores=boost, weights=tune(0.5, heads))
    expected = slow.decode(tiny.build(family), tiny.inputs(family), edits)
    plugins = [PAI(alpha=1.0), ZeroTuning(gamma=0.5)]
    agree.assert_same(expected, agree.generate(tiny.build(family), tiny.inputs(family), plugins))


@settings(max_examples=10, deadline=None)
@given(gamma=st.floats(0.001, 1000), family=st.sampled_from(["llava", "gemma3"]))
def test_rows_sum_to_one_whatever_the_factor(gamma: float, family: str) -> None:
    for _, after in agree.rows_around(ZeroTuning(gamma=gamma), family).values():
        assert bool(after.scores.isnan().sum() == 0)
        torch.testing.assert_close(after.weights.sum(dim=-1), torch.ones(after.weights.shape[:-1]))


@pytest.mark.parametrize("heads", [[[4, 0]], [[0, 4]], [[0]], [0, 1], [[-1, 0]], "0-1"])
def test_heads_that_are_none_are_refused(heads: Any) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="heads"):
        vlmheads.attach(tiny.build("llava"), ZeroTuning(heads=heads))
