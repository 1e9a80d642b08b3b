"""CFG: guide the next token away from what the text alone suggests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from vlmheads.plugin import Plugin, option
from vlmheads.runtime.request import Request
from vlmheads.runtime.streams import TEXT_ONLY, Stream
from vlmheads_plugins._contrast import contrast


@dataclass(frozen=True)
class CFG(Plugin):
    """Contrast the model with itself without the image.

        log p' = γ (log p − log p_text) + log p_text

    where p_text is the model's answer to the prompt with its images deleted and the same tokens
    generated since. Tokens with p below `cutoff` times the largest p are left out.

    Source: classifier-free guidance as PAI uses it (Liu et al., ECCV 2024, arXiv 2407.21771, and
    CFG.py of LALBJ/PAI), whose settings are the defaults; here it stands alone.

    Deviations: the text-only stream follows beams as they are reordered, which a logits processor
    cannot; and what is a logits processor there, which runs after those of generate(), runs before
    them here.

    Cost: a second stream in the same batch; its prompt is shorter by the image.

    Evidence: none alone. As a part of PAI, CHAIR falls; audits put most of what contrast gains on
    POPE down to a shift towards "yes" and to the cut-off ("The Mirage", arXiv 2504.10020).
    """

    name: ClassVar[str] = "cfg"
    paper: ClassVar[str] = "Liu et al., ECCV 2024, arXiv 2407.21771 (its guidance)"
    cost: ClassVar[str] = "a text-only stream in the same batch"
    search: ClassVar = ({"guidance": 1.25}, {"guidance": 1.5}, {"guidance": 2.0})

    guidance: float = option(1.1, "strength of the guidance; 1 is none", low=0.0, high=10.0)
    cutoff: float = option(
        0.1, "least probability of a token as a share of the largest", low=0.0, high=1.0
    )

    @classmethod
    def neutral(cls) -> Self:
        """Return no guidance and no cut-off."""
        return cls(guidance=1.0, cutoff=0.0)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The prompt without its images, where there is guidance."""
        return () if self.guidance == 1 else (TEXT_ONLY,)

    def on_logits(self, request: Request, logits: Tensor) -> Tensor:
        """Guide the next token."""
        if self.guidance == 1 and self.cutoff == 0:
            return logits
        return contrast(request, logits, TEXT_ONLY.name, self.guidance - 1, self.cutoff)
