"""Head-guided attention in the middle layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._marks import finite, image_gain


@dataclass(frozen=True)
class Devils(Plugin):
    """Raise the scores of image tokens in all heads by what the heads give them on average.

    In the row that predicts a token, before the softmax and in each of the middle layers,

        s_hj ← s_hj + α · mean over heads h' of |s_h'j|

    for every image token j.

    Source: Jiang et al., CVPR 2025, arXiv 2411.16724, "Devils in Middle Layers".

    Deviations: none known in this form; the released code can also average over the k heads that
    attend to the image most, which is not offered. Layers are the released 5 to 18 of 32, the last
    included, scaled to the depth.

    Cost: one attention row in each of these layers and for each token.

    Evidence: the authors' captions, scored again (docs/evidence.md): CHAIR_S 24.0 against 47.4 at
    recall 67.8 against 77.5, at equal recall -6.5 points [-11.9, -1.5], but 12 % of them have more
    than a fifth of their 4-grams repeated; objects that are counted once each have F1 76.2 against
    76.1. AdaIAT's authors' captions of it are on the frontier, -3.1 [-9.2, +2.5].
    """

    name: ClassVar[str] = "devils"
    paper: ClassVar[str] = "Jiang et al., CVPR 2025, arXiv 2411.16724"
    cost: ClassVar[str] = "one more attention row in the middle layers and for each token"
    search: ClassVar = ({"alpha": 0.25}, {"alpha": 0.5}, {"alpha": 1.0})

    alpha: float = option(0.5, "how much of the heads' mean size a score gains", low=0, high=10)
    layers: tuple[int, ...] | None = option(
        None, "layers to act on; by default 5 to 18 of 32, scaled to the depth", kind="layers"
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return a gain of nothing."""
        return cls(alpha=0.0)

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on: those given, or the released ones."""
        return geometry.scaled(5, 19) if self.layers is None else self.layers

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Raise the scores of the image in the rows that predict a token."""
        if layer not in self.chosen_layers(request.geometry) or self.alpha == 0:
            return rows
        gain = image_gain(request, self, rows, self.alpha)
        return rows.with_bias(finite(rows.scores).abs().mean(dim=1, keepdim=True) * gain)
