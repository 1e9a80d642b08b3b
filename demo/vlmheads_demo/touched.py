"""Which heads a method acts on: the prompt is run once, looked at before and after the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmheads.plugin import Plugin
from vlmheads.runtime.attachment import attach
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request


@torch.no_grad()
def touched_heads(model: Any, inputs: Mapping[str, Any], plugins: tuple[Plugin, ...]) -> Tensor:
    """Mark the heads [L, H] whose output or attention the plugins change at the last prompt token.

    A method that works on logits or on whole hidden states touches no head in particular.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of one image and text.
        plugins: the method.

    Raises:
        VlmHeadsError: what `attach` refuses.
    """
    hooks = {hook for plugin in plugins for hook in plugin.hooks()}
    found: list[tuple[int, Tensor]] = []
    first: list[Plugin] = []
    last: list[Plugin] = []
    if "on_heads" in hooks:
        first.append(_Heads())
        last.append(_Heads(first[-1], found))
    if "on_attention" in hooks:
        first.append(_Attention())
        last.append(_Attention(first[-1], found))
    with attach(model, (*first, *plugins, *last)) as attachment:
        geometry = attachment.anatomy.geometry
        if first:
            attachment.model(**inputs, use_cache=True)
    marks = torch.zeros(geometry.layers, geometry.heads, dtype=torch.bool)
    for layer, changed in found:
        marks[layer, : len(changed)] |= changed.cpu()
    return marks


@dataclass(frozen=True, eq=False)
class _Look(Plugin):
    """Keeps what it sees; with another look before it, tells in which heads the two differ."""

    earlier: Plugin | None = None
    found: list[tuple[int, Tensor]] = field(default_factory=list)

    def compare(self, request: Request, layer: int, seen: Tensor) -> None:
        """Take what the last prompt token's heads give, [H, ...]."""
        request.scratch(self)[str(layer)] = seen
        if self.earlier is not None:
            before = request.scratch(self.earlier).pop(str(layer))
            self.found.append((layer, (before != seen).flatten(1).any(dim=1)))


@dataclass(frozen=True, eq=False)
class _Heads(_Look):
    name: ClassVar[str] = "look-at-heads"

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        self.compare(request, layer, heads[0, -1].clone())
        return heads


@dataclass(frozen=True, eq=False)
class _Attention(_Look):
    name: ClassVar[str] = "look-at-attention"

    @property
    def whole_map(self) -> bool:
        return True  # rows are then the same for both looks, whatever the method asks for

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        last = rows.editable.shape[1] - 1
        self.compare(request, layer, rows.part(slice(last, last + 1))[0, :, 0].clone())
        return rows
