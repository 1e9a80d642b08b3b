"""IAT: more attention to what has been said so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._marks import finite, said

# Layers 5 to 17 of 32, the last included; AdaIAT has the same.
FIRST, STOP = 5, 18


@dataclass(frozen=True)
class IAT(Plugin):
    """Increase the attention on generated text in the middle layers.

    In the row that predicts a token, before the softmax and in every head of the middle layers,

        s_j ← s_j + α |s_j|

    for each generated token j, the one just fed included. The prompt and the first new token are
    left alone.

    Source: CVPR 2026, arXiv 2603.04908, and XianguiKang/AdaIAT: α = 0.8, layers 5 to 17 of 32,
    scaled to the depth; "Please describe the picture in detail." and greedy search of 512 tokens.
    Written from the formula: the release has no licence.

    Deviations: none known.

    Cost: one attention row in each of these layers and for each token.

    Evidence: the authors' table has 49.0/13.3 to 29.8/9.0, F1 77.9 to 76.8. Their published
    captions, scored again at equal recall, are no better than plain ones cut short
    (docs/evidence.md). On the embedded model it is worse (docs/methods.md).

    Pitfalls: a negative score is raised towards 0, a positive one away from it.
    """

    name: ClassVar[str] = "iat"
    paper: ClassVar[str] = "CVPR 2026, arXiv 2603.04908"
    cost: ClassVar[str] = "one more attention row in the middle layers and for each token"
    search: ClassVar = ({"alpha": 0.4}, {"alpha": 0.8}, {"alpha": 1.6})

    alpha: float = option(
        0.8, "how much of its size a score of a generated token gains", low=0, high=10
    )
    layers: tuple[int, ...] | None = option(
        None, "layers to act on; by default 5 to 17 of 32, scaled to the depth", kind="layers"
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return a gain of nothing."""
        return cls(alpha=0.0)

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on: those given, or the released ones."""
        return geometry.scaled(FIRST, STOP) if self.layers is None else self.layers

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Raise the scores of generated tokens in the rows that predict a token."""
        if self.alpha == 0 or layer not in self.chosen_layers(request.geometry):
            return rows
        place = said(request, rows)
        if place is None:
            return rows
        scores = finite(rows.scores)
        return rows.with_bias(scores.abs() * (place.to(scores) * self.alpha))
