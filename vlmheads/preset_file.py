"""The form of a preset's file; `vlmheads.registry.Preset` says what its keys mean."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec


class PluginEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One plugin of a preset file."""

    name: str
    options: dict[str, Any] = {}


class Weights(msgspec.Struct, forbid_unknown_fields=True):
    """A file of the model that a preset was measured on."""

    file: str
    bytes: int
    sha256: str


class GeometryEntry(msgspec.Struct, forbid_unknown_fields=True):
    """The geometry of the models that a preset was measured on."""

    model_type: str
    layers: int
    heads: int
    attention_layers: tuple[int, ...] = ()


class PresetFile(msgspec.Struct, forbid_unknown_fields=True):
    """The form of a preset file; see `Preset`."""

    schema: int
    plugins: Annotated[list[PluginEntry], msgspec.Meta(min_length=1)]
    family: str
    versions: dict[str, str]
    source: str
    note: str = ""
    weights: list[Weights] = []
    models: list[str] = []
    geometry: GeometryEntry | None = None
    evidence: dict[str, str] = {}
    learn: str = ""
