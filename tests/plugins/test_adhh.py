"""AD-HH against its formula, in float64 on full attention maps."""

from __future__ import annotations

import agree
import pytest
import slow
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.adhh import ADHH

import vlmheads
from vlmheads.model.geometry import Geometry

HEADS = ((0, 1), (2, 0), (2, 3))


def reference(family: str, threshold: float) -> slow.Edits:
    """AD-HH of one row: the last query of each pass."""
    visual = slow.image_columns(tiny.build(family), tiny.inputs(family)).tolist()
    behind = max(j for j, is_image in enumerate(visual) if is_image) + 1

    def gate(layer: int, weights: Tensor) -> Tensor:
        weights = weights.clone()
        for index, head in HEADS:
            if index == layer and float(weights[head, -1, behind:].sum()) >= threshold:
                weights[head, -1, behind:] = 0
        return weights

    return slow.Edits(weights=gate)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.55])
def test_heads_that_look_at_the_text_lose_it(family: str, threshold: float) -> None:
    agree.assert_plugin_is(
        ADHH(heads=HEADS, threshold=threshold), reference(family, threshold), family
    )


@settings(max_examples=10, deadline=None)
@given(threshold=st.floats(0, 1))
def test_a_row_keeps_its_text_or_loses_all_of_it(threshold: float) -> None:
    around = agree.rows_around(ADHH(heads=HEADS, threshold=threshold))
    for (_, layer), (before, after) in around.items():
        if not any(index == layer for index, _ in HEADS):
            assert after is before
            continue
        kept = (after.weights == before.weights).flatten(3)
        behind = ~kept.all(dim=-1)
        lost = before.weights.sum(-1) - after.weights.sum(-1)
        assert bool((lost[behind] >= threshold - 1e-5).all())
        assert bool((lost[~behind] == 0).all())


def test_the_published_heads_are_the_default_on_their_model_only() -> None:
    ADHH().on_attach(Geometry("llava", 32, 32))
    with pytest.raises(vlmheads.VlmHeadsError, match="adhh without heads on llava with 40 layers"):
        ADHH().on_attach(Geometry("llava", 40, 40))


def test_a_head_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="heads names"):
        vlmheads.attach(tiny.build("llava"), ADHH(heads=((0, 4),)))


def test_a_model_that_attends_only_to_the_text_gives_no_nan() -> None:
    # Everything that such a head sees can be cut; its output is then 0, not undefined.
    plugin = ADHH(heads=tuple((layer, head) for layer in range(4) for head in range(4)))
    _, logits = agree.generate(tiny.build("llava-gqa"), tiny.inputs("llava-gqa"), plugin, 3)
    assert bool(torch.isfinite(logits).all())
