"""Gains against their formula, in float64."""

from __future__ import annotations

from pathlib import Path

import agree
import pytest
import slow
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.gains import Gains

import vlmheads
from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 4, 4)


def head_map(measure: str = "gain", geometry: Geometry = GEOMETRY) -> vlmheads.HeadMap:
    generator = torch.Generator().manual_seed(3)
    values = 2 * torch.rand(2, geometry.layers, geometry.heads, generator=generator)
    return vlmheads.HeadMap(values, geometry, measure)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_every_head_is_multiplied_by_its_mean_factor(family: str, strength: float) -> None:
    made = head_map()

    def scale(layer: int, heads: Tensor) -> Tensor:
        heads = heads.clone()
        for head in range(4):
            one, two = (float(made.values[image, layer, head]) for image in range(2))
            heads[:, head] *= 1 + strength * ((one + two) / 2 - 1)
        return heads

    plugin = Gains(head_map=made, strength=strength)
    agree.assert_plugin_is(plugin, slow.Edits(heads=scale), family)


def test_a_saved_map_acts_as_the_map_itself(tmp_path: Path) -> None:
    head_map().save(tmp_path / "gains.safetensors")
    model, row = tiny.build("llava"), tiny.inputs("llava")
    saved = agree.generate(model, row, Gains(head_map=str(tmp_path / "gains.safetensors")), 3)
    given = agree.generate(model, row, Gains(head_map=head_map()), 3)
    assert torch.equal(saved[1], given[1])


def test_factors_of_one_change_no_bit() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    ones = vlmheads.HeadMap(torch.ones(1, 4, 4), GEOMETRY, "gain")
    found = agree.generate(model, row, Gains(head_map=ones), 3)
    assert torch.equal(found[1], agree.generate(model, row, Gains.neutral(), 3)[1])


@settings(max_examples=10, deadline=None)
@given(strength=st.floats(0, 10))
def test_no_strength_gives_a_logit_that_is_not_a_number(strength: float) -> None:
    plugin = Gains(head_map=head_map(), strength=strength)
    _, logits = agree.generate(tiny.build("llava"), tiny.inputs("llava"), plugin, 2)
    assert bool(logits.isfinite().all())


def test_a_map_of_something_else_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="a head map of 'vhd'"):
        Gains(head_map=head_map("vhd"))


def test_a_map_of_another_model_is_refused() -> None:
    plugin = Gains(head_map=head_map(geometry=Geometry("llava", 4, 8)))
    with pytest.raises(vlmheads.VlmHeadsError, match="4 layers of 8 heads"):
        vlmheads.attach(tiny.build("llava"), plugin)


def test_gains_without_a_map_are_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="without a head map"):
        vlmheads.attach(tiny.build("llava"), "gains")
