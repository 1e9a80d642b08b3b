"""LocoRE against its formula, in float64 on full attention maps."""

from __future__ import annotations

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.locore import LocoRE

import vlmheads


def raise_near(family: str, beta: float, window: int, layers: range) -> slow.Edit:
    columns = slow.image_columns(tiny.build(family), tiny.inputs(family))
    after = int(columns.nonzero()[-1]) + 1

    def edit(layer: int, weights: Tensor) -> Tensor:
        edited = weights.clone()
        place = weights.shape[-1] - 1  # of the last row
        if layer in layers:
            for head in edited:
                for j in range(after, place):
                    if place - j <= window:
                        head[-1, j] *= 1 + beta
                head[-1] /= head[-1].sum()
        return edited

    return edit


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("window", [2, 16])
def test_the_last_tokens_are_raised(family: str, window: int) -> None:
    edits = slow.Edits(weights=raise_near(family, 0.7, window, range(4)))
    agree.assert_plugin_is(LocoRE(beta=0.7, window=window), edits, family)


def test_it_can_be_limited_to_layers() -> None:
    edits = slow.Edits(weights=raise_near("llava", 2.0, 16, range(1, 3)))
    agree.assert_plugin_is(LocoRE(beta=2.0, layers=(1, 2)), edits, "llava")


def test_rows_sum_to_one() -> None:
    for _, after in agree.rows_around(LocoRE(beta=3.0)).values():
        torch.testing.assert_close(after.weights.sum(dim=-1), torch.ones(after.weights.shape[:-1]))


def test_a_layer_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="locore: layers"):
        vlmheads.attach(tiny.build("llava"), LocoRE(layers=(4,)))
