"""Scores of where the position before a word attends: to the image, or to what was just said.

All of them fall or rise with the length of the answer so far, since a row of attention sums to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vlmheads.grounding.readings import Needs, OfWord, Reading
from vlmheads.model.geometry import Geometry


@dataclass(frozen=True)
class ImageAttention:
    """Attention on image tokens, mean of all heads and layers, mean of the word's tokens."""

    name: ClassVar[str] = "attention"
    higher_is_true: ClassVar[bool] = True
    of_word: ClassVar[OfWord] = "mean"
    source: ClassVar[str] = "Σ of the row on image tokens, mean over all layers and heads"

    def needs(self, geometry: Geometry) -> Needs:
        """Ask for attention rows."""
        return Needs(attention=True)

    def of_tokens(self, reading: Reading, geometry: Geometry) -> Tensor:
        """Return the share of each token [T]."""
        assert reading.image_share is not None
        return reading.image_share.nanmean(dim=(1, 2))


@dataclass(frozen=True)
class SVAR:
    """Attention on image tokens, mean over heads, summed over the middle layers.

    Source: Jiang et al., "Devils in Middle Layers", CVPR 2025, and its released code: layers 5 to
    18 of 32, both included and counted from 0. On L layers those from 5 L / 32 to before 19 L / 32,
    to the nearest (`Geometry.scaled`); layers without heads are left out.

    Deviations: the token is the one in the answer, not that of the bare word or its plural, and
    every mention counts, not the first alone.

    Args:
        layers: which ones; None for the scaled ones.
    """

    name: ClassVar[str] = "svar"
    higher_is_true: ClassVar[bool] = True
    of_word: ClassVar[OfWord] = "first"
    source: ClassVar[str] = (
        "SVAR (Devils in Middle Layers, CVPR 2025): sum over layers 5-18 of 32, inclusive, of the "
        "heads' mean attention on the image; every mention, the token as it stands in the text"
    )

    layers: tuple[int, ...] | None = None

    def at(self, geometry: Geometry) -> list[int]:
        """Return the layers.

        Raises:
            VlmHeadsError: layers that the model does not have, or without heads.
        """
        layers = geometry.scaled(5, 19) if self.layers is None else self.layers
        geometry.check_layers(layers, "SVAR", attention=True)
        return list(layers)

    def needs(self, geometry: Geometry) -> Needs:
        """Ask for attention rows."""
        self.at(geometry)
        return Needs(attention=True)

    def of_tokens(self, reading: Reading, geometry: Geometry) -> Tensor:
        """Return the score of each token [T]."""
        assert reading.image_share is not None
        return reading.image_share[:, self.at(geometry)].nanmean(dim=2).sum(dim=1)


@dataclass(frozen=True)
class PAS:
    """Attention on the answer so far, mean over the heads of the first layer.

    Source: PAS, CVPR 2026, arXiv 2511.11502, by its formula (no code could be had): the weight of
    layer 0 on the tokens generated before the word, the one that predicts it included.

    Args:
        layer: which one; None for the first that has heads.
    """

    name: ClassVar[str] = "pas"
    higher_is_true: ClassVar[bool] = False
    of_word: ClassVar[OfWord] = "first"
    source: ClassVar[str] = (
        "PAS (CVPR 2026, arXiv 2511.11502), by its formula: layer 0's mean attention on the text "
        "generated so far"
    )

    layer: int | None = None

    def at(self, geometry: Geometry) -> int:
        """Return the layer.

        Raises:
            VlmHeadsError: a layer that the model does not have, or one without heads.
        """
        layer = geometry.attention_layers[0] if self.layer is None else self.layer
        geometry.check_layers((layer,), "PAS", attention=True)
        return layer

    def needs(self, geometry: Geometry) -> Needs:
        """Ask for attention rows."""
        self.at(geometry)
        return Needs(attention=True)

    def of_tokens(self, reading: Reading, geometry: Geometry) -> Tensor:
        """Return the score of each token [T]."""
        assert reading.answer_share is not None
        return reading.answer_share[:, self.at(geometry)].nanmean(dim=1)
