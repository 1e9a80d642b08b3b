"""SPIN: suppress the heads that attend least to the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.gains.folds import Fold
from vlmheads.headmap import HeadMap
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._maps import RANKED, support

_FOLDED = "spin acts from the last position of the prompt on; folded, it acts at every position"


@dataclass(frozen=True)
class SPIN(Plugin):
    """Multiply the outputs of the heads that attend least to the image by a small factor.

    In each chosen layer and for each query q the score of a head is

        c_h = Σ_{j∈V} s_hqj

    the sum of the scaled query-key products over the image tokens V before the softmax. The ⌊keep ·
    H⌋ heads with the largest sums pass; the output of the others is multiplied by `factor`. Queries
    are the last position of the prompt and every decoded token; each is decided anew.

    Source: SPIN, EMNLP 2025, attentionSPIN.py of YUECHE77/SPIN; defaults are its CHAIR settings.

    Deviations: the release divides the sums by their deviation over heads and takes a softmax
    before it ranks them, which leaves the ranking as it is; its mask of a batch of prompts is
    scrambled, here each row has its own; where a sliding window holds no image token any more, a
    layer is left alone. `head_map` is ours: it fixes the ranking beforehand, by what was measured.

    Cost: one row of query-key products per layer and token.

    Evidence: the abstract reports CHAIR down to 1/2.7. A third party's port at the POPE setting
    (keep 0.8, factor 0.1) collapsed: 99 % yes, accuracy 0.51 where plain decoding had 0.83; at
    0.95 and 0.5 it changed nothing.
    """

    name: ClassVar[str] = "spin"
    paper: ClassVar[str] = "SPIN, EMNLP 2025"
    cost: ClassVar[str] = "one attention row per layer and token"
    search: ClassVar = ({"factor": 0.08}, {"factor": 0.5}, {"factor": 0.08, "keep": 0.75})

    keep: float = option(0.95, "share of the heads of a layer that pass", low=0.0, high=1.0)
    factor: float = option(0.08, "factor on the outputs of the others", low=0.0, high=1.0)
    layers: tuple[int, ...] | None = option(None, "layers to act on; by default all", kind="layers")
    head_map: HeadMap | str | None = option(
        None,
        "rank the heads of a layer by this map, or file of one, and not by attention",
        kind="head_map",
        measures=RANKED,
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return a suppression by 1."""
        return cls(factor=1.0)

    def fold(self, geometry: Geometry) -> Fold | None:
        """Return `factor` on the heads that a map ranks last; without one they are ranked anew."""
        if not isinstance(self.head_map, HeadMap):
            return None
        ranks = support(self.head_map)[None]
        gains = self._gains(ranks, torch.ones(ranks.shape[:2], dtype=torch.bool))[0, ..., 0]
        acts = torch.tensor([[self._acts_on(layer)] for layer in range(geometry.layers)])
        return Fold(torch.where(acts, gains, 1.0), note=_FOLDED)

    def on_prompt(self, request: Request) -> None:
        """Rank the heads of every layer by the map, where there is one."""
        if isinstance(self.head_map, HeadMap):
            ranks = support(self.head_map).to(request.has_image.device)
            request.scratch(self)["ranks"] = ranks

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Decide which heads of the layer pass, for each predicting row; the rows stay as is."""
        if not self._acts_on(layer) or self.head_map is not None:
            return rows
        scores = rows.scores[:, :, -_predicting(request, rows.editable.shape[1]) :]
        seen = rows.image_keys[:, None, None] & (scores > -torch.inf)
        sums = scores.masked_fill(~seen, 0).sum(dim=-1).transpose(1, 2)
        # A row without an image, or whose image has left the window, has nothing to rank by.
        ranked = seen[:, 0].any(dim=-1)
        request.scratch(self)[f"{layer}"] = self._gains(sums, ranked)
        return rows

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        """Scale the heads of a layer at the new positions."""
        scratch = request.scratch(self)
        ranks: Tensor | None = scratch.get("ranks") if self._acts_on(layer) else None
        gains: Tensor | None = scratch.pop(f"{layer}", None)
        if ranks is not None:
            ranked = request.has_image[:, None]
            ranked = ranked.expand(-1, _predicting(request, heads.shape[1]))
            gains = self._gains(ranks[layer, : heads.shape[2]].expand(*ranked.shape, -1), ranked)
        if gains is None:
            return heads
        first = heads.shape[1] - gains.shape[1]
        if first == 0:
            return heads * gains.to(heads)
        return torch.cat([heads[:, :first], heads[:, first:] * gains.to(heads)], dim=1)

    def _acts_on(self, layer: int) -> bool:
        return self.factor != 1 and (self.layers is None or layer in self.layers)

    def _gains(self, sums: Tensor, ranked: Tensor) -> Tensor:
        """Return the factors [B, Q, H, 1] of heads ranked by sums [B, Q, H], 1 where not ranked."""
        passing = math.floor(self.keep * sums.shape[-1] + 1e-9)
        chosen = sums.topk(passing, dim=-1).indices
        gains = torch.full_like(sums, self.factor).scatter(-1, chosen, 1.0)
        return gains.masked_fill(~ranked[..., None], 1.0)[..., None]


def _predicting(request: Request, positions: int) -> int:
    """How many of the last positions predict; without a cache earlier tokens come by again."""
    return min(positions, request.seen - request.prompt_length + 1)
