"""Attention rows: a named attention function that lets plugins edit the last rows only.

All rows come from transformers' own function (sdpa, or the model's eager one). Only where a plugin
edits attention are the last rows computed a second time, by hand: memory stays linear in the keys.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from vlmheads.errors import VlmHeadsError
from vlmheads.precision import at_least_float32
from vlmheads.runtime.compat import supports_sdpa

_log = logging.getLogger("vlmheads")

# The mask that transformers makes depends on the name, so each base has a name of its own.
SDPA, EAGER = "vlmheads", "vlmheads_eager"
# Set on the attention modules of an attached model, and gone with the attachment.
EDITOR = "_vlmheads"


@dataclass(frozen=True, eq=False)
class Rows:
    """Attention of the last Q query rows: text after the image, then one row a decoded token.

    Nothing is computed until a plugin asks for `scores` or `weights`, so a plugin that returns the
    rows of a layer untouched costs nothing there.

    Args:
        compute: gives `scores` of the rows that a slice of the Q names.
        image_keys: [B, K] True where a key is an image token that this layer still holds.
        editable: [B, Q] True for rows of text after the image; other rows keep their output.
        values: [B, Hkv, K, Dv] value vectors.
        edited: post-softmax weights [B, H, Q, K] where a plugin set them; they need not sum to 1.
        sinks: [B or 1, H, Q or 1, 1] scores of a key without a value, which takes its share of each
            row's attention; None where there is none, and weights sum to 1.
    """

    compute: Callable[[slice], Tensor]
    image_keys: Tensor
    editable: Tensor
    values: Tensor
    edited: Tensor | None = None
    sinks: Tensor | None = None

    @cached_property
    def scores(self) -> Tensor:
        """Scaled query-key products [B, H, Q, K], minus infinity where a key is masked."""
        return self.compute(slice(None))

    @property
    def weights(self) -> Tensor:
        """Attention weights [B, H, Q, K]."""
        return self._weigh(self.scores, slice(None)) if self.edited is None else self.edited

    def _weigh(self, scores: Tensor, rows: slice) -> Tensor:
        """Return the weights of the scores [B, H, q, K] of some rows."""
        if self.sinks is None:
            return scores.softmax(dim=-1)
        sinks = self.sinks if self.sinks.shape[2] == 1 else self.sinks[:, :, rows]
        sinks = sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(dim=-1)[..., :-1]

    def part(self, rows: slice) -> Tensor:
        """Attention weights [B, H, q, K] of the rows that a slice of the Q names, and no others.

        Rows that are not `editable` are 0.
        """
        given = (
            self._weigh(self.compute(rows), rows)
            if self.edited is None
            else self.edited[:, :, rows]
        )
        chosen = self.editable[:, rows]
        if bool(chosen.all()):
            return given
        return given.masked_fill(~chosen[:, None, :, None], 0)

    def stream(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield `part` of a few rows after the other, for what reads a whole map and keeps little.

        At 32 rows at a time, or a quarter of the head size if that is more, the weights at hand are
        a quarter of a long prompt's queries where heads are of the usual 128.
        """
        few = max(32, self.values.shape[-1] // 4)
        for start in range(0, self.editable.shape[1], few):
            rows = slice(start, start + few)
            yield rows, self.part(rows)

    def with_bias(self, bias: Tensor) -> Rows:
        """Add to the scores; adding log f is a factor f on the weights, then renormalisation.

        Weights that an earlier plugin set are multiplied and renormalised to their former sum.
        """
        scores = self.scores + bias
        if self.edited is None:
            return replace(self, compute=lambda rows: scores[:, :, rows])
        scaled = self.edited * bias.exp()
        total = self.edited.sum(dim=-1, keepdim=True) / scaled.sum(dim=-1, keepdim=True)
        return replace(self, compute=lambda rows: scores[:, :, rows], edited=scaled * total)

    def with_weights(self, weights: Tensor) -> Rows:
        """Set the weights themselves, without renormalisation."""
        return replace(self, compute=lambda rows: self.scores[:, :, rows], edited=weights)

    def only(self, chosen: Tensor, edited: Rows) -> Rows:
        """Take the rows `chosen` [B, Q] from `edited`, and the others from here."""
        place = chosen[:, None, :, None]
        scores = torch.where(place, edited.scores, self.scores)
        if self.edited is None and edited.edited is None:
            return replace(self, compute=lambda rows: scores[:, :, rows])
        weights = torch.where(place, edited.weights, self.weights)
        return replace(self, compute=lambda rows: scores[:, :, rows], edited=weights)

    def outputs(self) -> Tensor:
        """Head outputs [B, Q, H, Dv] under the present weights."""
        weights = self.weights.to(self.values.dtype)
        rows, heads, last, keys = weights.shape
        if last > 1:
            # A row of padding sees nothing and is not a number, which a product in half precision
            # may spread over its neighbours.
            weights = weights.masked_fill(~self.editable[:, None, :, None], 0)
        kv_heads, size = self.values.shape[1], self.values.shape[-1]
        grouped = weights.reshape(rows, kv_heads, heads // kv_heads * last, keys)
        return (grouped @ self.values).reshape(rows, heads, last, size).transpose(1, 2)


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
    hidden = _hidden(mask, options["is_causal"], length, wanted, keys, key.device)
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


def _first(value: Tensor | None, count: int) -> Tensor | None:
    """Return the first `count` rows of a batch; what is shared by all rows stays as it is."""
    return value if value is None or value.shape[0] == 1 else value[:count]


def _sinks(
    base: Callable[..., Any], options: dict[str, Any], count: int, last: int
) -> Tensor | None:
    """Return the sinks of the last rows, [B or 1, H, Q or 1, 1], where `base` heeds them.

    They come as one value a head, or as one a head and row; transformers' sdpa leaves them out.
    """
    given = options.get("s_aux") if options.get("s_aux") is not None else options.get("sinks")
    if given is None or base is sdpa_attention_forward:
        return None
    sinks: Tensor = given[None, :, None, None] if given.ndim == 1 else given[:, :, -last:]
    return _first(sinks, count)


def _hidden(
    mask: Tensor | None, causal: bool, length: int, rows: slice, keys: int, device: torch.device
) -> Tensor | None:
    """Mark the keys that a row must not see, [B or 1, H or 1, Q, K]; None where it sees all."""
    if mask is not None:
        part = mask[:, :, rows, :keys]
        # transformers writes the lowest float for "masked"; a plugin must be able to tell.
        return ~part if part.dtype == torch.bool else part <= torch.finfo(part.dtype).min / 2
    if length > 1 and causal:
        # Without a mask row i sees keys up to i, however long a static cache is.
        index = torch.arange(rows.start, rows.stop, device=device)
        return torch.arange(keys, device=device) > index[:, None]
    return None


def _attend(
    base: Callable[..., tuple[Tensor, Tensor | None]],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """Run `base` for all rows, unless the editor of the module replaces every one of them.

    The eager function always runs: its weights may be asked for.
    """
    editor = getattr(module, EDITOR, None)
    if editor is None:
        return base(module, query, key, value, mask, **options)
    weights: Tensor | None = None
    made: Tensor | None = None
    if base is not sdpa_attention_forward:
        made, weights = base(module, query, key, value, mask, **options)

    def plain() -> Tensor:
        """Return the output of all rows, [B, S, H, D]."""
        return base(module, query, key, value, mask, **options)[0] if made is None else made

    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal

    refuse_unknown(base, frozenset(n for n, given in options.items() if given is not None))

    def rows(count: int, last: int, image_keys: Tensor, editable: Tensor) -> Rows:
        """Return the last rows of the first `count` batch rows."""
        given = options | {
            "is_causal": causal,
            "position_bias": _first(options.get("position_bias"), count),
        }
        part = _first(mask, count)
        return Rows(
            lambda chosen: score(query[:count], key[:count], part, given, last, chosen),
            image_keys,
            editable,
            value[:count],
            sinks=_sinks(base, options, count, last),
        )

    edited = editor.edit_rows(module.layer_idx, query.shape[2], key.shape[2], rows, plain)
    return edited, weights


def attend_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as transformers' sdpa function does, with the last rows handed to plugins."""
    return _attend(sdpa_attention_forward, module, query, key, value, attention_mask, options)


def attend_eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as the model's own eager function does, with the last rows handed to plugins."""
    base = sys.modules[type(module).__module__].eager_attention_forward
    return _attend(base, module, query, key, value, attention_mask, options)


def name_for(decoder: Any, before: str) -> str:
    """Return the name under which a decoder's attention is served, by its own up to now."""
    if before in ("sdpa", "eager"):
        return SDPA if before == "sdpa" else EAGER
    served = "sdpa" if supports_sdpa(decoder) else "eager"
    _log.warning("attention %r is served by %s while plugins edit its rows", before, served)
    return SDPA if served == "sdpa" else EAGER


AttentionInterface.register(SDPA, attend_sdpa)
AttentionInterface.register(EAGER, attend_eager)
AttentionMaskInterface.register(SDPA, sdpa_mask)
AttentionMaskInterface.register(EAGER, eager_mask)
