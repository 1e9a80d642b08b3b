"""DAMRO against its formula, in float64 with two streams by hand."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import agree
import pytest
import slow
import streams
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.damro import DAMRO

import vlmheads


def attention_of_cls(family: str, layer: int) -> Tensor:
    """Mean over the heads of what the CLS token gives to each patch, from the encoder's own map."""
    tower: Any = deepcopy(tiny.build(family).model.vision_tower).double()
    tower.set_attn_implementation("eager")
    pixels = tiny.inputs(family)["pixel_values"].double()
    maps = tower(pixel_values=pixels, output_attentions=True).attentions
    found: Tensor = maps[layer][0].mean(dim=0)[0, 1:]
    return found


def outliers_only(family: str, k: int, layer: int) -> Any:
    """Start a stream whose image is its k patches with the most CLS attention."""

    def begin(side: slow.Slow) -> Tensor:
        model, row = tiny.build(family), tiny.inputs(family)
        attention = attention_of_cls(family, layer).tolist()
        best = sorted(range(len(attention)), key=lambda patch: -attention[patch])[:k]
        visual = slow.image_columns(model, row).tolist()
        features, patches = slow.image_features(model, row), iter(range(len(attention)))
        hidden = []
        for token, is_image in zip(row["input_ids"][0].tolist(), visual, strict=True):
            patch = next(patches) if is_image else None
            if patch is None:
                hidden.append(side.weights["embed_tokens.weight"][token])
            elif patch in best:
                hidden.append(features[patch])
        return side.forward(torch.stack(hidden))

    return begin


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(
    "options", [{"k": 1}, {"k": 2, "alpha": 1.5, "cutoff": 0.0}, {"k": 3, "layer": -1}]
)
def test_the_next_token_is_contrasted_with_the_outliers(
    family: str, options: dict[str, Any]
) -> None:
    values = {"alpha": 0.5, "cutoff": 0.1, "layer": -2} | options

    def combine(_: int, seeing: Tensor, outliers: Tensor) -> Tensor:
        edited = (1 + values["alpha"]) * seeing - values["alpha"] * outliers
        return streams.cut(edited, seeing, values["cutoff"])

    begin = outliers_only(family, values["k"], values["layer"])
    expected = streams.decode(family, combine, begin=begin)
    streams.assert_plugin_is(DAMRO(**options), family, expected)


def test_the_contrast_with_every_patch_is_none() -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    plain = agree.generate(model, row, DAMRO.neutral(), 3)
    found = agree.generate(model, row, DAMRO(k=4, cutoff=0.0), 3)
    agree.assert_same(plain, found)


@settings(max_examples=10, deadline=None)
@given(alpha=st.floats(0, 10), cutoff=st.floats(0, 1), k=st.integers(1, 9))
def test_the_likeliest_token_is_never_cut_off(alpha: float, cutoff: float, k: int) -> None:
    plugin = DAMRO(alpha=alpha, cutoff=cutoff, k=k)
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    _, plain = agree.generate(model, row, DAMRO.neutral(), 1)
    _, logits = agree.generate(model, row, plugin, 1)
    assert not bool(logits.isnan().any())
    assert float(logits[0].max() - logits[0, plain[0].argmax()]) < 900


def test_a_vision_encoder_without_a_cls_token_is_refused() -> None:
    model = tiny.build("internvl")
    with (
        vlmheads.attach(model, DAMRO()),
        pytest.raises(vlmheads.VlmHeadsError, match="CLIP vision encoder"),
    ):
        model.generate(**tiny.inputs("internvl"), max_new_tokens=1)
