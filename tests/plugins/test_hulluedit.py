"""HulluEdit against its formulas, in float64 on the slow decoder with full decompositions."""

from __future__ import annotations

import math
from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.hulluedit import HulluEdit, directions

import vlmheads


class ByHand:
    """The edit of each step's state, one token of the image and text after the other."""

    def __init__(self, family: str, plugin: HulluEdit, layer: int) -> None:
        self.plugin, self.layer = plugin, layer
        self.model, self.row = tiny.build(family), tiny.inputs(family)
        self.image = slow.image_columns(self.model, self.row).nonzero()[:, 0].tolist()
        edits = slow.Edits(residual=self.residual, logits=self.logits)
        self.decoder = slow.Slow(self.model, edits)
        self.anchors, self.last = list[Tensor](), torch.empty(0)
        self.gates: list[bool] = []

    def residual(self, layer: int, hidden: Tensor) -> Tensor:
        if layer == self.layer:
            self.anchors += list(hidden)
        if layer == 3:
            self.last = hidden[-1]
        return hidden

    def logits(self, step: int, logits: Tensor) -> Tensor:
        own, h = self.plugin, self.decoder.norm("norm", self.last)
        seen = [self.anchors[i] for i in self.image]
        said = torch.stack(self.anchors[self.image[-1] + 1 :])
        weight = torch.tensor(
            [float(v @ h / v.norm() / h.norm()) / own.temperature for v in seen]
        ).double()
        weight = weight.softmax(0)
        mean = sum(w * v for w, v in zip(weight, seen, strict=True))
        rows = torch.stack([math.sqrt(w) * (v - mean) for w, v in zip(weight, seen, strict=True)])
        u = torch.linalg.svd(rows)[2][: own.rank]
        off = said - said.mean(dim=0)
        off = off - off @ u.T @ u
        p = torch.linalg.svd(off)[2][: own.prior_rank]
        hu, hp = sum((one @ h) * one for one in u), sum((one @ h) * one for one in p)
        seen_share, said_share = float(hu @ hu / (h @ h)), float(hp @ hp / (h @ h))
        vcr, pcr = max(seen_share, own.floor), min(said_share, own.ceiling)
        kn = min(own.kappa * (1 - vcr) / vcr, own.most)
        kp = min(own.prior_kappa * pcr / (1 - pcr), own.prior_most)
        kp = 0 if pcr < own.threshold else kp
        made = hu + hp / (1 + kn + kp) + (h - hu - hp) / (1 + kn)
        made = made * (float(h.norm()) / float(made.norm())) ** own.level
        out = (1 - own.blend) * h + own.blend * made
        low, high = own.visual_gate, own.prior_gate
        if low is not None or high is not None:
            near = low is not None and seen_share < low
            self.gates.append(near or (high is not None and said_share > high))
            out = out if self.gates[-1] else h
        return slow.settled(out @ self.decoder.weights["lm_head.weight"].T, logits)

    def decode(self, tokens: int = 8) -> tuple[list[int], Tensor]:
        logits, said = [self.decoder.prompt(self.row)], list[int]()
        while True:
            said.append(int(logits[-1].argmax()))
            if len(said) == tokens:
                return said, torch.stack(logits)
            logits.append(self.decoder.token(said[-1]))


SMALL = {"rank": 2, "prior_rank": 2, "kappa": 3.0, "layer": 2}


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"level": 0.0, "blend": 1.0, "prior_kappa": 5.0, "threshold": 0.0, "temperature": 0.1},
        {"rank": 1, "prior_rank": 4, "most": 0.5, "ceiling": 0.05, "prior_most": 0.01},
        {"floor": 0.6, "ceiling": 0.05, "threshold": 0.0, "prior_kappa": 5.0},
        {"threshold": 0.3, "prior_kappa": 5.0},
        {"visual_gate": 0.1},
        {"visual_gate": 0.1, "floor": 0.2},
        {"prior_gate": 0.3, "ceiling": 0.2},
        {"prior_gate": 0.3},
        {"visual_gate": 0.1, "prior_gate": 0.35},
    ],
)
def test_the_state_is_split_and_shrunk(family: str, options: dict[str, Any]) -> None:
    plugin = HulluEdit(**(SMALL | options))
    by_hand = ByHand(family, plugin, 2)
    expected = by_hand.decode()
    plain = slow.decode(by_hand.model, by_hand.row, tokens=expected[0])
    assert float((plain[1] - expected[1]).abs().max()) > 1e-3
    agree.assert_same(expected, agree.generate(by_hand.model, by_hand.row, plugin))
    assert not by_hand.gates or set(by_hand.gates) == {True, False}


def test_anchors_follow_their_beams() -> None:
    agree.assert_state_follows_beams(HulluEdit(**SMALL))


def test_directions_are_right_singular_vectors_as_far_as_there_are_any() -> None:
    generator = torch.Generator().manual_seed(3)
    for shape in ((2, 5, 9), (2, 9, 5)):
        states = torch.randn(*shape, generator=generator).double()
        found = directions(states, 3)
        right = torch.linalg.svd(states)[2][:, :3]
        torch.testing.assert_close((found @ right.mT).abs(), torch.eye(3).double().expand(2, 3, 3))
    alike = torch.randn(1, 1, 9, generator=generator).double().expand(1, 4, 9)
    found = directions(alike, 3)[0]
    assert found.norm(dim=-1).tolist() == pytest.approx([1, 0, 0])
    assert not directions(torch.zeros(1, 4, 9).double(), 3).any()


def test_the_cache_is_that_of_the_plain_model() -> None:
    for before, after in agree.rows_around(HulluEdit(**SMALL)).values():
        assert before is after


def test_layer_0_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="layers with 0 among them"):
        vlmheads.attach(tiny.build("llava"), HulluEdit(layer=0))
