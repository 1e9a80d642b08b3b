"""Paying more attention to the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import TEXT_ONLY, Stream
from vlmheads_plugins._contrast import contrast
from vlmheads_plugins._marks import finite, image_gain


@dataclass(frozen=True)
class PAI(Plugin):
    """Raise the attention scores of image tokens, and guide the logits away from text alone.

    In the row that predicts a token,

        s_j ← s_j + α |s_j|

    before the softmax for every image token j, in every head. With γ other than 1 the next token is
    drawn from

        log p' = γ (log p − log p_text) + log p_text

    where p_text is the model's answer to the prompt without its images; tokens with p below
    `cutoff` times the largest p are left out.

    Source: Liu et al., ECCV 2024, arXiv 2407.21771.

    Deviations: the guidance, half of the paper's method, is off by default, since it doubles the
    forward passes and composes with any method; `gamma=1.1` is the released setting. With guidance
    the released code leaves the first new token to it alone and edits attention from the second on
    (`form="release"`); its guidance runs after generate()'s own logits processors, here it runs
    before them. `alpha` is the paper's for LLaVA-1.5 as far as it is known; the released commands
    pass 0.2. Layers are the released 2 to 31 of 32, scaled to the depth.

    Cost: one attention row per layer and token; with guidance a second stream in the same batch.

    Evidence: reports differ widely. CHAIR_S on LLaVA-1.5-7B: 22.8 in the VISTA paper, 35.2 and 44.6
    in others' hands, 41.2 against 54.6 under sampling with recall 68.6 against 72.6; at equal
    recall near 70 31.2. The attention part alone gave no gain on POPE in an audit. Captions of
    AdaIAT's authors at α = 0.5, scored again (docs/evidence.md), are on the frontier and repeat in
    7.0 %: CHAIR_S at equal recall -0.4 points [-6.5, +5.5]. On the second bench it is better on
    both kinds of scenes, CHAIR_S at equal recall -14.0 points [-23.3, -4.7] on 150 ordinary ones
    and -7.5 [-13.7, -2.3] on 150 counterfactual ones (docs/effect.md).

    Pitfalls: a negative score is raised towards 0, a positive one away from it, so that large α can
    make text loop.
    """

    name: ClassVar[str] = "pai"
    paper: ClassVar[str] = "Liu et al., ECCV 2024, arXiv 2407.21771"
    cost: ClassVar[str] = "one more attention row per layer and token; guidance: a second stream"
    search: ClassVar = ({"alpha": 0.25}, {"alpha": 0.5}, {"alpha": 0.5, "gamma": 1.1})

    alpha: float = option(
        0.5, "how much of its size a score of an image token gains", low=0, high=10
    )
    gamma: float = option(1.0, "strength of the text-only guidance; 1 is none", low=0, high=10)
    cutoff: float = option(
        0.1, "with guidance, least probability of a token as a share of the largest", low=0, high=1
    )
    form: str = option(
        "paper",
        "with guidance, edit attention for every token; as released, from the second on",
        choices=("paper", "release"),
    )
    layers: tuple[int, ...] | None = option(
        None,
        "layers to act on; by default the third to the last of 32, scaled to the depth",
        kind="layers",
    )

    def idle_options(self) -> dict[str, str]:
        """Attention alone leaves out no token, and is released as it is published."""
        needed = "gamma other than 1"
        return {} if self.gamma != 1 else {"cutoff": needed, "form": needed}

    @classmethod
    def neutral(cls) -> Self:
        """Return a gain of nothing, without guidance."""
        return cls(alpha=0.0)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The prompt without its images, where there is guidance."""
        return () if self.gamma == 1 else (TEXT_ONLY,)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Raise the scores of the image in the rows that predict a token."""
        layers = request.geometry.scaled(2, 32) if self.layers is None else self.layers
        if layer not in layers or self.alpha == 0:
            return rows
        first = self.form == "paper" or self.gamma == 1
        if not first and request.seen <= request.prompt_length:
            return rows
        gain = image_gain(request, self, rows, self.alpha, first=first)
        return rows.with_bias(finite(rows.scores).abs() * gain)

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Guide the next token away from what the text alone suggests."""
        if self.gamma == 1:
            return logits
        return contrast(request, logits, TEXT_ONLY.name, self.gamma - 1, self.cutoff)
