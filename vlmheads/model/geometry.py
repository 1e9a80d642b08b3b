"""The shape of a decoder's attention: what a plugin or a head map has to fit."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import msgspec

from vlmheads.errors import VlmHeadsError
from vlmheads.schema import convert

LARGEST = 65536  # Layers or heads.


@dataclass(frozen=True)
class Geometry:
    """Layers and heads of one text decoder.

    Args:
        model_type: the `model_type` of the model's config, such as "llava".
        layers: number of decoder layers.
        heads: query heads of a layer (the largest, where layers differ).
        attention_layers: indices of the layers that have attention heads; by default all. Others
            mix tokens by convolution or linear attention.
    """

    model_type: str
    layers: int
    heads: int
    attention_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        given = self.attention_layers or range(self.layers)
        object.__setattr__(self, "attention_layers", tuple(given))

    @classmethod
    def from_dict(cls, values: Any, place: str) -> "Geometry":
        """Make a geometry from the plain values of `to_dict`.

        Args:
            values: as a file has them.
            place: the file, for errors.

        Raises:
            VlmHeadsError: they are of another form, or no model is that large.
        """
        form: _Form = convert(values, _Form, place, "layers and heads of a model")
        return cls(form.model_type, form.layers, form.heads, form.attention_layers)

    @property
    def bare_layers(self) -> tuple[int, ...]:
        """Indices of the layers that have no attention heads."""
        return tuple(layer for layer in range(self.layers) if layer not in self.attention_layers)

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

    def check_layers(self, layers: tuple[int, ...], what: str, *, attention: bool = False) -> None:
        """Raise where `layers` names a layer that this decoder does not have.

        Args:
            layers: indices of layers.
            what: names them in the error.
            attention: whether each of them has to have attention heads.

        Raises:
            VlmHeadsError: an index is outside of 0 to layers - 1, or of a layer without heads.
        """
        wrong = [layer for layer in layers if not 0 <= layer < self.layers]
        if wrong:
            raise VlmHeadsError(
                f"{what} names layers {wrong}",
                f"indices from 0 to {self.layers - 1} ({self.model_type} has {self.layers} layers)",
                "choose layers that this model has",
            )
        bare = [layer for layer in layers if layer not in self.attention_layers]
        if attention and bare:
            raise VlmHeadsError(
                f"{what} names layers {bare}, which have no attention heads",
                f"layers of {self.model_type} that have some: {list(self.attention_layers)}",
                "choose layers with attention",
            )

    def check_heads(self, heads: tuple[tuple[int, int], ...], what: str) -> None:
        """Raise where `heads`, pairs of layer and head, names one that this decoder does not have.

        Raises:
            VlmHeadsError: a layer or head that is out of range, or a layer without heads.
        """
        wrong = [
            (layer, head)
            for layer, head in heads
            if layer not in self.attention_layers or head >= self.heads
        ]
        if wrong:
            raise VlmHeadsError(
                f"{what} names (layer, head) {wrong}",
                f"those of {self}",
                "choose heads that this model has",
            )

    def scaled(
        self, first: int, stop: int, of: int = 32, *, attention: bool = True
    ) -> tuple[int, ...]:
        """Layers `first` to `stop` - 1 of a decoder of `of` layers, scaled to this one's depth.

        Args:
            first: index of the first layer.
            stop: index after the last.
            of: how many layers the decoder has that the range was published for.
            attention: scale over the layers that have attention heads, or over all.
        """
        layers = self.attention_layers if attention else tuple(range(self.layers))
        start = min(round(first * len(layers) / of), len(layers) - 1)
        return layers[start : max(round(stop * len(layers) / of), start + 1)]

    def __str__(self) -> str:
        return f"{self.model_type} with {self.layers} layers of {self.heads} heads"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; `attention_layers` where not all layers are."""
        values = asdict(self)
        if len(self.attention_layers) == self.layers:
            del values["attention_layers"]
        return values


class _Form(msgspec.Struct):
    """The form of `Geometry.to_dict`, with bounds that hold for every model."""

    model_type: str
    layers: Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
    heads: Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
    attention_layers: tuple[Annotated[int, msgspec.Meta(ge=0, lt=LARGEST)], ...] = ()
