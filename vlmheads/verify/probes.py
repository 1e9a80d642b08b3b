"""Plugins that do one thing at one kind of hook, as strongly as asked; 0 is nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from vlmheads.plugin import Plugin
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.passes import Probe
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import TEXT_ONLY, Stream


@dataclass(frozen=True, eq=False)
class HeadProbe(Plugin):
    """Multiply each head by its own factor, from 1 - strength to 1 + strength.

    Args:
        strength: 0 returns the very tensor that was given.
        shapes: layer -> number of heads and head size, as the hook was given them.
    """

    name: ClassVar[str] = "probe-heads"
    strength: float = 0.0
    shapes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        """Scale heads [B, S, H, D]; the same factor for all would vanish in the next norm."""
        count, size = heads.shape[2:]
        self.shapes[layer] = (count, size)
        if not self.strength:
            return heads
        ramp = torch.linspace(-1, 1, count, device=heads.device).roll(layer)
        return heads * (1 + self.strength * ramp).to(heads.dtype)[:, None]


@dataclass(frozen=True, eq=False)
class RowProbe(Plugin):
    """Add a bias of minus strength to the attention scores of image tokens.

    Args:
        strength: with 0 and not `by_hand`, the rows are returned as they were given.
        by_hand: compute the rows even where nothing is added.
        shapes: layer -> number of heads and size of a value, of the tensors at the attention
            interface.
    """

    name: ClassVar[str] = "probe-rows"
    strength: float = 0.0
    by_hand: bool = False
    shapes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Bias the scores [B, H, Q, K], or compute them and leave them as they are."""
        if not (self.strength or self.by_hand):
            return rows
        self.shapes[layer] = (rows.scores.shape[1], rows.values.shape[-1])
        image = rows.image_keys[:, None, None, :].to(rows.scores.dtype)
        return rows.with_bias(-self.strength * image)


@dataclass(frozen=True, eq=False)
class HiddenProbe(Plugin):
    """Add a fixed direction to hidden states, strength times as long as they are.

    Args:
        strength: 0 returns the very tensor that was given.
        site: where; see `Plugin.on_hidden`.
    """

    name: ClassVar[str] = "probe-hidden"
    strength: float = 0.0
    site: str = "residual"

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Shift [B, S, E] at one site."""
        if site != self.site or not self.strength:
            return hidden
        return hidden + shift(hidden, self.strength)


@dataclass(frozen=True, eq=False)
class CacheProbe(Plugin):
    """Multiply the values of image tokens by 1 - strength, then those of each new token.

    Args:
        strength: 0 returns the very tensors that were given.
    """

    name: ClassVar[str] = "probe-cache"
    strength: float = 0.0

    def on_cache(
        self, request: Request, layer: int, keys: Tensor, values: Tensor, new: int
    ) -> tuple[Tensor, Tensor]:
        """Scale values [B, Hkv, K, Dv]; the keys stay."""
        if not self.strength:
            return keys, values
        chosen = request.image_keys(keys.shape[2])
        if not request.is_prefill:
            chosen = torch.zeros_like(chosen)
            chosen[:, -1] = True
        return keys, torch.where(chosen[:, None, :, None], values * (1 - self.strength), values)


@dataclass(frozen=True, eq=False)
class VisionProbe(Plugin):
    """Add a fixed direction to the states of the vision tower, strength times as long as they are.

    Args:
        strength: 0 returns the very tensor that was given.
    """

    name: ClassVar[str] = "probe-vision"
    strength: float = 0.0

    def on_vision(self, request: Request, block: int, hidden: Tensor) -> Tensor:
        """Shift [N, P, Ev] after each block."""
        return hidden + shift(hidden, self.strength) if self.strength else hidden


def shift(hidden: Tensor, strength: float) -> Tensor:
    """Return a fixed direction [..., E], strength times as long as the states are."""
    size = at_least_float32(hidden).square().mean(dim=-1, keepdim=True).sqrt()
    ramp = torch.linspace(-1, 1, hidden.shape[-1], device=hidden.device)
    return (strength * size * ramp).to(hidden.dtype)


@dataclass(frozen=True, eq=False)
class AheadProbe(Plugin):
    """Generate a few tokens ahead of each generation, with a plugin that looks on.

    Args:
        tokens: how many.
        recorder: the plugin, if any.
        found: what came of it.
    """

    name: ClassVar[str] = "probe-ahead"
    tokens: int = 3
    recorder: Plugin | None = None
    found: list[Probe] = field(default_factory=list)

    def on_prompt(self, request: Request) -> None:
        """Generate them."""
        self.found.append(request.probe(self.tokens, self.recorder))


@dataclass(frozen=True, eq=False)
class HidingProbe(Plugin):
    """Run a stream of the same prompt beside the main one, with image keys hidden from its rows.

    Args:
        strength: 0 hides nothing; else the logits are pushed away from the stream's.
        steps: logits [B, V] of the stream, a step.
    """

    name: ClassVar[str] = "probe-hiding"
    strength: float = 0.0
    steps: list[Tensor] = field(default_factory=list)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The prompt as it is."""
        return (Stream("hiding", hide=self._hide),)

    def _hide(self, request: Request, layer: int, keys: int) -> Tensor | None:
        return request.image_keys(keys) if self.strength else None

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Contrast [B, V] with the stream's."""
        other = request.streams["hiding"]
        self.steps.append(other.clone())
        return logits + self.strength * (logits - other) if self.strength else logits


