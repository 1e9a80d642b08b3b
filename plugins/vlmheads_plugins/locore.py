"""LocoRE: more attention to the words just before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._marks import predicting_rows


@dataclass(frozen=True)
class LocoRE(Plugin):
    """Multiply the attention on the last few tokens of text.

    In the row at position P that predicts a token, for every text position j after the image with 1
    ≤ P − j ≤ w,

        A_j ← (1 + β) A_j

    in every head; the row is renormalised. The question after the image counts as text.

    Source: local coherence reinforcement, ICLR 2026, arXiv 2601.20279; β = 0.15 for LLaVA, 0.20 for
    Qwen2-VL. The released repository does not contain this part.

    Our reading: the paper states neither layers nor w nor whether rows are renormalised; here it is
    all layers, w = 16 and renormalised, and the row's own position is not among the last w.

    Deviations: the paper combines it with rejection sampling by gradients (SGRS), which is left
    out.

    Cost: one attention row in every layer and for each token.

    Evidence: the authors' table, beam search: 51.0/15.2 to 38.4/11.2 at recall 75.2 to 75.4 and 102
    to 98 words; in another of their tables CHAIR_I is 10.2. At β = 1 they report 50.2/20.9. Nobody
    else's run is known, and ours is another reading. On the embedded model it changes next to
    nothing (docs/methods.md).
    """

    name: ClassVar[str] = "locore"
    paper: ClassVar[str] = "ICLR 2026, arXiv 2601.20279"
    cost: ClassVar[str] = "one more attention row per layer and token"
    search: ClassVar = ({"beta": 0.15}, {"beta": 0.4}, {"beta": 0.4, "window": 64})

    beta: float = option(0.15, "what a weight gains, as a share of itself", low=0, high=10)
    window: int = option(16, "how many positions back the gain reaches", low=1, high=100_000)
    layers: tuple[int, ...] | None = option(None, "layers to act on; by default all", kind="layers")

    @classmethod
    def neutral(cls) -> Self:
        """Return a gain of nothing."""
        return cls(beta=0.0)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Raise the weights of the last tokens of text in the rows that predict a token."""
        if self.beta == 0 or (self.layers is not None and layer not in self.layers):
            return rows
        last, keys = rows.editable.shape[1], rows.image_keys.shape[1]

        def make() -> Tensor:
            device = rows.image_keys.device
            row = torch.arange(request.seen - last, request.seen, device=device)
            key = torch.arange(keys, device=device) + max(0, request.seen - keys)
            back = row[:, None] - key
            near = (back >= 1) & (back <= self.window)
            near = near & predicting_rows(request, last)[:, None]
            text = key >= request.text_start.to(device)[:, None]
            return (near & text[:, None])[:, None].to(rows.scores) * math.log1p(self.beta)

        return rows.with_bias(request.once((id(self), keys), make))
