"""ResDec: the logits of recent steps, mixed into those of the next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._beams import came_from, refuse_drafts, telling_layer
from vlmheads_plugins._contrast import plausible, settle
from vlmheads_plugins.dola import divergence

# Logits of tokens that a model leaves out itself, where a mean of logarithms is taken.
_LOWEST = -1e4


@dataclass(frozen=True)
class ResDec(Plugin):
    """Mix in the logits of recent steps, from the steadiest of them on.

        l' = (1 − α) l + α r,  r = Σ C_i l_i / Σ C_i

    With Ω the `pool` likeliest next tokens, l_i the logits of step i and P_i = softmax of l_i over
    Ω, for the `window` steps before this one:

    1. m is the step whose P_m has the least Jensen-Shannon divergence from P_(m−1): the bottom of
       the U that the paper sees in them;
    2. C_i = −mean over Ω of log P_i, and r = Σ C_i l_i / Σ C_i over i from m to the last;
    3. l' = (1 − α) l + α r, and tokens less likely than `cutoff` times the likeliest by l are left
       out.

    Source: residual decoding, CVPR 2026, arXiv 2602.01047, second-hand; no code was released. α =
    0.5, cut-off 0.1, Ω of 64 to 512 tokens.

    Our reading: experimental, in three places. The window is not known to us (8 here); nor whether
    P_i is normalised over Ω, as here, where a peaked step then counts more; nor how the U is cut
    but that its bottom and its right side are taken. l_i are the model's own logits, not mixed
    ones.

    Deviations: the first token has no steps before it and is only cut. Beams carry their own steps.
    Without a cache, and with drafts of several tokens, it is refused.

    Cost: logits of `window` steps in memory, and no pass.

    Evidence: the authors', second-hand: CHAIR 55.0/16.3 to 42.7/12.6 under sampling, Qwen2.5-VL
    30.6/8.4 to 25.8/6.8, POPE accuracy 79.8 to 87.2; no recall known to us. Part of it is the
    cut-off, which makes sampling nearly greedy: compare with greedy search, and with `alpha=0`. On
    the embedded model it is not distinguishable from plain (docs/methods.md).
    """

    name: ClassVar[str] = "resdec"
    paper: ClassVar[str] = "CVPR 2026, arXiv 2602.01047"
    cost: ClassVar[str] = "no extra pass"
    search: ClassVar = ({"alpha": 0.25}, {"alpha": 0.5}, {"alpha": 0.5, "window": 32})

    alpha: float = option(0.5, "share of the recent logits", low=0.0, high=1.0)
    window: int = option(8, "steps to look back", low=1, high=1000)
    pool: int = option(64, "candidates that steps are compared by", low=2, high=100_000)
    cutoff: float = option(
        0.1, "least probability of a token as a share of the largest", low=0.0, high=1.0
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return no share of other steps and no cut-off."""
        return cls(alpha=0.0, cutoff=0.0)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse a model whose beams could not be told apart."""
        if self.alpha:
            telling_layer(geometry, self.name)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Find out which row goes on as which."""
        if self.alpha and layer == telling_layer(request.geometry, self.name):
            refuse_drafts(request, self.name)
            if not request.is_prefill and not request.cached:
                raise VlmHeadsError(
                    f"{self.name}: a generation without a cache",
                    "one with a cache, by which beams are told apart",
                    "leave use_cache unset",
                )
            scratch = request.scratch(self)
            scratch["order"] = came_from(request, scratch, rows.values)
        return rows

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Mix the logits of recent steps in."""
        if not self.alpha and not self.cutoff:
            return logits
        edited = plain = at_least_float32(logits)
        if self.alpha:
            scratch = request.scratch(self)
            past: Tensor | None = scratch.get("past")
            if past is not None:
                past = past[scratch["order"].to(past.device)]
                edited = (1 - self.alpha) * plain + self.alpha * self._residual(plain, past)
                edited = edited.masked_fill(plain == -torch.inf, -torch.inf)
            steps = plain[:, None] if past is None else torch.cat([past, plain[:, None]], dim=1)
            scratch["past"] = steps[:, -self.window :]
        return settle(request, edited, logits, plausible(plain, self.cutoff))

    def _residual(self, logits: Tensor, past: Tensor) -> Tensor:
        """Return r [B, V] for logits [B, V] and those of the steps before, [B, W, V]."""
        top = logits.topk(min(self.pool, logits.shape[1]), dim=1).indices
        own = past.gather(2, top[:, None].expand(-1, past.shape[1], -1))
        logs = own.clamp(min=_LOWEST).log_softmax(dim=-1)
        weights = -logs.mean(dim=-1)
        if past.shape[1] > 1:
            steadiest = 1 + divergence(logs[:, :-1], logs[:, 1:]).argmin(dim=1, keepdim=True)
            early = torch.arange(past.shape[1], device=logs.device) < steadiest
            weights = weights.masked_fill(early, 0)
        weights = weights / weights.sum(dim=1, keepdim=True)
        # A step that counts for nothing may hold minus infinity.
        kept = past.masked_fill((weights == 0)[..., None], 0)
        return (weights[..., None] * kept).sum(dim=1)
