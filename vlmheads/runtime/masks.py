"""Keys that extra streams are kept from, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmheads.runtime.scores import hidden_keys

if TYPE_CHECKING:
    from vlmheads.runtime.request import Request
    from vlmheads.runtime.streams import Stream


def hide_keys(
    streams: tuple[Stream, ...],
    request: Request,
    layer: int,
    mask: Tensor | None,
    query: Tensor,
    keys: int,
    causal: bool,
    boolean: bool,
) -> Tensor | None:
    """Return the mask of all streams with those keys hidden that the streams' `hide` names.

    A row that would see nothing at all, such as one of a picture that begins the prompt, sees what
    it did before.

    Args:
        streams: the extra streams, in the order of their rows.
        request: the open Request.
        layer: index of the layer.
        mask: as `hidden_keys` takes it; it is returned where no stream hides anything.
        query: [B, H, S, D] of all streams.
        keys: K, keys that the layer holds.
        causal: whether a row sees no later one where there is no mask.
        boolean: whether a mask that has to be made is boolean, as sdpa takes it, or float.
    """
    found = [None if s.hide is None else s.hide(request, layer, keys) for s in streams]
    if all(part is None for part in found):
        return mask
    nothing = torch.zeros(request.rows, keys, dtype=torch.bool, device=query.device)
    more = torch.cat([nothing, *(nothing if part is None else part for part in found)])
    more = more[:, None, None, :]
    length = query.shape[2]
    before = hidden_keys(mask, causal, length, slice(0, length), keys, query.device)
    if before is None:
        before = torch.zeros(1, 1, length, keys, dtype=torch.bool, device=query.device)
    hidden = before | more
    hidden = torch.where(hidden.all(dim=-1, keepdim=True), before, hidden)
    if mask is None or mask.dtype == torch.bool:
        low = torch.finfo(query.dtype).min
        return (
            ~hidden
            if boolean
            else torch.zeros_like(hidden, dtype=query.dtype).masked_fill(hidden, low)
        )
    return mask[..., :keys].masked_fill(hidden & ~before, torch.finfo(mask.dtype).min)
