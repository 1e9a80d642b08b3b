"""The cache of a generation: where a forward pass takes it, and one whose rows are streams.

A forward pass takes and returns its cache as: ``cache``, or ``past_key_values`` before.

transformers 5.24 renamed the argument and the field; callers may go on using the old name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from vlmheads.errors import VlmHeadsError
from vlmheads.runtime.compat import is_recording

NAMES = ("cache", "past_key_values")
# Columns for tokens to come that a roomy layer keeps free whenever it has to move.
_ROOM = 16


def cache_argument(model: Any) -> str:
    """Return the name of the argument of a model's forward pass that holds its cache.

    A wrapper that passes everything on is given the old name, which both sides know.

    Raises:
        VlmHeadsError: it has none of those that are known, so that steps could not be told apart.
    """
    known = inspect.signature(model.forward).parameters
    found = next((name for name in NAMES if name in known), None)
    if found is None and "input_ids" not in known:
        return NAMES[1]
    if found is None:
        raise VlmHeadsError(
            f"{type(model).__name__}.forward takes no cache",
            f"an argument {' or '.join(NAMES)}",
            "use a version of transformers that vlmheads was tested with",
        )
    return found


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """Return the cache among the arguments of a forward pass, under either name, or None."""
    return next((arguments[name] for name in NAMES if arguments.get(name) is not None), None)


def filled_cache(output: Any) -> Any:
    """Return the cache in a model's output, or None."""
    # The new name first: outputs that know it log a warning when asked for the old one.
    return getattr(output, NAMES[0]) if hasattr(output, NAMES[0]) else output.get(NAMES[1])


def with_cache(model: Any, arguments: Mapping[str, Any], cache: Any) -> dict[str, Any]:
    """Return the arguments with a cache in the place of theirs, under the model's own name."""
    others = {name: value for name, value in arguments.items() if name not in NAMES}
    return others | {cache_argument(model): cache}


class RoomyLayer(DynamicLayer):
    """A layer that appends in place, where a DynamicLayer copies all that it holds for every token.

    Keys and values are the filled part of longer tensors. Whoever puts others in their place, by
    reordering or an edit, is followed: they are then copied once.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, H, S, D]; return all."""
        # What is written in place cannot be differentiated through, nor told apart in a graph.
        written = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        if not written or self.get_seq_length() == 0:
            found: tuple[Tensor, Tensor] = super().update(key_states, value_states)
            return found
        self.keys = keys = self._appended("keys", key_states)
        self.values = values = self._appended("values", value_states)
        return keys, values

    def _appended(self, name: str, new: Tensor) -> Tensor:
        """Return what is held, with the new columns after it."""
        held: Tensor = getattr(self, name)
        # What was last handed out, and the longer tensor that it is the beginning of.
        rooms: dict[str, tuple[Tensor, Tensor]] = self.__dict__.setdefault("_rooms", {})
        view, room = rooms.get(name, (None, held))
        begin, end = held.shape[2], held.shape[2] + new.shape[2]
        if view is not held or end > room.shape[2]:
            room = held.new_empty(*held.shape[:2], end + _ROOM, held.shape[3])
            room[:, :, :begin] = held
        room[:, :, begin:end] = new
        filled = room[:, :, :end]
        rooms[name] = (filled, room)
        return filled


# What a layer of a cache may be for its streams to be filled on their own: columns are tokens.
_COLUMNS = (RoomyLayer, DynamicSlidingWindowLayer)


