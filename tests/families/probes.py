"""Plugins that watch or edit one kind of hook, and the same edits made at transformers itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from vlmheads import VlmHeadsError
from vlmheads.plugin import Plugin
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import Stream


@dataclass(frozen=True, eq=False)
class Idle(Plugin):
    """Every hook but that on attention rows, and nothing done."""

    name: ClassVar[str] = "idle"

    def on_prompt(self, request: Request) -> None: ...

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        return heads

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        return hidden

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        return logits


@dataclass(frozen=True, eq=False)
class IdleRows(Idle):
    """Every hook, and nothing done."""

    name: ClassVar[str] = "idle-rows"

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        return rows


@dataclass(frozen=True, eq=False)
class IdleCache(Plugin):
    """The hook on the cache, and nothing done."""

    name: ClassVar[str] = "idle-cache"

    def on_cache(
        self, request: Request, layer: int, keys: Tensor, values: Tensor, new: int
    ) -> tuple[Tensor, Tensor]:
        return keys, values


@dataclass(frozen=True, eq=False)
class IdleVision(Plugin):
    """The hook on the vision tower, and nothing done; `blocks` are kept in order."""

    name: ClassVar[str] = "idle-vision"
    blocks: list[int] = field(default_factory=list)

    def on_vision(self, request: Request, block: int, hidden: Tensor) -> Tensor:
        self.blocks.append(block)
        return hidden


@dataclass(frozen=True, eq=False)
class Negative(Plugin):
    """A stream with negatives of the pictures, whose logits are kept per step."""

    name: ClassVar[str] = "negative"
    seen: list[Tensor] = field(default_factory=list)

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (Stream("negative", pixels=torch.neg),)

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        self.seen.append(request.streams["negative"].clone())
        return logits


@dataclass(frozen=True, eq=False)
class Scaled(Plugin):
    """Head outputs times `gains` [L, H]."""

    name: ClassVar[str] = "scaled"
    gains: Tensor = field(default_factory=lambda: torch.ones(1))
    shapes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        self.shapes[layer] = (heads.shape[2], heads.shape[3])
        return heads * self.gains[layer, : heads.shape[2], None]


@dataclass(frozen=True, eq=False)
class ByHand(Plugin):
    """Attention rows computed by hand and not changed, or with a bias on image keys."""

    name: ClassVar[str] = "by-hand"
    bias: float = 0.0
    layers: set[int] = field(default_factory=set)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        self.layers.add(layer)
        bias = self.bias * rows.image_keys[:, None, None, :].to(rows.values.dtype)
        return rows.with_bias(bias)


@dataclass(frozen=True, eq=False)
class Shifted(Plugin):
    """Hidden states at one site plus a direction."""

    name: ClassVar[str] = "shifted"
    site: str = "residual"
    layers: set[int] = field(default_factory=set)

    def on_prompt(self, request: Request) -> None:
        if self.site == "mlp" and not any(request.anatomy.mlps):
            raise VlmHeadsError("layers without a known MLP", "layers with an attribute mlp")

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        if site != self.site:
            return hidden
        if request.entering.shape != hidden.shape:
            raise AssertionError(f"{site} is entered by {list(request.entering.shape)}")
        self.layers.add(layer)
        return hidden + 0.3 * torch.linspace(-1, 1, hidden.shape[-1], dtype=hidden.dtype)


@dataclass(frozen=True, eq=False)
class Sharper(Plugin):
    """Logits times two."""

    name: ClassVar[str] = "sharper"

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        return logits * 2


# What a probe of transformers' own attention functions is given: (module, output [B, S, H, D]).
Look = Callable[[nn.Module, Tensor], Tensor]


@contextmanager
def at_interface(look: Look) -> Iterator[None]:
    """Send what every attention function returns through `look`."""
    table = AttentionInterface._global_mapping
    kept = dict(table)

    def wrap(name: str, base: Any) -> Any:
        def attend(
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None,
            **options: Any,
        ) -> Any:
            own = base or sys.modules[type(module).__module__].eager_attention_forward
            output, weights = own(module, query, key, value, attention_mask, **options)
            return look(module, output), weights

        return attend

    table["sdpa"], table["eager"] = wrap("sdpa", kept["sdpa"]), wrap("eager", kept.get("eager"))
    try:
        yield
    finally:
        table.clear()
        table.update(kept)
