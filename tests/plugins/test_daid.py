"""DaID against its formulas, in float64 on the slow decoder."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import streams
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.daid import DaID, anchors


class ByHand:
    """The two layers of each step, by loops over layers, heads and columns."""

    def __init__(self, family: str, plugin: DaID) -> None:
        self.plugin, self.model, self.row = plugin, tiny.build(family), tiny.inputs(family)
        self.image = slow.image_columns(self.model, self.row).nonzero()[:, 0].tolist()
        edits = slow.Edits(weights=self.weights, residual=self.residual, logits=self.logits)
        self.decoder = slow.Slow(self.model, edits)
        self.seen, self.states = dict[int, float](), dict[int, Tensor]()
        self.chosen: list[tuple[int, int]] = []

    def weights(self, layer: int, weights: Tensor) -> Tensor:
        masses = [sum(float(head[-1, j]) for j in self.image) for head in weights]
        self.seen[layer] = sum(masses) / len(masses)
        return weights

    def residual(self, layer: int, hidden: Tensor) -> Tensor:
        self.states[layer] = hidden[-1]
        return hidden

    def read(self, layer: int) -> Tensor:
        normed = self.decoder.norm("norm", self.states[layer])
        return normed @ self.decoder.weights["lm_head.weight"].T

    def logits(self, step: int, logits: Tensor) -> Tensor:
        spotlight = max(self.seen, key=lambda layer: self.seen[layer])
        before = [layer for layer in self.seen if layer < spotlight]
        shadow = min(before, key=lambda layer: self.seen[layer]) if before else -1
        self.chosen.append((spotlight, shadow))
        edited = logits + self.plugin.alpha * self.read(spotlight)
        if before:
            edited = edited + self.plugin.beta * edited - self.plugin.beta * self.read(shadow)
        return slow.settled(streams.cut(edited, logits, self.plugin.cutoff), logits)

    def decode(self, tokens: int = 8) -> tuple[list[int], Tensor]:
        logits, said = [self.decoder.prompt(self.row)], list[int]()
        while True:
            said.append(int(logits[-1].argmax()))
            if len(said) == tokens:
                return said, torch.stack(logits)
            logits.append(self.decoder.token(said[-1]))


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(
    "options", [{}, {"alpha": 0.0, "beta": 1.5}, {"alpha": 2.0, "beta": 0.7, "cutoff": 0.0}]
)
def test_the_spotlight_is_added_and_the_shadow_taken_off(
    family: str, options: dict[str, Any]
) -> None:
    plugin = DaID(**options)
    by_hand = ByHand(family, plugin)
    expected = by_hand.decode()
    plain = slow.decode(by_hand.model, by_hand.row, tokens=expected[0])
    assert float((plain[1] - expected[1]).abs().max()) > 1e-3
    agree.assert_same(expected, agree.generate(by_hand.model, by_hand.row, plugin))
    assert options or len(set(by_hand.chosen)) > 1


def test_the_shadow_is_the_smallest_before_the_spotlight() -> None:
    seen = torch.tensor([[0.3, 0.1, 0.5, 0.0], [0.9, 0.1, 0.2, 0.3], [0.2, 0.4, 0.1, 0.4]])
    spotlight, shadow = anchors(seen)
    assert spotlight.tolist() == [2, 0, 1]
    assert shadow.tolist()[::2] == [1, 0]


def test_rows_are_read_and_left_alone() -> None:
    for before, after in agree.rows_around(DaID()).values():
        assert before is after
