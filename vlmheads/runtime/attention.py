"""Attention rows: a named attention function that lets plugins edit the last rows only.

All rows come from transformers' own function (sdpa, or the model's eager one). Only where a plugin
edits attention are the last rows computed a second time, by hand: memory stays linear in the keys.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from vlmheads.runtime.compat import supports_sdpa
from vlmheads.runtime.scores import refuse_unknown, score

_log = logging.getLogger("vlmheads")

# The mask that transformers makes depends on the name, so each base has a name of its own.
SDPA, EAGER = "vlmheads", "vlmheads_eager"
# Set on the attention modules of an attached model, and gone with the attachment.
EDITOR = "_vlmheads"
# Keys [B, Hkv, K, D], rotated, and values [B, Hkv, K, Dv], cache included.
KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Rows:
    """Attention of the last Q query rows: text after the image, then one row a decoded token.

    Nothing is computed until a plugin asks for `scores` or `weights`, so a plugin that returns the
    rows of a layer untouched costs nothing there.

    Args:
        compute: gives `scores` of the rows that a slice of the Q names.
        image_keys: [B, K] True where a key is an image token that this layer still holds.
        generated_keys: [B, K] True where a key is a token generated so far, the one that this
            forward pass was fed included; all False in the prefill.
        editable: [B, Q] True for rows of text after the image; other rows keep their output.
        values: [B, Hkv, K, Dv] value vectors.
        newest: the same for the last of several rows, where a plugin edited the cache, which no
            other row of the forward pass sees.
        edited: gives post-softmax weights [B, H, q, K] of the rows that a slice of the Q names,
            where a plugin set them; they need not sum to 1.
        sinks: [B or 1, H, Q or 1, 1] scores of a key without a value, which takes its share of each
            row's attention; None where there is none, and weights sum to 1.
    """

    compute: Callable[[slice], Tensor]
    image_keys: Tensor
    generated_keys: Tensor
    editable: Tensor
    values: Tensor
    edited: Callable[[slice], Tensor] | None = None
    sinks: Tensor | None = None
    newest: Tensor | None = None

    @cached_property
    def scores(self) -> Tensor:
        """Scaled query-key products [B, H, Q, K], minus infinity where a key is masked."""
        return self.compute(slice(None))

    @property
    def weights(self) -> Tensor:
        """Attention weights [B, H, Q, K]."""
        return self.weighed(slice(None))

    def scored(self, rows: slice) -> Tensor:
        """Scores [B, H, q, K] of the rows that a slice of the Q names; all of them are kept."""
        count = self.editable.shape[1]
        if rows.indices(count)[:2] == (0, count):
            return self.scores
        return self.scores[:, :, rows] if "scores" in self.__dict__ else self.compute(rows)

    def weighed(self, rows: slice) -> Tensor:
        """Attention weights [B, H, q, K] of the rows that a slice of the Q names."""
        if self.edited is not None:
            return self.edited(rows)
        scores = self.scored(rows)
        if self.sinks is None:
            return scores.softmax(dim=-1)
        sinks = _some(self.sinks, rows).to(scores.dtype).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(dim=-1)[..., :-1]

    def part(self, rows: slice) -> Tensor:
        """Attention weights [B, H, q, K] of the rows that a slice of the Q names, and no others.

        Rows that are not `editable` are 0.
        """
        # Whether there is anything to mask is not asked: the answer would have to leave the device.
        return self.weighed(rows).masked_fill(~self.editable[:, None, rows, None], 0)

    def stream(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield `part` of a few rows after the other, for what reads a whole map and keeps little.

        At 32 rows at a time, or a quarter of the head size if that is more, the weights at hand are
        a quarter of a long prompt's queries where heads are of the usual 128.
        """
        for rows in self._blocks():
            yield rows, self.part(rows)

    def _blocks(self) -> Iterator[slice]:
        """Cut the rows into a few at a time."""
        few = max(32, self.values.shape[-1] // 4)
        for start in range(0, self.editable.shape[1], few):
            yield slice(start, start + few)

    def with_bias(self, bias: Tensor) -> Rows:
        """Add to the scores; adding log f is a factor f on the weights, then renormalisation.

        Weights that an earlier plugin set are multiplied and renormalised to their former sum.

        Args:
            bias: what broadcasts to [B, H, Q, K].
        """
        raised = replace(self, compute=lambda rows: self.scored(rows) + _some(bias, rows))
        if self.edited is None:
            return raised

        def scaled(rows: slice) -> Tensor:
            before = self.weighed(rows)
            after = before * _some(bias, rows).exp()
            return after * (before.sum(dim=-1, keepdim=True) / after.sum(dim=-1, keepdim=True))

        return replace(raised, edited=scaled)

    def with_weights(self, weights: Tensor) -> Rows:
        """Set the weights [B, H, Q, K] themselves, without renormalisation."""
        return replace(self, compute=self.scored, edited=lambda rows: weights[:, :, rows])

    def with_change(self, change: Callable[[slice, Tensor], Tensor]) -> Rows:
        """Set the weights themselves, a few rows at a time, so that a whole map is never at hand.

        Args:
            change: makes the weights [B, H, q, K] of the rows that a slice of the Q names, from
                that slice and what they are.
        """
        return replace(
            self, compute=self.scored, edited=lambda rows: change(rows, self.weighed(rows))
        )

    def only(self, chosen: Tensor, edited: Rows) -> Rows:
        """Take the rows `chosen` [B, Q] from `edited`, and the others from here."""
        place = chosen[:, None, :, None]

        def scores(rows: slice) -> Tensor:
            return torch.where(place[:, :, rows], edited.scored(rows), self.scored(rows))

        def weights(rows: slice) -> Tensor:
            return torch.where(place[:, :, rows], edited.weighed(rows), self.weighed(rows))

        kept = self.edited is None and edited.edited is None
        return replace(self, compute=scores, edited=None if kept else weights)

    def outputs(self) -> Tensor:
        """Head outputs [B, Q, H, Dv] under the present weights."""
        made = torch.cat([self._outputs(rows) for rows in self._blocks()], dim=1)
        if self.newest is None:
            return made
        last = self.part(slice(-1, None)).to(self.newest.dtype)
        return torch.cat([made[:, :-1], _mix(last, self.newest)], dim=1)

    def _outputs(self, rows: slice) -> Tensor:
        """Return the head outputs of some rows."""
        weights = self.weighed(rows).to(self.values.dtype)
        if self.editable.shape[1] > 1:
            # A row of padding sees nothing and is not a number, which a product in half precision
            # may spread over its neighbours.
            weights = weights.masked_fill(~self.editable[:, None, rows, None], 0)
        return _mix(weights, self.values)


def _some(value: Tensor, rows: slice) -> Tensor:
    """Return some rows of what broadcasts to [B, H, Q, K]."""
    return value if value.ndim < 2 or value.shape[-2] == 1 else value[..., rows, :]


def _mix(weights: Tensor, values: Tensor) -> Tensor:
    """Return head outputs [B, Q, H, Dv] of weights [B, H, Q, K]."""
    rows, heads, last, keys = weights.shape
    kv_heads, size = values.shape[1], values.shape[-1]
    grouped = weights.reshape(rows, kv_heads, heads // kv_heads * last, keys)
    return (grouped @ values).reshape(rows, heads, last, size).transpose(1, 2)


def _columns(value: Tensor | None, skipped: int) -> Tensor | None:
    """Return what there is of keys [..., K] without the first `skipped`."""
    return value if value is None else value[..., skipped:]


def _rows(value: Tensor | None, batch: slice) -> Tensor | None:
    """Return some rows of a batch; what is shared by all rows stays as it is."""
    return value if value is None or value.shape[0] == 1 else value[batch]


def _sinks(
    base: Callable[..., Any], options: dict[str, Any], batch: slice, last: int
) -> Tensor | None:
    """Return the sinks of the last rows, [B or 1, H, Q or 1, 1], where `base` heeds them.

    They come as one value a head, or as one a head and row; transformers' sdpa leaves them out.
    """
    given = options.get("s_aux") if options.get("s_aux") is not None else options.get("sinks")
    if given is None or base is sdpa_attention_forward:
        return None
    sinks: Tensor = given[None, :, None, None] if given.ndim == 1 else given[:, :, -last:]
    return _rows(sinks, batch)


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
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    sdpa = base is sdpa_attention_forward
    mask = editor.hide_keys(module.layer_idx, mask, query, key.shape[2], causal, sdpa)
    weights: Tensor | None = None
    made: Tensor | None = None
    if not sdpa:
        made, weights = base(module, query, key, value, mask, **options)

    def plain(batch: slice = slice(None), skipped: int = 0) -> Tensor:
        """Return the output [B, S, H, D] of some rows of the batch.

        The first `skipped` of their keys are hidden by the mask, and left out.
        """
        if made is not None:
            return made[batch]
        bias = {
            name: _columns(_rows(value, batch), skipped)
            for name, value in options.items()
            if name == "position_bias"
        }
        part = (query[batch], key[batch, :, skipped:], value[batch, :, skipped:])
        own = _columns(_rows(mask, batch), skipped)
        return base(module, *part, own, **(options | bias))[0]

    # Decoding may be compiled; its prefill, which is given the same keywords, never is.
    if not torch.compiler.is_compiling():
        refuse_unknown(base, frozenset(n for n, given in options.items() if given is not None))

    def rows(
        image_keys: Tensor,
        generated: Tensor,
        editable: Tensor,
        edited: KeysValues | None,
        start: int = 0,
    ) -> Rows:
        """Return the last rows of B batch rows from `start` on, those of `editable` [B, Q].

        The very last of them sees the keys and values `edited`, where there are any.
        """
        count, last = editable.shape
        batch = slice(start, start + count)
        given = options | {
            "is_causal": causal,
            "position_bias": _rows(options.get("position_bias"), batch),
        }
        part = _rows(mask, batch)

        def compute(chosen: slice) -> Tensor:
            """Return the scores of some rows."""
            first, stop, _ = chosen.indices(last)
            newest = edited is not None and stop == last
            kept = stop - 1 if newest else stop
            found = []
            if kept > first or not newest:
                asked = slice(first, kept)
                found.append(score(query[batch], key[batch], part, given, last, asked))
            if edited is not None and newest:
                asked = slice(last - 1, last)
                found.append(score(query[batch], edited[0][batch], part, given, last, asked))
            return torch.cat(found, dim=2) if len(found) > 1 else found[0]

        own = None if edited is None else edited[1][batch]
        return Rows(
            compute,
            image_keys,
            generated,
            editable,
            own if own is not None and last == 1 else value[batch],
            sinks=_sinks(base, options, batch, last),
            newest=own if last > 1 else None,
        )

    edited = editor.edit_rows(module.layer_idx, query.shape[2], (key, value), rows, plain)
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
    if before in (SDPA, EAGER):
        return before
    if before in ("sdpa", "eager"):
        return SDPA if before == "sdpa" else EAGER
    served = "sdpa" if supports_sdpa(decoder) else "eager"
    _log.warning("attention %r is served by %s while plugins edit its rows", before, served)
    return SDPA if served == "sdpa" else EAGER


AttentionInterface.register(SDPA, attend_sdpa)
AttentionInterface.register(EAGER, attend_eager)
AttentionMaskInterface.register(SDPA, sdpa_mask)
AttentionMaskInterface.register(EAGER, eager_mask)
