"""T-VHD: how much the image changes the outputs of the heads before a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.readings import Needs, OfWord, Reading
from vlmheads.model.geometry import Geometry


def token_divergence(divergence: Tensor, k: int) -> Tensor:
    """T-VHD [...]: the k largest VHD of every layer, summed over the layers, of [..., L, H].

    Source: He et al., ACL 2025, arXiv 2412.13949, Eq. 5; the paper leaves k open.

    Raises:
        VlmHeadsError: k that the layers do not have.
    """
    heads = divergence.shape[-1]
    if not 1 <= k <= heads:
        raise VlmHeadsError(f"k={k}", f"a number from 1 to {heads} heads of a layer")
    return divergence.topk(k, dim=-1).values.sum(dim=(-2, -1))


@dataclass(frozen=True)
class Divergence:
    """T-VHD, the mean of the word's tokens.

    Args:
        k: heads of each layer; None for an eighth of them.
    """

    name: ClassVar[str] = "divergence"
    higher_is_true: ClassVar[bool] = True
    of_word: ClassVar[OfWord] = "mean"
    source: ClassVar[str] = "T-VHD (He et al., ACL 2025, Eq. 5); k is not in the paper"

    k: int | None = None

    def needs(self, geometry: Geometry) -> Needs:
        """Ask for the outputs of the heads with and without the image."""
        return Needs(heads=True)

    def of_tokens(self, reading: Reading, geometry: Geometry) -> Tensor:
        """Return the T-VHD of each token [T]."""
        assert reading.divergence is not None
        return token_divergence(reading.divergence, self.k or max(1, geometry.heads // 8))
