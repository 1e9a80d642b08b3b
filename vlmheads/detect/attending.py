"""Attention of a decoder that is run alone: every layer's head outputs, made by a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vlmheads.model.anatomy import Anatomy
from vlmheads.runtime.attention import KeysValues, Rows
from vlmheads.runtime.naming import NamedAttention

# The attention of every row of the first so many rows of a batch.
AllRows = Callable[[int], Rows]

# (layer, values [B, Hkv, S, D], rows, what gives the plain outputs) -> head outputs [B, S, H, D].
Edit = Callable[[int, Tensor, AllRows, Callable[[], Tensor]], Tensor]


@contextmanager
def attention_edited(anatomy: Anatomy, edit: Edit) -> Iterator[None]:
    """Let `edit` make the head outputs of every layer of a decoder that runs without a cache.

    Args:
        anatomy: the parts of a model without plugins attached.
        edit: is given the layer, its value vectors, what gives attention rows, and what gives the
            head outputs that the layer would have made.

    Raises:
        VlmHeadsError: a decoder whose attention cannot be served by a named function.
    """
    named = NamedAttention(anatomy, _Editor(edit))
    try:
        named.name()
        yield
    finally:
        named.restore()


def own_values(values: Tensor, heads: int) -> Tensor:
    """Return the value of each position itself, for each query head: [B, S, H, D].

    Args:
        values: [B, Hkv, S, D].
        heads: H.
    """
    return values.repeat_interleave(heads // values.shape[1], dim=1).transpose(1, 2)


class _Editor:
    """What the named attention function hands its rows to."""

    def __init__(self, edit: Edit) -> None:
        self.edit = edit

    def hide_keys(self, layer: int, mask: Tensor | None, *_: Any) -> Tensor | None:
        """Hide nothing."""
        return mask

    def edit_rows(
        self,
        layer: int,
        length: int,
        cached: KeysValues,
        rows: Callable[..., Rows],
        plain: Callable[[], Tensor],
    ) -> Tensor:
        """Give the head outputs of all `length` rows."""
        values = cached[1]

        def first(count: int) -> Rows:
            keys = torch.zeros(count, values.shape[2], dtype=torch.bool, device=values.device)
            every = torch.ones(count, length, dtype=torch.bool, device=values.device)
            return rows(keys, keys, every, None)

        return self.edit(layer, values, first, plain).contiguous()
