"""AttnReal: attention that the model wastes on its own words, given to the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._marks import said


@dataclass(frozen=True)
class AttnReal(Plugin):
    """Give part of the attention on sinks among the generated tokens to the image.

    In the row that predicts a token, after the softmax and in every head of the chosen layers, a
    generated token is a sink where its weight is above `threshold` times the mean weight of the
    generated tokens G, the one just fed included:

        S = {j ∈ G : A_j > θ · mean over G of A},  m = (1 − ρ) Σ over S of A_j

    1. A_j ← ρ A_j for j in S;
    2. A_v ← A_v + m / |V| for each of the image tokens V.

    Rows keep their sum. The prompt and the first new token are left alone, and rows without an
    image.

    Source: attention reallocation, IJCV 2026, arXiv 2503.08342, of which no code was released; ρ =
    0.5, layers 12 to 31 and a "sink threshold 1.0" from a paper that builds on it (arXiv
    2609.35536), for a model of 36 layers, scaled to the depth.

    Our reading: experimental. That the threshold is of the mean over G, and that the mean is the
    row's own in each head, is not stated anywhere that we know of. That the image tokens gain alike
    is the second paper's; `split="proportional"` gives each the share that it had.

    Deviations: none known beside that reading.

    Pitfalls: with one generated token, which is its own mean, nothing is a sink; with more, at θ =
    1 the tokens above the mean are, whatever they get, also where the image has most of the row.

    Cost: one attention row in these layers and for each token.

    Evidence: none of others known to us that states recall. On the embedded model it is not
    distinguishable from plain, and worse at ρ = 0; on the second bench every caption repeats itself
    (docs/effect.md).
    """

    name: ClassVar[str] = "attnreal"
    paper: ClassVar[str] = "IJCV 2026, arXiv 2503.08342"
    cost: ClassVar[str] = "one more attention row in the later layers and for each token"
    search: ClassVar = ({"rho": 0.75}, {"rho": 0.5}, {"rho": 0.0})

    rho: float = option(0.5, "what a sink keeps of its weight; 1 is all", low=0, high=1)
    threshold: float = option(
        1.0, "a generated token is a sink above so many mean weights", low=0, high=1000
    )
    split: str = option(
        "even", "how the image tokens share what is freed", choices=("even", "proportional")
    )
    layers: tuple[int, ...] | None = option(
        None, "layers to act on; by default 12 to 31 of 36, scaled to the depth", kind="layers"
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return sinks that keep their weight."""
        return cls(rho=1.0)

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on: those given, or the published ones."""
        return geometry.scaled(12, 32, of=36) if self.layers is None else self.layers

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Move weight from sinks among the generated tokens to the image tokens."""
        if self.rho == 1 or layer not in self.chosen_layers(request.geometry):
            return rows
        generated = said(request, rows)
        if generated is None:
            return rows
        weights, keys = rows.weights, rows.image_keys.shape[1]
        # All that is done to generated tokens is done to the last columns alone.
        first = max(0, request.prompt_length - max(0, request.seen - keys))
        own = weights[..., first:]
        visible = rows.scores[:, :1] > -torch.inf
        image = rows.image_keys[:, None, None] & visible
        generated = (generated & visible)[..., first:]
        count = generated.sum(dim=-1, keepdim=True).clamp(min=1)
        mean = (own * generated).sum(dim=-1, keepdim=True) / count
        sink = generated & (own > self.threshold * mean) & image.any(dim=-1, keepdim=True)
        lost = own * sink * (1 - self.rho)
        share = image.to(weights) if self.split == "even" else weights * image
        share = share / share.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        edited = weights.addcmul(lost.sum(dim=-1, keepdim=True), share)
        edited[..., first:] -= lost
        return rows.with_weights(edited)
