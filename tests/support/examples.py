"""One tiny plugin for each kind of hook."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import TEXT_ONLY, Stream


@dataclass(frozen=True)
class HeadScaler(Plugin):
    """Multiply head 0 of every layer."""

    name: ClassVar[str] = "head-scaler"
    gain: float = option(1.5, "factor", low=0.0, high=10.0)

    @classmethod
    def neutral(cls) -> Self:
        return cls(gain=1.0)

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        gains = torch.ones(heads.shape[2], dtype=heads.dtype)
        gains[0] = self.gain
        return heads * gains[:, None]


@dataclass(frozen=True)
class RowReweighter(Plugin):
    """Multiply the weights of image tokens, then renormalise."""

    name: ClassVar[str] = "row-reweighter"
    factor: float = option(3.0, "factor", low=0.1, high=10.0)

    @classmethod
    def neutral(cls) -> Self:
        return cls(factor=1.0)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        if self.factor == 1:
            return rows
        return rows.with_bias(
            rows.image_keys[:, None, None].to(rows.scores) * math.log(self.factor)
        )


@dataclass(frozen=True)
class HiddenAdder(Plugin):
    """Add a constant to one dimension of the residual stream."""

    name: ClassVar[str] = "hidden-adder"
    amount: float = option(0.5, "what is added", low=-10.0, high=10.0)

    @classmethod
    def neutral(cls) -> Self:
        return cls(amount=0.0)

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        if site != "residual" or self.amount == 0:
            return hidden
        direction = torch.zeros(hidden.shape[-1], dtype=hidden.dtype)
        direction[3] = self.amount
        return hidden + direction


@dataclass(frozen=True)
class LogitsShifter(Plugin):
    """Make one token likelier the more tokens there are."""

    name: ClassVar[str] = "logits-shifter"
    amount: float = option(0.5, "what is added a token", low=-10.0, high=10.0)

    @classmethod
    def neutral(cls) -> Self:
        return cls(amount=0.0)

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        shift = torch.zeros_like(logits)
        shift[:, 5] = self.amount * request.generated
        return logits + shift


@dataclass(frozen=True)
class TextContrast(Plugin):
    """Push the logits away from those without the image."""

    name: ClassVar[str] = "text-contrast"
    strength: float = option(0.5, "how far", low=0.0, high=10.0)

    @classmethod
    def neutral(cls) -> Self:
        return cls(strength=0.0)

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (TEXT_ONLY,) if self.strength else ()

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        if not self.strength:
            return logits
        return logits + self.strength * (logits - request.streams[TEXT_ONLY.name])


EXAMPLES: tuple[type[Plugin], ...] = (
    HeadScaler,
    RowReweighter,
    HiddenAdder,
    LogitsShifter,
    TextContrast,
)
