"""Streams that are prefilled on their own, at their own length, and then join the main one's rows.

A text-only stream is shorter than the main one by all image tokens; in one batch with it, it would
be padded to its length and cost as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import Cache

from vlmheads.model.anatomy import Anatomy
from vlmheads.runtime.cache import StreamCache, filled_cache, given_cache, with_cache
from vlmheads.runtime.passes import positions_kept, text_inputs
from vlmheads.runtime.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Apart:
    """What the prefill of a stream alone gave.

    Args:
        cache: its keys and values, of the rows that ran.
        rows: [B] which of those stands beside each row of the main stream.
        logits: [B, 1 or S, V].
    """

    cache: Cache
    rows: Tensor
    logits: Tensor


def can_join(anatomy: Anatomy, inputs: dict[str, Any]) -> bool:
    """Whether the cache of a forward pass can hold streams that were filled on their own.

    Args:
        anatomy: the parts of the model.
        inputs: what the forward pass of the prefill was given.
    """
    if inputs.get("use_cache") is False:
        return False
    return StreamCache(anatomy.generator.config, 1, 1, given_cache(inputs)).joins


def prefill(anatomy: Anatomy, prompt: Prompt, inputs: dict[str, Any]) -> Apart:
    """Run the prompt of a stream without images, each different row once, and keep its cache.

    Args:
        anatomy: the parts of the model.
        prompt: that of the stream, at its own length.
        inputs: what the main stream's forward pass of the prefill was given.
    """
    prompt, rows = prompt.distinct()
    count = len(prompt.ids)
    cache = StreamCache(anatomy.generator.config, 1, count, given_cache(inputs))
    given = text_inputs(anatomy, prompt)
    if (main := inputs.get("position_ids")) is not None:
        # Models with three-dimensional positions take as many rows of them as the main stream has.
        own = given["position_ids"].to(main.dtype)
        given["position_ids"] = own.expand(*main.shape[:-2], *own.shape)
    given = with_cache(anatomy.generator, given, cache)
    with positions_kept(anatomy.model):
        output = anatomy.generator(**given, use_cache=True, return_dict=True)
    return Apart(filled_cache(output), rows, output.logits[rows])
