from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from vlmheads_testbed.captions import caption_sample, question_sample
from vlmheads_testbed.categories import looks
from vlmheads_testbed.scenes import PATCH, SIZE, Scene, scene, stream

#: Every training text has this many tokens, the padding at its end included.
TEXT_LENGTH = 72
#: Tokens before the image: "<s> USER :".
PREFIX_LENGTH = 3


@dataclass(frozen=True)
class Questions:
    """How many of the samples are yes/no questions, and how much an answer's token counts.

    A yes/no answer is two tokens long, a caption about thirty.
    """

    share: float = 0.25
    weight: float = 2.0


@dataclass(frozen=True)
class TextBatch:
    """Pictures ``[B, 3, 112, 112]``, tokens ``[B, T]`` and the weight of each as a target."""

    pixels: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor


def patch_batch(seed: int, first: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and, for each of the 64 patches, the look that covers it (0: background)."""
    scenes = [scene("train", seed, first + row) for row in range(size)]
    return pixels(scenes), torch.stack([patch_labels(one) for one in scenes])


def text_batch(
    tokenizer: Any, seed: int, first: int, size: int, questions: Questions = Questions()
) -> TextBatch:
    """Pictures with a caption or a question each; the same numbers give the same batch."""
    scenes = [scene("train", seed, first + row) for row in range(size)]
    rows = [
        _encode(tokenizer, one, stream("train", seed, first + row, 1), questions)
        for row, one in enumerate(scenes)
    ]
    ids, weights = (torch.stack(column) for column in zip(*rows, strict=True))
    return TextBatch(pixels(scenes), ids, weights)


def pixels(scenes: list[Scene]) -> torch.Tensor:
    """Pictures as the processor gives them to the model: ``[B, 3, 112, 112]`` in -1 to 1."""
    stacked = torch.from_numpy(np.stack([one.pixels for one in scenes]))
    return stacked.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def patch_labels(one: Scene) -> torch.Tensor:
    """Find the look that covers most of each patch, from 1, or 0 for background: ``[64]``."""
    side = SIZE // PATCH
    squares = one.cover.reshape(side, PATCH, side, PATCH).transpose(0, 2, 1, 3)
    cells = squares.reshape(side * side, PATCH * PATCH)
    shares = np.stack([(cells == group).mean(1) for group in range(len(one.groups))])
    numbers = np.asarray([_look_numbers()[group.look.codepoint] for group in one.groups])
    return torch.from_numpy(np.where(shares.max(0) >= 0.25, numbers[shares.argmax(0)], 0))


def word_batch(
    tokenizer: Any, seed: int, first: int, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures and, for each patch, the first token of its object's word or else of its place's.

    The third value is true where a patch shows an object: ``[B, 64]``.
    """
    scenes = [scene("train", seed, first + row) for row in range(size)]
    labels = torch.stack([patch_labels(one) for one in scenes])
    places = torch.tensor([_first_token(tokenizer, one.place.name) for one in scenes])
    words = torch.tensor([0, *(_first_token(tokenizer, look.words[0][0]) for look in looks())])
    return pixels(scenes), torch.where(labels > 0, words[labels], places[:, None]), labels > 0


def _first_token(tokenizer: Any, text: str) -> int:
    return int(tokenizer(text, add_special_tokens=False).input_ids[0])


@cache
def _look_numbers() -> dict[str, int]:
    return {look.codepoint: number for number, look in enumerate(looks(), 1)}


def _encode(
    tokenizer: Any, one: Scene, random: np.random.Generator, questions: Questions
) -> tuple[torch.Tensor, torch.Tensor]:
    ask = random.random() < questions.share
    while True:  # a text that is too long is drawn again: cut, it would teach endless captions
        sample = question_sample(one, random) if ask else caption_sample(one, random)
        asked = tokenizer(f"USER: {sample.prompt} ASSISTANT:").input_ids
        answer = tokenizer(f"{sample.answer}</s>", add_special_tokens=False).input_ids
        if len(asked) + len(answer) <= TEXT_LENGTH:
            weight = questions.weight if sample.binary else 1.0
            return _padded(asked, answer, weight, tokenizer.pad_token_id)


def _padded(
    asked: list[int], answer: list[int], weight: float, pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.full((TEXT_LENGTH,), pad)
    weights = torch.zeros(TEXT_LENGTH)
    end = len(asked) + len(answer)
    ids[:end] = torch.tensor(asked + answer)
    weights[len(asked) : end] = weight
    return ids, weights
