"""Tuning the attention on the first token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._marks import chosen_heads


@dataclass(frozen=True)
class ZeroTuning(Plugin):
    """Multiply the attention on the first token, and renormalise.

    In every row q of the chosen heads

        A_q0 ← γ A_q0

    then the row is divided by its sum, which is log γ added to the score of the first token. γ
    below 1 hands attention that rests on the first token, a sink in most decoders, to all other
    tokens in proportion.

    Source: Han et al., ICLR 2026, arXiv 2505.11739.

    Deviations: the paper chooses heads and γ for each task by trying them on labelled examples, or
    by the entropy of the answers; here both are options, by default all heads of all layers. The
    paper finds γ > 1 good for classification and γ < 1 for question answering and has no value for
    captions; the default is ours. The released code calls a misspelt function and so does not run;
    what it means to do is what is done here. `rows="text"` leaves the rows up to the end of the
    image alone, which keeps the prefill's memory linear in the prompt. Prompts without an image are
    not changed.

    Cost: every attention map of the prefill once more, quadratic in the prompt; with `rows="text"`
    its text rows alone. In decoding one row a layer.

    Evidence: none on invented objects; the paper is about text tasks.
    """

    name: ClassVar[str] = "zerotuning"
    paper: ClassVar[str] = "Han et al., ICLR 2026, arXiv 2505.11739"
    cost: ClassVar[str] = "one more attention map per layer; in decoding one row"
    search: ClassVar = ({"gamma": 0.6}, {"gamma": 0.3}, {"gamma": 3.0})

    gamma: float = option(0.6, "factor on the attention on the first token", low=0.001, high=1000)
    heads: tuple[tuple[int, int], ...] = option(
        (), "heads to act on, as [[layer, head], ...]; by default all", kind="heads"
    )
    layers: tuple[int, ...] | None = option(None, "layers to act on; by default all", kind="layers")
    rows: str = option(
        "all", "edit all rows, or those of text after the image", choices=("all", "text")
    )

    def idle_options(self) -> dict[str, str]:
        """Heads name their layers."""
        return {"layers": "no heads"} if self.heads else {}

    @classmethod
    def neutral(cls) -> Self:
        """Return a factor of 1."""
        return cls(gamma=1.0)

    @property
    def whole_map(self) -> bool:
        """Whether rows before the end of the image are edited too."""
        return self.rows == "all" and self.gamma != 1

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Add log γ to the scores of the first token."""
        outside = self.layers is not None and layer not in self.layers
        if outside or self.gamma == 1:
            return rows
        keys = rows.image_keys.shape[1]
        bias = request.once((id(self), keys), lambda: self._bias(request, rows))
        if self.heads:
            bias = bias * chosen_heads(self.heads, layer, rows.scores)
        return rows.with_bias(bias)

    def _bias(self, request: Request, rows: Rows) -> Tensor:
        """Give [B, 1, 1, K] log γ at the first token, which is after the padding."""
        mask = request.prompt.mask
        first = mask & (mask.cumsum(dim=1) == 1)
        first = request.prompt_keys(first, rows.image_keys.shape[1])[:, None, None]
        return at_least_float32(first.to(rows.values)) * math.log(self.gamma)
