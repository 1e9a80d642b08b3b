"""EAH against its formulas, in float64 on full attention maps."""

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
from vlmheads_plugins.eah import EAH

import vlmheads
from vlmheads.model.geometry import Geometry

PAIRS = ["llava", "llava-gqa"]


def copy_best(family: str, layers: list[int], threshold: float, release: bool = False) -> Any:
    """Count the sinks of each head; the map of the best goes to all."""
    visual = slow.image_columns(tiny.build(family), tiny.inputs(family)).tolist()

    def edit(layer: int, weights: Tensor) -> Tensor:
        length = weights.shape[1]
        if length == 1 or layer not in layers:
            return weights
        best, most = None, 0
        for head, grid in enumerate(weights):
            sinks = 0
            for j in range(length):
                rows = [i for i in range(length) if not (release and i == j)]
                score = sum(float(grid[i, j]) for i in rows) / (length - j)
                sinks += visual[j] and score > threshold
            if sinks > most:
                best, most = head, sinks
        if best is None or (release and best == 0):
            return weights
        return torch.stack([weights[best]] * len(weights))

    return edit


@pytest.mark.parametrize("family", PAIRS)
@pytest.mark.parametrize("threshold", [0.002, 0.08])
def test_the_map_of_the_head_with_most_sinks_goes_to_all(family: str, threshold: float) -> None:
    edits = slow.Edits(weights=copy_best(family, [1], threshold))
    agree.assert_plugin_is(EAH(threshold=threshold), edits, family)


@pytest.mark.parametrize("family", PAIRS)
def test_the_released_form_acts_in_every_layer_and_never_takes_head_0(family: str) -> None:
    edits = slow.Edits(weights=copy_best(family, [0, 1, 2, 3], 0.09, release=True))
    agree.assert_plugin_is(EAH(form="release", threshold=0.09), edits, family)


def test_where_no_token_is_a_sink_nothing_changes() -> None:
    before, after = agree.rows_around(EAH(threshold=0.99))[0, 1]
    assert torch.equal(before.weights, after.weights)


def test_only_the_second_layer_of_the_prompt_is_edited() -> None:
    around = agree.rows_around(EAH())
    changed = [
        key for key, (before, after) in around.items() if not before.weights.equal(after.weights)
    ]
    assert changed == [(0, 1)]
    assert EAH(form="release").chosen_layers(Geometry("llava", 3, 4)) == (0, 1, 2)


@settings(max_examples=10, deadline=None)
@given(threshold=st.floats(0, 1), form=st.sampled_from(["paper", "release"]))
def test_rows_keep_their_sum_whatever_the_options(threshold: float, form: str) -> None:
    for _, after in agree.rows_around(EAH(threshold=threshold, form=form)).values():
        torch.testing.assert_close(after.weights.sum(dim=-1), torch.ones(after.weights.shape[:-1]))


def test_a_layer_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="eah: layers"):
        vlmheads.attach(tiny.build("llava"), EAH(layers=(4,)))
