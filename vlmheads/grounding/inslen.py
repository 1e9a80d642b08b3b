"""InsLen: what the question's own tokens already say of a word, by the lens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.glsim import local_similarity
from vlmheads.grounding.readings import (
    Needs,
    OfWord,
    Reading,
    checked_level,
    most_likely,
)
from vlmheads.model.geometry import Geometry
from vlmheads.precision import at_least_float32


def calibrated_local(
    instruction: Tensor, tokens: Tensor, image: Tensor, columns: Tensor, count: int
) -> Tensor:
    """Return CLS [T]: the lens probability in the instruction, times the local similarity.

    Args:
        instruction: [I, T] lens probability of each token at the instruction.
        tokens: [T, E] states before each token.
        image: [P, E] states of the image tokens.
        columns: [P, T] lens probability of each token there.
        count: how many of the P count.
    """
    return instruction.amax(dim=0) * local_similarity(tokens, image, columns, count)


def context_consistency(
    instruction: Tensor, context: Tensor, tokens: Tensor, count: int, bias: float
) -> Tensor:
    """Return CCS [T]: how near the token is to the instruction that says it.

    (bias - ‖h - e‖ / ‖h‖) · q, with e the mean state and q the mean lens probability of the
    `count` instruction tokens that give the token most.

    Args:
        instruction: [I, T] lens probability of each token at the instruction.
        context: [I, E] states of the instruction.
        tokens: [T, E] states h before each token.
        count: how many of the I count.
        bias: what the distance is taken from.
    """
    best = most_likely(instruction, count)  # [count, T]
    states = at_least_float32(tokens)
    center = at_least_float32(context)[best].mean(dim=0)
    distance = (states - center).norm(dim=-1) / states.norm(dim=-1)
    found: Tensor = (bias - distance) * instruction.gather(0, best).mean(dim=0)
    return found


@dataclass(frozen=True)
class InsLen:
    """.6 · calibrated local + .4 · context consistency.

    Source: "Instruction Lens Score", ICML 2026, arXiv 2605.12258, and its released code. The
    instruction is every prompt token behind the image.

    Deviations: the code reads the last state of the answer for a word at its very beginning, here
    it is the state at the end of the prompt; the token is the one in the answer, not that of the
    bare word. `bias` is 2, the value of its runs (the function's default is 4).

    Args:
        weight: of the calibrated local part.
        scale: what logits are multiplied by before the softmax.
        bias: of the context consistency.
        count: image tokens that count; all of them where an image has fewer.
        context: instruction tokens that count.
        instruction_level: by default 22 of 32 layers, scaled to the depth.
        image_level: by default 24 of 32.
        text_level: by default 32 of 32.

    Raises:
        VlmHeadsError: options that make no score.
    """

    name: ClassVar[str] = "inslen"
    higher_is_true: ClassVar[bool] = True
    of_word: ClassVar[OfWord] = "first"
    source: ClassVar[str] = (
        "InsLen (ICML 2026, arXiv 2605.12258), .6 CLS + .4 CCS, levels 22, 24 and 32 of 32, scale "
        ".1, bias 2, 32 image and 4 instruction tokens; the token as it stands in the text"
    )

    weight: float = 0.6
    scale: float = 0.1
    bias: float = 2.0
    count: int = 32
    context: int = 4
    instruction_level: int | None = None
    image_level: int | None = None
    text_level: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.scale <= 0 or min(self.count, self.context) < 1:
            raise VlmHeadsError(
                f"InsLen of weight {self.weight}, scale {self.scale}, counts {self.count} and "
                f"{self.context}",
                "a weight from 0 to 1, a scale above 0, and counts of at least 1",
            )

    def levels(self, geometry: Geometry) -> tuple[int, int, int]:
        """Return the levels of instruction, image and text."""
        return (
            checked_level("instruction_level", self.instruction_level, 22, geometry),
            checked_level("image_level", self.image_level, 24, geometry),
            checked_level("text_level", self.text_level, 32, geometry),
        )

    def needs(self, geometry: Geometry) -> Needs:
        """Ask for states and lens of image and instruction, and states before the tokens."""
        instruction, image, text = self.levels(geometry)
        return Needs(
            states=frozenset({(image, "image"), (text, "token"), (instruction, "instruction")}),
            columns=frozenset(
                {(image, "image", self.scale), (instruction, "instruction", self.scale)}
            ),
        )

    def of_tokens(self, reading: Reading, geometry: Geometry) -> Tensor:
        """Return the score of each token [T]; NaN where no text follows the image."""
        instruction, image, text = self.levels(geometry)
        said = reading.columns[instruction, "instruction", self.scale]
        tokens = reading.states[text, "token"]
        if not len(said):
            return torch.full((len(tokens),), torch.nan)
        local = calibrated_local(
            said,
            tokens,
            reading.states[image, "image"],
            reading.columns[image, "image", self.scale],
            self.count,
        )
        context = reading.states[instruction, "instruction"]
        near = context_consistency(said, context, tokens, self.context, self.bias)
        return self.weight * local + (1 - self.weight) * near
