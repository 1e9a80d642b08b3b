"""VGA against its formulas, as an edit of head outputs in float64."""

from __future__ import annotations

import math
from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.vga import VGA

import vlmheads
from vlmheads.model.geometry import Geometry


def to_one(values: list[float]) -> list[float]:
    return [one / sum(values) for one in values]


class ByHand:
    """Heads with the image's own part added, token by token."""

    def __init__(self, family: str, plugin: VGA, layers: tuple[int, ...]) -> None:
        self.plugin, self.layers = plugin, layers
        self.model, self.row = tiny.build(family), tiny.inputs(family)
        self.image = slow.image_columns(self.model, self.row).nonzero()[:, 0].tolist()
        self.decoder = slow.Slow(self.model, slow.Edits(residual=self.residual, heads=self.heads))
        self.map: list[float] = []
        self.shares: list[float] = []

    def residual(self, layer: int, hidden: Tensor) -> Tensor:
        if layer == 3 and not self.map:
            states = self.decoder.norm("norm", hidden[self.image])
            self.words = (states @ self.decoder.weights["lm_head.weight"].T).softmax(dim=-1)
            if self.plugin.objects:
                best = [0.0] * len(self.image)
                for token in self.plugin.objects:
                    one = to_one(self.words[:, token].tolist())
                    best = [max(a, b) for a, b in zip(best, one, strict=True)]
            else:
                best = []
                for p in self.words.tolist():
                    top = sorted(p)[-10:]
                    entropy = -sum(x * math.log(x) for x in top) / math.log(10)
                    best.append(entropy if self.plugin.map == "entropy" else 1 - entropy)
            self.map = to_one(best)
        return hidden

    def said(self, token: int) -> None:
        k, off = self.plugin.kappa, to_one(self.words[:, token].tolist())
        left = [max((1 + k) * g - k * n, 0.0) for g, n in zip(self.map, off, strict=True)]
        self.map = to_one(left)
        self.shares.append(sum(g > 0 for g in self.map) / len(self.map))

    def heads(self, layer: int, heads: Tensor) -> Tensor:
        if layer not in self.layers or len(heads) > 1:
            return heads
        values = torch.stack(self.decoder.values[layer])
        group = heads.shape[1] // values.shape[1]
        own = [
            torch.stack(
                [g * values[j, h // group] for g, j in zip(self.map, self.image, strict=True)]
            ).sum(dim=0)
            for h in range(heads.shape[1])
        ]
        w = [
            (1 + float(torch.cosine_similarity(d, z, dim=0))) / 2
            for d, z in zip(own, heads[0], strict=True)
        ]
        y = [max(2 - len(w) * one / sum(w), 0.0) for one in w]
        added = [self.plugin.beta * self.shares[-1] * a * d for a, d in zip(y, own, strict=True)]
        return heads + torch.stack(added)[None]


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(
    "options",
    [
        {"kappa": 0.4},
        {"kappa": 0.0, "map": "certainty"},
        {"objects": (5, 17), "kappa": 0.1},
        {"kappa": 1.0},
    ],
)
def test_heads_get_what_the_image_tokens_say(family: str, options: dict[str, Any]) -> None:
    plugin = VGA(beta=1.5, layers=(1, 3), **options)
    by_hand = ByHand(family, plugin, (1, 3))
    logits, chosen = [by_hand.decoder.prompt(by_hand.row)], list[int]()
    while True:
        chosen.append(int(logits[-1].argmax()))
        if len(chosen) == 8:
            break
        by_hand.said(chosen[-1])
        logits.append(by_hand.decoder.token(chosen[-1]))
    plain = slow.decode(by_hand.model, by_hand.row, tokens=chosen)
    assert torch.equal(plain[1][0], logits[0]), "the first token is the plain model's"
    assert float((plain[1][1:] - torch.stack(logits)[1:]).abs().max()) > 1e-3
    if plugin.kappa == 1.0:
        assert min(by_hand.shares) < 1, "some image tokens lose all"
    agree.assert_same(
        (chosen, torch.stack(logits)), agree.generate(by_hand.model, by_hand.row, plugin)
    )


def test_maps_follow_their_beams() -> None:
    agree.assert_state_follows_beams(VGA(beta=2.0, kappa=1.0, layers=(1, 2, 3)))


def test_the_published_layers_are_the_default() -> None:
    assert VGA().chosen_layers(Geometry("llava", 32, 32)) == tuple(range(2, 17))
    assert all(0 not in VGA().chosen_layers(Geometry("llava", n, 4)) for n in range(2, 60))


@pytest.mark.parametrize(
    ("options", "match"),
    [({"layers": (0, 1)}, "layers with 0 among them"), ({"layers": (4,)}, "names layers")],
)
def test_layers_that_do_not_do_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match=match):
        vlmheads.attach(tiny.build("llava"), VGA(**options))


def test_objects_have_a_map_of_their_own() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="map='certainty' has no effect"):
        VGA(objects=(3,), map="certainty")
