"""What methods share that keep a state for each answer: which row went on as which."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.runtime.request import Request


def came_from(request: Request, kept: dict[str, Any], values: Tensor) -> Tensor:
    """[B] which row of the forward pass before each row of this one continues.

    Beams change places between two steps, and the cache moves with them: a row is the one whose
    newest value vector it now holds as its last but one. To be called once in every forward pass,
    the prefill included, at one layer, from 1 on: in layer 0 a value is its token's alone.

    Args:
        request: the running generation.
        kept: where to keep what the next call compares with.
        values: [B, Hkv, K, D] of that layer, the new ones included.
    """
    dropped = max(0, request.seen - values.shape[2])
    before: Tensor | None = kept.get("newest")
    kept["newest"] = values[:, :, request.seen - 1 - dropped].flatten(1).clone()
    if before is None or not request.cached or len(values) == 1:
        return torch.arange(len(values), device=values.device)
    now = values[:, :, request.cached - 1 - dropped].flatten(1)
    return (now[:, None] - before[None]).float().square().sum(dim=-1).argmin(dim=1)


def later_layers(geometry: Geometry, first: int, stop: int) -> tuple[int, ...]:
    """Return layers `first` to `stop` - 1 of 32, scaled to the depth, of those from 1 on."""
    later = tuple(layer for layer in geometry.attention_layers if layer)
    return tuple(layer for layer in geometry.scaled(first, stop) if layer) or later[:1]


def telling_layer(geometry: Geometry, name: str) -> int:
    """Return the first layer from 1 on that has attention, where `came_from` can be asked.

    Raises:
        VlmHeadsError: there is none.
    """
    found = next((layer for layer in geometry.attention_layers if layer), None)
    if found is None:
        raise VlmHeadsError(
            f"{name} on {geometry}, without attention in a layer after the first",
            "a model with one, by which beams are told apart",
        )
    return found


def refuse_layer_0(layers: tuple[int, ...], name: str) -> None:
    """Refuse layer 0, where beams that end on the same token cannot be told apart.

    Raises:
        VlmHeadsError: it is among the layers.
    """
    if 0 in layers:
        raise VlmHeadsError(f"{name}: layers with 0 among them", "layers from 1 on")


def refuse_drafts(request: Request, name: str) -> None:
    """Refuse several new tokens in one step, of which some may be taken back.

    Raises:
        VlmHeadsError: prompt lookup, or another kind of drafts.
    """
    if request.predicting > 1:
        raise VlmHeadsError(
            f"{name}: {request.predicting} new tokens in one forward pass",
            "one token per step: each depends on what was said before it",
            "leave prompt_lookup_num_tokens unset",
        )
