"""MemVR: look at the image once more, in an MLP, where a middle layer is unsure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.request import Request
from vlmheads_plugins._exits import normed

# How many of the likeliest tokens the uncertainty of a layer is measured on.
_TOKENS = 10


@dataclass(frozen=True)
class MemVR(Plugin):
    """Show the image tokens to an MLP once more where the model is unsure.

    After each layer from `first` to `stop` − 1 the next token is read off it, through the last norm
    and the vocabulary head. u is the entropy of the ten likeliest tokens among themselves, divided
    by log 10. Where u first exceeds `threshold`, the image tokens Z [N, E], as they entered the
    first layer, act as keys and values in the MLP of the next layer, once in that pass:

        out = (1 − ratio) · MLP(x) + ratio · (mean|MLP(x)| / mean|x Zᵀ Z|) · x Zᵀ Z

    Over the prompt it is the uncertainty of its last position that counts, all positions are
    changed and the means run over all of them; later tokens each decide for themselves.

    Source: memory-space visual retracing, Zou et al., ICML 2025, arXiv 2410.03577, in the form of
    1zhou-Wang/MemVR, memvr.py: layers 6 to 15 of 32 (its strict bounds 5 and 16), threshold 0.75,
    ratio 0.12 as for MME and MM-Vet (0.31 in its CHAIR script for LLaVA: preset memvr-llava15).

    Deviations: the release scales Z by the mean size of the MLP's weights, which the normalisation
    above takes out again; it decodes one prompt, here each row decides for itself and padding
    counts in no mean.

    Cost: up to ten calls of the vocabulary head per token until a layer is unsure.

    Evidence: the README reports CHAIR 46.6/13.0 at recall 80.8 where its greedy search has
    47 to 49; POPE, MMBench and HallusionBench were not reproduced by users.
    """

    name: ClassVar[str] = "memvr"
    paper: ClassVar[str] = "Zou et al., ICML 2025, arXiv 2410.03577"
    cost: ClassVar[str] = "up to ten vocabulary heads per token"
    search: ClassVar = ({"threshold": 0.75}, {"threshold": 0.5}, {"threshold": 0.25})

    ratio: float = option(0.12, "share of the image in the MLP; 0 is none", low=0.0, high=1.0)
    threshold: float = option(0.75, "least uncertainty that calls for the image", low=0.0, high=1.0)
    first: int | None = option(
        None, "first layer that is asked; by default 6 of 32, scaled", kind="int", low=0, high=1000
    )
    stop: int | None = option(
        None,
        "the layer after the last that is asked; by default 16 of 32",
        kind="int",
        low=1,
        high=1000,
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return no share of the image."""
        return cls(ratio=0.0)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse layers that the model does not have, or that no layer follows."""
        asked = self.asked_layers(geometry)
        if self.ratio and (not asked or asked[0] < 0 or asked[-1] + 1 >= geometry.layers):
            raise VlmHeadsError(
                f"{self.name}: asks layers {list(asked)} of {geometry.layers}",
                f"layers from 0 to {geometry.layers - 2}, at least one",
                "set first and stop",
            )

    def asked_layers(self, geometry: Geometry) -> range:
        """Return the layers whose uncertainty is measured."""
        scaled = geometry.scaled(6, 16, attention=False)
        first = scaled[0] if self.first is None else self.first
        return range(first, scaled[-1] + 1 if self.stop is None else self.stop)

    def on_prompt(self, request: Request) -> None:
        """Refuse a model whose MLPs are not known."""
        if self.ratio and None in request.anatomy.mlps:
            raise VlmHeadsError(
                f"{self.name}: {request.geometry.model_type} has layers without a known MLP",
                "layers with an attribute mlp",
            )

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Measure the uncertainty after a layer, and mix the image into the MLP of the next."""
        if not self.ratio or site == "attention":
            return hidden
        scratch = request.scratch(self)
        if site == "mlp":
            unsure = scratch.pop("unsure", None)
            return (
                hidden
                if unsure is None
                else self._retrace(request, hidden, unsure.to(hidden.device))
            )
        if layer == 0:
            scratch["done"] = None
            if request.is_prefill:
                scratch["image"] = _image(request)
        if layer in self.asked_layers(request.geometry):
            new = min(hidden.shape[1], request.seen - request.prompt_length + 1)
            unsure = self._uncertainty(request, hidden[:, -new:]) > self.threshold
            unsure = unsure & request.has_image.to(unsure.device)[:, None]
            done = None if scratch["done"] is None else scratch["done"].to(unsure.device)
            scratch["unsure"] = unsure if done is None else unsure & ~done
            scratch["done"] = unsure if done is None else unsure | done
        return hidden

    def _uncertainty(self, request: Request, hidden: Tensor) -> Tensor:
        """Entropy [B, n] of the likeliest tokens of hidden states [B, n, E], from 0 to 1."""
        logits = at_least_float32(request.anatomy.unembed(normed(request, hidden), norm=False))
        log = logits.topk(_TOKENS, dim=-1).values.log_softmax(dim=-1)
        return -(log.exp() * log).sum(dim=-1) / math.log(_TOKENS)

    def _retrace(self, request: Request, output: Tensor, unsure: Tensor) -> Tensor:
        """Mix the image into the output of an MLP [B, S, E] where `unsure` [B, n] says so."""
        image: Tensor = request.scratch(self)["image"].to(output.device)
        given = at_least_float32(request.entering)
        retraced = given @ image.transpose(1, 2) @ image
        plain = at_least_float32(output)
        earlier = output.shape[1] - unsure.shape[1]
        # Columns of the prompt share its last position's decision and one mean.
        unsure = torch.cat([unsure[:, :1].expand(-1, earlier), unsure], dim=1)
        sizes = [_size(request, part, earlier) for part in (plain, retraced)]
        mixed = (1 - self.ratio) * plain + self.ratio * sizes[0] / sizes[1] * retraced
        return torch.where(unsure[..., None], mixed.to(output.dtype), output)


def _image(request: Request) -> Tensor:
    """Return the image tokens [B, S, E] as they entered the first layer, 0 in other columns."""
    entering = at_least_float32(request.entering)
    visual = F.pad(request.prompt.visual, (0, entering.shape[1] - request.prompt_length))
    return entering * visual[..., None]


def _size(request: Request, values: Tensor, earlier: int) -> Tensor:
    """Mean absolute value [B, S, 1]: one for the prompt, and one for each later column.

    Args:
        request: the running generation.
        values: [B, S, E].
        earlier: columns in front of the first that predicts a new token.
    """
    each = values.abs().mean(dim=-1, keepdim=True)
    start = request.seen - values.shape[1]
    if start >= request.prompt_length:
        return each
    real = request.prompt.mask[:, start:, None].to(values.device)
    count = earlier + 1
    mean = (each[:, :count] * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)
    return torch.cat([mean.expand(-1, count, -1), each[:, count:]], dim=1)
