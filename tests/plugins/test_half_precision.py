"""Plugins of attention rows in bfloat16, where rows of padding must not spoil others."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from active import contract_plugins, make
from torch import Tensor
from vlmheads_plugins import ilvad

import vlmheads
from vlmheads.plugin import Plugin

# ilvad ranks heads by small numbers, and looks ahead at greedy tokens: where two are nearly equal,
# rounding decides between them. It has a test of its own.
NAMES = [
    name
    for name, plugin in contract_plugins().items()
    if "on_attention" in plugin.hooks() and name != "ilvad"
]


@cache
def half() -> Any:
    return deepcopy(tiny.build("llava-gqa")).to(torch.bfloat16)


def logits(model: Any, plugin: Plugin) -> Tensor:
    """Next-token logits [B, V] of a padded batch."""
    inputs = tiny.inputs("llava-gqa", (5, 3))
    pixels = inputs["pixel_values"].to(model.dtype)
    with vlmheads.attach(model, plugin):
        found: Tensor = model(**inputs | {"pixel_values": pixels}).logits[:, -1]
    return found.float()


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_batch_in_half_precision_is_close_to_the_same_in_single(name: str) -> None:
    plugin = make(name, "llava-gqa")
    expected = logits(tiny.build("llava-gqa"), plugin)
    torch.testing.assert_close(logits(half(), plugin), expected, atol=0.1, rtol=0)


def test_ilvad_is_close_where_half_precision_ranks_heads_as_single_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugin, chosen, ranks = make("ilvad", "llava-gqa"), list[Tensor](), ilvad.top_half

    def keep(values: Tensor) -> Tensor:
        chosen.append(ranks(values))
        return chosen[-1]

    monkeypatch.setattr(ilvad, "top_half", keep)
    expected = logits(tiny.build("llava-gqa"), plugin)
    replayed = iter(chosen)
    monkeypatch.setattr(ilvad, "top_half", lambda values: next(replayed))
    torch.testing.assert_close(logits(half(), plugin), expected, atol=0.1, rtol=0)
    assert next(replayed, None) is None, "both rank as often"
