"""Raising the attention on local and summary tokens of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlmheads.model.vision import at_tokens, patch_attention
from vlmheads.plugin import Plugin, option
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import TEXT_ONLY, Stream
from vlmheads_plugins._contrast import contrast
from vlmheads_plugins._marks import finite, predicting_rows

# The layers of the vision encoder that tell local and summary tokens: the first, the last but one.
_ENCODER_LAYERS = (0, -2)


@dataclass(frozen=True)
class PAINT(Plugin):
    """Raise the attention scores of image tokens that the vision encoder's CLS token attends to.

    Summary tokens are the patches whose CLS attention in the last but one layer of the vision
    encoder, summed over its heads, lies above Q3 + 1.5·(Q3 − Q1) of all patches. Local tokens are
    the share `ratio` of the patches with the largest CLS attention in its first layer, without the
    summary tokens. In the row that predicts a token, before the softmax and in every head,

        s_j ← s_j + α |s_j| on local,  s_j + β |s_j| on summary tokens

    With γ other than 1 the logits are guided as by PAI.

    Source: Arif et al., 2025, arXiv 2501.12206, and its released code.

    Deviations: the abstract's modulation by the visual sensitivity of each head is in no formula
    and not in the released code, which treats all heads alike, as here. `gamma` is off by default;
    the shipped runs use 1.1, and then edit attention from the second new token on
    (`form="release"`); their guidance runs after generate()'s own logits processors, here it runs
    before them. The code can also mark tokens by their place, which it does not by default and this
    plugin does not at all. Layers are the released 2 to 31 of 32, scaled to the depth.

    Needs: a CLIP vision encoder with a CLS token whose patches are the image tokens one by one, as
    in LLaVA 1.5; other models are refused when their first generation begins.

    Cost: one more pass of the vision encoder, an attention row per layer and token; with guidance a
    second stream in the same batch.

    Evidence: the setting α = 0.7, β = 0.3 that is published, and default here, loops: in the
    authors' own captions 51.6 % have more than a fifth of their 4-grams repeated, recall falls from
    77.4 to 59.6 and CHAIR_S 17.8 is what cutting plain captions to that recall gives. Up to
    α = 0.5 nothing changes (48.4 against 47.2), at 0.8 captions are nearly empty. At β = 0.4 with
    guidance 1.1 their captions are on the frontier, and 22.4 % repeat: CHAIR_S at equal recall +2.0
    points [-3.2, +7.1] (docs/evidence.md).
    """

    name: ClassVar[str] = "paint"
    paper: ClassVar[str] = "Arif et al., 2025, arXiv 2501.12206"
    cost: ClassVar[str] = "a pass of the vision encoder more, an attention row per layer and token"
    search: ClassVar = (
        {"alpha": 0.3, "beta": 0.1},
        {"alpha": 0.5, "beta": 0.2},
        {"alpha": 0.7, "beta": 0.3},
    )

    alpha: float = option(
        0.7, "how much of its size a score of a local token gains", low=0, high=10
    )
    beta: float = option(
        0.3, "how much of its size a score of a summary token gains", low=0, high=10
    )
    ratio: float = option(0.25, "share of the patches that are local", low=0, high=1)
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
        return cls(alpha=0.0, beta=0.0)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The prompt without its images, where there is guidance."""
        return () if self.gamma == 1 else (TEXT_ONLY,)

    def on_prompt(self, request: Request) -> None:
        """Find the local and the summary tokens."""
        if not self.alpha and not self.beta:
            return
        given = request.image_inputs()
        first, late = patch_attention(request.anatomy, given, _ENCODER_LAYERS).sum(dim=2)
        local, summary = choose_patches(first, late, self.ratio)
        scratch = request.scratch(self)
        scratch["local"] = at_tokens(request.image_mask, local)
        scratch["summary"] = at_tokens(request.image_mask, summary)

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Raise the scores of the chosen tokens in the rows that predict a token."""
        layers = request.geometry.scaled(2, 32) if self.layers is None else self.layers
        if layer not in layers or not request.scratch(self):
            return rows
        first = self.form == "paper" or self.gamma == 1
        if not first and request.seen <= request.prompt_length:
            return rows
        keys = rows.image_keys.shape[1]
        gain = request.once((id(self), keys), lambda: self._gain(request, rows, first))
        return rows.with_bias(finite(rows.scores).abs() * gain)

    def _gain(self, request: Request, rows: Rows, first: bool) -> Tensor:
        """Give [B, 1, Q, K] α on local and β on summary tokens, in rows that predict a token."""
        scratch, keys = request.scratch(self), rows.image_keys.shape[1]
        local = request.prompt_keys(scratch["local"], keys).to(rows.scores)
        summary = request.prompt_keys(scratch["summary"], keys).to(rows.scores)
        gain = (self.alpha * local + self.beta * summary)[:, None, None]
        predicting = predicting_rows(request, rows.editable.shape[1], first=first)
        return gain * predicting[:, None]

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Guide the next token away from what the text alone suggests."""
        if self.gamma == 1:
            return logits
        return contrast(request, logits, TEXT_ONLY.name, self.gamma - 1, self.cutoff)


def choose_patches(first: Tensor, late: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Mark local and summary patches, both [images, N].

    Args:
        first: CLS attention [images, N] of the encoder's first layer, summed over its heads.
        late: the same of its last layer but one.
        ratio: share of the patches that are local, rounded down.
    """
    quarter, three = late.quantile(torch.tensor([0.25, 0.75]).to(late), dim=-1)
    summary = late > (three + 1.5 * (three - quarter))[:, None]
    count = int(first.shape[-1] * ratio)
    local = torch.zeros_like(summary).scatter(-1, first.topk(count, dim=-1).indices, True)
    return local & ~summary, summary
