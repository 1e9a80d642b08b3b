"""HAVAE: raise the image's scores in the heads that real objects are said by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._maps import scaled_count
from vlmheads_plugins._marks import finite, image_gain

_PUBLISHED = 450  # Heads, of LLaVA-1.5-7B's 1,024.


@dataclass(frozen=True)
class HAVAE(Plugin):
    """Raise the scores of image tokens in the heads that look most at the image for real objects.

    NHAR of a head is its attention on the image without the inert tokens, mean over the rows that
    predict object words of things which are there. In the row that predicts a token, before the
    softmax,

        s_hj ← s_hj + α · mean over the layer's heads h' of |s_h'j|

    for every image token j, the inert ones too, in the `count` heads of the model with the highest
    NHAR.

    Inert tokens are image tokens that read, through the vocabulary head, as the same word in most
    layers, a word that many well attended image tokens read as. `vlmheads learn havae` finds them
    and NHAR, from the model's own captions (docs/learn.md).

    Source: ACL 2026, arXiv 2605.10622, second-hand by descriptions: the repository (lab-klc/HAVAE)
    has no code. α = 0.1, for captions 0.6 or 0.7; 450 of 1,024 heads, scaled to the model, of
    Qwen2-VL 300.

    Our reading: the authors' score of an inert token is a product of how far one word rules its
    layers, how often that word rules attended tokens, and the attention on it, cut where it is an
    outlier; each factor's form and the limits are ours.

    Deviations: none known in what is done to the scores.

    Cost: one attention row in each layer with such heads and for each token.

    Evidence: second-hand from the authors' table: 48.2/14.2 to 18.2/3.8, Qwen2-VL 27.6/8.8 to
    22.8/6.2, without recall; the same heads' count by attention on the image alone has 7.8/4.4, so
    that less is said must be expected. Nobody else's run known to us. On the embedded model it is
    not distinguishable from plain on either kind of scenes (docs/effect.md).
    """

    name: ClassVar[str] = "havae"
    paper: ClassVar[str] = "ACL 2026, arXiv 2605.10622"
    cost: ClassVar[str] = "one more attention row in nearly every layer and for each token"
    search: ClassVar = ({"alpha": 0.1}, {"alpha": 0.3}, {"alpha": 0.6}, {"alpha": 1.2})

    ratios: Learned | str | None = option(
        None,
        "what `vlmheads learn havae` learned from this model, or its file",
        kind="learned",
        method="havae",
        needed_by=("alpha",),
        tensors={"nhar": "LH"},
    )
    alpha: float = option(
        0.1, "how much of the heads' mean size a score gains; 0 is none", low=0, high=10
    )
    count: int | None = option(
        None, "heads to raise; by default 450 of 1,024, scaled", low=1, high=100_000
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return a gain of nothing."""
        return cls(alpha=0.0)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse more heads than there are."""
        scaled_count(self.name, self.count, _PUBLISHED, geometry)

    def chosen(self, geometry: Geometry) -> Tensor:
        """Mark the heads to raise, [L, H]. Among equals the first are taken."""
        assert isinstance(self.ratios, Learned)
        count = scaled_count(self.name, self.count, _PUBLISHED, geometry)
        ratios = self.ratios.values["nhar"].flatten()
        best = ratios.argsort(descending=True, stable=True)[:count]
        marks = torch.zeros_like(ratios, dtype=torch.bool).index_fill(0, best, True)
        return marks.view(geometry.layers, geometry.heads)

    def on_prompt(self, request: Request) -> None:
        """Lay out which heads of each layer are raised."""
        if self.alpha:
            marks = self.chosen(request.geometry)
            layers = marks.any(dim=1).nonzero()[:, 0].tolist()
            device = request.has_image.device
            request.scratch(self)["heads"] = {layer: marks[layer].to(device) for layer in layers}

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Raise the scores of the image in the rows that predict a token."""
        if not self.alpha:
            return rows
        chosen: Tensor | None = request.scratch(self)["heads"].get(layer)
        if chosen is None:
            return rows
        size = finite(rows.scores).abs().mean(dim=1, keepdim=True)
        gain = image_gain(request, self, rows, self.alpha)
        heads = chosen[: rows.scores.shape[1]].to(size.device)[:, None, None]
        return rows.with_bias(size * gain * heads)
