"""Head outputs under weights of a method's own."""

from __future__ import annotations

import torch
from torch import Tensor


def mixed(weights: Tensor, values: Tensor) -> Tensor:
    """Return head outputs [B, q, H, D] of weights [B, H, q, K] and values [B, Hkv, K, D].

    Query heads share values in groups of neighbours.
    """
    rows, heads, last, keys = weights.shape
    shape = (rows, values.shape[1], heads // values.shape[1], last, keys)
    grouped = weights.to(values.dtype).reshape(shape)
    return torch.einsum("bgrqk,bgkd->bqgrd", grouped, values).flatten(2, 3)