@dataclass(frozen=True, eq=False)
class LogitProbe(Plugin):
    """Multiply the logits by 1 + strength."""

    name: ClassVar[str] = "probe-logits"
    strength: float = 0.0

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Scale [B, V]."""
        return logits * (1 + self.strength) if self.strength else logits


@dataclass(frozen=True, eq=False)
class StreamProbe(Plugin):
    """Run a text-only stream beside the main one, and push the logits away from its own.

    Args:
        strength: 0 leaves the logits as they are.
        prompt: logits [B, V] of `request.text_only_forward`.
        steps: logits [B, V] of the stream, a step.
    """

    name: ClassVar[str] = "probe-stream"
    strength: float = 0.0
    prompt: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The prompt without its images."""
        return (TEXT_ONLY,)

    def on_prompt(self, request: Request) -> None:
        """Keep what the separate pass gives."""
        self.prompt.append(request.text_only_forward().logits)

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Contrast [B, V] with the stream's."""
        other = request.streams[TEXT_ONLY.name]
        self.steps.append(other.clone())
        return logits + self.strength * (logits - other) if self.strength else logits


@dataclass(frozen=True, eq=False)
class UnembedProbe(Plugin):
    """Keep the logits that the last layer's output is unembedded to, a step."""

    name: ClassVar[str] = "probe-unembed"
    steps: list[Tensor] = field(default_factory=list)

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Unembed the last position of [B, S, E]."""
        if site == "residual" and layer == request.geometry.layers - 1:
            self.steps.append(request.anatomy.unembed(hidden[:, -1], norm=True))
        return hidden


# One plugin for each kind of hook. Of a hidden state there are three sites.
MLP, CACHE, VISION, HIDING = "MLP outputs", "cache", "vision tower", "hidden keys"
# Kinds of which a model may be served without, where it refuses them by name.
OPTIONAL = (CACHE, VISION, HIDING)
# Kinds that run the main stream in a batch with another one.
STREAMS = ("text-only stream", HIDING)
KINDS: dict[str, Callable[[float], Plugin]] = {
    "heads": lambda strength: HeadProbe(strength=strength),
    "attention rows": lambda strength: RowProbe(strength=strength),
    "hidden states": lambda strength: HiddenProbe(strength=strength),
    "attention outputs": lambda strength: HiddenProbe(strength=strength, site="attention"),
    MLP: lambda strength: HiddenProbe(strength=strength, site="mlp"),
    CACHE: lambda strength: CacheProbe(strength=strength),
    VISION: lambda strength: VisionProbe(strength=strength),
    "logits": lambda strength: LogitProbe(strength=strength),
    "text-only stream": lambda strength: StreamProbe(strength=strength),
    HIDING: lambda strength: HidingProbe(strength=strength),
}
# How strongly each acts where it has to be seen to act.
STRENGTH = {
    "heads": 0.5,
    "attention rows": 3.0,
    "hidden states": 0.1,
    "attention outputs": 0.5,
    MLP: 0.5,
    CACHE: 0.5,
    VISION: 0.5,
    "logits": 0.5,
    "text-only stream": 0.5,
    HIDING: 0.5,
}
