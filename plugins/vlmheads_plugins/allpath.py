"""AllPath: heads that cause hallucinations off, heads that work against them up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.geometry import Geometry
from vlmheads.plugin import Plugin, as_heads, option
from vlmheads.request import Request


@dataclass(frozen=True)
class AllPath(Plugin):
    """Multiply the contributions of listed heads by 0 or by 2.

    A head's contribution to the residual stream is its output times its columns of the output
    projection; that of `suppressed` heads is multiplied by `low`, that of `boosted` ones by
    `high`, at every position. With `normalise`, an option of the release, the factors of a layer
    are divided by their mean.

    Source: AllPath, NeurIPS 2025, and SooLab/AllPath. The heads come from scores of the paths text
    to text and image to text that are measured offline on captions or on questions: for CHAIR 40
    suppressed and 40 boosted by the first, 50 by the second; for POPE 20, 20 and 10. Deviations:
    the lists belong to one model and are not published in a form that could be shipped; without
    them the plugin is refused. A bias of the output projection, where a model has one, is no
    head's and stays.

    Cost: a multiplication a listed layer and token.

    Evidence: CHAIR 26.6/7.2 in the paper, recall not reported; no independent run known to us.
    """

    name: ClassVar[str] = "allpath"
    paper: ClassVar[str] = "AllPath, NeurIPS 2025"
    cost: ClassVar[str] = "no extra pass"

    suppressed: tuple[tuple[int, int], ...] = option((), "heads (layer, head) to suppress")
    boosted: tuple[tuple[int, int], ...] = option((), "heads (layer, head) to boost")
    low: float = option(0.0, "factor on suppressed heads", low=0.0, high=1.0)
    high: float = option(2.0, "factor on boosted heads", low=1.0, high=10.0)
    normalise: bool = option(False, "divide the factors of a listed layer by their mean")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("suppressed", "boosted"):
            object.__setattr__(self, name, as_heads(self.name, getattr(self, name), name))
        if both := sorted(set(self.suppressed) & set(self.boosted)):
            raise VlmHeadsError(
                f"{self.name}: {both} suppressed and boosted", "each head in one list at most"
            )

    @classmethod
    def neutral(cls) -> Self:
        """Return factors of 1."""
        return cls(low=1.0, high=1.0)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse empty lists, and heads that the model does not have."""
        if not self.suppressed and not self.boosted and (self.low, self.high) != (1, 1):
            raise VlmHeadsError(
                f"{self.name} without heads",
                "suppressed or boosted, lists of (layer, head) measured on this model",
                "such as allpath:suppressed=[[16,29]]",
            )
        geometry.check_heads(self.suppressed, f"{self.name}: suppressed")
        geometry.check_heads(self.boosted, f"{self.name}: boosted")

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        """Scale the listed heads of a layer."""
        gains: dict[int, Tensor | None] = request.scratch(self).setdefault("gains", {})
        if layer not in gains:
            gains[layer] = self._gains(request, layer, heads)
        factor = gains[layer]
        return heads if factor is None else heads * factor

    def _gains(self, request: Request, layer: int, heads: Tensor) -> Tensor | None:
        """Return the factors [B, 1, H, 1] of a layer; None where all are 1."""
        off = [head for index, head in self.suppressed if index == layer]
        up = [head for index, head in self.boosted if index == layer]
        if (not off or self.low == 1) and (not up or self.high == 1):
            return None
        gains = torch.ones_like(heads[0, 0, :, 0])
        gains[off], gains[up] = self.low, self.high
        if self.normalise and bool(gains.any()):
            gains = gains / gains.mean()
        return torch.where(request.has_image.to(heads.device)[:, None], gains, 1)[:, None, :, None]
