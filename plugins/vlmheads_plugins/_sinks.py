"""Sinks of a prompt's attention map: the columns that the rows which see them look at."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request


def prompt_rows(request: Request, rows: Rows) -> int:
    """How many of the first rows at hand are of the prompt; none in decoding with a cache."""
    return max(0, request.prompt_length - (request.seen - rows.editable.shape[1]))


def column_scores(rows: Rows, count: int, keys: int, *, diagonal: bool = True) -> Tensor:
    """Mean weight [B, H, N] of each column over the rows that see it, c_j = Σ_i A[i, j] / (N − j).

    Args:
        rows: those of a prompt, with or without rows of generated tokens after them; N − j is
            counted from the first one that is no padding.
        count: how many are of the prompt.
        keys: N.
        diagonal: whether what a row gives itself is in the sum.
    """
    total = torch.zeros(())
    for part, weights in rows.stream():
        given = weights[:, :, : max(0, count - part.start), :keys]
        own = given.sum(dim=2)
        if not diagonal:
            itself = given.diagonal(part.start, dim1=-2, dim2=-1)
            own[..., part.start : part.start + itself.shape[-1]] -= itself
        total = total.to(own) + own
    real = rows.editable[:, :count]
    seeing = real.sum(dim=1)[:, None] - (real.cumsum(dim=1) - 1)
    return total / seeing.clamp(min=1)[:, None]
