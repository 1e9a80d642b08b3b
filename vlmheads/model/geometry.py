"""The shape of a decoder's attention: what a plugin or a head map has to fit."""

from dataclasses import asdict, dataclass
from typing import Any

from vlmheads.errors import VlmHeadsError


@dataclass(frozen=True)
class Geometry:
    """Layers and heads of one text decoder.

    Args:
        model_type: the `model_type` of the model's config, such as "llava".
        layers: number of decoder layers.
        heads: query heads of a layer (the largest, where layers differ).
    """

    model_type: str
    layers: int
    heads: int

    def require(self, other: "Geometry", what: str) -> None:
        """Raise unless `other`, the geometry that `what` was made for, is this one.

        Raises:
            VlmHeadsError: model type, layers or heads differ.
        """
        if self != other:
            raise VlmHeadsError(
                f"{what} was made for {other}",
                f"{self}, the geometry of this model",
                "measure it again on this model",
            )

    def check_layers(self, layers: tuple[int, ...], what: str) -> None:
        """Raise where `layers` names a layer that this decoder does not have.

        Raises:
            VlmHeadsError: an index is outside of 0 to layers - 1.
        """
        wrong = [layer for layer in layers if not 0 <= layer < self.layers]
        if wrong:
            raise VlmHeadsError(
                f"{what} names layers {wrong}",
                f"indices from 0 to {self.layers - 1} ({self.model_type} has {self.layers} layers)",
                "choose layers that this model has",
            )

    def check_heads(self, heads: tuple[tuple[int, int], ...], what: str) -> None:
        """Raise where `heads`, pairs of layer and head, names one that this decoder does not have.

        Raises:
            VlmHeadsError: a layer or head that is out of range.
        """
        wrong = [pair for pair in heads if pair[0] >= self.layers or pair[1] >= self.heads]
        if wrong:
            raise VlmHeadsError(
                f"{what} names (layer, head) {wrong}",
                f"those of {self}",
                "choose heads that this model has",
            )

    def scaled(self, first: int, stop: int, of: int = 32) -> tuple[int, ...]:
        """Layers `first` to `stop` - 1 of a decoder of `of` layers, scaled to this one's depth."""
        start = min(round(first * self.layers / of), self.layers - 1)
        return tuple(range(start, max(round(stop * self.layers / of), start + 1)))

    def __str__(self) -> str:
        return f"{self.model_type} with {self.layers} layers of {self.heads} heads"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)
