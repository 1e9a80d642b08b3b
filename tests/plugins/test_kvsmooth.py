"""KVSmooth against its formulas, with the cache of the slow decoder edited between its steps."""

from __future__ import annotations

import math

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.kvsmooth import KVSmooth

import vlmheads
from vlmheads.model.geometry import Geometry


def by_hand(
    family: str, layers: tuple[int, ...], window: int, reference: float, tokens: int
) -> tuple[list[int], Tensor, list[float]]:
    """Greedy tokens and logits, a step at a time; and the strengths that were used."""
    entropies: dict[int, float] = {}

    def watch(layer: int, weights: Tensor) -> Tensor:
        mean = weights[:, -1].mean(dim=0).tolist()
        entropies[layer] = -sum(one * math.log(one) for one in mean if one > 0)
        return weights

    decoder = slow.Slow(tiny.build(family), slow.Edits(weights=watch))
    logits, chosen, used = [decoder.prompt(tiny.inputs(family))], list[int](), list[float]()
    queues: dict[int, list[float]] = {layer: [] for layer in layers}
    while True:
        chosen.append(int(logits[-1].argmax()))
        if len(chosen) == tokens:
            return chosen, torch.stack(logits), used
        logits.append(decoder.token(chosen[-1]))
        for layer in layers:
            queue = queues[layer][-window:]
            share = sum(one < entropies[layer] for one in queue) / window
            share = min(max(share, max(0.0, reference - 0.2)), min(1.0, reference + 0.2))
            queues[layer] = [*queue, entropies[layer]]
            if len(chosen) == 1:
                continue
            used.append(share)
            for cached in (decoder.keys[layer], decoder.values[layer]):
                cached[-1] = (1 - share) * cached[-1] + share * cached[-2]


@pytest.mark.parametrize(
    ("family", "window", "reference"), [("llava", 2, 0.5), ("llava-gqa", 3, 0.9)]
)
def test_cached_tokens_are_averaged_with_the_smoothed_one_before(
    family: str, window: int, reference: float
) -> None:
    layers = (1, 2, 3)
    tokens, logits, used = by_hand(family, layers, window, reference, 8)
    plain = slow.decode(tiny.build(family), tiny.inputs(family))
    assert float((plain[1] - logits).abs().max()) > 1e-3
    assert len({round(one, 6) for one in used}) > 1
    plugin = KVSmooth(window=window, reference=reference, layers=layers)
    found = agree.generate(tiny.build(family), tiny.inputs(family), plugin)
    agree.assert_same((tokens, logits), found)


def test_the_first_three_tokens_are_those_of_the_plain_model() -> None:
    """The second new token is the first that is smoothed, and the fourth the first to see it."""
    model, row = tiny.build("llava-gqa"), tiny.inputs("llava-gqa")
    plain = agree.generate(model, row, KVSmooth.neutral(), 4)[1]
    found = agree.generate(model, row, KVSmooth(layers=(1, 2, 3)), 4)[1]
    torch.testing.assert_close(found[:3], plain[:3], atol=1e-5, rtol=0)
    assert not torch.allclose(found[3], plain[3], atol=1e-5)


def test_entropies_follow_their_beams() -> None:
    agree.assert_state_follows_beams(KVSmooth(layers=(1, 2, 3), window=3, reference=0.5))


def test_the_published_layers_are_the_default() -> None:
    assert KVSmooth().chosen_layers(Geometry("llava", 32, 32)) == tuple(range(3, 32))
    assert all(0 not in KVSmooth().chosen_layers(Geometry("llava", n, 4)) for n in range(2, 60))


def test_layer_0_where_beams_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="layers with 0 among them"):
        vlmheads.attach(tiny.build("llava"), KVSmooth(layers=(0, 1)))


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_generation_without_a_cache_that_can_be_edited_is_refused(
    options: dict[str, object],
) -> None:
    model = tiny.build("llava")
    with (
        vlmheads.attach(model, KVSmooth(layers=(1, 2))),
        pytest.raises(vlmheads.VlmHeadsError, match="cache"),
    ):
        model.generate(**tiny.inputs("llava"), max_new_tokens=6, do_sample=False, **options)
