"""Visual attention redistribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.detect.sinks import known_dimensions, massive_dimensions, sink_strength
from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request

# The first layers, whose hidden states have no massive activations yet.
_EARLY = 2


@dataclass(frozen=True)
class VAR(Plugin):
    """Move attention from sink tokens to the rest of the image, in image-centric heads.

    A token is a sink of a layer where the hidden state x that enters it has

        φ(x) = max over the sink dimensions d of |x_d| / RMS(x) ≥ τ

    which is looked at in the prefill and kept. For each text row after the image and each generated
    token, a head is image-centric where its attention on the image is at least `minimum`, and at
    least the share ρ of that is on image tokens that are no sinks. There all sinks, text and image,
    give up the share p of their weights, and image tokens that are no sinks receive it in
    proportion to their weights. Rows keep their sum. A layer in which no image token is a sink
    stays as it is.

    Needs: sink dimensions are those that the authors give for LLaMA-2 and Qwen2-VL, and those
    measured here for SmolLM2 (`vlmheads.detect.sinks.SINK_DIMENSIONS`). Of another decoder they are
    found: the dimensions of the prompt's first token whose |x_d| / RMS(x) reaches τ, in each layer
    and prompt.

    Pitfalls: width E bounds φ by √E; a decoder without massive activations has no sinks and is not
    changed.

    Source: Kang et al., ICLR 2025, arXiv 2503.03321.

    Deviations: `form="release"` follows the released code: φ > τ, the share of sinks compared with
    1 - ρ and 10⁻⁶ for every image token in its denominator, and the last layer edited too, which
    the paper leaves out. `rho` and `p` keep the paper's meaning there (the released code's are 1 -
    ρ and 1 - p). `p` is the complement of the released configuration's 0.6, `rho` the paper's for
    hallucination (0.8 in general, 0.9 for vision-centric tasks); the paper gives no number for
    `minimum`, the released code does. On Qwen3-VL the state is looked at before features of its
    encoder's layers are added to it.

    Cost: the text rows once more in each layer; in decoding one row.

    Evidence: no help against invented objects in others' hands: CHAIR_S 52.5 against 48.6 of plain
    greedy, and 60.0 against 54.6 under sampling; POPE unchanged or lower in an audit.
    """

    name: ClassVar[str] = "var"
    paper: ClassVar[str] = "Kang et al., ICLR 2025, arXiv 2503.03321"
    cost: ClassVar[str] = "one more attention row per layer and token"
    search: ClassVar = ({"tau": 20.0}, {"tau": 5.0}, {"tau": 2.0})

    rho: float = option(0.5, "least share of non-sinks in a head's image attention", low=0, high=1)
    p: float = option(0.4, "share of their attention that sinks give up", low=0, high=1)
    tau: float = option(20.0, "least φ of a sink token", low=0, high=1000)
    minimum: float = option(0.2, "least attention on the image of a head", low=0, high=1)
    dimensions: tuple[int, ...] | None = option(
        None,
        "sink dimensions of the hidden state; by default those on record, or found",
        kind="indices",
    )
    layers: tuple[int, ...] | None = option(
        None, "layers to act on; by default all but the first two and the last", kind="layers"
    )
    form: str = option(
        "paper", "follow the paper or the released code", choices=("paper", "release")
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return a redistribution of nothing."""
        return cls(p=0.0)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse the first layer, whose input is not seen."""
        chosen = self.chosen_layers(geometry)
        if not chosen or 0 in chosen:
            raise VlmHeadsError(
                f"{self.name}: layers {list(chosen)} of {geometry.layers}",
                "layers from 1 on, since sinks are found in the output of the layer before",
                "pass layers=[...]",
            )

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on."""
        if self.layers is not None:
            return self.layers
        return tuple(range(_EARLY, geometry.layers - (self.form == "paper")))

    def on_prompt(self, request: Request) -> None:
        """Refuse sink dimensions that the model's hidden states do not have."""
        width: int = request.anatomy.decoder.config.hidden_size  # type: ignore[union-attr, assignment]
        if self.dimensions is not None and self.dimensions[-1] >= width:
            raise VlmHeadsError(
                f"{self.name}: dimensions={list(self.dimensions)}",
                f"dimensions from 0 to {width - 1}",
                "choose dimensions that this model has",
            )

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Find the sinks of the next layer, in the prefill."""
        wanted = site == "residual" and request.is_prefill and self.p
        if wanted and layer + 1 in self.chosen_layers(request.geometry):
            # Tokens that prompt lookup drafted after the prompt are no part of it.
            prompt = hidden[:, : request.prompt_length]
            found = self._marks(request, self._sinks(request, prompt))
            if found is not None:
                request.scratch(self)[str(layer + 1)] = found
        return hidden

    def _sinks(self, request: Request, hidden: Tensor) -> Tensor:
        """Mark sink tokens [B, S], given the hidden states [B, S, E] that enter a layer."""
        mask = request.prompt.mask
        dimensions = self.dimensions or known_dimensions(request.anatomy.decoder.config)
        if dimensions is not None:
            return self._reaches(sink_strength(hidden, dimensions)) & mask
        strict = self.form == "release"
        massive = massive_dimensions(hidden, mask, self.tau, strict=strict)
        reached = self._reaches(sink_strength(hidden, massive))
        return reached & massive.any(dim=-1, keepdim=True) & mask

    def _reaches(self, phi: Tensor) -> Tensor:
        return phi > self.tau if self.form == "release" else phi >= self.tau

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Redistribute the attention of image-centric heads."""
        found: Tensor | None = request.scratch(self).get(str(layer))
        if found is None:
            return rows
        weights = rows.weights
        dropped = max(0, request.seen - weights.shape[-1])
        marks = found[:, None, dropped : dropped + weights.shape[-1]].to(weights)
        prompt = weights[..., : marks.shape[2]]
        # Attention on all of the image, its sinks, the rest of it, and all sinks.
        image, own, rest, sinks = torch.split(prompt @ marks, 1, dim=-1)
        if self.form == "release":
            tokens = marks[..., :1].sum(dim=2, keepdim=True)
            centric = own / (image + 1e-6 * tokens) <= 1 - self.rho
        else:
            centric = rest >= self.rho * image
        chosen = centric & (image >= self.minimum) & (rest > 0)
        received = self.p * sinks / torch.where(chosen, rest, 1.0)
        share = torch.cat([received, torch.full_like(received, -self.p)], dim=-1) * chosen
        change = prompt * (share @ marks[..., 2:].transpose(-1, -2))
        more = weights.shape[-1] - prompt.shape[-1]
        return rows.with_weights(weights + torch.nn.functional.pad(change, (0, more)))

    def _marks(self, request: Request, sinks: Tensor) -> Tensor | None:
        """Mark image tokens, those that are sinks, those that are not, and sinks: [B, S, 4].

        All are 0 in rows whose image holds no sink; where that is every row there are none.
        """
        image = request.image_mask
        seeing = (sinks & image).any(dim=1)
        if not bool(seeing.any()):
            return None
        marks = torch.stack([image, image & sinks, image & ~sinks, sinks], dim=-1)
        return (marks & seeing[:, None, None]).to(torch.float32)
