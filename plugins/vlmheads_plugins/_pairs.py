"""Heads named one by one, as (layer, head), for methods that choose them on data beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.geometry import Geometry

Pairs = tuple[tuple[int, int], ...]


def as_pairs(plugin: str, heads: object) -> Pairs | None:
    """Return a `heads` option as sorted pairs of indices; None stays None.

    Raises:
        VlmHeadsError: not a non-empty list of pairs of whole numbers from 0 on.
    """
    if heads is None:
        return None
    expected = "pairs of layer and head, such as [[16, 29], [26, 9]]"
    if not isinstance(heads, (list, tuple)) or not heads:
        raise VlmHeadsError(f"{plugin}: heads={heads!r}", expected)
    for pair in heads:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(map(_is_index, pair)):
            raise VlmHeadsError(f"{plugin}: {pair!r} among the heads", expected)
    return tuple(sorted({(layer, head) for layer, head in heads}))


def check_pairs(plugin: str, heads: Pairs | None, geometry: Geometry) -> None:
    """Refuse heads that a model does not have."""
    wrong = [p for p in heads or () if p[0] >= geometry.layers or p[1] >= geometry.heads]
    if wrong:
        raise VlmHeadsError(
            f"{plugin}: heads {[list(pair) for pair in wrong]}",
            f"layers below {geometry.layers} and heads below {geometry.heads}",
            "choose heads that this model has",
        )


def chosen_heads(heads: Pairs | None, layer: int, like: Tensor) -> Tensor:
    """[H, 1, 1] True for the chosen heads of a layer, for scores [B, H, Q, K]; None is all."""
    count = like.shape[1]
    if heads is None:
        return torch.ones(count, 1, 1, dtype=torch.bool, device=like.device)
    found = [(layer, head) in heads for head in range(count)]
    return torch.tensor(found, device=like.device)[:, None, None]


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
