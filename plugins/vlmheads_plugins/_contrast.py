"""What methods share that contrast the logits of two streams."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlmheads.runtime.request import Request


def precise(logits: Tensor) -> Tensor:
    """Return the logits in float32 or more: differences of them are multiplied."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def keep_plausible(edited: Tensor, logits: Tensor, cutoff: float) -> Tensor:
    """Forbid tokens whose probability under `logits` is below `cutoff` times the highest.

    Args:
        edited: [B, V] logits after a method.
        logits: [B, V] logits of the model itself.
        cutoff: 0 forbids none.
    """
    if cutoff == 0:
        return edited
    limit = logits.amax(dim=-1, keepdim=True) + math.log(cutoff)
    return edited.masked_fill(logits < limit, -torch.inf)


def where_image(request: Request, edited: Tensor, logits: Tensor) -> Tensor:
    """Return `edited` in rows that hold an image and the untouched `logits` in the others.

    Where the model runs in half precision, which a large contrast leaves, edited rows are shifted
    to a maximum of 0; no probability changes by it.
    """
    if edited.dtype != logits.dtype:
        edited = edited - edited.amax(dim=-1, keepdim=True)
    return torch.where(
        request.has_image.to(logits.device)[:, None], edited.to(logits.dtype), logits
    )
