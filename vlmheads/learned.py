"""What a method has learned from a model: named tensors with their provenance, in one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import vlmheads
from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.printable import one_line
from vlmheads.schema import decode

SCHEMA = 1
KEY = "vlmheads-learned"


EXPECTED = "a file that `vlmheads learn` wrote"


class _About(msgspec.Struct):
    """What a file says next to its tensors."""

    schema: int
    method: str
    geometry: dict[str, Any]
    digest: str
    provenance: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Learned:
    """What one method has learned from one model.

    Args:
        method: the plugin that takes it, such as "adaiat".
        values: named tensors, held as float32 on the CPU.
        geometry: that of the model that they were learned from; any other is refused.
        provenance: model id, digests of weights and data, numbers of words, versions, command and
            whatever else tells where they came from; plain values. It is for the reader: plugins
            refuse a file by method and geometry alone, so another checkpoint of the same geometry,
            such as a fine-tuned one, is taken.

    Raises:
        VlmHeadsError: no tensor at all.
    """

    method: str
    values: Mapping[str, Tensor]
    geometry: Geometry
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.values:
            raise VlmHeadsError(f"nothing learned for {self.method}", "at least one tensor")
        held = {
            name: value.detach().to("cpu", torch.float32).contiguous()
            for name, value in sorted(self.values.items())
        }
        object.__setattr__(self, "values", held)

    @property
    def digest(self) -> str:
        """SHA-256 of the names, shapes and values, by which records tell files apart."""
        found = hashlib.sha256()
        for name, value in self.values.items():
            found.update(f"{name}{list(value.shape)}".encode())
            found.update(value.numpy().tobytes())
        return found.hexdigest()

    def require(self, method: str, tensors: Mapping[str, str]) -> None:
        """Raise unless this was learned for a method and holds the tensors that it takes.

        Args:
            method: the name of the plugin.
            tensors: name -> a letter per dimension: L layers, H heads, any other letter a size that
                is the same wherever the letter stands.

        Raises:
            VlmHeadsError: another method, a tensor that is missing or unknown, or another shape.
        """
        if self.method != method:
            raise VlmHeadsError(
                f"a file learned for {self.method!r}",
                f"one for {method!r}",
                "pass the file of this method",
            )
        if set(self.values) != set(tensors):
            raise VlmHeadsError(
                f"{self.method}: tensors {', '.join(self.values)}", ", ".join(sorted(tensors))
            )
        sizes = {"L": self.geometry.layers, "H": self.geometry.heads}
        for name, letters in sorted(tensors.items()):
            shape = tuple(self.values[name].shape)
            expected = [sizes.get(letter, letter) for letter in letters]
            for letter, size in zip(letters, shape, strict=False):
                sizes.setdefault(letter, size)
            if shape != tuple(sizes.get(letter) for letter in letters):
                raise VlmHeadsError(
                    f"{self.method}: {name} of shape {list(shape)}",
                    f"[{', '.join(map(str, expected))}] for {self.geometry}",
                )

    def save(self, path: str | Path) -> None:
        """Write the tensors as safetensors, with everything else as JSON in its metadata."""
        about = {
            "schema": SCHEMA,
            "library": vlmheads.__version__,
            "method": self.method,
            "geometry": self.geometry.to_dict(),
            "digest": self.digest,
            "provenance": dict(self.provenance),
        }
        metadata = {KEY: json.dumps(about, sort_keys=True)}
        save_file(dict(self.values), path, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> Learned:
        """Read what `save` wrote.

        Raises:
            VlmHeadsError: no such file, nothing that was learned, a later schema, or values that
                are not those that were saved.
        """
        if not Path(path).is_file():
            raise VlmHeadsError(f"no file {path}", EXPECTED)
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get(KEY)
                values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise VlmHeadsError(
                f"{path} holds nothing learned ({one_line(error)})", EXPECTED
            ) from error
        if text is None:
            raise VlmHeadsError(f"{path} holds nothing learned", EXPECTED)
        about: _About = decode(text.encode("utf-8", "replace"), _About, str(path), EXPECTED)
        geometry = Geometry.from_dict(about.geometry, str(path))
        schema, method, digest = about.schema, about.method, about.digest
        provenance = about.provenance
        if schema != SCHEMA:
            raise VlmHeadsError(
                f"{path} has schema {schema}", f"schema {SCHEMA}", "upgrade vlmheads or learn again"
            )
        found = cls(method, values, geometry, provenance)
        if found.digest != digest:
            raise VlmHeadsError(
                f"{path} holds values of digest {found.digest[:12]}",
                f"{digest[:12]}, those that were saved",
                "learn again",
            )
        return found
