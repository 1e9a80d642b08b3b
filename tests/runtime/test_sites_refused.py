"""Edits of sites that are refused by name: caches, towers, probes of nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import tiny
import torch
from sites import LENGTHS, run, same
from torch import Tensor
from transformers import DynamicCache

from vlmheads import Plugin, Request, VlmHeadsError
from vlmheads.model.anatomy import examine
from vlmheads.model.tower import vision_blocks
from vlmheads.runtime.cache import keep_edited
from vlmheads.verify.probes import AheadProbe, CacheProbe


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"cache_implementation": "static"}, "StaticCache"),
        ({"use_cache": False}, "without a cache"),
        ({"prompt_lookup_num_tokens": 3}, "new tokens in one forward pass"),
    ],
)
def test_an_edit_that_could_not_be_kept_is_refused(options: dict[str, Any], word: str) -> None:
    model, row = tiny.build("llava-gqa"), tiny.row("llava-gqa", LENGTHS, 1)
    before = run(model, row)
    repeated = torch.cat([row["input_ids"], row["input_ids"][:, -3:], row["input_ids"][:, -3:]], 1)
    longer = row | {"input_ids": repeated, "attention_mask": torch.ones_like(repeated)}
    with pytest.raises(VlmHeadsError, match=word):
        run(model, longer, CacheProbe(strength=0.5), **options)
    assert same(run(model, row), before)


def test_caches_that_hold_something_else_are_refused_by_name() -> None:
    states = torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4)
    cache = DynamicCache()
    held = cache.update(*states, 0)
    keep_edited(cache, 0, held, (held[0] * 2, held[1] * 3))
    assert (float(cache.layers[0].keys.max()), float(cache.layers[0].values.max())) == (2, 3)
    with pytest.raises(VlmHeadsError, match="layer 0 keeps a DynamicLayer of other tensors"):
        keep_edited(cache, 0, states, states)
    cache.offloading = True
    with pytest.raises(VlmHeadsError, match="an offloaded DynamicCache"):
        keep_edited(cache, 0, held, held)


def test_edits_of_another_shape_are_refused() -> None:
    class Longer(Plugin):
        name: ClassVar[str] = "longer"

        def on_cache(
            self, request: Request, layer: int, keys: Tensor, values: Tensor, new: int
        ) -> tuple[Tensor, Tensor]:
            return keys[:, :, 1:], values

    with pytest.raises(VlmHeadsError, match="on_cache returned keys"):
        run(tiny.build("llava-gqa"), tiny.row("llava-gqa", LENGTHS, 0), Longer())


def test_a_model_without_one_tower_of_blocks_is_refused() -> None:
    anatomy = examine(tiny.build("llava-gqa"))
    with pytest.raises(VlmHeadsError, match="no transformer blocks"):
        vision_blocks(replace(anatomy, model=anatomy.decoder))
    both = torch.nn.ModuleList([anatomy.model, tiny.build("internvl")])
    with pytest.raises(VlmHeadsError, match="several towers"):
        vision_blocks(replace(anatomy, model=both))


def test_a_probe_of_nothing_is_refused() -> None:
    with pytest.raises(VlmHeadsError, match="a probe of 0 tokens"):
        run(tiny.build("llava-gqa"), tiny.row("llava-gqa", LENGTHS, 0), AheadProbe(tokens=0))
