"""Internal Confidence: whether any image token, at any layer, would say the word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.readings import Needs, OfWord, Reading
from vlmheads.model.geometry import Geometry


@dataclass(frozen=True)
class InternalConfidence:
    """The largest lens probability of the token over all levels and image tokens.

    Source: Jiang et al., "Interpreting and Editing Vision-Language Representations", ICLR 2025,
    and its released code: no norm before the head except at the last level, and the softmax is
    over the 50 largest logits alone. Of a word the largest of its tokens counts. The score does
    not depend on where in the answer the word stands, but for the token that it begins with.

    Deviations: the code also takes the largest over five beams; here there is the one answer.

    Args:
        keep: logits of each state that count.

    Raises:
        VlmHeadsError: keep below 1.
    """

    name: ClassVar[str] = "internal_confidence"
    higher_is_true: ClassVar[bool] = True
    of_word: ClassVar[OfWord] = "max"
    source: ClassVar[str] = (
        "Internal Confidence (Jiang et al., ICLR 2025), all levels, no norm, softmax over the 50 "
        "largest logits, largest over sub-tokens; one answer instead of five beams"
    )

    keep: int = 50

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise VlmHeadsError(f"keep={self.keep}", "at least one logit")

    def needs(self, geometry: Geometry) -> Needs:
        """Ask for the lens at every level and image token."""
        return Needs(best=frozenset({self.keep}))

    def of_tokens(self, reading: Reading, geometry: Geometry) -> Tensor:
        """Return the score of each token [T]."""
        return reading.best[self.keep]
