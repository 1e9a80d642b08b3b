"""ONLY against its formulas, in float64 on the slow decoder."""

from __future__ import annotations

import math
from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.only import ONLY

import vlmheads


def entropy(weights: list[float]) -> float:
    total = sum(weights)
    return -sum(one / total * math.log(one / total) for one in weights if one)


class ByHand:
    """The second set of logits, a step at a time, and the two put together."""

    def __init__(self, family: str, plugin: ONLY) -> None:
        self.plugin, self.model = plugin, tiny.build(family)
        self.row = tiny.inputs(family)
        visual = slow.image_columns(self.model, self.row)
        self.image = visual.nonzero()[:, 0].tolist()
        edits = slow.Edits(weights=self.weights, residual=self.residual, logits=self.logits)
        self.decoder = slow.Slow(self.model, edits)
        self.states: dict[int, Tensor] = {}
        self.ways: list[bool] = []
        self.dropped: list[bool] = []
        self.zeroed = 0

    def weights(self, layer: int, weights: Tensor) -> Tensor:
        if layer == self.plugin.layer:
            text = [j for j in range(1, weights.shape[2]) if j not in self.image]
            kept, ratios = [], []
            for head in weights[:, -1]:
                left = head.clone()
                for place in (text, self.image):
                    limit = head[place].mean() + head[place].std()
                    for j in place:
                        if head[j] > limit:
                            left[j], self.zeroed = 0, self.zeroed + 1
                kept.append(left)
                parts = [entropy([float(left[j]) for j in one]) for one in (text, self.image)]
                ratios.append(parts[0] / parts[1])
            mean = sum(ratios) / len(ratios)
            self.kept = [h for h, one in enumerate(ratios) if one >= mean]
            values = torch.stack(self.decoder.values[layer])
            group = len(weights) // values.shape[1]
            parts = [
                kept[h] @ values[:, h // group] * (h in self.kept) for h in range(len(weights))
            ]
            name = f"layers.{layer}.self_attn.o_proj.weight"
            self.output = self.decoder.weights[name] @ torch.cat(parts)
        return weights

    def residual(self, layer: int, hidden: Tensor) -> Tensor:
        self.states[layer] = hidden[-1]
        return hidden

    def logits(self, step: int, logits: Tensor) -> Tensor:
        decoder, name = self.decoder, "layers.3."
        x = 0.2 * self.states[2] + decoder.norm(name + "input_layernorm", self.output)
        inner = decoder.norm(name + "post_attention_layernorm", x)
        gate = decoder._linear(name + "mlp.gate_proj", inner)
        up = decoder._linear(name + "mlp.up_proj", inner)
        x = x + decoder._linear(name + "mlp.down_proj", gate / (1 + torch.exp(-gate)) * up)
        other = decoder.norm("norm", x) @ decoder.weights["lm_head.weight"].T
        p, q = logits.softmax(-1), other.softmax(-1)
        together = float((p - q).abs().sum()) < self.plugin.gamma
        self.ways.append(together)
        a, b = self.plugin.contrast, self.plugin.collaborate
        edited = logits + b * other if together else (1 + a) * logits - a * other
        low = p < self.plugin.cutoff * p.max()
        return slow.settled(edited.masked_fill(low, -torch.inf), logits)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(
    "plugin",
    [
        ONLY(gamma=0.7),
        ONLY(gamma=0.0, cutoff=0.3),
        ONLY(gamma=2.0, collaborate=1.5, cutoff=0.0, layer=2),
    ],
)
def test_logits_are_those_of_the_second_pass_and_the_plain_ones(family: str, plugin: ONLY) -> None:
    by_hand = ByHand(family, plugin)
    logits, chosen = [by_hand.decoder.prompt(by_hand.row)], list[int]()
    while True:
        chosen.append(int(logits[-1].argmax()))
        if len(chosen) == 8:
            break
        logits.append(by_hand.decoder.token(chosen[-1]))
    assert by_hand.zeroed > 0
    if plugin.gamma == 0.7:
        assert set(by_hand.ways) == {True, False}
    found = agree.generate(by_hand.model, by_hand.row, plugin)
    agree.assert_same((chosen, torch.stack(logits)), found)


def test_the_main_pass_is_left_alone() -> None:
    """Every attention row and, given the same tokens, every later state is the plain model's."""
    for before, after in agree.rows_around(ONLY()).values():
        assert before is after


@pytest.mark.parametrize(
    ("family", "options", "match"),
    [("gemma3", {}, "pre_feedforward_layernorm"), ("llava", {"layer": 4}, "names layers")],
)
def test_layers_that_it_cannot_follow_are_refused(
    family: str, options: dict[str, Any], match: str
) -> None:
    model = tiny.build(family)
    with (
        pytest.raises(vlmheads.VlmHeadsError, match=match),
        vlmheads.attach(model, ONLY(**options)),
    ):
        model.generate(**tiny.inputs(family), max_new_tokens=1)
