"""Directions of a vision tower, from whole pictures to those of which a few patches are left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from vlmheads.detect.directions import first_component
from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy, examine
from vlmheads.model.tower import patch_size, plain_blocks, tower_of
from vlmheads.model.vision import PIXELS, encode, image_inputs, pixel_names
from vlmheads.precision import at_least_float32

Inputs = Mapping[str, Any]


@torch.no_grad()
def visual_directions(
    model: Any, pictures: Iterable[Inputs], *, trials: int = 50, ratio: float = 0.99, seed: int = 0
) -> Tensor:
    """Measure the directions of VTI's visual half, [blocks, P, E].

    Of each picture, `trials` copies have a share `ratio` of their patches, drawn anew for each, set
    to the picture's mean, channel by channel. A sample is the mean of the copies' states less those
    of the picture, of what enters the first block and of what each block gives, [blocks + 1, P, E].

    As in the release, a sample is then read as P pieces of (blocks + 1) · E numbers in a row, which
    runs through layers and positions alike; in each piece the direction is the mean of the samples
    plus their first principal component. Put together again, what entered the first block is left
    out. Deviation: the component's sign, which it has none of its own, is that of the mean.

    Args:
        model: a transformers model whose vision tower is as CLIP's or SigLIP's.
        pictures: what a processor made of prompts with one image each, all of one size.
        trials: copies of each picture.
        ratio: share of the patches that go.
        seed: for the draws.

    Raises:
        VlmHeadsError: another tower, an image of several pictures, pictures of other sizes, or
            fewer than two.
    """
    anatomy, draws = examine(model), torch.Generator().manual_seed(seed)
    samples = []
    for inputs in pictures:
        given = image_inputs(anatomy, dict(inputs))
        pixels = given.get(PIXELS)
        if pixel_names(given) != (PIXELS,) or pixels is None or pixels.ndim != 4 or len(pixels) > 1:
            raise VlmHeadsError(
                f"an image of {anatomy.family.name} that is more than one picture",
                "one picture of a fixed size for every image, as LLaVA 1.5 has it",
            )
        size = patch_size(tower_of(anatomy, plain_blocks(anatomy)[0]))
        masked = masked_copies(pixels[0], size, trials, ratio, draws)
        clean, few = (_states(anatomy, given | {PIXELS: one}) for one in (pixels, masked))
        samples.append(few - clean)
    if len(samples) < 2 or len({one.shape for one in samples}) > 1:
        sizes = ", ".join(sorted({f"{list(one.shape)}" for one in samples}))
        raise VlmHeadsError(
            f"{len(samples)} pictures with states {sizes}", "two or more, of one size"
        )
    layers, positions, width = samples[0].shape
    pieces = torch.stack(samples).view(len(samples), positions, layers * width)
    found = [piece.mean(dim=0) + first_component(piece) for piece in pieces.unbind(dim=1)]
    return torch.stack(found).view(layers, positions, width)[1:]


def masked_copies(
    pixels: Tensor, size: int, trials: int, ratio: float, draws: torch.Generator
) -> Tensor:
    """Return copies [trials, C, H, W] of pixels [C, H, W] with patches of a size set to the mean.

    Raises:
        VlmHeadsError: an unknown size, or one that leaves no patch.
    """
    down, across = (side // size if size else 0 for side in pixels.shape[1:])
    if not down * across:
        raise VlmHeadsError(
            f"pixels {list(pixels.shape)} and patches of {size}", "patches of a known size"
        )
    copies, mean = pixels.repeat(trials, 1, 1, 1), pixels.mean(dim=(1, 2))
    for copy in copies:
        gone = torch.randperm(down * across, generator=draws)[: int(ratio * down * across)]
        for row, column in ((at // across, at % across) for at in gone.tolist()):
            place = slice(row * size, row * size + size), slice(column * size, column * size + size)
            copy[:, place[0], place[1]] = mean[:, None, None]
    return copies


def _states(anatomy: Anatomy, given: dict[str, Any]) -> Tensor:
    """Return the mean over pictures of what enters the first block and what each gives, [L, P, E].

    The first of them is what enters.
    """
    found: list[Tensor] = []

    def keep(value: Any) -> None:
        states: Tensor = value[0] if isinstance(value, tuple) else value
        found.append(at_least_float32(states).mean(dim=0).cpu())

    blocks = plain_blocks(anatomy)
    with ExitStack() as stack:
        before = blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: keep(args or kwargs["hidden_states"]), with_kwargs=True
        )
        stack.callback(before.remove)
        for block in blocks:
            hook = block.register_forward_hook(lambda _, args, output: keep(output))
            stack.callback(hook.remove)
        encode(anatomy, given)
    return torch.stack(found)
