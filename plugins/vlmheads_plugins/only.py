"""ONLY: hold the next token against what a few heads of the first layer say of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._contrast import plausible, settle
from vlmheads_plugins._mix import mixed
from vlmheads_plugins._spread import mean_and_deviation

_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_RESIDUAL = 0.2  # Share of the residual stream in the second pass through the last layer.
_TINY = 1e-12


@dataclass(frozen=True)
class ONLY(Plugin):
    """Mix in, or contrast with, the logits of one layer's heads for text.

        l' = l + β l* where d < γ,  (1 + α) l − α l* elsewhere

    At layer `layer`, in the row A that predicts the next token, on a copy:

    1. weights on text, the first token left out, that are above their mean plus a standard
       deviation are 0, and likewise those on the image; nothing is renormalised;
    2. ρ_h = entropy of what is left on text / entropy of what is left on the image, each divided by
       its sum; heads with ρ_h below the mean of the layer are left out;
    3. o* = W_O of the heads. In the last layer, x = 0.2 · residual entering it + norm_1(o*), then
       x ← x + MLP(norm_2(x)), and the last norm and the vocabulary head give l*.

    d = Σ |softmax l − softmax l*| is how far the two differ: close ones work together, others are
    contrasted. Tokens less likely than `cutoff` times the likeliest are left out.

    Source: one-layer intervention, ICCV 2025, arXiv 2507.00898, and zifuwan/ONLY: layer 0, β = 3, α
    = 1, cut-off 0.1, γ = 0.25 for captions and 0.2 for POPE in its scripts (0.6 and 0.1 are
    defaults of the arguments), sampling.

    Deviations: the release sums d over the batch, here each row has its own.

    Pitfalls: decoder layers with other parts than two norms, attention and an MLP are refused.

    Cost: the attention row of one layer, one output projection, one MLP and one vocabulary head a
    token; the authors say 1.07 times the time.

    Evidence: a table of LocoRE's authors, beams: CHAIR 49.8/14.3 at recall 75.9 against 51.0/15.2
    at 75.2, POPE F1 85.5. The authors score captions of 128 sampled tokens. Nobody else's run known
    to us.
    """

    name: ClassVar[str] = "only"
    paper: ClassVar[str] = "ICCV 2025, arXiv 2507.00898"
    cost: ClassVar[str] = "one MLP, output projection and vocabulary head per token"
    search: ClassVar = (
        {},
        {"collaborate": 1.0},
        {"collaborate": 0.0, "contrast": 0.5},
        {"gamma": 0.0},
    )

    layer: int = option(0, "layer whose heads are read", low=0)
    gamma: float = option(0.25, "distance up to which logits are added", low=0.0, high=2.0)
    collaborate: float = option(3.0, "strength of the sum", low=0.0, high=100.0)
    contrast: float = option(1.0, "strength of the contrast", low=0.0, high=100.0)
    cutoff: float = option(
        0.1, "least probability of a token as a share of the largest", low=0.0, high=1.0
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return neither sum nor contrast, and no cut-off."""
        return cls(collaborate=0.0, contrast=0.0, cutoff=0.0)

    @property
    def _reads(self) -> bool:
        return bool(self.collaborate or self.contrast)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse a layer without heads."""
        geometry.check_layers((self.layer,), f"{self.name}: layer={self.layer}", attention=True)

    def on_prompt(self, request: Request) -> None:
        """Refuse decoder layers that the second pass would not follow."""
        last = request.anatomy.layers[-1]
        parts = {name for name, _ in last.named_children()}
        if self._reads and (parts != _PARTS or hasattr(last, "residual_multiplier")):
            raise VlmHeadsError(
                f"{self.name}: a layer of {request.geometry.model_type} made of "
                f"{', '.join(sorted(parts))}",
                f"{', '.join(sorted(_PARTS))}, as LLaMA and Qwen2 have them",
                "use a contrast such as vcd",
            )

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Keep what the heads for text give, in the rows that predict a token."""
        if not self._reads or layer != self.layer:
            return rows
        new = slice(-request.predicting, None)
        weights = at_least_float32(rows.part(new))
        seen = rows.compute(new) > -torch.inf
        prompt = request.prompt.mask.to(weights.device)
        first = prompt & (prompt.cumsum(dim=1) == 1)
        image = rows.image_keys[:, None, None] & seen
        beginning = request.prompt_keys(first, weights.shape[-1])[:, None, None]
        text = seen & ~rows.image_keys[:, None, None] & ~beginning
        left = weights.masked_fill(_outstanding(weights, text) | _outstanding(weights, image), 0)
        ratio = _entropy(left * text) / _entropy(left * image).clamp(min=_TINY)
        chosen = ratio >= ratio.mean(dim=1, keepdim=True)  # [B, H, q]
        heads = mixed(left * chosen[..., None], rows.values)
        # A module's forward runs no hooks, neither ours nor those of other plugins.
        projection: Any = request.anatomy.projections[layer]
        request.scratch(self)["output"] = projection.forward(heads.flatten(2))
        return rows

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Take it through the last layer."""
        if not self._reads or site != "residual" or layer != request.geometry.layers - 1:
            return hidden
        last: Any = request.anatomy.layers[layer]
        scratch = request.scratch(self)
        entering = request.entering[:, -request.predicting :]
        output = scratch["output"].to(entering)
        state = _RESIDUAL * entering + last.input_layernorm.forward(output)
        inner = last.post_attention_layernorm.forward(state)
        scratch["state"] = state + last.mlp.forward(inner)
        return hidden

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Add the logits where the two agree, and contrast them elsewhere."""
        if not self._reads and not self.cutoff:
            return logits
        edited = plain = at_least_float32(logits)
        if self._reads:
            state: Tensor = request.scratch(self)["state"][:, request.column]
            other = at_least_float32(request.anatomy.unembed(state, norm=True)).to(plain.device)
            distance = (plain.softmax(dim=-1) - other.softmax(dim=-1)).abs().sum(dim=-1)
            together = plain + self.collaborate * other
            apart = (1 + self.contrast) * plain - self.contrast * other
            edited = torch.where((distance < self.gamma)[:, None], together, apart)
        return settle(request, edited, logits, plausible(plain, self.cutoff))


def _outstanding(weights: Tensor, place: Tensor) -> Tensor:
    """Mark weights [B, H, q, K] at a place above its mean plus a standard deviation."""
    mean, deviation = mean_and_deviation(weights, place)
    return place & (weights > mean + deviation)


def _entropy(weights: Tensor) -> Tensor:
    """Return the entropy [B, H, q] of weights [B, H, q, K] divided by their sum, in nats."""
    share = weights / weights.sum(dim=-1, keepdim=True).clamp(min=_TINY)
    entropy: Tensor = torch.special.entr(share).sum(dim=-1)
    return entropy
