"""Devils against its formula, in float64 on full attention maps."""

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
from vlmheads_plugins.devils import Devils

import vlmheads
from vlmheads.model.geometry import Geometry


def raise_scores(family: str, layers: list[int], alpha: float) -> Any:
    images = slow.image_columns(tiny.build(family), tiny.inputs(family)).nonzero()[:, 0].tolist()

    def edit(layer: int, scores: Tensor) -> Tensor:
        if layer not in layers:
            return scores
        raised = scores.clone()
        for j in images:
            mean = sum(abs(float(head[-1, j])) for head in scores) / len(scores)
            for head in raised:
                head[-1, j] += alpha * mean
        return raised

    return edit


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_devils_raises_the_scores_by_the_mean_of_the_heads(family: str) -> None:
    edits = slow.Edits(scores=raise_scores(family, [1, 2], 0.8))
    agree.assert_plugin_is(Devils(alpha=0.8, layers=(1, 2)), edits, family)


def test_the_released_layers_are_the_default() -> None:
    edits = slow.Edits(scores=raise_scores("llava", [1], 0.5))
    agree.assert_plugin_is(Devils(), edits, "llava")
    assert Devils().chosen_layers(Geometry("llava", 32, 32)) == tuple(range(5, 19))


@settings(max_examples=10, deadline=None)
@given(alpha=st.floats(0, 10), family=st.sampled_from(["llava-gqa", "gemma3"]))
def test_rows_sum_to_one_whatever_the_strength(alpha: float, family: str) -> None:
    for _, after in agree.rows_around(Devils(alpha=alpha), family).values():
        torch.testing.assert_close(after.weights.sum(dim=-1), torch.ones(after.weights.shape[:-1]))


def test_a_layer_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="devils: layers"):
        vlmheads.attach(tiny.build("llava"), Devils(layers=(4,)))
