"""One value per layer and head, with its provenance; saved, loaded and averaged."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import vlmheads
from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.notebook import head_map_html
from vlmheads.printable import one_line
from vlmheads.schema import decode

T = TypeVar("T")
SCHEMA = 1
# The measure of a head map of gains: factors on head outputs, such as calibration learns.
GAIN = "gain"
# What the numbers of a measure count, for the axes of figures.
UNITS = {
    "vhd": "length of the difference in head outputs",
    "image-attention": "share of attention",
    "text-attention": "share of attention",
    "first-token-attention": "share of attention",
    "sink-share": "share of the attention on the image",
    "image-centric": "share of rows",
    "relative-norm": "times the mean of the layer",
    "retrieval": "share of object words",
    "attribution": "log-probability, nats",
    "grounded-effect": "log-probability, nats",
    "hallucinated-effect": "log-probability, nats",
    "text-path": "log-probability, nats",
    "order-preference": "share of attention over a half",
    "image-cache": "share of the image tokens",
    "attention-distance": "patches",
    "attention-spread": "share of the entropy of even attention",
    "register-attention": "share of attention",
    "artefact-attention": "share of attention",
    GAIN: "factor on head outputs",
}


@dataclass(frozen=True, eq=False)
class HeadMap:
    """A measurement of every head of a model.

    Args:
        values: [N, L, H] one map per image, float32; not a number in layers without heads.
        geometry: the model that it was measured on; it is refused on any other.
        measure: what was measured, such as "vhd".
        provenance: model id, prompt, options and whatever else tells where it came from; plain
            values.

    Raises:
        VlmHeadsError: values that do not have the shape of the geometry.
    """

    values: Tensor
    geometry: Geometry
    measure: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (self.geometry.layers, self.geometry.heads)
        if (
            self.values.ndim != 3
            or tuple(self.values.shape[1:]) != expected
            or not len(self.values)
        ):
            raise VlmHeadsError(
                f"values of shape {list(self.values.shape)}",
                f"[images, {expected[0]} layers, {expected[1]} heads]",
            )
        object.__setattr__(self, "values", self.values.detach().to("cpu", torch.float32))

    @property
    def digest(self) -> str:
        """SHA-256 of the values, by which records tell maps apart."""
        return hashlib.sha256(self.values.contiguous().numpy().tobytes()).hexdigest()

    @property
    def unit(self) -> str:
        """What a value counts, for the axes of figures; empty where the measure is not known."""
        return UNITS.get(self.measure, "")

    @property
    def images(self) -> int:
        """How many images the map was measured on."""
        return len(self.values)

    def mean(self) -> Tensor:
        """Mean over the images [L, H]."""
        return self.values.mean(dim=0)

    def standard_error(self) -> Tensor:
        """Return the standard error of the mean [L, H]; not a number for a single image."""
        if self.images == 1:
            return torch.full_like(self.values[0], torch.nan)
        deviation: Tensor = self.values.std(dim=0)
        return deviation / math.sqrt(self.images)

    def top(self, k: int) -> list[tuple[int, int, float]]:
        """Return the k heads with the largest mean, as (layer, head, value), largest first."""
        values = self.mean().flatten()
        known = int((~values.isnan()).sum())
        if not 1 <= k <= known:
            raise VlmHeadsError(f"k={k}", f"a number from 1 to {known} heads")
        best = values.nan_to_num(-math.inf, math.inf, -math.inf).topk(k)
        return [
            (index // self.geometry.heads, index % self.geometry.heads, value)
            for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @classmethod
    def concatenate(cls, maps: Sequence[HeadMap]) -> HeadMap:
        """Join maps of several batches into one of all their images.

        Raises:
            VlmHeadsError: none, or maps of different models or measures.
        """
        if not maps:
            raise VlmHeadsError("no head map", "at least one to join")
        first = maps[0]
        for other in maps[1:]:
            first.geometry.require(other.geometry, "a head map")
            if other.measure != first.measure:
                raise VlmHeadsError(f"a map of {other.measure!r}", f"one of {first.measure!r}")
        values = torch.cat([item.values for item in maps])
        return cls(values, first.geometry, first.measure, first.provenance)

    def _repr_html_(self) -> str:
        return head_map_html(self)

    def save(self, path: str | Path) -> None:
        """Write the map as safetensors, with everything else as JSON in its metadata."""
        about = {
            "schema": SCHEMA,
            "library": vlmheads.__version__,
            "measure": self.measure,
            "geometry": self.geometry.to_dict(),
            "images": self.images,
            "provenance": dict(self.provenance),
        }
        metadata = {"vlmheads": json.dumps(about, sort_keys=True)}
        save_file({"values": self.values.contiguous()}, path, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> HeadMap:
        """Read a map that `save` wrote.

        Raises:
            VlmHeadsError: no such file, not a head map, or one of a later schema.
        """
        if not Path(path).is_file():
            raise VlmHeadsError(f"no file {path}", "a head map", "make one with `vlmheads detect`")
        about, values = read_tensor(Path(path), "a head map", "vlmheads", "values", _About)
        if about.schema != SCHEMA:
            raise VlmHeadsError(
                f"{path} has schema {about.schema}",
                f"schema {SCHEMA}",
                "upgrade vlmheads or measure again",
            )
        geometry = Geometry.from_dict(about.geometry, f"{path}: geometry")
        return cls(values, geometry, about.measure, about.provenance)


class _About(msgspec.Struct):
    """What `save` writes beside the values."""

    schema: int
    measure: str
    geometry: dict[str, Any]
    provenance: dict[str, Any]


def read_tensor(path: Path, what: str, key: str, name: str, form: type[T]) -> tuple[T, Tensor]:
    """Return what a safetensors file says of itself, and one of its tensors.

    Args:
        path: the file.
        what: it should be, for errors, such as "a head map".
        key: of the JSON in its metadata.
        name: of the tensor.
        form: of the JSON; see `vlmheads.schema`.

    Raises:
        VlmHeadsError: another kind of file, without the two, or with JSON of another form.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {})[key]
            values = file.get_tensor(name)
    except (SafetensorError, OSError, KeyError) as error:
        reason = one_line(error)
        raise VlmHeadsError(f"{path} is not {what} ({reason})", "a file that was saved") from error
    about: T = decode(text.encode(), form, f"{path} is not {what}: {key}", "a file that was saved")
    return about, values
