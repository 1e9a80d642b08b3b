"""SID: contrast with what the model says when it sees the image tokens it looks at least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import Stream
from vlmheads_plugins._beams import refuse_drafts
from vlmheads_plugins._contrast import contrast

LEAST = "least attended"
# What LLaVA-1.5 has, of which the published counts are a part.
_TOKENS = 576
_KEPT = 50


@dataclass(frozen=True)
class SID(Plugin):
    """Contrast with a stream that sees only the image tokens with the least attention.

        l' = (1 + α) l − α l_least

    where l_least comes of the same prompt, image and tokens, in a stream whose layers from l_0 + 1
    on see only the `kept` image tokens with the least attention: the mean over the heads of layer
    l_0, in the row that predicts the token. They are chosen anew for each token and hidden from all
    rows of that pass; what earlier passes put into the stream's cache stays. Tokens with a
    probability below `cutoff` times the largest are left out.

    Source: self-introspective decoding, ICLR 2025, arXiv 2408.02032, and huofushuo/SID: l_0 = 1; 50
    of 576 tokens are kept for captions and 100 for POPE; α = 0.5, since the option of its command
    line, 1, is not passed on; cut-off 0.1, which its greedy search leaves out: `cutoff=0` there.
    Written from the formulas, since the release has no licence.

    Deviations: beams are contrasted too; by default as large a share of an image's tokens is kept
    as 50 are of 576, at least one. Layers 0 to l_0 are the same in both streams, so that the main
    one's attention is read.

    Pitfalls: refused are generation without a cache, which would hide the newest token's choice
    from all earlier rows, and drafts of several tokens.

    Cost: a second stream of the same length in the same batch, and one attention row a token.

    Evidence: in tables of others, LLaVA-1.5-7B: 44.2/12.2 at recall 73.0 under beams (LocoRE's
    authors) against 51.0/15.2 at 75.2. On the embedded model it is not distinguishable from plain:
    CHAIR_S at equal recall +2.6 [-3.5, +7.5] on 200 test scenes (docs/methods.md). On the second
    bench it is better on counterfactual scenes, object F1 at equal recall +8.6 [+5.6, +10.3]
    points, and not distinguishable on 150 ordinary ones (docs/effect.md).
    """

    name: ClassVar[str] = "sid"
    paper: ClassVar[str] = "ICLR 2025, arXiv 2408.02032"
    cost: ClassVar[str] = "a stream with few image tokens in the same batch"
    search: ClassVar = ({"alpha": 0.25}, {"alpha": 0.5}, {"alpha": 1.0}, {"alpha": 2.0})

    alpha: float = option(0.5, "strength of the contrast; 0 is none", low=0.0, high=10.0)
    cutoff: float = option(
        0.1, "least probability of a token as a share of the largest", low=0.0, high=1.0
    )
    kept: int | None = option(
        None,
        "image tokens that the stream sees; by default 50 of 576, scaled to each image",
        kind="int",
        low=1,
        high=10**6,
    )
    layer: int | None = option(
        None,
        "layer whose attention chooses; by default the second",
        kind="int",
        low=0,
        high=1000,
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return no contrast and no cut-off."""
        return cls(alpha=0.0, cutoff=0.0)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The same prompt with most of the image hidden, where there is a contrast."""
        return (Stream(LEAST, hide=self._hidden),) if self.alpha else ()

    def chosen_layer(self, geometry: Geometry) -> int:
        """Return the layer whose attention chooses."""
        layers = geometry.attention_layers
        return layers[min(1, len(layers) - 1)] if self.layer is None else self.layer

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse a layer without attention, and the last with it, after which nothing is hidden."""
        layer = self.chosen_layer(geometry)
        geometry.check_layers((layer,), f"{self.name}: layer={layer}", attention=True)
        if layer == geometry.attention_layers[-1]:
            raise VlmHeadsError(
                f"{self.name}: layer={layer}", "a layer with another with attention after it"
            )

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Choose the image tokens that the stream does not see."""
        if not self.alpha or layer != self.chosen_layer(request.geometry):
            return rows
        refuse_drafts(request, self.name)
        if not request.is_prefill and not request.cached:
            raise VlmHeadsError(
                f"{self.name}: a forward pass without a cache",
                "a generation with one, whose rows keep what they saw",
                "leave use_cache unset",
            )
        seen = at_least_float32(rows.part(slice(-1, None)))[:, :, 0].mean(dim=1)  # [B, K]
        dropped = max(0, request.seen - seen.shape[1])
        # A window that has dropped the oldest keys gives them nothing.
        given = F.pad(seen, (dropped, 0))[:, : request.prompt_length]
        visual = request.image_mask.to(given.device)
        order = given.masked_fill(~visual, torch.inf).argsort(dim=1, stable=True)
        rank = order.argsort(dim=1)
        request.scratch(self)["hidden"] = visual & (rank >= self._count(visual))
        return rows

    def _count(self, visual: Tensor) -> Tensor:
        """How many image tokens each row [B, 1] keeps, of marks [B, S]."""
        tokens = visual.sum(dim=1, keepdim=True)
        if self.kept is not None:
            return tokens.clamp(max=self.kept)
        return (tokens * _KEPT / _TOKENS).round().clamp(min=1)

    def _hidden(self, request: Request, layer: int, keys: int) -> Tensor | None:
        """Mark the keys [B, K] that the stream does not see."""
        if layer <= self.chosen_layer(request.geometry):
            return None
        hidden: Any = request.scratch(self)["hidden"]
        return request.prompt_keys(hidden, keys)

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Contrast the next token."""
        if not self.alpha and not self.cutoff:
            return logits
        return contrast(request, logits, LEAST, self.alpha, self.cutoff)
