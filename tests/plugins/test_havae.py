"""HAVAE against its formula, in float64 on full attention maps."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.havae import HAVAE

import vlmheads
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 4, 4)


def ratios(layers: int = 4, heads: int = 4) -> Learned:
    generator = torch.Generator().manual_seed(9)
    return Learned(
        "havae", {"nhar": torch.rand(layers, heads, generator=generator)},
        Geometry("llava", layers, heads),
    )  # fmt: skip


def raise_image(family: str, made: Learned, alpha: float, count: int) -> slow.Edit:
    model, row = tiny.build(family), tiny.inputs(family)
    image = slow.image_columns(model, row).nonzero()[:, 0].tolist()
    values = {(at, h): v for at, row in enumerate(made.values["nhar"].tolist())
              for h, v in enumerate(row)}  # fmt: skip
    chosen = sorted(values, key=lambda pair: -values[pair])[:count]

    def edit(layer: int, scores: Tensor) -> Tensor:
        edited = scores.clone()
        for j in image:
            size = sum(abs(float(head[-1, j])) for head in scores) / len(scores)
            for h in range(len(scores)):
                if (layer, h) in chosen:
                    edited[h, -1, j] += alpha * size
        return edited

    return edit


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("count", [3, 7, 16])
def test_the_image_is_raised_in_the_best_heads(family: str, count: int) -> None:
    made = ratios()
    edits = slow.Edits(scores=raise_image(family, made, 0.8, count))
    agree.assert_plugin_is(HAVAE(ratios=made, alpha=0.8, count=count), edits, family)


def test_as_large_a_share_of_heads_is_raised_as_published() -> None:
    assert int(HAVAE(ratios=ratios()).chosen(GEOMETRY).sum()) == 7  # 450 / 1024 of 16
    large = Geometry("llava", 32, 32)
    assert int(HAVAE(ratios=ratios(32, 32)).chosen(large).sum()) == 450


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "without ratios,"),
        ({"ratios": ratios(5)}, "5 layers of 4 heads"),
        ({"ratios": ratios(), "count": 17}, "1 to 16 heads"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match=match):
        vlmheads.attach(tiny.build("llava"), HAVAE(**options))
