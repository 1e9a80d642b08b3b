"""Vision-aware head reinforcement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.detect.divergence import Form, filter_negative_heads, head_divergence
from vlmheads.gains.folds import Fold
from vlmheads.headmap import HeadMap
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.request import Request
from vlmheads_plugins._maps import FOR_THE_IMAGE


@dataclass(frozen=True)
class VHR(Plugin):
    """Scale the outputs of the heads that the image changes most.

    For each chosen layer the head outputs at the last prompt position are compared with those of a
    pass over the same prompt without its images (Eq. 4):

        VHD = ‖with image − without‖₂

    Outliers that are loud without an image are set to 0 (Eq. 6). Heads above the median of their
    layer are multiplied by `alpha` at every position (Eq. 7), from the prefill on and with the same
    heads throughout. Layers are taken in order, so that a layer is measured with the earlier ones
    already reinforced. Of H heads at most H // 2 are chosen; the median of an even number is the
    lower of the middle two.

    Source: He et al., ACL 2025, arXiv 2412.13949v3.

    Deviations: none in `filter="paper"`; the released code's filter, known from a port, is
    `filter="release"` (squared distances, and only in layers whose standard deviation is above 1).
    Tokens that frame an image, such as Qwen2-VL's vision_start, stay in the pass without images;
    the paper does not cover them.

    Cost: one pass over the prompt without its images, then one multiplication per layer and token.

    Evidence: CHAIR_S 49.7 to 33.3 on LLaVA-1.5-7B in the paper, 34.5 in a third party's run; recall
    was not reported. A third party found no gain on Qwen2.5-VL-3B. On both test benches it does
    harm at its default, and random heads do as much or less of it (docs/effect.md).
    """

    name: ClassVar[str] = "vhr"
    paper: ClassVar[str] = "He et al., ACL 2025, arXiv 2412.13949"
    cost: ClassVar[str] = "one text-only prefill"
    search: ClassVar = ({"alpha": 1.25}, {"alpha": 1.5}, {"alpha": 2.0})

    alpha: float = option(2.0, "factor on the outputs of the chosen heads", low=0.0, high=10.0)
    layers: tuple[int, ...] | None = option(
        None,
        "layers to act on; by default the second and the last 14 of 32, scaled to the depth",
        kind="layers",
    )
    filter: bool | str = option(
        True, 'leave out negative heads; true is "paper"', choices=(True, False, "paper", "release")
    )
    head_map: HeadMap | str | None = option(
        None,
        "choose heads by this map, or file of one, and do not measure",
        kind="head_map",
        measures=FOR_THE_IMAGE,
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return a reinforcement by 1."""
        return cls(alpha=1.0)

    def idle_options(self) -> dict[str, str]:
        """Filter what is measured, not a map."""
        return {} if self.head_map is None or self.filter == "paper" else {"filter": "no head_map"}

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on: those given, or the paper's scaled to the model's depth."""
        if self.layers is not None:
            return self.layers
        last = max(1, round(geometry.layers * 14 / 32))
        second = {1} if geometry.layers > 1 else set()
        return tuple(sorted(second | set(range(geometry.layers - last, geometry.layers))))

    def fold(self, geometry: Geometry) -> Fold | None:
        """Return `alpha` on the heads that a map singles out; without one they are measured."""
        if not isinstance(self.head_map, HeadMap):
            return None
        layers = list(self.chosen_layers(geometry))
        gains = torch.ones(geometry.layers, geometry.heads)
        gains[layers] = self._gain(_above_median(self.head_map.mean())[layers])
        return Fold(gains)

    def on_prompt(self, request: Request) -> None:
        """Measure the head outputs without the images, or read the choice off the map."""
        scratch = request.scratch(self)
        layers = self.chosen_layers(request.geometry)
        if isinstance(self.head_map, HeadMap):
            divergence = self.head_map.mean().to(request.has_image.device)
            chosen = _above_median(divergence) & request.has_image[:, None, None]
            scratch["gains"] = {layer: self._gain(chosen[:, layer]) for layer in layers}
        else:
            scratch["reference"] = request.text_only_forward(heads=layers).heads
            scratch["gains"] = {}

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        """Choose heads when the layer is first seen, and scale them."""
        scratch = request.scratch(self)
        gains: dict[int, Tensor] = scratch["gains"]
        if layer not in gains:
            reference = scratch.get("reference", {}).pop(layer, None)
            if reference is None:
                return heads
            chosen = _above_median(self._divergence(heads[:, request.last], reference))
            gains[layer] = self._gain(chosen & request.has_image[:, None])
        return heads * gains[layer].to(heads)[:, None, :, None]

    def _divergence(self, current: Tensor, reference: Tensor) -> Tensor:
        """VHD of each head [B, H], without the outliers where they are to be left out."""
        if self.filter is False:
            return head_divergence(current, reference)
        form: Form = "release" if self.filter == "release" else "paper"
        return filter_negative_heads(current, reference, form)

    def _gain(self, chosen: Tensor) -> Tensor:
        """Factor of each head [B, H]."""
        return torch.where(chosen, self.alpha, 1.0)


def _above_median(divergence: Tensor) -> Tensor:
    """Mark heads whose divergence is above the (lower) median of their layer; [..., H]."""
    return divergence > divergence.median(dim=-1, keepdim=True).values
