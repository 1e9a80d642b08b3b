"""The images of a running generation: their pixels, and what the vision encoder makes of them."""

from __future__ import annotations

import copy
import inspect
import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy
from vlmheads.runtime.compat import expand_images

PIXELS = "pixel_values"
VIDEO_PIXELS = "pixel_values_videos"


@dataclass(frozen=True, eq=False)
class Media:
    """The images of all streams, as a forward pass takes them.

    Args:
        inputs: the main stream's arguments of the vision encoder, which the forward pass is not
            given again.
        arguments: what it is given instead, with the main stream's images first.
    """

    inputs: dict[str, Any]
    arguments: dict[str, Any]


def image_inputs(anatomy: Anatomy, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the model's vision encoder, pixels included.

    Args:
        anatomy: the parts of the model.
        inputs: what the forward pass of the prefill, or the generate() around it, was given: under
            generate() the images have been encoded by then, and only that call has the pixels.

    Raises:
        VlmHeadsError: the prompt came with encoded images in place of pixels.
    """
    if inputs.get(VIDEO_PIXELS) is not None:
        raise VlmHeadsError(
            "a prompt with a video, whose frames would have to be changed, too",
            "images alone, for a plugin that looks at pixels or contrasts with other images",
            "pass the images without the video",
        )
    base: Any = anatomy.model.base_model
    encoder = getattr(base, "get_image_features", None)
    if encoder is None:
        raise VlmHeadsError(
            f"{type(base).__name__}, whose vision encoder cannot be run alone",
            "a model with get_image_features()",
            "use a plugin that does not look at pixels",
        )
    names = inspect.signature(encoder).parameters
    found = {name: inputs[name] for name in names if inputs.get(name) is not None}
    if not pixel_names(found):
        raise VlmHeadsError(
            "a prompt whose images came without pixels",
            f"{PIXELS} among the arguments of generate()",
            "pass what the processor made of the images",
        )
    return found


def pixel_names(given: dict[str, Any]) -> tuple[str, ...]:
    """Return which arguments of a vision encoder hold pixels: an overview, its tiles, other sizes.

    Args:
        given: what `image_inputs` returned.
    """
    return tuple(
        name
        for name, value in given.items()
        if isinstance(value, Tensor) and value.is_floating_point() and "pixel" in name
    )


@torch.no_grad()
def encode(anatomy: Anatomy, given: dict[str, Any]) -> Any:
    """Run the vision encoder and projector; `given` is what `image_inputs` returned."""
    base: Any = anatomy.model.base_model
    return base.get_image_features(**given, return_dict=True)


@torch.no_grad()
def patch_attention(anatomy: Anatomy, given: dict[str, Any], layers: tuple[int, ...]) -> Tensor:
    """Attention of the CLS token on each patch, [layers, images, heads, patches].

    It is computed from the queries and keys of one more pass of the vision encoder.

    Args:
        anatomy: the parts of the model.
        given: what `image_inputs` returned.
        layers: layers of the vision encoder; -1 is the last.

    Raises:
        VlmHeadsError: a vision encoder without a CLS token, or one whose patches are not the image
            tokens one by one.
    """
    base: Any = anatomy.model.base_model
    tower = getattr(base, "vision_tower", None)
    blocks = getattr(getattr(tower, "encoder", None), "layers", None)
    if blocks is None or not hasattr(getattr(tower, "embeddings", None), "class_embedding"):
        raise _no_patches(anatomy, "whose vision encoder has no CLS token as CLIP's has")
    attentions = [blocks[layer].self_attn for layer in layers]
    seen: dict[nn.Module, Tensor] = {}
    with ExitStack() as stack:
        for attention in attentions:
            for part in (attention.q_proj, attention.k_proj):
                hook = part.register_forward_hook(lambda m, _, output: seen.update({m: output}))
                stack.callback(hook.remove)
        features = encode(anatomy, given).pooler_output
    found = []
    for attention in attentions:
        query, key = (
            seen[part].reshape(*seen[part].shape[:2], attention.num_heads, -1)
            for part in (attention.q_proj, attention.k_proj)
        )
        scores = torch.einsum("ihd,ikhd->ihk", query[:, 0], key) * attention.scale
        wide = torch.promote_types(scores.dtype, torch.float32)
        found.append(scores.to(wide).softmax(dim=-1)[..., 1:])
    attention = torch.stack(found)
    if [len(image) for image in features] != [attention.shape[3]] * attention.shape[1]:
        raise _no_patches(anatomy, "whose image tokens are not the patches of its vision encoder")
    return attention


def _no_patches(anatomy: Anatomy, seen: str) -> VlmHeadsError:
    return VlmHeadsError(
        f"{anatomy.family.name}, {seen}",
        "a CLIP vision encoder with a CLS token and one image token a patch, as LLaVA 1.5 has",
    )


def at_tokens(visual: Tensor, patches: Tensor) -> Tensor:
    """Put a mark of each patch [images, N] at its image token, [B, S], False elsewhere.

    Args:
        visual: [B, S] True on image tokens; with beams each sample's row stands several times.
        patches: boolean, the images of all samples in order.
    """
    beams = int(visual.sum()) // patches.numel()
    visual = visual[::beams]
    placed = torch.zeros_like(visual).masked_scatter(visual, patches.flatten())
    return placed.repeat_interleave(beams, dim=0)


def join(anatomy: Anatomy, inputs: dict[str, Any], images: list[Any]) -> Any:
    """Put the features of several streams into one output, stream after stream.

    Args:
        anatomy: the parts of the model.
        inputs: what the forward pass of the prefill was given; its rows hold each sample once a
            beam.
        images: an output of the vision encoder for each stream that has images, each sample once,
            or once a beam as generate() hands it on; streams with the same images may share one.
    """
    visual = int(anatomy.is_visual(inputs["input_ids"]).sum())
    for output in {id(output): output for output in images}.values():
        beams = visual // sum(feature.shape[:-1].numel() for feature in _features(output))
        if beams > 1:
            ids = inputs["input_ids"][::beams]
            expand_images(anatomy.model, ids, {"image": output}, beams)
    joined = copy.copy(images[0])
    read = [name for name in _READ[:2] if getattr(joined, name, None) is not None] or _READ[2:]
    for name in read:
        setattr(joined, name, _chain([getattr(output, name) for output in images]))
    return joined


# What models read of a vision encoder's output; its last states where there is nothing else.
_READ = ("pooler_output", "deepstack_features", "last_hidden_state")


def _features(output: Any) -> list[Tensor]:
    """Return what stands at the image tokens, in pieces of any size."""
    found = next(value for name in _READ if (value := getattr(output, name, None)) is not None)
    while not isinstance(found[0], Tensor):  # pairs of the layer it enters at, and features
        found = found[0][1]
    return list(found)


def _chain(parts: list[Any]) -> Any:
    """Concatenate tensors, lists of them, or such of several layers."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, int):
        return first
    if any(isinstance(item, (int, tuple, list)) for item in first):
        return type(first)(_chain(list(items)) for items in zip(*parts, strict=True))
    return [feature for part in parts for feature in part]


def token_grid(tokens: int, grid: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return rows and columns of the image tokens of one picture.

    Args:
        tokens: how many there are.
        grid: what the caller knows of it; by default the tokens are taken for a square.

    Raises:
        VlmHeadsError: a grid of another number of tokens, or tokens that make no square.
    """
    side = math.isqrt(tokens)
    rows, columns = grid or (side, side)
    if rows * columns != tokens or not tokens:
        raise VlmHeadsError(
            f"{tokens} image tokens" + (f" on a grid of {rows} x {columns}" if grid else ""),
            "a grid with a place for each",
            "pass grid=(rows, columns); pictures in tiles cannot be drawn on",
        )
    return rows, columns
