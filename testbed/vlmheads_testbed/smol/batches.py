r"""Training batches: one picture, several conversations about it that do not see one another.

A row is ``<|im_start|>user\n``, the image's tokens and a newline, then each turn in the form that
the chat template gives it. Every turn attends to the picture and to itself, at the positions that
it would have alone, so that a row trains several first turns for one reading of the picture.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from vlmheads_testbed.batches import patch_labels, pixels
from vlmheads_testbed.categories import looks, word_categories
from vlmheads_testbed.scenes import PLACES, Scene, scene, stream
from vlmheads_testbed.smol.descriptions import Turn, description
from vlmheads_testbed.smol.questions import question

#: Tokens of all turns of a row together, the padding at its end included.
TEXT_LENGTH = 188
#: What comes before and after the image's tokens, and between what is asked and what is answered.
BEFORE, AFTER, BETWEEN = "<|im_start|>user\n", "\n", "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
#: How often a picture is described twice. Each more object of a picture is missed more often, and
#: a description is the only answer that has to know what it has named already.
SECOND_DESCRIPTION = 0.5
#: How much a token of an answer counts: short answers are a few tokens, captions about seventy.
DESCRIPTION_WEIGHT, OPEN_WEIGHT, BINARY_WEIGHT = 1.0, 1.5, 2.0
#: Weight of the tokens of words for objects in a description. They are an eighth of it, and the
#: rest is mostly grammar and the choice of a template, which no picture tells.
OBJECT_WEIGHT = 3.0
#: Weight of the first token of a yes/no answer, which decides it.
DECISION_WEIGHT = 4.0
#: Weight of a patch of background, which most are, while the projector learns words.
BACKGROUND_WEIGHT = 0.2


@dataclass(frozen=True)
class Batch:
    """Pictures ``[B, 3, 112, 112]`` and, ``[B, T]`` each, the text's tokens, weights and turns.

    ``turns`` numbers the turn that a token belongs to from 1, 0 for padding.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor
    turns: torch.Tensor

    def to(self, device: str) -> Batch:
        """Move everything to a device."""
        parts = (self.pixels, self.ids, self.weights, self.turns)
        return Batch(*(part.to(device) for part in parts))


@dataclass(frozen=True)
class WordBatch:
    """Pictures, the embedding of each patch's word ``[B, 64, D]``, and its weight ``[B, 64]``."""

    pixels: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor

    def to(self, device: str) -> WordBatch:
        """Move everything to a device."""
        parts = (self.pixels, self.targets, self.weights)
        return WordBatch(*(part.to(device) for part in parts))


def batch(tokenizer: Any, seed: int, first: int, size: int, split: str = "train") -> Batch:
    """Draw pictures ``first`` to ``first + size`` with their turns."""
    scenes = [scene(split, seed, first + row) for row in range(size)]
    rows = [
        _row(tokenizer, one, stream(split, seed, first + row, 1)) for row, one in enumerate(scenes)
    ]
    ids, weights, turns = (torch.stack(column) for column in zip(*rows, strict=True))
    return Batch(pixels(scenes), ids, weights, turns)


def conversations(one: Scene, random: np.random.Generator) -> list[Turn]:
    """Draw what is said about a picture: one or two descriptions, up to nine questions."""
    turns = [description(one, random)]
    if random.random() < SECOND_DESCRIPTION:
        turns.append(description(one, random))
    turns += [question(one, random) for _ in range(9)]
    asked: dict[str, Turn] = {}
    for turn in turns:  # nothing twice
        asked.setdefault(turn.prompt, turn)
    return list(asked.values())


def encode(tokenizer: Any, turn: Turn) -> tuple[list[int], list[float]]:
    """Return the tokens of a turn from what is asked, and the weight of each as a target."""
    asked = _tokens(tokenizer, f"{turn.prompt}{BETWEEN}")
    text = f"{turn.answer}{END}"
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    answer = list(coded.input_ids)
    if turn.truth is not None:
        weights = [DECISION_WEIGHT, *[BINARY_WEIGHT] * (len(answer) - 1)]
    elif turn.kind in ("long", "usual", "short"):
        objects = [found.span() for found in _object_words().finditer(text)]
        named = [
            any(start < last and end > first for first, last in objects)
            for start, end in coded.offset_mapping
        ]
        weights = [OBJECT_WEIGHT if one else DESCRIPTION_WEIGHT for one in named]
    else:
        weights = [OPEN_WEIGHT] * len(answer)
    return [*asked, *answer], [0.0] * len(asked) + weights


def layout(turns: torch.Tensor, prefix: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return who attends to whom ``[B, 1, S, S]`` and the positions ``[B, S]``, S = prefix + T."""
    rows = turns.shape[0]
    segments = torch.cat([turns.new_zeros(rows, prefix), turns], 1)
    length = segments.shape[1]
    order = torch.arange(length, device=turns.device)
    same = segments[:, :, None] == segments[:, None, :]
    allowed = (same | (order < prefix)[None, None, :]) & (order[:, None] >= order[None, :])[None]
    # A token's position: the prefix, then how many of its own turn come before it.
    own = (same & (order >= prefix) & (order[:, None] > order[None, :])).sum(2) + prefix
    positions = torch.where(order < prefix, order, own)
    return allowed[:, None], positions


def word_embeddings(tokenizer: Any, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean embedding of the words for each look and for each place, ``[N, D]`` each.

    Look 0 is the background, which has no word of its own.
    """

    def mean(word: str) -> torch.Tensor:
        return embedding[_tokens(tokenizer, f" {word}")].float().mean(0).cpu()

    shown = torch.stack([mean(look.words[0][0]) for look in looks()])
    places = torch.stack([mean(place.name) for place in PLACES])
    return torch.cat([torch.zeros_like(shown[:1]), shown]), places


def word_batch(
    words: tuple[torch.Tensor, torch.Tensor], seed: int, first: int, size: int
) -> WordBatch:
    """Draw pictures whose patches are to be read as the word of their object, or of their place."""
    scenes = [scene("train", seed, first + row) for row in range(size)]
    labels = torch.stack([patch_labels(one) for one in scenes])
    places = words[1][torch.tensor([PLACES.index(one.place) for one in scenes])]
    shown = labels > 0
    targets = torch.where(shown[..., None], words[0][labels], places[:, None])
    return WordBatch(pixels(scenes), targets, torch.where(shown, 1.0, BACKGROUND_WEIGHT))


def _row(
    tokenizer: Any, one: Scene, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.full((TEXT_LENGTH,), tokenizer.pad_token_id)
    weights, turns = torch.zeros(TEXT_LENGTH), torch.zeros(TEXT_LENGTH, dtype=torch.long)
    at, number = 0, 0
    for turn in conversations(one, random):  # one that does not fit is left out, never cut
        tokens, counts = encode(tokenizer, turn)
        end = at + len(tokens)
        if end <= TEXT_LENGTH:
            number += 1
            ids[at:end], weights[at:end] = torch.tensor(tokens), torch.tensor(counts)
            turns[at:end] = number
            at = end
    return ids, weights, turns


@cache
def _object_words() -> re.Pattern[str]:
    """Find the words for objects in a text, the longer of two that begin alike."""
    names = sorted(word_categories(), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b", re.IGNORECASE)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


@lru_cache(maxsize=4)
def prefix_tokens(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens before and after those of the image."""
    return tuple(_tokens(tokenizer, BEFORE)), tuple(_tokens(tokenizer, AFTER))
