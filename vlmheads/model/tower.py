"""The blocks of a model's vision tower, a run in which they are edited, and where patches lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy
from vlmheads.model.layout import mlp_of
from vlmheads.model.vision import encode, pixel_names

# Parts beside a tower whose layers look like its blocks.
_OTHERS = (
    *("qformer", "perceiver", "resampler", "connector", "merger", "project", "align"),
    *("audio", "speech", "video_tower", "tokenizer", "vqmodel"),
)
_PLAIN = {"self_attn", "layer_norm1", "mlp", "layer_norm2"}
_CLS = ("class_embedding", "cls_token")


@dataclass(frozen=True)
class Patches:
    """Where the P positions of a vision tower's states [N, P, E] lie in the pictures.

    Args:
        grids: rows and columns of patches of each picture or tile, in order: one for each of the N,
            or, where N is 1, as many as stand one after another. Empty where vlmheads does not know
            the tower's order, as with windows of patches.
        prefix: positions before the first patch of each of the N: a CLS token.
        merge: 1 where patches come row after row; else the side of the squares of patches that
            come one after the other, themselves row after row, as in Qwen2-VL.
    """

    grids: tuple[tuple[int, int], ...] = ()
    prefix: int = 0
    merge: int = 1


# What edits the states [N, P, E] after a block: (index of the block, states, what the block's MLP
# gave [N, P, E] or None where it has none that is known, patches).
Edit = Callable[[int, Tensor, Tensor | None, Patches], Tensor]


def vision_blocks(anatomy: Anatomy) -> tuple[nn.Module, ...]:
    """Return the transformer blocks of a model's vision tower, in order.

    Raises:
        VlmHeadsError: no such blocks, or two towers.
    """
    found = dict(_lists(anatomy))
    if len(found) != 1:
        raise VlmHeadsError(
            f"{anatomy.family.name}, whose vision side has "
            + (f"several towers: {', '.join(found)}" if found else "no transformer blocks"),
            "one vision tower of attention blocks, as CLIP and SigLIP are",
            "use a plugin that does not edit the vision tower",
        )
    return next(iter(found.values()))


def _lists(anatomy: Anatomy) -> Iterator[tuple[str, tuple[nn.Module, ...]]]:
    """Yield the name and the blocks of each vision tower."""
    text = set(anatomy.decoder.modules())
    for name, module in anatomy.model.named_modules():
        if not isinstance(module, nn.ModuleList) or module in text or not len(module):
            continue
        block = module[0]
        attends = any(
            word in f"{part} {type(child).__name__}".lower()
            for each in module
            for part, child in each.named_children()
            for word in ("attention", "attn")
        )
        named = type(block).__name__.endswith(("Layer", "Block"))
        if attends and named and not any(word in name.lower() for word in _OTHERS):
            yield name, tuple(module)


def plain_blocks(anatomy: Anatomy) -> tuple[nn.Module, ...]:
    """Return the blocks of a vision tower that add what their MLP gives to their states, as it is.

    Raises:
        VlmHeadsError: no tower that `vision_blocks` finds, or blocks of other parts than two norms,
            attention and an MLP, as CLIP and SigLIP have them.
    """
    blocks = vision_blocks(anatomy)
    parts = {name for name, _ in blocks[0].named_children()}
    if parts != _PLAIN:
        raise VlmHeadsError(
            f"{anatomy.family.name}, whose vision blocks are made of {', '.join(sorted(parts))}",
            f"{', '.join(sorted(_PLAIN))}, as CLIP's and SigLIP's are",
        )
    return blocks


def encode_edited(anatomy: Anatomy, given: dict[str, Any], edit: Edit) -> tuple[Any, bool]:
    """Run the vision encoder with its blocks edited; return its output, and whether they were.

    Args:
        anatomy: the parts of the model.
        given: what `image_inputs` returned.
        edit: is given [N, P, E] after each block, and returns the very tensor to leave it; see
            `Edit`.

    Raises:
        VlmHeadsError: no tower that `vision_blocks` finds, or states of another layout.
    """
    blocks = vision_blocks(anatomy)
    tower = tower_of(anatomy, blocks[0])
    edited: list[int] = []
    mlps: dict[int, Any] = {}

    def after(index: int, output: Any) -> Any:
        states: Tensor = output[0] if isinstance(output, tuple) else output
        mlp = mlps.pop(index, None)
        if not 2 <= states.ndim <= 4:
            raise VlmHeadsError(
                f"{anatomy.family.name}, whose vision tower has states {list(states.shape)}",
                "[patches, width], or such of several pictures",
                "use a plugin that does not edit the vision tower",
            )
        shape = states.shape
        known = isinstance(mlp, Tensor) and mlp.shape == shape
        flat, added = _three(states), _three(mlp) if known else None
        made = edit(index, flat, added, _patches(tower, given, shape))
        if made is flat:
            return None
        edited.append(index)
        made = made.reshape(shape)
        return (made, *output[1:]) if isinstance(output, tuple) else made

    with ExitStack() as stack:
        for index, block in enumerate(blocks):
            # First of all hooks, so that a model which records its states records the edited ones.
            hook = block.register_forward_hook(
                lambda _, args, output, index=index: after(index, output), prepend=True
            )
            stack.callback(hook.remove)
            if isinstance(mlp := mlp_of(block), nn.Module):
                hook = mlp.register_forward_hook(
                    lambda _, args, output, index=index: mlps.update({index: output})
                )
                stack.callback(hook.remove)
        return encode(anatomy, given), bool(edited)


def _three(states: Tensor) -> Tensor:
    """Return states of two to four dimensions as [N, P, E]."""
    return states[None] if states.ndim == 2 else states.flatten(1, -2)


def tower_of(anatomy: Anatomy, block: nn.Module) -> nn.Module:
    """Return the outermost module around a block that knows the size of a patch."""
    around = [
        module
        for module in anatomy.model.modules()
        if patch_size(module) and any(part is block for part in module.modules())
    ]
    return around[0] if around else anatomy.model


def patch_size(module: Any) -> int:
    """Return the side of a patch in pixels, or 0 where a module's config does not know it."""
    size = getattr(getattr(module, "config", None), "patch_size", None)
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    return size if isinstance(size, int) else 0


