"""Controls: the same method at random heads, or along random directions, of the same size."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlmheads.headmap import HeadMap
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin

RANDOM = "random"


def control_of(
    plugins: Sequence[Plugin], geometry: Geometry, seed: int
) -> tuple[Plugin, ...] | None:
    """Return the plugins with random heads or directions; None where they select neither.

    A map keeps its values, at shuffled heads; a method that maps heads itself gets a random map, as
    many of whose heads it selects. Listed heads become as many others. Directions become random
    ones of the same length. Everything else stays.

    Args:
        plugins: of one setting.
        geometry: of the model.
        seed: of the draw.
    """
    draws = torch.Generator().manual_seed(seed)
    found, selects = [], False
    for plugin in plugins:
        changes = _changes(plugin, geometry, draws)
        selects = selects or bool(changes)
        found.append(dataclasses.replace(plugin, **changes) if changes else plugin)
    return tuple(found) if selects else None


def _changes(plugin: Plugin, geometry: Geometry, draws: torch.Generator) -> dict[str, Any]:
    """Return the options of a plugin that select heads or directions, with random ones."""
    changes: dict[str, Any] = {}
    listing = [f for f in dataclasses.fields(plugin) if f.metadata.get("kind") == "heads"]
    listed = any(getattr(plugin, field.name) != field.default for field in listing)
    count = sum(len(getattr(plugin, field.name) or ()) for field in listing)
    others = _random_heads(geometry, count, draws)
    for field in dataclasses.fields(plugin):
        kind, value = field.metadata.get("kind"), getattr(plugin, field.name)
        if kind == "head_map" and isinstance(value, HeadMap):
            changes[field.name] = _shuffled(value, draws)
        elif kind == "head_map" and RANDOM in field.metadata["measures"] and not listed:
            values = torch.rand((1, geometry.layers, geometry.heads), generator=draws)
            changes[field.name] = HeadMap(values, geometry, RANDOM)
        elif kind == "heads" and value:
            changes[field.name], others = others[: len(value)], others[len(value) :]
        elif kind == "learned" and isinstance(value, Learned):
            drawn = _drawn(value, field.metadata["tensors"], draws)
            if drawn is not None:
                changes[field.name] = drawn
    return changes


def _random_heads(
    geometry: Geometry, count: int, draws: torch.Generator
) -> tuple[tuple[int, int], ...]:
    every = [(layer, head) for layer in geometry.attention_layers for head in range(geometry.heads)]
    order = torch.randperm(len(every), generator=draws).tolist()
    return tuple(every[at] for at in order[:count])


def _shuffled(head_map: HeadMap, draws: torch.Generator) -> HeadMap:
    """Return the mean values of a map at shuffled heads; layers without heads keep theirs."""
    values = head_map.mean().clone()
    rows = values[list(head_map.geometry.attention_layers)]
    order = torch.randperm(rows.numel(), generator=draws)
    values[list(head_map.geometry.attention_layers)] = rows.flatten()[order].view_as(rows)
    about = {**head_map.provenance, "control": "shuffled heads"}
    return HeadMap(values[None], head_map.geometry, head_map.measure, about)


def _drawn(learned: Learned, letters: Mapping[str, str], draws: torch.Generator) -> Learned | None:
    """Return what was learned at shuffled heads, or along random directions; None for neither."""
    order = torch.randperm(learned.geometry.layers * learned.geometry.heads, generator=draws)
    values = {}
    for name, value in learned.values.items():
        if letters[name][:2] == "LH":
            values[name] = value.flatten(0, 1)[order].view_as(value)
        elif (axis := _axis(letters[name])) is not None:
            values[name] = _random_directions(value, axis, draws)
    if not values:
        return None
    about = {**learned.provenance, "control": "random"}
    return Learned(learned.method, {**learned.values, **values}, learned.geometry, about)


def _axis(letters: str) -> int | None:
    """Return the dimension along which a tensor holds directions: of states, keys or values."""
    if "E" in letters:
        return letters.index("E")
    return len(letters) - 1 if letters[-1] in "DV" else None


def _random_directions(value: Tensor, axis: int, draws: torch.Generator) -> Tensor:
    """Return random directions of the same lengths; those of a basis [..., E, k] are orthogonal."""
    noise = torch.randn(value.shape, generator=draws)
    if axis == value.ndim - 2 and value.shape[-1] <= value.shape[-2]:
        noise = torch.linalg.qr(noise).Q
    lengths: Tensor = value.norm(dim=axis, keepdim=True) / noise.norm(dim=axis, keepdim=True)
    return noise * lengths
