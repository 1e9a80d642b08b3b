"""Plugins of attention rows in bfloat16, where rows of padding must not spoil others."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from active import contract_plugins, make

import vlmheads

# ilvad ranks heads and image tokens: where two are nearly equal, rounding decides between them.
NAMES = [
    name
    for name, plugin in contract_plugins().items()
    if "on_attention" in plugin.hooks() and name != "ilvad"
]


@cache
def half() -> Any:
    return deepcopy(tiny.build("llava-gqa")).to(torch.bfloat16)


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_batch_in_half_precision_is_close_to_the_same_in_single(name: str) -> None:
    inputs = tiny.inputs("llava-gqa", (5, 3))
    rounded = inputs | {"pixel_values": inputs["pixel_values"].to(torch.bfloat16)}
    plugin = make(name, "llava-gqa")
    with vlmheads.attach(half(), plugin):
        found = half()(**rounded).logits[:, -1].float()
    with vlmheads.attach(tiny.build("llava-gqa"), plugin):
        expected = tiny.build("llava-gqa")(**inputs).logits[:, -1]
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)
