"""Heads of the vision tower against its own eager attention, patch by patch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vlmheads import VlmHeadsError
from vlmheads.detect.vision_heads import vision_heads
from vlmheads.model.anatomy import examine
from vlmheads.model.tower import vision_blocks

LENGTHS = (5, 3)
# Their towers attend in windows, or see patches in an order that is not known.
UNKNOWN = ("qwen2_5_vl",)


def by_hand(maps: list[Tensor], picture: int, side: int, prefix: int, marked: set[int]) -> Tensor:
    """[4, blocks, heads] of one picture, with Python loops, by attention maps [N, H, P, P]."""
    found = torch.zeros(4, len(maps), maps[0].shape[1])
    for block, weights in enumerate(maps):
        for head in range(weights.shape[1]):
            rows = weights[picture, head]
            count = side * side
            for row in range(count):
                line = rows[prefix + row].tolist()
                own = line[prefix:]
                apart = [
                    math.dist(divmod(row, side), divmod(other, side)) for other in range(count)
                ]
                found[0, block, head] += sum(a * d for a, d in zip(own, apart, strict=True)) / sum(
                    own
                )
                entropy = -sum(a * math.log(a) for a in line if a > 0)
                found[1, block, head] += entropy / math.log(len(line))
                found[2, block, head] += sum(line[:prefix])
                found[3, block, head] += sum(own[other] for other in marked)
            found[:, block, head] /= count
    return found


@pytest.mark.parametrize(("family", "prefix", "size"), [("llava", 1, 2), ("paligemma", 0, 2)])
def test_figures_are_those_of_the_towers_own_maps(family: str, prefix: int, size: int) -> None:
    model = tiny.build(family)
    inputs = tiny.inputs(family, LENGTHS)
    found = vision_heads(model, inputs, factor=1.02)
    tower: Any = model.model.vision_tower
    tower.set_attn_implementation("eager")
    try:
        maps: list[Tensor] = []
        states: list[Any] = []
        hooks = []
        for block in vision_blocks(examine(model)):
            hooks.append(
                block.self_attn.register_forward_hook(lambda _, __, out: maps.append(out[1]))
            )
            hooks.append(block.register_forward_hook(lambda _, __, out: states.append(out)))
        with torch.no_grad():
            tower(inputs["pixel_values"])
        for hook in hooks:
            hook.remove()
    finally:
        tower.set_attn_implementation("sdpa")
    for picture in range(2):
        last = states[-1][0] if isinstance(states[-1], tuple) else states[-1]
        norms = last[picture, prefix:].norm(dim=-1).tolist()
        middle = sorted(norms)[(len(norms) - 1) // 2]
        marked = {index for index, norm in enumerate(norms) if norm > 1.02 * middle}
        expected = by_hand(maps, picture, size, prefix, marked)
        for place, one in enumerate((found.distance, found.spread, found.register, found.artefact)):
            torch.testing.assert_close(one.values[picture], expected[place], atol=1e-5, rtol=1e-5)
        assert int(found.artefacts[picture]) == len(marked) > 0
    assert found.patches.tolist() == [4, 4]
    assert found.distance.geometry.model_type.endswith("vision tower")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_tower_is_measured_or_refused_and_left_as_it_was(family: str) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family, LENGTHS)
    with torch.no_grad():
        before = model(**inputs).logits
    if family in UNKNOWN:
        with pytest.raises(VlmHeadsError, match="cannot place"):
            vision_heads(model, inputs)
    else:
        found = vision_heads(model, inputs)
        for part in (found.distance, found.spread, found.register, found.artefact):
            assert bool(part.values.isfinite().all())
        assert 0 < float(found.spread.mean().max()) <= 1.0001
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)
    assert not any("_vlmheads_vision" in vars(part) for part in model.modules())
