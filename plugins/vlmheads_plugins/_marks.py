"""Marks on attention scores [B, H, Q, K] that several methods need."""

from __future__ import annotations

import torch
from torch import Tensor


def chosen_heads(heads: tuple[tuple[int, int], ...], layer: int, like: Tensor) -> Tensor:
    """[H, 1, 1] True for those of a layer's heads that are among pairs (layer, head); () is all."""
    found = [not heads or (layer, head) in heads for head in range(like.shape[1])]
    return torch.tensor(found, device=like.device)[:, None, None]


def magnitude(scores: Tensor, where: Tensor) -> Tensor:
    """Sizes of the scores at the places `where`, 0 elsewhere and where masked."""
    return scores.abs().masked_fill(~where | scores.isinf(), 0)
