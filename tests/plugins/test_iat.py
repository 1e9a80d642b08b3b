"""IAT against its formula, in float64 on full attention maps."""

from __future__ import annotations

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.iat import IAT

import vlmheads
from vlmheads.model.geometry import Geometry


def raise_said(family: str, layers: list[int], alpha: float) -> slow.Edit:
    prompt = tiny.inputs(family)["input_ids"].shape[1]

    def edit(layer: int, scores: Tensor) -> Tensor:
        raised = scores.clone()
        if layer in layers:
            for head in raised:
                for j in range(prompt, scores.shape[-1]):
                    head[-1, j] += alpha * abs(float(head[-1, j]))
        return raised

    return edit


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_iat_raises_the_scores_of_what_was_said(family: str) -> None:
    edits = slow.Edits(scores=raise_said(family, [1, 2], 0.8))
    agree.assert_plugin_is(IAT(layers=(1, 2)), edits, family)


def test_the_released_layers_are_the_default() -> None:
    assert IAT().chosen_layers(Geometry("llava", 32, 32)) == tuple(range(5, 18))


@pytest.mark.parametrize("name", ["iat", "adaiat"])
def test_the_first_token_is_that_of_the_plain_model(name: str) -> None:
    from active import make

    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    plain = agree.generate(model, row, IAT.neutral(), 2)[1]
    edited = agree.generate(model, row, make(name, "llava-gqa"), 2)[1]
    assert torch.equal(edited[0], plain[0])
    assert not torch.equal(edited[1], plain[1])


def test_what_was_said_gets_more_and_rows_sum_to_one() -> None:
    prompt = tiny.inputs("llava-gqa")["input_ids"].shape[1]
    for (step, _), (before, after) in agree.rows_around(IAT(layers=(0, 1, 2, 3))).items():
        total = after.weights.sum(dim=-1)
        torch.testing.assert_close(total, torch.ones(total.shape))
        if step:
            gain = (after.weights - before.weights)[..., prompt:].sum(dim=-1)
            assert bool((gain >= -1e-6).all())


def test_a_layer_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="iat: layers"):
        vlmheads.attach(tiny.build("llava"), IAT(layers=(4,)))
