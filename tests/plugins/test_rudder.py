"""RUDDER against its formulas, by hand on the slow decoder."""

from __future__ import annotations

import math
from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.rudder import RUDDER

import vlmheads
from vlmheads.model.geometry import Geometry


class Pushed:
    """The method at layer 2, token by token, in the paper's form or the released one."""

    def __init__(self, model: Any, alpha: float, scale: str, form: str, gate: bool) -> None:
        self.alpha, self.scale, self.form, self.gate = alpha, scale, form, gate
        self.before = torch.empty(0)
        self.direction: Tensor | None = None
        self.gates: list[float] = []
        weight = model.model.language_model.layers[2].input_layernorm.weight.double()
        eps = model.config.text_config.rms_norm_eps
        self.norm = lambda x: x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight

    def residual(self, layer: int, hidden: Tensor) -> Tensor:
        if layer == 1:
            self.before = hidden
        return hidden

    def attention(self, layer: int, output: Tensor) -> Tensor:
        if layer != 2:
            return output
        if self.direction is None:
            total = torch.zeros(output.shape[1], dtype=torch.float64)
            for x, o in zip(self.before, output, strict=True):
                d = o - self.norm(x) if self.form == "release" else o
                total += d * (float(d.norm()) if self.form == "release" else 1.0)
            self.direction = total / total.norm()
            mean = sum(float(x.norm()) for x in self.before) / len(self.before)
            self.length = self.alpha * (mean if self.scale == "residual" else 1.0)
            return output
        (x,), (o,), v = self.before, output, self.direction
        h = o if self.form == "release" else x + o
        c = 5 * float(h @ v) / float(h.norm())
        p, q = math.log1p(math.exp(c + 1)), math.log1p(math.exp(1 - c))
        self.gates.append(min(max(p / (p + q), 0.05), 1.0))
        return (o + self.length * (self.gates[-1] if self.gate else 1.0) * v)[None]


@pytest.mark.parametrize(
    ("scale", "form", "gate"),
    [
        ("residual", "paper", True),
        ("absolute", "paper", True),
        ("residual", "release", True),
        ("absolute", "release", False),
        ("absolute", "paper", False),
    ],
)
def test_answer_tokens_are_pushed_along_the_mean_of_the_prompt(
    scale: str, form: str, gate: bool
) -> None:
    by_hand = Pushed(tiny.build("llava"), 0.7, scale, form, gate)
    edits = slow.Edits(attention=by_hand.attention, residual=by_hand.residual)
    plain = slow.decode(tiny.build("llava"), tiny.inputs("llava"))
    expected = slow.decode(tiny.build("llava"), tiny.inputs("llava"), edits)
    assert float((plain[1] - expected[1]).abs().max()) > 1e-3
    plugin = RUDDER(alpha=0.7, scale=scale, form=form, gate=gate, layer=2)
    found = agree.generate(tiny.build("llava"), tiny.inputs("llava"), plugin)
    agree.assert_same(expected, found)
    assert len({round(one, 6) for one in by_hand.gates}) > 1


def test_the_first_token_is_that_of_the_plain_model() -> None:
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    plain = agree.generate(model, row, RUDDER.neutral(), 3)[1]
    pushed = agree.generate(model, row, RUDDER(alpha=2.0, layer=2), 3)[1]
    assert torch.equal(plain[0], pushed[0])
    assert not torch.equal(plain[1], pushed[1])


def test_the_published_layer_is_scaled_to_the_depth() -> None:
    assert RUDDER().chosen_layer(Geometry("llava", 32, 32)) == 30
    assert RUDDER().chosen_layer(Geometry("llava", 8, 8)) == 7


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layer": 4}, "layer=4 names layers"),
        ({"layer": 0}, "layer=0; expected a layer with one before it"),
        ({"layer": 0, "form": "release"}, "layer=0; expected a layer with one before it"),
    ],
)
def test_a_layer_that_does_not_do_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match=match):
        vlmheads.attach(tiny.build("llava"), RUDDER(**options))


def test_a_gate_that_is_off_has_no_shape() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="steepness=2.0 has no effect"):
        RUDDER(gate=False, steepness=2.0)
