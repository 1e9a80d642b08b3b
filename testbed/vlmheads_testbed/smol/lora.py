"""Low-rank updates of the language model's projections, and how they are merged into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Rank:
    """The rank of the updates and what they are multiplied by (LoRA's alpha over its rank)."""

    rank: int = 16
    scale: float = 1.0


class LowRank(nn.Module):
    """A frozen linear map plus a trained one of low rank: W x + scale B (A x)."""

    def __init__(self, linear: nn.Linear, rank: Rank, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        self.scale = rank.scale
        bound = linear.in_features**-0.5
        down = torch.empty(rank.rank, linear.in_features)
        self.down = nn.Parameter(down.uniform_(-bound, bound, generator=generator))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank.rank))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        update = functional.linear(functional.linear(hidden, self.down), self.up)
        plain: torch.Tensor = self.linear(hidden)
        return plain + self.scale * update

    def delta(self) -> torch.Tensor:
        """Return what the update adds to the weight: ``[out, in]``."""
        return self.scale * (self.up @ self.down)


def add_low_rank(language_model: Any, rank: Rank, seed: int) -> dict[str, LowRank]:
    """Put a low-rank update on every projection of every layer; they start at zero.

    Returns them by the name of the projection, such as "layers.3.self_attn.q_proj".
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, LowRank] = {}
    for name, module in list(language_model.named_modules()):
        parent, _, child = name.rpartition(".")
        if child in PROJECTIONS and isinstance(module, nn.Linear):
            found[name] = LowRank(module, rank, generator)
            setattr(language_model.get_submodule(parent), child, found[name])
    return found
