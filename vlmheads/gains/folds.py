"""What is left of a plugin when its effect is written into the weights of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin

# Why a plugin that overrides a hook cannot be folded, the most telling hook first.
_REASONS = {
    "streams": "it contrasts with another pass at each step",
    "on_attention": "it edits attention by what each prompt and each step attend to",
    "on_logits": "it edits the logits of each step",
    "on_hidden": "it edits hidden states by what it finds in each prompt",
    "on_heads": "it chooses heads anew for each prompt",
}


@dataclass(frozen=True)
class Fold:
    """A change of weights that does at every position what a plugin does.

    Args:
        gains: a factor for every head, [L, H], on the columns of the output projection that read
            the head; 1, or not a number, where there is none. None for no gains.
        removed: layer -> orthonormal basis [E, k] of the directions that its MLP's output loses.
        offsets: layer -> [H, D] what is added to its head outputs, after the gains; it becomes a
            bias of the output projection.
        note: in which way the folded form is not what the plugin does; empty where it is the same.
    """

    gains: Tensor | None = None
    removed: Mapping[int, Tensor] = field(default_factory=dict)
    offsets: Mapping[int, Tensor] = field(default_factory=dict)
    note: str = ""


def fold_of(plugin: Plugin, geometry: Geometry) -> Fold:
    """Return a plugin's change of weights.

    Raises:
        VlmHeadsError: the plugin does not do the same at every position of every prompt.
    """
    fold = plugin.fold(geometry)
    if fold is None:
        hooks = {*plugin.hooks(), *(("streams",) if plugin.streams else ())}
        reason = next((text for hook, text in _REASONS.items() if hook in hooks), "it has no form")
        raise VlmHeadsError(
            f"{plugin.name} cannot be written into weights: {reason}",
            "constant factors on heads, such as gains, or vhr with a head_map",
            f"keep it attached: vlmheads.attach(model, {plugin.name!r}), or `vlmheads serve`",
        )
    return fold


def combined(plugins: Iterable[Plugin], geometry: Geometry) -> Fold:
    """Return the change of weights of several plugins, which act one after the other.

    Raises:
        VlmHeadsError: one of them cannot be folded, two edit the same MLP, factors that are not
            finite or on layers without heads, or nothing that changes anything.
    """
    gains = torch.ones(geometry.layers, geometry.heads, dtype=torch.float64)
    removed: dict[int, Tensor] = {}
    offsets: dict[int, Tensor] = {}
    notes = []
    for plugin in plugins:
        plugin.fit(geometry)
        fold = fold_of(plugin, geometry)
        if fold.gains is not None:
            own = checked_gains(fold.gains, geometry)
            gains *= own
            offsets = {
                layer: added * own[layer, : len(added), None] for layer, added in offsets.items()
            }
        for layer, added in fold.offsets.items():
            offsets[layer] = offsets.get(layer, 0) + added.double()
        if both := sorted(set(removed) & set(fold.removed)):
            raise VlmHeadsError(f"two plugins that edit the MLP of layer {both[0]}", "one of them")
        removed |= fold.removed
        notes += [fold.note] if fold.note else []
    if not removed and not offsets and bool((gains == 1).all()):
        raise VlmHeadsError("gains that are all 1", "a gain that changes something")
    return Fold(gains, removed, offsets, "; ".join(notes))


def checked_gains(gains: Tensor, geometry: Geometry) -> Tensor:
    """Return factors as float64 [L, H], 1 in the layers that have no heads.

    Raises:
        VlmHeadsError: another shape, a factor that is not finite, or one on a layer without heads.
    """
    values = gains.detach().to("cpu", torch.float64)
    if tuple(values.shape) != (geometry.layers, geometry.heads):
        raise VlmHeadsError(
            f"gains of shape {list(values.shape)}",
            f"[{geometry.layers}, {geometry.heads}], those of {geometry}",
        )
    if not bool(values[list(geometry.attention_layers)].isfinite().all()):
        raise VlmHeadsError("gains that are not finite", "numbers")
    bare = list(geometry.bare_layers)
    values[bare] = values[bare].nan_to_num(1.0)
    if bool((values[bare] != 1).any()):
        raise VlmHeadsError(
            f"gains for layers without attention heads: {bare}",
            "1, or not a number, in those layers",
        )
    return values
