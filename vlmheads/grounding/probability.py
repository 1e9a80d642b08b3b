"""Scores of the model's own probability of a word, with and without the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vlmheads.grounding.readings import Needs, OfWord, Reading
from vlmheads.model.geometry import Geometry


@dataclass(frozen=True)
class LogProbability:
    """log p of the word's tokens, summed: the negative of its NLL.

    Deviations: papers take the word's first token. A sum counts long names as unlikely ("parking
    meter"); `MeanLogProbability` does not.
    """

    name: ClassVar[str] = "log_probability"
    higher_is_true: ClassVar[bool] = True
    of_word: ClassVar[OfWord] = "sum"
    source: ClassVar[str] = "negative log-likelihood; the sum over sub-tokens, papers: the first"

    def needs(self, geometry: Geometry) -> Needs:
        """Ask for nothing but the pass with the image."""
        return Needs()

    def of_tokens(self, reading: Reading, geometry: Geometry) -> Tensor:
        """Return the log-probability of each token [T]."""
        return reading.log_probability


@dataclass(frozen=True)
class MeanLogProbability(LogProbability):
    """log p of the word's tokens, their mean: names of several tokens are not punished."""

    name: ClassVar[str] = "log_probability_mean"
    of_word: ClassVar[OfWord] = "mean"
    source: ClassVar[str] = "negative log-likelihood; the mean over sub-tokens, papers: the first"


@dataclass(frozen=True)
class Entropy:
    """Entropy of the next-token distribution before the word's first token, in nats."""

    name: ClassVar[str] = "entropy"
    higher_is_true: ClassVar[bool] = False
    of_word: ClassVar[OfWord] = "first"
    source: ClassVar[str] = "entropy -Σ p log p before the first sub-token, in nats"

    def needs(self, geometry: Geometry) -> Needs:
        """Ask for nothing but the pass with the image."""
        return Needs()

    def of_tokens(self, reading: Reading, geometry: Geometry) -> Tensor:
        """Return the entropy before each token [T]."""
        return reading.entropy


@dataclass(frozen=True)
class ImageGain:
    """log p with the image less log p with the image deleted, summed over the word's tokens.

    p / (p + p₀), the score of `Scorer.plain`, orders words in the same way.
    """

    name: ClassVar[str] = "image_gain"
    higher_is_true: ClassVar[bool] = True
    of_word: ClassVar[OfWord] = "sum"
    source: ClassVar[str] = "log p - log p₀ with the image's embeddings deleted; sum of sub-tokens"

    def needs(self, geometry: Geometry) -> Needs:
        """Ask for the pass without the image, too."""
        return Needs(without=True)

    def of_tokens(self, reading: Reading, geometry: Geometry) -> Tensor:
        """Return the gain of each token [T]."""
        assert reading.without is not None
        return reading.log_probability - reading.without