class StreamCache(DynamicCache):
    """A cache whose rows are the main stream's and, after them, those of each extra stream.

    Beam search reorders the rows of the main stream; the others have to follow in step.

    Args:
        config: the model's config, for layers that keep a sliding window.
        copies: how many streams the rows hold, the main one included.
        rows: rows of one stream.
        given: the empty cache in whose place it stands; one that will be cropped, for prompt
            lookup, has been told to record what a window would drop.
    """

    def __init__(
        self, config: PreTrainedConfig, copies: int, rows: int, given: Cache | None
    ) -> None:
        super().__init__(config=config)
        self.copies, self.rows = copies, rows
        roomy: Any = RoomyLayer
        self.layers = [roomy() if type(one) is DynamicLayer else one for one in self.layers]
        if self.layer_class_to_replicate is DynamicLayer:
            self.layer_class_to_replicate = RoomyLayer
        if given is not None and is_recording(given):
            self.activate_past_recording()  # type: ignore[no-untyped-call]

    @property
    def joins(self) -> bool:
        """Whether streams that were filled on their own can be joined: every layer keeps tokens."""
        return bool(self.layers) and all(type(layer) in _COLUMNS for layer in self.layers)

    def join(self, others: Sequence[tuple[Cache, Tensor]]) -> None:
        """Add the rows of streams to those of the main one, which this cache holds by now.

        Shorter ones are padded on the left with zeros, which a mask has to hide.

        Args:
            others: what each stream has cached, at most as long, and which of its rows [B] stands
                beside each of the main stream's.
        """
        layers: list[Any] = self.layers
        for index, layer in enumerate(layers):
            if not layer.is_initialized:
                continue
            for name in ("keys", "values"):
                held: Tensor = getattr(layer, name)
                parts = [held]
                for cache, rows in others:
                    part: Tensor = getattr(cache.layers[index], name)
                    part = part[rows.to(part.device), :, -held.shape[2] :]
                    parts.append(F.pad(part, (0, 0, held.shape[2] - part.shape[2], 0)))
                setattr(layer, name, torch.cat(parts))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder every stream as the main one."""
        every = [beam_idx + copy * self.rows for copy in range(self.copies)]
        super().reorder_cache(torch.cat(every))  # type: ignore[arg-type]


def keep_edited(
    cache: Any, layer: int, given: tuple[Tensor, Tensor], edited: tuple[Tensor, Tensor]
) -> None:
    """Put edited keys and values [B, Hkv, K, D] in the place of those that a layer has cached.

    Args:
        cache: that of the forward pass, or None.
        layer: index of the layer.
        given: what the layer attends by; a sliding window may keep less of it for the next step.
        edited: the same, edited.

    Raises:
        VlmHeadsError: no cache, one that is not a DynamicCache on the device, or a layer that keeps
            something else than it attends by.
    """
    if cache is None:
        raise VlmHeadsError(
            "a forward pass without a cache under a plugin that edits it",
            "a generation with a DynamicCache",
            "leave use_cache unset, and call model.generate",
        )
    kinds, name = (DynamicCache, StreamCache), type(cache).__name__
    if type(cache) not in kinds or getattr(cache, "offloading", False):
        raise VlmHeadsError(
            f"{'an offloaded ' if type(cache) in kinds else 'a '}{name} under a plugin that edits "
            "the keys and values in it",
            "a DynamicCache that stays on the device",
            "leave cache_implementation unset",
        )
    held = cache.layers[layer]
    kept = (held.keys, held.values) if type(held) in (DynamicLayer, *_COLUMNS) else ()
    if not kept or not all(map(_ends_as, kept, given)):
        raise VlmHeadsError(
            f"layer {layer} keeps a {type(held).__name__} of other tensors than the keys and "
            "values that it attends by, as MLA and sparse attention do",
            "a layer that caches them as they are, as full and sliding attention do",
            "use a plugin that does not edit the cache",
        )
    held.keys, held.values = (
        new
        if new.shape == old.shape
        else torch.cat([old[:, :, : -new.shape[2]], new], dim=2)[:, :, -old.shape[2] :]
        for old, new in zip(kept, edited, strict=True)
    )


def _ends_as(kept: Tensor, given: Tensor) -> bool:
    """Whether a tensor [B, H, K, D] is the end of another, or the other way around."""
    same = kept.shape[:2] == given.shape[:2] and kept.shape[3] == given.shape[3]
    return same and kept[:, :, -1].data_ptr() == given[:, :, -1].data_ptr()
