"""SPIN against its formulas, in float64 on full attention maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import agree
import pytest
import slow
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.spin import SPIN

import vlmheads
from vlmheads.plugin import Plugin
from vlmheads.runtime.request import Request


def reference(family: str, keep: float, factor: float, layers: range) -> slow.Edits:
    """SPIN of one row: rank the heads by the sum over image columns of the last row's scores."""
    visual = slow.image_columns(tiny.build(family), tiny.inputs(family)).tolist()
    passing: dict[int, list[int]] = {}

    def rank(layer: int, scores: Tensor) -> Tensor:
        sums = [
            sum(float(scores[head, -1, j]) for j in range(len(visual)) if visual[j])
            for head in range(len(scores))
        ]
        ranked = sorted(range(len(sums)), key=lambda head: -sums[head])
        passing[layer] = ranked[: int(keep * len(sums))]
        return scores

    def suppress(layer: int, heads: Tensor) -> Tensor:
        if layer not in layers:
            return heads
        heads = heads.clone()
        for head in range(heads.shape[1]):
            if head not in passing[layer]:
                heads[-1, head] *= factor
        return heads

    return slow.Edits(scores=rank, heads=suppress)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(("keep", "factor"), [(0.95, 0.08), (0.5, 0.3), (0.0, 0.5)])
def test_the_heads_that_attend_least_to_the_image_are_suppressed(
    family: str, keep: float, factor: float
) -> None:
    edits = reference(family, keep, factor, range(4))
    agree.assert_plugin_is(SPIN(keep=keep, factor=factor), edits, family)


def test_only_chosen_layers_are_suppressed() -> None:
    edits = reference("llava-gqa", 0.5, 0.1, range(1, 3))
    agree.assert_plugin_is(SPIN(keep=0.5, factor=0.1, layers=(1, 2)), edits, "llava-gqa")


@dataclass(frozen=True, eq=False)
class HeadSpy(Plugin):
    """Keep the head outputs of every layer and step as they come by."""

    name: ClassVar[str] = "head-spy"
    seen: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        self.seen[request.step, layer] = heads
        return heads


def factors(plugin: SPIN) -> dict[tuple[int, int], Tensor]:
    """(step, layer) -> the factor [S, H] on every head of every position."""
    before, after = HeadSpy(), HeadSpy()
    model = tiny.build("llava-gqa")
    with vlmheads.attach(model, [before, plugin, after]):
        model.generate(**tiny.inputs("llava-gqa"), max_new_tokens=3, do_sample=False)
    pairs = {key: (heads, after.seen[key]) for key, heads in before.seen.items()}
    return {key: (b.norm(dim=-1) / a.norm(dim=-1))[0] for key, (a, b) in pairs.items()}


@settings(max_examples=10, deadline=None)
@given(keep=st.floats(0, 1), factor=st.floats(0.01, 0.9))
def test_each_new_position_loses_exactly_the_share_that_does_not_pass(
    keep: float, factor: float
) -> None:
    for found in factors(SPIN(keep=keep, factor=factor)).values():
        assert bool((found[:-1] == 1).all())
        assert int((found[-1] < 0.95).sum()) == 4 - int(keep * 4)


def test_a_layer_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="layers"):
        vlmheads.attach(tiny.build("llava"), SPIN(layers=(4,)))