def _patches(tower: Any, given: dict[str, Any], shape: torch.Size) -> Patches:
    """Find where the positions of states of a shape lie; nothing where that is not known."""
    if len(shape) == 4:
        return Patches(((shape[1], shape[2]),) * shape[0])
    size = patch_size(tower)
    images, length = (1, shape[0]) if len(shape) == 2 else (shape[0], shape[1])
    if not size:
        return Patches()
    if (grids := given.get("image_grid_thw")) is not None:
        # Blocks of Qwen2.5-VL see windows one after another.
        plain = type(tower).__name__.startswith("Qwen") and not hasattr(tower, "window_size")
        found = tuple((h, w) for t, h, w in grids.tolist() for _ in range(t))
        merge = getattr(tower, "spatial_merge_size", None)
        if plain and merge and sum(h * w for h, w in found) == length:
            return Patches(found, merge=merge)
        return Patches()
    if (sizes := given.get("image_sizes")) is not None and images == 1:
        found = tuple((h // size, w // size) for h, w in torch.as_tensor(sizes).tolist())
        if sum(h * w for h, w in found) == length:
            return Patches(found)
    prefix = int(any(hasattr(part, name) for part in tower.modules() for name in _CLS))
    for name in pixel_names(given):
        if given[name].ndim < 4:
            continue
        height, width = given[name].shape[-2:]
        grid = height // size, width // size
        if given[name].shape[-3] == 3 and grid[0] * grid[1] + prefix == length:
            return Patches((grid,) * images, prefix)
    return Patches()
