"""Attention calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._marks import chosen_heads
from vlmheads_plugins._sinks import column_scores, prompt_rows


@dataclass(frozen=True)
class ACT(Plugin):
    """Take attention off the sinks of a prompt, but for the first, in chosen heads.

    In the attention map A of the prompt, N tokens long, the score of column j is the mean weight of
    the rows that see it:

        c_j = Σ_i A_ij / (N − j)

    Sinks are the columns with c_j above the threshold `alpha` / N, without the first of them. In
    every row but the first, sinks keep the share β of their weights, and the other columns receive
    the rest in proportion to theirs. Generated tokens attend as before.

    Source: Yu et al., ICML 2024, arXiv 2406.15765.

    Deviations: the paper and the released code choose heads one by one by their accuracy on about
    900 held-out examples of a text task; such lists do not carry over, so `heads` is an option, by
    default all heads of the paper's layers, 2 to 30 of 32, scaled to the depth. `form="release"`
    compares c_j with the fixed `threshold`. Prompts without an image are not changed. Rows keep
    their sum; the code sets A[0, 0] to 1, which it is.

    Cost: the attention maps of the prefill once more, quadratic in the prompt; nothing in decoding.

    Evidence: none on invented objects; the paper is about text tasks.
    """

    name: ClassVar[str] = "act"
    paper: ClassVar[str] = "Yu et al., ICML 2024, arXiv 2406.15765"
    cost: ClassVar[str] = "one more attention map per layer in the prefill"
    search: ClassVar = ({"beta": 0.4}, {"beta": 0.2}, {"beta": 0.0})

    beta: float = option(0.4, "share of their attention that sinks keep", low=0, high=1)
    alpha: float = option(5.0, "a sink's score is above this share of 1 / N", low=0, high=10000)
    threshold: float = option(
        0.1, 'with form="release", a sink\'s score is above this', low=0, high=1
    )
    form: str = option(
        "paper", "follow the paper or the released code", choices=("paper", "release")
    )
    heads: tuple[tuple[int, int], ...] = option(
        (), "heads to act on, as [[layer, head], ...]; by default all of the layers", kind="heads"
    )
    layers: tuple[int, ...] | None = option(
        None, "layers to act on; by default 2 to 30 of 32, scaled to the depth", kind="layers"
    )

    def idle_options(self) -> dict[str, str]:
        """Each form has a threshold of its own, and heads name their layers."""
        paper = self.form == "paper"
        idle = {"threshold": "form='release'"} if paper else {"alpha": "form='paper'"}
        return idle | ({"layers": "no heads"} if self.heads else {})

    @classmethod
    def neutral(cls) -> Self:
        """Return sinks that keep all."""
        return cls(beta=1.0)

    @property
    def whole_map(self) -> bool:
        """The scores of the columns need every row."""
        return self.beta != 1

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on: those given, those of the heads, or the paper's."""
        if self.layers is not None:
            return self.layers
        if self.heads:
            return tuple(layer for layer, _ in self.heads)
        return geometry.scaled(2, 31)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Calibrate the rows of the prompt."""
        count = prompt_rows(request, rows)
        if self.beta == 1 or not count or layer not in self.chosen_layers(request.geometry):
            return rows
        real = rows.editable[:, :count]
        sinks = self._sinks(column_scores(rows, count, request.prompt_length), real)
        more = rows.image_keys.shape[1] - sinks.shape[-1]
        sinks = torch.nn.functional.pad(sinks, (0, more))[:, :, None]
        chosen = chosen_heads(self.heads, layer, sinks)
        # The first row sees itself alone; rows of generated tokens are left as they are.
        within = torch.zeros_like(rows.editable)
        within[:, :count] = real & (real.cumsum(dim=1) > 1)

        def calibrated(part: slice, weights: Tensor) -> Tensor:
            on_sinks = (weights * sinks).sum(dim=-1, keepdim=True)
            on_rest = (weights * ~sinks).sum(dim=-1, keepdim=True)
            edit = within[:, None, part, None] & chosen & (on_rest > 0)
            gain = 1 + (1 - self.beta) * on_sinks / torch.where(edit, on_rest, 1.0)
            factor = torch.where(sinks, self.beta, gain)
            return torch.where(edit, weights * factor, weights)

        return rows.with_change(calibrated)

    def _sinks(self, scores: Tensor, real: Tensor) -> Tensor:
        """Mark sinks among columns by their scores [B, H, N]; real [B, N] is no padding."""
        length = real.sum(dim=1)[:, None, None]
        least = self.threshold if self.form == "release" else self.alpha / length
        sinks = (scores > least) & real[:, None]
        return sinks & (sinks.cumsum(dim=-1) > 1)
