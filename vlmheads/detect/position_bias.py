"""Position bias: whether a model prefers the image that comes first, whatever it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmheads.detect.replay import layered, prefill
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.plugin import Plugin
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request

ORDER = "order-preference"


@dataclass(frozen=True)
class Swapped:
    """What a model names of two images, asked about them in both orders.

    Args:
        only: the objects that one image alone shows, of the first and of the second image.
        named: the objects of the answer with the images in this order, and with them swapped.
        first: which image, 0 or 1, the first object that only one shows belongs to, in both
            orders; None where no such object is named.
    """

    only: tuple[Set[str], Set[str]]
    named: tuple[Set[str], Set[str]]
    first: tuple[int | None, int | None]

    @property
    def at_first(self) -> float:
        """Share of an image's own objects that are named where it comes first, mean of both."""
        return self._named_at(0)

    @property
    def at_second(self) -> float:
        """The same where it comes second."""
        return self._named_at(1)

    @property
    def follows_order(self) -> bool | None:
        """Whether both answers begin with the same place; None where one begins with neither.

        If not, they begin with the same image.
        """
        if None in self.first:
            return None
        return self.first[0] != self.first[1]

    def _named_at(self, place: int) -> float:
        # In the given order image 0 is at place 0, in the other at place 1.
        shares = [
            len(self.only[image] & self.named[abs(image - place)]) / len(self.only[image])
            for image in (0, 1)
            if self.only[image]
        ]
        return sum(shares) / len(shares) if shares else float("nan")


@torch.no_grad()
def order_preference(
    model: Any,
    orders: Sequence[tuple[Mapping[str, Any], Tensor]],
    *,
    provenance: Mapping[str, Any] | None = None,
) -> HeadMap:
    """Measure how much more each head attends to the image that comes first.

    With f and s the attention of the text rows after the images on the tokens of the first and of
    the second image, a head's value is the mean of f / (f + s) over both orders of the images, less
    ½: what the images show and how large they are stands on both sides. Above 0 the head prefers
    the first place.

    Source: the position bias that PINE removes, "Eliminating Position Bias of Language Models",
    arXiv 2407.01100, which is on documents and known to us from its description; the measure is
    ours.

    Args:
        model: a transformers model for image-text-to-text generation; plugins that are attached
            to it act.
        orders: for both orders of the same pairs, what a processor made of N prompts of two images
            each, and [N] how many image tokens the first image of each has.
        provenance: plain values to keep with the map, such as the model id and the prompt.

    Returns:
        A map of [N, layers, heads], "order-preference".

    Raises:
        VlmHeadsError: not two orders, or a prompt with no image token behind those of the first.
    """
    if len(orders) != 2:
        raise VlmHeadsError(f"{len(orders)} orders of two images", "both")
    shares = []
    for inputs, first in orders:
        probe = _Probe(first)
        geometry = prefill(model, inputs, probe).geometry
        shares.append(layered(probe.found, geometry))
    mean = (shares[0] + shares[1]) / 2 - 0.5
    return HeadMap(mean, geometry, ORDER, dict(provenance or {}))


@dataclass(frozen=True, eq=False)
class _Probe(Plugin):
    """Sum the attention on the first image and on the rest."""

    name: ClassVar[str] = "order-preference"

    first: Tensor = field(default_factory=lambda: torch.zeros(0))
    found: list[tuple[int, Tensor]] = field(default_factory=list)

    def on_prompt(self, request: Request) -> None:
        visual = request.image_mask
        first = self.first.to(visual.device)
        if len(first) != len(visual) or not bool((first < visual.sum(dim=1)).all()):
            raise VlmHeadsError(
                f"first images of {self.first.tolist()} tokens, of {visual.sum(dim=1).tolist()}",
                "two images in each prompt",
            )
        number = visual.cumsum(dim=1)
        request.scratch(self)["first"] = visual & (number <= first[:, None])

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        first = request.prompt_keys(request.scratch(self)["first"], rows.image_keys.shape[1])
        marks = torch.stack([first, rows.image_keys], dim=-1)[:, None]
        total = torch.zeros((), device=first.device)
        for _, weights in rows.stream():
            total = total + (weights @ marks.to(weights.dtype)).sum(dim=2)  # [N, H, 2]
        share = total[..., 0] / total[..., 1].clamp(min=torch.finfo(total.dtype).tiny)
        self.found.append((layer, share.cpu()))
        return rows
