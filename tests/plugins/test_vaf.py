"""VAF against its formula, in float64 on full attention maps."""

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
from vlmheads_plugins.vaf import VAF

import vlmheads
from vlmheads.model.geometry import Geometry

ALL = [(layer, head) for layer in range(4) for head in range(4)]


def multiply(family: str, heads: list[tuple[int, int]], enhance: float, suppress: float) -> Any:
    visual = slow.image_columns(tiny.build(family), tiny.inputs(family)).tolist()
    first, end = visual.index(True), len(visual) - visual[::-1].index(True)

    def edit(layer: int, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for head in range(len(scores)):
            if (layer, head) in heads:
                rows = scores[head, end if scores.shape[1] > 1 else 0 :]
                rows[:, first:end] *= enhance
                rows[:, :first] *= suppress
        return scores

    return edit


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_scores_of_the_image_and_of_what_stands_before_it_are_multiplied(family: str) -> None:
    heads = [pair for pair in ALL if pair[0] in (1, 3)]
    edits = slow.Edits(scores=multiply(family, heads, 1.9, 0.4))
    agree.assert_plugin_is(VAF(enhance=1.9, suppress=0.4, layers=(1, 3)), edits, family)


def test_single_heads_can_be_named() -> None:
    heads = [(0, 2), (3, 1)]
    edits = slow.Edits(scores=multiply("llava-gqa", heads, 2.5, 1.0))
    agree.assert_plugin_is(VAF(enhance=2.5, suppress=1.0, heads=heads), edits, "llava-gqa")


def test_the_released_layers_are_scaled_to_the_depth() -> None:
    assert VAF().chosen_layers(Geometry("llava", 32, 32)) == tuple(range(9, 15))
    assert VAF().chosen_layers(Geometry("llava", 4, 4)) == (1,)


@settings(max_examples=10, deadline=None)
@given(
    enhance=st.floats(0, 10),
    suppress=st.floats(0, 10),
    family=st.sampled_from(["llava-gqa", "gemma3"]),
)
def test_rows_sum_to_one_whatever_the_factors(enhance: float, suppress: float, family: str) -> None:
    plugin = VAF(enhance=enhance, suppress=suppress)
    for before, after in agree.rows_around(plugin, family).values():
        assert bool((after.scores.isinf() == before.scores.isinf()).all())
        torch.testing.assert_close(after.weights.sum(dim=-1), torch.ones(after.weights.shape[:-1]))


@pytest.mark.parametrize("options", [{"layers": (4,)}, {"heads": [[0, 4]]}])
def test_layers_and_heads_that_the_model_lacks_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="vaf: "):
        vlmheads.attach(tiny.build("llava"), VAF(**options))
