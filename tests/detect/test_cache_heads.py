"""Heads that keep a part of the image cache, against a slow decoder."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor

from vlmheads import HeadMap, VlmHeadsError
from vlmheads.detect.cache_heads import CACHE, SHARES, CacheHeads, ImageCache, cache_heads, keeping
from vlmheads.model.anatomy import examine

TARGETS = torch.tensor([[7, 8, 9], [11, 12, 0]])
SAID = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
LENGTHS = (5, 3)


def evicting(share: dict[tuple[int, int], float]) -> slow.Edits:
    """Edits of one row, whose image tokens are columns 2 to 5."""
    kept: dict[tuple[int, int], list[int]] = {}

    def weights(layer: int, value: Tensor) -> Tensor:
        made = value.clone()
        for (at, head), part in share.items():
            if at != layer:
                continue
            if (at, head) not in kept:
                ranked = sorted((2, 3, 4, 5), key=lambda c: -float(value[head, -1, c]))
                kept[at, head] = ranked[: round(4 * part)]
                continue
            for column in (2, 3, 4, 5):
                if column not in kept[at, head]:
                    made[head, :, column] = 0
            made[head] /= made[head].sum(dim=-1, keepdim=True)
        return made

    return slow.Edits(weights=weights)


def mean(family: str, index: int, edits: slow.Edits) -> float:
    tokens = TARGETS[index, : int(SAID[index].sum())].tolist()
    row = tiny.row(family, LENGTHS, index)
    _, logits = slow.decode(tiny.build(family), row, edits, tokens=tokens)
    said = [float(line.log_softmax(-1)[t]) for line, t in zip(logits, tokens, strict=True)]
    return sum(said) / len(said)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_a_head_attends_to_what_it_keeps_from_the_first_answered_token_on(family: str) -> None:
    inputs = tiny.inputs(family, LENGTHS)
    found = cache_heads(tiny.build(family), inputs, TARGETS, SAID, rows=6)
    for index in range(2):
        plain = mean(family, index, slow.Edits())
        for head in ((0, 1), (2, 3), (3, 0)):
            for place, share in enumerate(SHARES):
                expected = plain - mean(family, index, evicting({head: share}))
                assert float(found.loss[index, place][head]) == pytest.approx(expected, abs=1e-5)


def test_the_share_that_a_head_needs_is_the_least_from_which_on_nothing_is_lost() -> None:
    geometry = examine(tiny.build("llava")).geometry
    loss = torch.zeros(1, 4, 4, 4)
    loss[0, :, 0, 0] = torch.tensor([0.5, 0.0, 0.0, 0.0])  # fine from an eighth on
    loss[0, :, 0, 1] = torch.tensor([0.0, 0.5, 0.0, 0.0])  # fine at nothing by chance
    loss[0, :, 0, 2] = 0.5
    needed = CacheHeads(loss, geometry).needed()
    assert needed.mean()[0].tolist() == [0.125, 0.25, 1.0, 0.0]
    assert float(CacheHeads(loss, geometry).needed(1.0).mean().max()) == 0


def test_generation_keeps_each_heads_own_share() -> None:
    geometry = examine(tiny.build("llava-gqa")).geometry
    shares = torch.full((1, 4, 4), 1.0)
    shares[0, 1], shares[0, 2, 3] = 0.25, 0.0
    edits = evicting({(1, 0): 0.25, (1, 1): 0.25, (1, 2): 0.25, (1, 3): 0.25, (2, 3): 0.0})
    agree.assert_plugin_is(ImageCache(HeadMap(shares, geometry, CACHE)), edits, "llava-gqa")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_can_be_measured_and_generates(family: str) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family, LENGTHS)
    found = cache_heads(model, inputs, TARGETS, SAID)
    assert bool(found.loss.isfinite().all())
    everything = HeadMap(torch.zeros(1, 4, 4), found.geometry, CACHE)

    def tokens(plugins: Any) -> Tensor:
        import vlmheads

        with vlmheads.attach(model, plugins):
            made: Tensor = model.generate(**inputs, max_new_tokens=4)
        return made

    assert tokens(ImageCache(everything)).shape == tokens(()).shape


def test_ties_keep_the_share_and_text_always_stays() -> None:
    weights, visual = (
        torch.tensor([[0.5, 0.1, 0.1, 0.1]]),
        torch.tensor([[False, True, True, True]]),
    )
    assert keeping(weights, visual, 0.34).tolist() == [[True, True, False, False]]
    assert keeping(weights, visual, 0.0).tolist() == [[True, False, False, False]]


def test_what_cannot_be_measured_is_refused() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava", LENGTHS)
    with pytest.raises(VlmHeadsError, match="a token in each row"):
        cache_heads(model, inputs, TARGETS, SAID & False)
    with pytest.raises(VlmHeadsError, match="without shares"):
        ImageCache().fit(examine(model).geometry)
