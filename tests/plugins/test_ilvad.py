"""ILVAD against its formulas, in float64: tokens ahead on recorded maps, then row by row."""

from __future__ import annotations

import math
from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.ilvad import ILVAD

import vlmheads
from vlmheads.model.geometry import Geometry


def largest(values: list[float]) -> list[int]:
    order = sorted(range(len(values)), key=lambda index: -values[index])
    return order[: len(values) // 2]


def spread(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(one - low) / (high - low) if high > low else 0.0 for one in values]


def ahead(family: str, plugin: ILVAD) -> list[float]:
    """S of each image token, from a plain generation."""
    model, row = tiny.build(family), tiny.inputs(family)
    image = slow.image_columns(model, row).nonzero()[:, 0].tolist()
    maps: list[Tensor] = []

    def keep(_: int, weights: Tensor) -> Tensor:
        maps.append(weights[:, -1])
        return weights

    slow.decode(model, row, slow.Edits(weights=keep), tokens=plugin.tokens)
    total = [0.0] * len(image)
    for step in range(1, plugin.tokens):
        given = []
        for heads in maps[4 * step : 4 * step + 4]:
            on_image = [[float(head[j]) for j in image] for head in heads]
            chosen = largest([sum(one) for one in on_image])
            given.append([sum(on_image[h][i] for h in chosen) / len(chosen) for i in range(4)])
        peaks = [
            [a if a > plugin.peak * sum(one) / len(one) else 0.0 for a in one] for one in given
        ]
        for i in range(len(image)):
            jump = sum(max(peaks[at + 1][i] - peaks[at][i], 0.0) for at in range(3))
            mean = [sum(one[k] for one in given) / 4 for k in range(4)]
            if plugin.form == "paper" or mean[i] > sum(mean) / 4:
                total[i] += jump
    mean_of = sum(total) / len(total)
    deviation = math.sqrt(sum((x - mean_of) ** 2 for x in total) / (len(total) - 1))
    low, high = mean_of - 3 * deviation, mean_of + 3 * deviation
    return spread([min(max(x, low), high) for x in total])


class ByHand:
    """The edit of the last row, with what each row was worth."""

    def __init__(self, family: str, plugin: ILVAD, layers: tuple[int, ...]) -> None:
        self.plugin, self.layers = plugin, layers
        model, row = tiny.build(family), tiny.inputs(family)
        self.image = slow.image_columns(model, row).nonzero()[:, 0].tolist()
        self.length = row["input_ids"].shape[1]
        self.map = ahead(family, plugin)
        self.worth: dict[int, float] = {}

    def __call__(self, layer: int, weights: Tensor) -> Tensor:
        a, edited = self.plugin.alpha, weights.clone()
        count, first = weights.shape[2], self.image[-1] + 1
        rows = range(first, self.length) if weights.shape[1] > 1 else [count - 1]
        for row in rows:
            given = weights[:, row - count]
            seen = [[float(head[j]) for j in self.image] for head in given]
            ratio = [
                sum(x * a * s for x, s in zip(one, self.map, strict=True)) / sum(one)
                for one in seen
            ]
            evidence = largest(ratio)
            mean = [sum(seen[h][i] for h in evidence) / len(evidence) for i in range(4)]
            self.worth[row] = self.worth.get(row, 0.0) + sum(
                a * s * x for s, x in zip(self.map, mean, strict=True)
            )
        if layer not in self.layers:
            return weights
        text = list(range(first, count))
        if self.plugin.form == "release":
            end = self.length - 1
            value = [
                self.worth[j] if j < end else 0.0 if j == end else self.worth[j - 1] for j in text
            ]
        else:
            value = [self.worth[j] for j in text]
        reading = largest([sum(float(head[j]) for j in text) for head in given])
        for h, head in enumerate(edited[:, -1]):
            if h in evidence:
                for j, s in zip(self.image, self.map, strict=True):
                    head[j] *= math.exp(a * s)
            if h in reading:
                for j, w in zip(text, spread(value), strict=True):
                    head[j] *= w + self.plugin.base
            head /= head.sum()
        return edited


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("form", ["paper", "release"])
@pytest.mark.parametrize("layers", [(1, 3), (2,)])
def test_rows_follow_the_map_and_the_text_that_saw_it(
    family: str, form: str, layers: tuple[int, ...]
) -> None:
    plugin = ILVAD(alpha=2.0, base=0.4, tokens=5, peak=1.0, layers=layers, form=form)
    by_hand = ByHand(family, plugin, layers)
    assert min(by_hand.map) == 0
    assert max(by_hand.map) == pytest.approx(1)
    agree.assert_plugin_is(plugin, slow.Edits(weights=by_hand), family)


def test_looking_ahead_leaves_no_trace() -> None:
    """Without a peak, and with text left as it is, nothing is changed."""
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    plugin = ILVAD(peak=1000.0, base=1.0, tokens=6, layers=(1, 2, 3))
    plain, found = (agree.generate(model, row, one) for one in (ILVAD.neutral(), plugin))
    torch.testing.assert_close(found[1], plain[1], atol=1e-5, rtol=0)


def test_what_rows_were_worth_follows_their_beams() -> None:
    agree.assert_state_follows_beams(ILVAD(alpha=2.0, peak=1.0, tokens=4, layers=(1, 2, 3)))


def test_the_published_layers_are_the_default() -> None:
    assert ILVAD().chosen_layers(Geometry("llava", 32, 32)) == tuple(range(5, 26))
    assert all(0 not in ILVAD().chosen_layers(Geometry("llava", n, 4)) for n in range(2, 60))


@pytest.mark.parametrize(
    ("options", "match"),
    [({"layers": (0, 1)}, "layers with 0 among them"), ({"layers": (4,)}, "names layers")],
)
def test_layers_that_do_not_do_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match=match):
        vlmheads.attach(tiny.build("llava"), ILVAD(**options))


def test_generation_without_a_cache_is_refused() -> None:
    model = tiny.build("llava")
    with (
        vlmheads.attach(model, ILVAD(layers=(1, 2))),
        pytest.raises(vlmheads.VlmHeadsError, match="without a cache"),
    ):
        model.generate(**tiny.inputs("llava"), max_new_tokens=3, use_cache=False)
