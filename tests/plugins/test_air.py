"""AIR against its formula, and the four methods that make it up."""

from __future__ import annotations

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.air import AIR

import vlmheads
from vlmheads.model.geometry import Geometry


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("share", [0.1, 0.8])
def test_the_last_row_goes_towards_its_mean(family: str, share: float) -> None:
    def shrink(layer: int, weights: Tensor) -> Tensor:
        if layer not in (1, 2):
            return weights
        weights = weights.clone()
        for head in range(len(weights)):
            row = weights[head, -1].tolist()
            mean = sum(row) / len(row)
            weights[head, -1] = torch.tensor([(1 - share) * a + share * mean for a in row])
        return weights

    agree.assert_plugin_is(AIR(share=share, layers=(1, 2)), slow.Edits(weights=shrink), family)


def test_rows_keep_their_sum_and_masked_keys_their_nothing() -> None:
    plugin, masked = AIR(share=0.5, layers=(1,)), 0
    for before, after in agree.rows_around(plugin, "llava", lengths=(3, 7)).values():
        sums = after.weights.sum(dim=-1)
        torch.testing.assert_close(sums, before.weights.sum(dim=-1), atol=1e-6, rtol=0)
        unseen = after.weights[:, :, -1][before.scores[:, :, -1] == -torch.inf]
        masked += len(unseen)
        assert not bool(unseen.any())
    assert masked


def test_the_released_layers_are_the_default() -> None:
    assert AIR().chosen_layers(Geometry("llava", 32, 32)) == tuple(range(5, 18))


def test_the_preset_is_four_methods_that_act_together() -> None:
    plugins = vlmheads.load_preset("air-llava15.json")
    assert [one.name for one in plugins] == ["vaf", "devils", "adhh", "air"]
    model, row = tiny.build("llava"), tiny.inputs("llava")
    fitted = ["vaf:enhance=1.08,suppress=0.97,layers=[1]", "devils:alpha=0.28,layers=[1,2]",
              "adhh:heads=[[2,1]],threshold=0.1", "air:layers=[1,2]"]  # fmt: skip
    alone = agree.generate(model, row, fitted[:3], 3)
    both = agree.generate(model, row, fitted, 3)
    assert float((alone[1] - both[1]).abs().max()) > 1e-4
