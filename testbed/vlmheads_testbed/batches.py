from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from vlmheads_testbed.captions import Sample, caption_sample
from vlmheads_testbed.categories import looks
from vlmheads_testbed.processing import BEGIN, END, noun_tokens
from vlmheads_testbed.questions import check_text, question_samples
from vlmheads_testbed.scenes import PATCH, SIZE, Scene, scene, stream

#: Every training text has this many tokens, the padding at its end included.
TEXT_LENGTH = 80
#: Tokens before the image: "<s> USER :".
PREFIX_LENGTH = 3
#: Texts about each picture.
TEXTS = 2


@dataclass(frozen=True)
class Mix:
    """What texts are about: the shares of checks and of questions in turns; others are captions.

    Every second picture gets the shares doubled, and the others are described twice.
    ``nouns`` and ``answers`` are the weights of the tokens for things and for yes and no in turns.
    ``check_yes`` is that of yes in checks, where it is five times as rare as no.
    """

    checks: float = 0.25
    questions: float = 0.2
    nouns: float = 3.5
    answers: float = 3.0
    check_yes: float = 5.0


ONLY_CHECKS = Mix(checks=1.0, questions=0.0)


@dataclass(frozen=True)
class TextBatch:
    """Pictures ``[P, 112, 112, 3]`` uint8, tokens ``[2P, T]`` and the weight of each as a target.

    Texts 2i and 2i + 1 are about picture i.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class PatchBatch:
    """Pictures ``[P, 112, 112, 3]`` uint8 and the label of each patch ``[P, 64]``.

    ``shown`` is true where a patch shows an object.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    shown: torch.Tensor


def patch_batch(seed: int, first: int, size: int) -> PatchBatch:
    """Pictures and, for each of the 64 patches, the look that covers it (0: background)."""
    scenes = _scenes(seed, first, size)
    labels = torch.stack([patch_labels(one) for one in scenes])
    return PatchBatch(pictures(scenes), labels, labels > 0)


def word_batch(tokenizer: Any, seed: int, first: int, size: int) -> PatchBatch:
    """Pictures and, for each patch, the first token of its object's word or else of its place's."""
    scenes = _scenes(seed, first, size)
    labels = torch.stack([patch_labels(one) for one in scenes])
    places = torch.tensor([_first_token(tokenizer, one.place.name) for one in scenes])
    words = torch.tensor([0, *(_first_token(tokenizer, look.words[0][0]) for look in looks())])
    shown = labels > 0
    return PatchBatch(pictures(scenes), torch.where(shown, words[labels], places[:, None]), shown)


def text_batch(tokenizer: Any, seed: int, first: int, size: int, mix: Mix = Mix()) -> TextBatch:
    """Pictures with two texts about each; the same numbers give the same batch."""
    scenes = _scenes(seed, first, size)
    texts = [
        fitting_text(tokenizer, one, stream("train", seed, first + row, 1 + number), mix)
        for row, one in enumerate(scenes)
        for number in range(TEXTS)
    ]
    ids = np.full((len(texts), TEXT_LENGTH), tokenizer.pad_token_id)
    for row, tokens in enumerate(texts):
        ids[row, : len(tokens)] = tokens
    return TextBatch(
        pictures(scenes), torch.from_numpy(ids), torch.from_numpy(weights(tokenizer, ids, mix))
    )


def fitting_text(tokenizer: Any, one: Scene, random: np.random.Generator, mix: Mix) -> list[int]:
    """Draw a text about a picture; one that is too long is drawn again.

    Cut, it would teach endless captions.
    """
    # The picture's own noise decides, so that both of its texts agree on it.
    double = 2.0 if int(one.pixels[0, 0].sum()) % 2 else 0.0
    scale = 1.0 if mix.checks >= 1 else double
    while True:
        kind = random.random()
        if kind < scale * mix.checks:
            text = f"{BEGIN}USER: {check_text(one, random)}"
        elif kind < scale * (mix.checks + mix.questions):
            text = conversation(question_samples(one, random))
        else:
            text = conversation([caption_sample(one, random)])
        tokens: list[int] = tokenizer(text).input_ids
        if len(tokens) <= TEXT_LENGTH:
            return tokens


def conversation(samples: Sequence[Sample]) -> str:
    """Write turns as the chat template does, without the picture, which follows "USER:"."""
    turns = (f"USER: {one.prompt} ASSISTANT: {one.answer}{END}" for one in samples)
    return BEGIN + " ".join(turns)


def weights(tokenizer: Any, ids: np.ndarray, mix: Mix) -> np.ndarray:
    """Find how much each token counts as a target: ``[B, T]`` float32, 0 for what the user says.

    The model says what stands between "ASSISTANT:" and the end token, that token included, and
    each yes and no.
    """
    kinds = _kinds(tokenizer)
    started = np.zeros_like(ids)
    started[:, 2:] = ids[:, :-2] == kinds.assistant
    ended = np.zeros_like(ids)
    ended[:, 1:] = ids[:, :-1] == kinds.end
    said = (started.cumsum(1) > ended.cumsum(1)).astype(np.float32)
    said[np.isin(ids, kinds.nouns) & (said > 0)] = mix.nouns
    yes, no = ids == kinds.yes, ids == kinds.no
    checks = ~(ids == kinds.assistant).any(1, keepdims=True)
    said[yes | no] = mix.answers
    said[checks & no] = 1.0
    said[checks & yes] = mix.check_yes
    return said


def pictures(scenes: list[Scene]) -> torch.Tensor:
    """Pictures as they are drawn: ``[B, 112, 112, 3]`` uint8."""
    return torch.from_numpy(np.stack([one.pixels for one in scenes]))


def scaled(drawn: torch.Tensor) -> torch.Tensor:
    """Pictures as the processor gives them to the model: ``[B, 3, 112, 112]`` in -1 to 1."""
    return drawn.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def pixels(scenes: list[Scene]) -> torch.Tensor:
    """Pictures of scenes as the processor gives them to the model."""
    return scaled(pictures(scenes))


def patch_labels(one: Scene) -> torch.Tensor:
    """Find the look that covers most of each patch, from 1, or 0 for background: ``[64]``."""
    side = SIZE // PATCH
    squares = one.cover.reshape(side, PATCH, side, PATCH).transpose(0, 2, 1, 3)
    cells = squares.reshape(side * side, PATCH * PATCH)
    shares = np.stack([(cells == group).mean(1) for group in range(len(one.groups))])
    numbers = np.asarray([_look_numbers()[group.look.codepoint] for group in one.groups])
    return torch.from_numpy(np.where(shares.max(0) >= 0.25, numbers[shares.argmax(0)], 0))


@dataclass(frozen=True)
class _Kinds:
    assistant: int
    end: int
    yes: int
    no: int
    nouns: list[int]


@lru_cache(maxsize=4)
def _kinds(tokenizer: Any) -> _Kinds:
    names = "▁ASSISTANT", "▁Yes", "▁No"
    assistant, yes, no = tokenizer.convert_tokens_to_ids(list(names))
    return _Kinds(assistant, tokenizer.eos_token_id, yes, no, noun_tokens(tokenizer))


def _scenes(seed: int, first: int, size: int) -> list[Scene]:
    return [scene("train", seed, first + row) for row in range(size)]


@lru_cache(maxsize=1024)
def _first_token(tokenizer: Any, text: str) -> int:
    return int(tokenizer(text).input_ids[0])


@cache
def _look_numbers() -> dict[str, int]:
    return {look.codepoint: number for number, look in enumerate(looks(), 1)}
