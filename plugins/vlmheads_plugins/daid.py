"""DaID: hold the next token against the layer that looks at the image most, and one before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._contrast import plausible, settle
from vlmheads_plugins._exits import keep_output, kept_outputs


@dataclass(frozen=True)
class DaID(Plugin):
    """Add the logits of the layer that looks most at the image, less those of an earlier one.

    For each token, VAS(l) is the mean over the heads of layer l of the attention that the row which
    predicts it gives the image. The spotlight is the layer with the largest VAS, the shadow the one
    with the smallest among those before the spotlight; l_spotlight and l_shadow are the logits of
    their outputs. Then

        l' = (1 + β)(l + α l_spotlight) − β l_shadow,

    and tokens with a probability below `cutoff` times the largest are left out. Where the first
    layer is the spotlight there is no shadow, and l' = l + α l_spotlight.

    Source: dual-anchor introspective decoding, ACL 2026 findings, arXiv 2604.10071, second-hand, by
    a description; no code was released. α = 0.8, β = 0.2, cut-off 0.1, for POPE 0.9.

    Our reading: it does not say whether a layer's output is normed before the vocabulary head; here
    it is, by the decoder's last norm.

    Deviations: layers without attention heads are never chosen.

    Pitfalls: the weights of the logits add up to 1 + α (1 + β), which is nearly 2 at the defaults:
    under sampling the method is about as peaked as temperature 0.5, and is to be compared with
    that.

    Cost: an attention row per layer and token, and the vocabulary head for two more states.

    Evidence: second-hand from the authors' table: CHAIR 49.6/14.4 to 35.9/11.3, LLaVA-NeXT 32.8/9.1
    to 24.2/8.2, POPE accuracy and F1 81.4/82.2 to 85.1/85.9; no recall. Nobody else's run known to
    us. On the embedded model the default is not better on any scenes, and worse on 200 test scenes
    (docs/methods.md); with α = 0, the contrast alone, it is better on both kinds: object F1 at
    equal recall +2.2 points [+1.6, +2.9] and +3.9 [+2.9, +5.0] (docs/effect.md).
    """

    name: ClassVar[str] = "daid"
    paper: ClassVar[str] = "ACL 2026 findings, arXiv 2604.10071"
    cost: ClassVar[str] = "one more attention row per layer, and two vocabulary heads per token"
    search: ClassVar = ({"alpha": 0.4}, {"alpha": 0.8}, {"alpha": 0.8, "beta": 0.5}, {"alpha": 0.0})

    alpha: float = option(0.8, "how much of the spotlight's logits is added", low=0.0, high=10.0)
    beta: float = option(0.2, "how much of the shadow's logits is taken off", low=0.0, high=10.0)
    cutoff: float = option(
        0.1, "least probability of a token as a share of the largest", low=0.0, high=1.0
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return nothing added, nothing taken off and no cut-off."""
        return cls(alpha=0.0, beta=0.0, cutoff=0.0)

    @property
    def _reads(self) -> bool:
        return bool(self.alpha or self.beta)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Note how much the rows that predict a token look at the image."""
        if self._reads:
            weights = at_least_float32(rows.part(slice(-request.predicting, None)))
            seen = (weights * rows.image_keys[:, None, None]).sum(dim=-1).mean(dim=1)
            request.scratch(self).setdefault("seen", {})[layer] = seen
        return rows

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Remember the outputs of the layers."""
        layers = request.geometry.attention_layers
        if self._reads and site == "residual" and layer in layers:
            keep_output(request, self, layer, hidden)
        return hidden

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Add the spotlight's logits to the next token's, and take the shadow's off."""
        if not self._reads and not self.cutoff:
            return logits
        edited = plain = at_least_float32(logits)
        if self._reads:
            layers = request.geometry.attention_layers
            found: dict[int, Tensor] = request.scratch(self)["seen"]
            seen = [found[layer][:, request.column].to(plain.device) for layer in layers]
            spotlight, shadow = anchors(torch.stack(seen, dim=1))
            outputs = kept_outputs(request, self, layers).to(plain.device)
            chosen = torch.stack([spotlight, shadow], dim=1)[..., None]
            states = outputs.gather(1, chosen.expand(-1, -1, outputs.shape[-1]))
            early = at_least_float32(request.anatomy.unembed(states, norm=True)).to(plain.device)
            lifted = plain + self.alpha * early[:, 0]
            both = (1 + self.beta) * lifted - self.beta * early[:, 1]
            edited = torch.where((spotlight > 0)[:, None], both, lifted)
        return settle(request, edited, logits, plausible(plain, self.cutoff))


def anchors(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spotlight and the shadow [B] of attention on the image [B, layers], as places.

    Among equals the first is taken. The shadow of a spotlight in the first place means nothing.
    """
    spotlight = seen.argmax(dim=1)
    later = torch.arange(seen.shape[1], device=seen.device) >= spotlight[:, None]
    return spotlight, seen.masked_fill(later, torch.inf).argmin(dim=1)
