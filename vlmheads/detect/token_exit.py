"""Token exit: what a model still says where most image tokens leave after some layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request


@dataclass(frozen=True)
class TokenExit(Plugin):
    """Let image tokens leave after a layer: later layers do not see them.

    It measures and saves no time: the tokens are hidden, not removed. In later layers every row
    sees the image tokens that stay, and itself. By "drop" those stay that the last row of the
    prompt attends to most in `layer`, mean of its heads; by "merge" each run of 1 / share image
    tokens, in their order, is replaced by its mean state after `layer`, at the place of the first.

    Source: dropping all after a layer is DyVTE's exit, whose layer a trained gate chooses; ranking
    by attention is FastV's; "When Language Overrules", arXiv 2508.10552, compresses tokens to
    balance attention. Deviations: the layer is given; positions stay those of the whole prompt.
    """

    name: ClassVar[str] = "token-exit"

    layer: int = option(0, "the last layer that sees every image token", low=0, high=1000)
    share: float = option(0.0, "share of the image tokens that stays", low=0.0, high=1.0)
    form: str = option("drop", "leave tokens out, or merge them", choices=("drop", "merge"))

    @classmethod
    def neutral(cls) -> Self:
        """Return an exit that every token stays through."""
        return cls(share=1.0)

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse a layer that the model does not have."""
        geometry.check_layers((self.layer,), self.name, attention=True)

    @property
    def whole_map(self) -> bool:
        """Image rows do not see what left either."""
        return True

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Choose what stays in the layer of the exit, and hide the rest in later ones."""
        scratch = request.scratch(self)
        if self.share == 1 or layer < self.layer:
            return rows
        if layer == self.layer:
            if request.is_prefill:
                scratch["left"] = self._leaving(request, rows)
            return rows
        count, keys = rows.editable.shape[1], rows.image_keys.shape[1]
        left = request.prompt_keys(scratch["left"], keys)
        device = left.device
        column = torch.arange(request.seen - keys, request.seen, device=device)
        row = torch.arange(request.seen - count, request.seen, device=device)
        hidden = left[:, None] & (column != row[:, None])
        return rows.with_bias(torch.zeros_like(hidden, dtype=rows.scores.dtype).masked_fill(
            hidden, -torch.inf)[:, None])  # fmt: skip

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        """Put the mean of each run in the place of its first token."""
        merging = self.form == "merge" and self.share < 1
        if not (merging and site == "residual" and layer == self.layer and request.is_prefill):
            return hidden
        visual = request.image_mask[:, -hidden.shape[1] :]
        merged = hidden.clone()
        for row in range(len(hidden)):
            places = visual[row].nonzero()[:, 0]
            size = self._run(len(places))
            for start in range(0, len(places), size):
                run = places[start : start + size]
                merged[row, run[0]] = hidden[row, run].mean(dim=0)
        return merged

    def _leaving(self, request: Request, rows: Rows) -> Tensor:
        """[B, S] True on the image tokens that leave."""
        visual = request.image_mask
        left = visual.clone()
        last = rows.editable.shape[1] - 1
        weights = rows.part(slice(last, last + 1))[:, :, 0].mean(dim=1)  # [B, K]
        dropped = request.seen - weights.shape[1]
        for row in range(len(visual)):
            places = visual[row].nonzero()[:, 0]
            if not len(places):
                continue
            if self.form == "merge":
                left[row, places[:: self._run(len(places))]] = False
                continue
            drawn = weights[row, (places - dropped).clamp(min=0)]
            staying = round(self.share * len(places))
            left[row, places[drawn.topk(staying).indices]] = False
        return left

    def _run(self, tokens: int) -> int:
        """Return how many tokens are merged into one; all of them where none is to stay."""
        return max(1, round(1 / self.share)) if self.share else max(1, tokens)
