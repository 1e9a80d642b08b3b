"""Sink tokens: those whose hidden state is massive in a few dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Known:
    """The sink dimensions of one text decoder, and who found them how."""

    decoder: str
    dimensions: tuple[int, ...]
    source: str


_KANG = "Kang et al., ICLR 2025, arXiv 2503.03321"
# By the text decoder: model type, width, layers, key heads.
SINK_DIMENSIONS: dict[tuple[str, int, int, int], Known] = {
    ("llama", 4096, 32, 32): Known("LLaMA-2-7B", (1415, 2533), _KANG),
    ("llama", 5120, 40, 40): Known("LLaMA-2-13B", (2100, 4743), _KANG),
    ("qwen2_vl_text", 3584, 28, 4): Known("Qwen2-VL-7B", (458, 2570), _KANG),
    ("llama", 576, 30, 3): Known(
        "SmolLM2-135M",
        (17, 507),
        "measured on the test bench smol (testbed/README.md): 507 is massive at the first token "
        "from layer 2 on, 17 at image tokens that enter the last two layers",
    ),
}


def known_dimensions(config: Any) -> tuple[int, ...] | None:
    """Return the sink dimensions on record for a text decoder, by its config."""
    names = ("model_type", "hidden_size", "num_hidden_layers", "num_key_value_heads")
    found = SINK_DIMENSIONS.get(tuple(getattr(config, name, None) for name in names))  # type: ignore[arg-type]
    return None if found is None else found.dimensions


def massive_dimensions(
    hidden: Tensor, mask: Tensor, tau: float = 20.0, *, strict: bool = False
) -> Tensor:
    """Mark the dimensions [B, E] in which the first token of a prompt reaches |x[d]| / RMS(x) = τ.

    Args:
        hidden: states [B, S, E] that enter a layer.
        mask: [B, S] True where a token is real.
        tau: the least value; it cannot exceed √E.
        strict: whether τ itself is too little.
    """
    rows = torch.arange(len(hidden), device=hidden.device)
    first = _precise(hidden[rows, mask.int().argmax(dim=1)])
    relative = first.abs() / _scale(first)[:, None]
    return relative > tau if strict else relative >= tau


def sink_strength(hidden: Tensor, dimensions: Sequence[int] | Tensor) -> Tensor:
    """φ(x) = max over the sink dimensions of |x[d]| / RMS(x) of each token [B, S].

    Source: Kang et al., ICLR 2025, arXiv 2503.03321; without their ε.

    Args:
        hidden: states [B, S, E].
        dimensions: the sink dimensions, or a mark of those of each row [B, E]. A row without any
            has φ = 0.
    """
    if isinstance(dimensions, Tensor):
        # Only the few dimensions that are massive in some row are looked at everywhere.
        some = dimensions.any(dim=0).nonzero()[:, 0]
        if not len(some):
            wide = torch.promote_types(hidden.dtype, torch.float32)
            return hidden.new_zeros(hidden.shape[:2], dtype=wide)
        found = _precise(hidden[:, :, some]).abs() * dimensions[:, None, some]
    else:
        found = _precise(hidden[:, :, list(dimensions)]).abs()
    return found.amax(dim=-1) / _scale(hidden)


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _scale(hidden: Tensor) -> Tensor:
    """Root mean square of the states, at least the least number."""
    values = _precise(hidden)
    norm: Tensor = torch.linalg.vector_norm(values, dim=-1) / values.shape[-1] ** 0.5
    return norm.clamp(min=torch.finfo(values.dtype).tiny)
