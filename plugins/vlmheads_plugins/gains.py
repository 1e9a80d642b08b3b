"""Gains: a saved factor for every head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.detect.attribution import gains_of
from vlmheads.errors import VlmHeadsError
from vlmheads.gains.folds import Fold
from vlmheads.headmap import GAIN, HeadMap
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.request import Request


def _as_factors(head_map: HeadMap) -> HeadMap:
    """Turn a map of "attribution" into one of factors."""
    return gains_of(head_map) if head_map.measure == "attribution" else head_map


@dataclass(frozen=True)
class Gains(Plugin):
    """Multiply the output of every head by a factor that was chosen beforehand.

        o_{l,h} ← (1 + strength · (g_{l,h} − 1)) · o_{l,h}

    at every position, prompt included, in rows that hold an image. g is the mean over the images of
    a HeadMap whose measure is "gain"; one of "attribution" is turned into factors first, g = 1 ∓
    0.3 · score / max |score|, less than 1 where a head works for hallucinated words.

    Needs: a map of your model, such as `vlmheads calibrate` writes:
    `gains:head_map=gains.safetensors`.

    Source: the common form of methods that calibrate heads offline.

    Deviations: none to speak of, since the factors are the user's.

    Cost: one multiplication per layer and token; layers whose factors are all 1 are left alone.

    Evidence: none of its own; it depends on the map.
    """

    name: ClassVar[str] = "gains"
    paper: ClassVar[str] = "head calibration in general"
    cost: ClassVar[str] = "no extra pass"
    search: ClassVar = ({"strength": 0.5}, {"strength": 1.0}, {"strength": 1.5})

    head_map: HeadMap | str | None = option(
        None,
        'map of factors ("gain") or of "attribution", or file of one',
        kind="head_map",
        measures=(GAIN, "attribution"),
        convert=_as_factors,
    )
    strength: float = option(1.0, "share of the way from 1 to the factor", low=0.0, high=10.0)

    @classmethod
    def neutral(cls) -> Self:
        """Return gains that are not followed at all."""
        return cls(strength=0.0)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse a missing map."""
        if self.head_map is None and self.strength:
            raise VlmHeadsError(
                f"{self.name} without a head map",
                "head_map, a HeadMap or the path of a saved one",
                "such as gains:head_map=gains.safetensors",
            )

    def fold(self, geometry: Geometry) -> Fold | None:
        """Return the factors themselves."""
        if not isinstance(self.head_map, HeadMap):
            return None
        return Fold(1 + self.strength * (self.head_map.mean() - 1))

    def on_prompt(self, request: Request) -> None:
        """Lay out the factor of each row and head, for the layers that have one."""
        if not isinstance(self.head_map, HeadMap) or not self.strength:
            return
        gains = 1 + self.strength * (self.head_map.mean().to(request.has_image.device) - 1)
        rows = torch.where(request.has_image[:, None, None], gains, 1.0)
        for layer in (gains != 1).any(dim=1).nonzero().flatten().tolist():
            request.scratch(self)[f"{layer}"] = rows[:, layer, None, :, None]

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        """Scale the heads of a layer."""
        scratch = request.scratch(self)
        gains: Tensor | None = scratch.get(f"{layer}")
        if gains is None:
            return heads
        seen = (gains.dtype, gains.device, gains.shape[2])
        if seen != (heads.dtype, heads.device, heads.shape[2]):
            gains = scratch[f"{layer}"] = gains[:, :, : heads.shape[2]].to(heads)
        return heads * gains
