"""GLSim: how close the token is to the whole prompt, and to the image tokens that show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.readings import (
    Needs,
    OfWord,
    Reading,
    checked_level,
    cosine,
    most_likely,
)
from vlmheads.model.geometry import Geometry


def global_similarity(last: Tensor, tokens: Tensor) -> Tensor:
    """Cosine [T] of the states at the end of the prompt [E] and before each token [T, E]."""
    return cosine(last[None], tokens)


def local_similarity(tokens: Tensor, image: Tensor, columns: Tensor, count: int) -> Tensor:
    """Mean cosine [T] of the state before each token and of the image tokens that show it.

    Args:
        tokens: [T, E] states before each token.
        image: [P, E] states of the image tokens.
        columns: [P, T] the lens probability of each token there.
        count: how many of the P count, the most likely ones.
    """
    chosen = image[most_likely(columns, count)]  # [count, T, E]
    return cosine(tokens[None], chosen).mean(dim=0)


@dataclass(frozen=True)
class GLSim:
    """weight · global + (1 - weight) · local similarity of the token and the picture.

    Source: Park et al., "GLSim", NeurIPS 2025, and its released code. Global: the cosine of
    the states at the end of the prompt and before the token. Local: the mean cosine of the state
    before the token and of the `count` image tokens to which the lens gives it most.

    Deviations: the paper has one text layer in the global part; the code takes the image layer at
    the token (`form="release"`, the default, since its figures come from there). The token is the
    one in the answer, not that of the bare word. At the first token of an answer, where the code
    fails, the state before the token is that at the end of the prompt.

    Args:
        weight: of the global part.
        count: image tokens in the local part; all of them where an image has fewer.
        image_level: level of the image tokens; by default 32 of 32 layers, scaled to the depth.
        text_level: level of the text; by default 31 of 32.
        form: "release" or "paper".

    Raises:
        VlmHeadsError: a weight that is no share, or a count below 1.
    """

    name: ClassVar[str] = "glsim"
    higher_is_true: ClassVar[bool] = True
    of_word: ClassVar[OfWord] = "first"
    source: ClassVar[str] = (
        "GLSim (Park et al., NeurIPS 2025), weight .6 on the global part, 32 image tokens, levels "
        "32 and 31 of 32; global part as in the released code; the token as it stands in the text"
    )

    weight: float = 0.6
    count: int = 32
    image_level: int | None = None
    text_level: int | None = None
    form: Literal["release", "paper"] = "release"

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.count < 1 or self.form not in ("release", "paper"):
            raise VlmHeadsError(
                f"GLSim of weight {self.weight}, count {self.count}, form {self.form!r}",
                "a weight from 0 to 1, a count of at least 1, and release or paper",
            )

    def levels(self, geometry: Geometry) -> tuple[int, int, int]:
        """Return the levels of image, text, and token in the global part."""
        image = checked_level("image_level", self.image_level, 32, geometry)
        text = checked_level("text_level", self.text_level, 31, geometry)
        return image, text, image if self.form == "release" else text

    def needs(self, geometry: Geometry) -> Needs:
        """Ask for states and lens of the image tokens, and states of the text."""
        image, text, other = self.levels(geometry)
        return Needs(
            states=frozenset({(image, "image"), (text, "last"), (text, "token"), (other, "token")}),
            columns=frozenset({(image, "image", 1.0)}),
        )

    def of_tokens(self, reading: Reading, geometry: Geometry) -> Tensor:
        """Return the score of each token [T]."""
        image, text, other = self.levels(geometry)
        whole = global_similarity(reading.states[text, "last"], reading.states[other, "token"])
        part = local_similarity(
            reading.states[text, "token"],
            reading.states[image, "image"],
            reading.columns[image, "image", 1.0],
            self.count,
        )
        return self.weight * whole + (1 - self.weight) * part
