"""FLB: the logits of the first token, added to all later ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from vlmheads.plugin import Plugin, option
from vlmheads.precision import at_least_float32
from vlmheads.runtime.request import Request
from vlmheads_plugins._contrast import plausible, settle


@dataclass(frozen=True)
class FLB(Plugin):
    """Add the logits of the first new token to those of later ones.

        l'_t = l_t + γ (1 − e^{−κ t}) l_0

    with t = 0 for the first new token, whose logits stay; tokens with a probability below `cutoff`
    times the largest, by l_t, are left out.

    Source: first logits boosting, CVPR 2026, arXiv 2604.00455, and jiwooha20/FLB: γ = 0.3, κ =
    0.05, cut-off 0.1.

    Deviations: acts under greedy search and beams too, where the release samples only.

    Pitfalls: l_0 is dominated by the article that begins an English caption, which steers the next
    noun to what was named already: the paper's own ablation goes from 11.5 to 6.5 on AMBER with the
    token "The" alone. So it is for English captions; on yes or no questions its weight is about 0,
    and what changes is the cut-off.

    Cost: an addition per token.

    Evidence: the authors' table under sampling: CHAIR 57.5/17.3 to 43.5/12.0 at recall 73.3 to
    73.6; AMBER CHAIR 11.5 to 6.1 at cover 50.1 to 50.4. They give no greedy baseline. The cut-off
    alone makes sampling nearly greedy: compare with greedy search, and with `gamma=0`. On the
    embedded model it is not distinguishable from plain (docs/methods.md).
    """

    name: ClassVar[str] = "flb"
    paper: ClassVar[str] = "CVPR 2026, arXiv 2604.00455"
    cost: ClassVar[str] = "no extra pass"
    search: ClassVar = ({"gamma": 0.15}, {"gamma": 0.3}, {"gamma": 0.6})

    gamma: float = option(0.3, "strength of the first logits, in the limit", low=0, high=10)
    kappa: float = option(0.05, "how fast the strength grows per token", low=0.001, high=10)
    cutoff: float = option(
        0.1, "least probability of a token as a share of the largest", low=0, high=1
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return no boost and no cut-off."""
        return cls(gamma=0.0, cutoff=0.0)

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Boost the next token."""
        if not self.gamma and not self.cutoff:
            return logits
        plain = at_least_float32(logits)
        scratch = request.scratch(self)
        # Beams of a prompt share its first logits, and change places among themselves alone.
        if request.generated == 0:
            scratch["first"] = plain
        share = self.gamma * (1 - math.exp(-self.kappa * request.generated))
        edited = plain + share * scratch["first"] if share else plain
        return settle(request, edited, logits, plausible(plain, self.cutoff))
