"""AdaIAT: more attention to what has been said, by head, where there is too little of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads_plugins._marks import said
from vlmheads_plugins.iat import FIRST, STOP


@dataclass(frozen=True)
class AdaIAT(Plugin):
    """Increase the attention on generated text in the heads where real words get more of it.

    In the row that predicts a token, after the softmax and in each of the middle layers, the
    attention on the generated tokens G, the one just fed included, is multiplied:

        A_hj ← f_h A_hj,  f = 1 + α M (paper) or 1 + α (M − 1) (release)

    A layer acts where r = Σ_h mean over j in G of A_hj is below U_hal + β (U_real − U_hal), and
    then each head's row is divided by its sum. T_real and T_hal [L, H] hold the mean attention that
    a generated token gets in the rows that predict a real and a hallucinated object word; U_real
    and U_hal are their sums over the heads of a layer, and M = T_real / T_hal.

    1. r = Σ_h mean over j in G of A_hj; the layer acts where r < U_hal + β (U_real − U_hal);
    2. A_hj ← f_h A_hj for j in G, with f = 1 + α M (paper) or 1 + α (M − 1) (release);
    3. each head's row is divided by its sum.

    Source: AdaIAT, CVPR 2026, arXiv 2603.04908, and XianguiKang/AdaIAT: α = 6, β = 0.5, layers 5 to
    17 of 32, scaled to the depth; "Please describe the picture in detail.", greedy search of 512
    tokens. `vlmheads learn adaiat` learns the tables on any model, without training; the authors
    had 22,015 real and 9,473 hallucinated words of LLaVA-1.5-7B. Written from the formulas: the
    release has no licence.

    Deviations: every row of a batch has its own gate; a word of several tokens counts where its
    first token is predicted.

    Pitfalls: with `form="release"` f is negative for heads with M < 1 − 1/α, which turns their
    contribution around; `clamp` stops it at 0. As r is a mean over G, it falls with the length of
    an answer, and late in a caption the gate is nearly always open.

    Cost: one attention row in each of these layers and for each token.

    Evidence: published captions of LLaVA-1.5-7B scored again: 47.6/13.2 to 30.6/8.3 at recall 79.5
    to 75.3, no flag, CHAIR_S at equal recall -9.2 points [-14.6, -3.8]: the one of our methods
    whose published captions beat plain greedy ones that way (docs/evidence.md). The authors'
    Qwen2.5-VL module cannot be run. On both test benches it does not (docs/effect.md).
    """

    name: ClassVar[str] = "adaiat"
    paper: ClassVar[str] = "CVPR 2026, arXiv 2603.04908"
    cost: ClassVar[str] = "one more attention row in the middle layers and for each token"
    search: ClassVar = (
        {"alpha": 1.0},
        {"alpha": 3.0},
        {"alpha": 6.0, "form": "release", "clamp": True},
        {"alpha": 6.0},
    )

    tables: Learned | str | None = option(
        None,
        "what `vlmheads learn adaiat` learned from this model, or its file",
        kind="learned",
        method="adaiat",
        needed_by=("alpha",),
        tensors={"real": "LH", "hallucinated": "LH"},
    )
    alpha: float = option(6.0, "strength; 0 is none", low=0, high=100)
    beta: float = option(
        0.5, "where the gate is, from what hallucinated words get (0) to real ones (1)",
        low=0, high=1,
    )  # fmt: skip
    form: str = option(
        "paper", "f = 1 + alpha M, or as released 1 + alpha (M - 1)", choices=("paper", "release")
    )
    clamp: bool = option(False, "with the release's form, let no factor be negative")
    layers: tuple[int, ...] | None = option(
        None, "layers to act on; by default 5 to 17 of 32, scaled to the depth", kind="layers"
    )

    def idle_options(self) -> dict[str, str]:
        """No factor of the paper's form is negative."""
        return {} if self.form == "release" else {"clamp": 'form="release"'}

    @classmethod
    def neutral(cls) -> Self:
        """Return factors of 1."""
        return cls(alpha=0.0)

    def chosen_layers(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the layers to act on: those given, or the released ones."""
        return geometry.scaled(FIRST, STOP) if self.layers is None else self.layers

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return f [L, H] and the thresholds of the gate [L]."""
        assert isinstance(self.tables, Learned)
        real, hallucinated = self.tables.values["real"], self.tables.values["hallucinated"]
        ratio = torch.where(hallucinated > 0, real / hallucinated, 1.0)
        factor = 1 + self.alpha * (ratio if self.form == "paper" else ratio - 1)
        low, high = hallucinated.sum(dim=1), real.sum(dim=1)
        return factor.clamp(min=0) if self.clamp else factor, low + self.beta * (high - low)

    def on_prompt(self, request: Request) -> None:
        """Lay the tables out on the device."""
        if self.alpha:
            device = request.has_image.device
            request.scratch(self)["tables"] = tuple(part.to(device) for part in self.factors())

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Multiply the weights of generated tokens, and renormalise."""
        if self.alpha == 0 or layer not in self.chosen_layers(request.geometry):
            return rows
        place = said(request, rows)
        if place is None:
            return rows
        weights = rows.weights
        factor, threshold = request.scratch(self)["tables"]
        factor = factor[layer, : weights.shape[1]].to(weights)[:, None, None]
        edited = torch.where(place, weights * factor, weights)
        edited = edited * (weights.sum(dim=-1, keepdim=True) / edited.sum(dim=-1, keepdim=True))
        # Rows of one pass see different numbers of generated tokens.
        seen = (place & (rows.scores[:, 0] > -torch.inf)).sum(dim=-1).clamp(min=1)
        mean = (weights * place).sum(dim=(1, 3)) / seen
        acts = place.any(dim=-1) & (mean < threshold[layer].to(weights))
        return rows.with_weights(torch.where(acts[:, None, :, None], edited, weights))
