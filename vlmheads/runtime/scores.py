"""Scores of attention rows by hand, as transformers' functions make them, and what they refuse."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.precision import at_least_float32


def score(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
    last: int,
    part: slice = slice(None),
) -> Tensor:
    """Scaled and masked query-key products [B, H, Q, K] of the last Q rows, at least float32.

    Args:
        query: [B, H, S, D], rotated.
        key: [B, Hkv, K, D], rotated, cache included.
        mask: [B, 1 or H, S, K] as transformers makes it: None where causality is enough, boolean
            (True: attend), or float to be added.
        options: what transformers passed on: scaling, softcap, is_causal, position_bias.
        last: Q.
        part: which of the Q rows are wanted.
    """
    batch, heads, length, size = query.shape
    kv_heads, keys = key.shape[1:3]
    first, stop, _ = part.indices(last)
    count, wanted = stop - first, slice(length - last + first, length - last + stop)
    rows = query[:, :, wanted].reshape(batch, kv_heads, heads // kv_heads * count, size)
    scores: Tensor = (rows @ key.transpose(-1, -2)).reshape(batch, heads, count, keys)
    scores = at_least_float32(scores)
    scale = options.get("scaling")
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if (softcap := options.get("softcap")) is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if (bias := options.get("position_bias")) is not None:
        scores = scores + bias[:, :, wanted]
    hidden = hidden_keys(mask, options["is_causal"], length, wanted, keys, key.device)
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask[:, :, wanted, :keys]
    return scores if hidden is None else scores.masked_fill(hidden, -torch.inf)


# Keywords that attention functions are passed and that `score` and `Rows` do as they do, or that
# are spoken for: sliding_window by the mask, dropout by evaluation mode.
_SERVED = {
    *("module", "query", "key", "value", "attention_mask", "kwargs"),
    *("dropout", "scaling", "sliding_window", "softcap", "is_causal", "position_bias"),
    *("s_aux", "sinks", "output_attentions"),
}


@cache
def refuse_unknown(base: Callable[..., Any], passed: frozenset[str]) -> None:
    """Refuse keywords that an attention function reads and that rows by hand leave out.

    Args:
        base: the function; a keyword that it does not name cannot matter.
        passed: names of the keywords that it is passed a value for.

    Raises:
        VlmHeadsError: there are any.
    """
    code = base.__code__
    read = {*inspect.signature(base).parameters, *code.co_consts}
    unknown = sorted((passed & read) - _SERVED)
    if unknown:
        raise VlmHeadsError(
            f"{base.__module__}.{base.__name__} attends by {', '.join(unknown)}",
            "attention by scaled products, softcap, bias and sinks",
            "use a plugin that does not edit attention rows",
        )


def hidden_keys(
    mask: Tensor | None, causal: bool, length: int, rows: slice, keys: int, device: torch.device
) -> Tensor | None:
    """Mark the keys that a row must not see, [B or 1, H or 1, Q, K]; None where it sees all.

    Args:
        mask: [B, 1 or H, S, K] as transformers makes it: None where causality is enough, boolean
            (True: attend), or float to be added.
        causal: whether a row sees no later one where there is no mask.
        length: S.
        rows: which of the S rows are wanted.
        keys: K.
        device: where the rows are.
    """
    if mask is not None:
        part = mask[:, :, rows, :keys]
        # transformers writes the lowest float for "masked"; a plugin must be able to tell.
        return ~part if part.dtype == torch.bool else part <= torch.finfo(part.dtype).min / 2
    if length > 1 and causal:
        # Without a mask row i sees keys up to i, however long a static cache is.
        index = torch.arange(rows.start, rows.stop, device=device)
        return torch.arange(keys, device=device) > index[:, None]
    return None
