"""What scores of words need of a model's forward passes, and what a row of them holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.precision import at_least_float32

# Positions of a prompt with its answer: image tokens, prompt tokens behind the last of them, the
# last token of the prompt, and for each token of the answer the position before it.
Place = Literal["image", "instruction", "last", "token"]
# Level 0 is the embeddings, level l the output of layer l; the last is after the decoder's norm,
# which is how transformers numbers and returns its `hidden_states`.
State = tuple[int, Place]
Column = tuple[int, Place, float]  # with the scale of the logits

# How a word's score is made of its tokens' scores.
OfWord = Literal["first", "sum", "mean", "max"]


@dataclass(frozen=True)
class Needs:
    """What is wanted of the forward passes.

    Args:
        without: a second pass, with the image deleted.
        heads: what the image changes in each head's output; takes the second pass, too.
        attention: each head's share of attention on the image, and on the answer so far.
        states: hidden states at these levels and places.
        columns: probabilities of the answer's tokens by the lens there.
        best: how many logits of each image token and level count in the largest lens probability;
            empty where it is not wanted.
    """

    without: bool = False
    heads: bool = False
    attention: bool = False
    states: frozenset[State] = frozenset()
    columns: frozenset[Column] = frozenset()
    best: frozenset[int] = frozenset()

    def __or__(self, other: Needs) -> Needs:
        """Everything that one or the other needs."""
        pairs = {one.name: (getattr(self, one.name), getattr(other, one.name)) for one in
                 fields(self)}  # fmt: skip
        return Needs(**{name: a | b for name, (a, b) in pairs.items()})

    @property
    def levels(self) -> frozenset[int]:
        """The levels whose states are read, but for `best`, which reads all."""
        return frozenset({level for level, _ in self.states} | {at for at, _, _ in self.columns})


@dataclass(frozen=True, eq=False)
class Reading:
    """What the passes gave one row, at the T positions that predict the tokens of its answer.

    Args:
        log_probability: [T] of the tokens, with the image.
        entropy: [T] of the next-token distribution, in nats, with the image.
        without: [T] log-probability of the tokens with the image deleted.
        divergence: [T, L, H] VHD, what the image changes in each head's output.
        image_share: [T, L, H] attention on image tokens; NaN at heads that there are not.
        answer_share: [T, L, H] attention on tokens of the answer, the predicting one included.
        states: hidden states: [P, E], [I, E], [E] or [T, E] by place.
        columns: lens probabilities [P, T] or [I, T] of the tokens.
        best: [T] the largest lens probability over levels and image tokens, by logits kept.
    """

    log_probability: Tensor
    entropy: Tensor
    without: Tensor | None = None
    divergence: Tensor | None = None
    image_share: Tensor | None = None
    answer_share: Tensor | None = None
    states: Mapping[State, Tensor] = field(default_factory=dict)
    columns: Mapping[Column, Tensor] = field(default_factory=dict)
    best: Mapping[int, Tensor] = field(default_factory=dict)


class TokenScore(Protocol):
    """A score of each token of an answer; a word's is made of its tokens'.

    Attributes:
        name: names it in tables, scorers and results.
        higher_is_true: whether words that the image supports have higher values.
        of_word: how a word's score is made of its tokens'.
        source: paper, equation, and what is different here.
    """

    name: ClassVar[str]
    higher_is_true: ClassVar[bool]
    of_word: ClassVar[OfWord]
    source: ClassVar[str]

    def needs(self, geometry: Geometry) -> Needs:
        """Return what it needs of the forward passes.

        Raises:
            VlmHeadsError: layers that the model does not have.
        """

    def of_tokens(self, reading: Reading, geometry: Geometry) -> Tensor:
        """Return the score of each token [T]."""


def scaled_level(level: int, geometry: Geometry, of: int = 32) -> int:
    """Return a level of a paper's model of `of` layers on one of another depth.

    The rule: level l of 32 layers is l · L / 32 of L layers, to the nearest.
    """
    return round(level * geometry.layers / of)


def checked_level(name: str, level: int | None, default: int, geometry: Geometry) -> int:
    """Return a level as it was given, or a paper's scaled to the depth where it is None.

    Raises:
        VlmHeadsError: a level that the model does not have.
    """
    if level is None:
        return scaled_level(default, geometry)
    if not 0 <= level <= geometry.layers:
        raise VlmHeadsError(f"{name}={level}", f"a level from 0 to {geometry.layers}")
    return level


def most_likely(columns: Tensor, count: int) -> Tensor:
    """Return for each token the `count` places with the largest lens probability, [count, T].

    All places where there are fewer.
    """
    return columns.topk(min(count, len(columns)), dim=0).indices


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Return the cosine of the angle between vectors in the last dimension, as float32 at least."""
    return torch.cosine_similarity(at_least_float32(one), at_least_float32(other), dim=-1)


def all_needs(scores: Iterable[TokenScore], geometry: Geometry) -> Needs:
    """Return what several scores need together."""
    found = Needs()
    for score in scores:
        found |= score.needs(geometry)
    return found
