"""AllPath: heads that cause hallucinations off, heads that work against them up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.gains.folds import Fold
from vlmheads.headmap import HeadMap
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.request import Request
from vlmheads_plugins._maps import RANKED, ranked_heads, scaled_count

Heads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class AllPath(Plugin):
    """Multiply the contributions of listed heads by 0 or by 2.

        c_h ← low · c_h for suppressed heads,  c_h ← high · c_h for boosted ones

    A head's contribution c_h to the residual stream is its output times its columns of the output
    projection, at every position. With `normalise`, an option of the release, the factors of a
    layer are divided by their mean.

    Source: AllPath, NeurIPS 2025, and SooLab/AllPath (MIT), which lists all heads of LLaVA-1.5-7B
    and Qwen-VL-Chat by two scores. Text path: how much adding the head's contribution to the state
    that enters its layer raises the log-probability of an object word, read by the vocabulary head
    without the last norm; the mean over grounded words less that over hallucinated ones. Image
    path: at the first mention of an object, the head's attention on the patches of its segmentation
    mask, less that on the whole image where the object is not there. For CHAIR the lowest 40 of the
    text path are suppressed, its highest 40 and the highest 50 of the image path boosted (preset
    allpath-llava15); for POPE 20, 20 and 10 (allpath-llava15-pope).

    Needs: lists of heads of your model, or a map of them: `allpath:head_map=heads.safetensors`.
    `text_paths` and `image_paths` of `vlmheads.detect` measure the scores on another model; the
    second needs segmentation masks, and lists heads to boost alone, by default 50 of 1,024, so that
    both paths take two of these plugins. A head in both lists is left alone there and refused here;
    in two plugins it is suppressed.

    Deviations: `head_map` takes other measures too, and then lists as many heads at either end. A
    bias of the output projection, where a model has one, is no head's and stays; the release drops
    it.

    Cost: a multiplication per listed layer and token.

    Evidence: CHAIR 26.6/7.2 in the paper, recall not reported; no independent run known to us.
    """

    name: ClassVar[str] = "allpath"
    paper: ClassVar[str] = "AllPath, NeurIPS 2025"
    cost: ClassVar[str] = "no extra pass"
    search: ClassVar = ({"low": 0.5, "high": 1.5}, {"low": 0.0, "high": 2.0})

    suppressed: tuple[tuple[int, int], ...] = option(
        (), "heads (layer, head) to suppress", kind="heads"
    )
    boosted: tuple[tuple[int, int], ...] = option((), "heads (layer, head) to boost", kind="heads")
    low: float = option(0.0, "factor on suppressed heads", low=0.0, high=1.0)
    high: float = option(2.0, "factor on boosted heads", low=1.0, high=10.0)
    normalise: bool = option(False, "divide the factors of a listed layer by their mean")
    head_map: HeadMap | str | None = option(
        None,
        "suppress the heads that work least for the image by this map, boost those that work most",
        kind="head_map",
        measures=RANKED,
    )
    count: int | None = option(
        None, "heads of each list by the map; by default 40 of 1,024", low=1, high=100_000
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_map is not None and (self.suppressed or self.boosted):
            raise VlmHeadsError(f"{self.name}: lists of heads and head_map", "one of the two")
        if both := sorted(set(self.suppressed) & set(self.boosted)):
            raise VlmHeadsError(
                f"{self.name}: {both} suppressed and boosted", "each head in one list at most"
            )

    def idle_options(self) -> dict[str, str]:
        """Each factor needs heads to act on; factors of 1 are those of neutral()."""
        if isinstance(self.head_map, HeadMap):
            only = self.head_map.measure == "image-path"
            return (
                {"low": "a map of another measure, by which heads are suppressed"} if only else {}
            )
        idle = {"count": "head_map"}
        if not self.suppressed and self.low != 1:
            idle["low"] = "suppressed heads"
        if not self.boosted and self.high != 1:
            idle["high"] = "boosted heads"
        return idle

    @classmethod
    def neutral(cls) -> Self:
        """Return factors of 1."""
        return cls(low=1.0, high=1.0)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse empty lists, and more heads than the model has."""
        given = self.head_map is not None or self.suppressed or self.boosted
        if not given and (self.low, self.high) != (1, 1):
            raise VlmHeadsError(
                f"{self.name} without heads",
                "suppressed or boosted, lists of (layer, head) measured on this model",
                "the preset allpath-llava15 for LLaVA-1.5-7B, or a head_map to list them",
            )
        self.listed(geometry)

    def listed(self, geometry: Geometry) -> tuple[Heads, Heads]:
        """Return the suppressed and the boosted heads."""
        if not isinstance(self.head_map, HeadMap):
            return self.suppressed, self.boosted
        boosting = self.head_map.measure == "image-path"
        count = scaled_count(self.name, self.count, 50 if boosting else 40, geometry)
        ranked = ranked_heads(self.head_map)
        if 2 * count > len(ranked):
            raise VlmHeadsError(
                f"{self.name}: count={count} of {len(ranked)} heads",
                f"at most {len(ranked) // 2}, so that no head is in both lists",
            )
        return () if boosting else tuple(ranked[:count]), tuple(ranked[-count:])

    def fold(self, geometry: Geometry) -> Fold | None:
        """Return the factors of the listed heads."""
        heads, layers = geometry.heads, range(geometry.layers)
        return Fold(torch.tensor([self._factors(geometry, layer, heads) for layer in layers]))

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        """Scale the listed heads of a layer."""
        gains: dict[int, Tensor | None] = request.scratch(self).setdefault("gains", {})
        if layer not in gains:
            gains[layer] = self._gains(request, layer, heads)
        factor = gains[layer]
        return heads if factor is None else heads * factor

    def _gains(self, request: Request, layer: int, heads: Tensor) -> Tensor | None:
        """Return the factors [B, 1, H, 1] of a layer; None where all are 1."""
        factors = self._factors(request.geometry, layer, heads.shape[2])
        if all(factor == 1 for factor in factors):
            return None
        rows = request.has_image.to(heads.device)[:, None]
        return torch.where(rows, heads.new_tensor(factors), 1)[:, None, :, None]

    def _factors(self, geometry: Geometry, layer: int, heads: int) -> list[float]:
        """Return the factor of each of the heads of a layer, as numbers that a graph can hold."""
        suppressed, boosted = self.listed(geometry)
        gains = [1.0] * heads
        for listed, factor in ((suppressed, self.low), (boosted, self.high)):
            for index, head in listed:
                if index == layer:
                    gains[head] = factor
        mean = sum(gains) / heads
        if self.normalise and mean and any(gain != 1 for gain in gains):
            gains = [gain / mean for gain in gains]
        return gains
