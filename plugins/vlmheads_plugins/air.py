"""AIR: even the attention of middle layers out a little, beside three methods that AIR takes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request


@dataclass(frozen=True)
class AIR(Plugin):
    """Shrink the attention of a row towards its mean, in the middle layers.

    In the row that predicts a token, after the softmax, in each head and in the middle layers,

        A_j ← (1 − λ) A_j + λ · mean of A

    over the keys j that the row may see; its sum stays.

    Source: attention imbalance rectification, CVPR 2026, arXiv 2603.24058, and Ice-wave/AIR: λ =
    0.1, layers 5 to 17 of 32, scaled to the depth. Written from the formula: the release has no
    licence. AIR is four methods in one: the others are `vaf` (enhance 1.08, suppress 0.97, layers 9
    to 14), `devils` (alpha 0.28, layers 5 to 17) and `adhh` (threshold 0.4), which the preset
    air-llava15 composes with this one, in that order.

    Deviations: in the prefill the release shrinks the whole map, in a form with a trace of 0 and
    scaled by its Frobenius norm that is not known to us exactly and that lets rows see later keys;
    here only the prompt's last row is shrunk, as each row in decoding is.

    Cost: one attention row in each of these layers and for each token.

    Evidence: the authors' table for the whole of AIR: 51.8/13.7 to 21.6/7.9 at 256 tokens, 20.8/6.2
    to 12.0/4.1 at 64; no recall, so truncation is not ruled out. On the embedded model this
    part alone changes 4 of 40 captions, none for better or worse (docs/methods.md).
    """

    name: ClassVar[str] = "air"
    paper: ClassVar[str] = "CVPR 2026, arXiv 2603.24058"
    cost: ClassVar[str] = "one more attention row in the middle layers and for each token"
    search: ClassVar = ({"share": 0.05}, {"share": 0.1}, {"share": 0.3})

    share: float = option(0.1, "λ, how far to go towards the mean", low=0.0, high=1.0)
    layers: tuple[int, ...] | None = option(
        None, "layers to act on; by default 5 to 17 of 32, scaled to the depth", kind="layers"
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return no step towards the mean."""
        return cls(share=0.0)

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on: those given, or the released ones."""
        return geometry.scaled(5, 18) if self.layers is None else self.layers

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Shrink the rows that predict a token."""
        if not self.share or layer not in self.chosen_layers(request.geometry):
            return rows
        weights, seen = rows.weights, rows.scores > -torch.inf
        mean = weights.sum(dim=-1, keepdim=True) / seen.sum(dim=-1, keepdim=True).clamp(min=1)
        even = torch.where(seen, (1 - self.share) * weights + self.share * mean, weights)
        acts = request.predicting_rows(weights.shape[2])[:, None]
        return rows.with_weights(torch.where(acts, even, weights))
