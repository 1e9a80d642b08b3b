"""MemVR against its formulas, in float64."""

from __future__ import annotations

import math
from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.memvr import MemVR

import vlmheads
from vlmheads.model.geometry import Geometry


class Retracer(slow.Slow):
    """MemVR of one row: the released arithmetic, scales of Z included."""

    def start(self, family: str, ratio: float, threshold: float, asked: range) -> Tensor:
        self.image = slow.image_features(tiny.build(family), tiny.inputs(family))
        self.ratio, self.threshold, self.asked = ratio, threshold, asked
        self.calls: list[int] = []
        self.edits = slow.Edits(mlp=self.mix, residual=self.ask)
        return self.prompt(tiny.inputs(family))

    def _linear(self, name: str, hidden: Tensor) -> Tensor:
        if name.endswith("mlp.gate_proj"):
            self.given = hidden
        return super()._linear(name, hidden)

    def ask(self, layer: int, hidden: Tensor) -> Tensor:
        if layer == 0:
            self.calls.append(-1)
        if layer in self.asked and self.calls[-1] == -1:
            logits = self.norm("norm", hidden[-1]) @ self.weights["lm_head.weight"].T
            best = logits.sort(descending=True).values[:10].softmax(-1)
            if float(-(best * best.log()).sum() / math.log(10)) > self.threshold:
                self.calls[-1] = layer
        return hidden

    def mix(self, layer: int, plain: Tensor) -> Tensor:
        if layer == 0 or self.calls[-1] != layer - 1:
            return plain
        name, size = f"layers.{layer}.mlp.", self.image.abs().mean()
        keys = self.image * self.weights[name + "up_proj.weight"].abs().mean() / size
        values = self.image * self.weights[name + "down_proj.weight"].abs().mean() / size
        retraced = self.given @ keys.T @ values
        retraced = retraced * plain.abs().mean() / retraced.abs().mean()
        return (1 - self.ratio) * plain + self.ratio * retraced


def reference(
    family: str, ratio: float, threshold: float, asked: range
) -> tuple[tuple[list[int], Tensor], list[int]]:
    """Tokens and logits, and after which layer each pass called for the image, -1 for none."""
    decoder = Retracer(tiny.build(family))
    logits = [decoder.start(family, ratio, threshold, asked)]
    chosen = [int(logits[-1].argmax())]
    while len(chosen) < 8:
        logits.append(decoder.token(chosen[-1]))
        chosen.append(int(logits[-1].argmax()))
    return (chosen, torch.stack(logits)), decoder.calls


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(
    ("ratio", "threshold", "asked"),
    [(0.12, 0.0, range(1, 2)), (0.8, 0.93, range(3)), (0.5, 0.95, range(1, 3))],
)
def test_an_unsure_layer_calls_the_image_into_the_next_mlp(
    family: str, ratio: float, threshold: float, asked: range
) -> None:
    expected, _ = reference(family, ratio, threshold, asked)
    plugin = MemVR(ratio=ratio, threshold=threshold, first=asked.start, stop=asked.stop)
    agree.assert_same(expected, agree.generate(tiny.build(family), tiny.inputs(family), plugin))


def test_the_thresholds_above_are_reached_by_some_passes_and_layers_only() -> None:
    calls = reference("llava-gqa", 0.8, 0.93, range(3))[1]
    calls += reference("llava", 0.8, 0.93, range(3))[1]
    assert len(set(calls)) > 1


def test_a_threshold_of_one_never_calls_for_the_image() -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    plain = agree.generate(model, row, MemVR.neutral(), 3)
    assert torch.equal(agree.generate(model, row, MemVR(threshold=1.0), 3)[1], plain[1])


def test_the_layers_of_a_model_of_32_are_the_released_ones() -> None:
    assert MemVR().asked_layers(Geometry("llava", 32, 32)) == range(6, 16)


@settings(max_examples=10, deadline=None)
@given(ratio=st.floats(0, 1), threshold=st.floats(0, 1))
def test_no_options_give_a_logit_that_is_not_a_number(ratio: float, threshold: float) -> None:
    plugin = MemVR(ratio=ratio, threshold=threshold, first=0, stop=3)
    _, logits = agree.generate(tiny.build("llava-gqa"), tiny.inputs("llava-gqa"), plugin, 2)
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("options", [{"stop": 4}, {"first": 2, "stop": 2}])
def test_layers_that_cannot_be_asked_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="asks layers"):
        vlmheads.attach(tiny.build("llava"), MemVR(**options))


def test_a_layer_that_is_no_index_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="first=1.5"):
        MemVR(first=1.5)  # type: ignore[arg-type]
    with pytest.raises(vlmheads.VlmHeadsError, match="first=-1"):
        MemVR(first=-1)
