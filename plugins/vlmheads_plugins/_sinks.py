"""Sinks of a prompt's attention map: the columns that the rows which see them look at."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request


def prompt_rows(request: Request, rows: Rows) -> int:
    """How many of the first rows at hand are of the prompt; none in decoding with a cache."""
    return max(0, request.prompt_length - (request.seen - rows.editable.shape[1]))


def column_scores(maps: Tensor, real: Tensor, *, diagonal: bool = True) -> Tensor:
    """Mean weight [B, H, N] of each column over the rows that see it, c_j = Σ_i A[i, j] / (N − j).

    Args:
        maps: [B, H, N, N] attention weights of prompts.
        real: [B, N] False where a prompt is padded; N − j is counted from its first real token.
        diagonal: whether what a row gives itself is in the sum.
    """
    length = real.sum(dim=1)[:, None]
    seeing = (length - (real.cumsum(dim=1) - 1)).clamp(min=1)
    counted = torch.where(real[:, None, :, None], maps, 0.0)
    if not diagonal:
        counted = counted - counted.diagonal(dim1=-2, dim2=-1).diag_embed()
    return counted.sum(dim=2) / seeing[:, None]
