"""Heads of the vision tower: how local, how spread, and which attend to registers and artefacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from vlmheads.detect.replay import require_images
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.model.anatomy import Anatomy, examine
from vlmheads.model.geometry import Geometry
from vlmheads.model.tower import Patches, encode_edited, vision_blocks
from vlmheads.model.vision import image_inputs
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attachment import refuse_attached
from vlmheads.runtime.compat import attention_implementation

NAME = "vlmheads_vision"
# Set on the modules of a tower's blocks while they are measured.
_MARK = "_vlmheads_vision"
_ROWS = 64  # Attention rows in memory at a time.
MEASURES = ("attention-distance", "attention-spread", "register-attention", "artefact-attention")


@dataclass(frozen=True, eq=False)
class VisionHeads:
    """What `vision_heads` measured; the N of each map are pictures, or tiles of them.

    Args:
        distance: mean distance that patches attend over, in patches.
        spread: entropy of their attention over that of even attention; 1 is even.
        register: share of their attention on positions before the patches, such as a CLS token.
        artefact: share of their attention on artefacts.
        artefacts: [N] how many patches are artefacts.
        patches: [N] how many patches there are.
    """

    distance: HeadMap
    spread: HeadMap
    register: HeadMap
    artefact: HeadMap
    artefacts: Tensor
    patches: Tensor


@torch.no_grad()
def vision_heads(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    factor: float = 3.0,
    provenance: Mapping[str, Any] | None = None,
) -> VisionHeads:
    """Measure what the heads of the vision tower attend to, in the rows of patches.

    A patch is an artefact where the norm of its state after the last block is over `factor` times
    the median of its picture's patches.

    Source: attention distance, Dosovitskiy et al., ICLR 2021, and visual analytics of ViT heads
    after it; registers and artefacts, Darcet et al., "Vision Transformers Need Registers", ICLR
    2024. Deviations: artefacts are told by the median, where the source sets a limit per model;
    distances are in patches.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, pixels included.
        factor: see above.
        provenance: plain values to keep with the maps, such as the model id.

    Raises:
        VlmHeadsError: no image, images without pixels, no vision tower of attention blocks, one
            whose patches vlmheads cannot place in the picture, or one whose attention is not served
            by transformers' attention functions.
    """
    anatomy = examine(model)
    refuse_attached(anatomy)
    require_images(anatomy, inputs)
    given = image_inputs(anatomy, dict(inputs))
    last: dict[str, Any] = {}

    def keep(_: int, hidden: Tensor, __: Tensor | None, patches: Patches) -> Tensor:
        last.update(hidden=hidden, patches=patches)
        return hidden

    encode_edited(anatomy, given, keep)
    pictures = _pictures(anatomy, last["hidden"], last["patches"], factor)
    blocks = vision_blocks(anatomy)
    reader = _Reader(pictures)
    with _read_by(anatomy, blocks, reader):
        encode_edited(anatomy, given, keep)
    if not reader.found:
        raise VlmHeadsError(
            f"{anatomy.family.name}, whose vision tower has an attention of its own",
            "one that calls transformers' attention functions",
        )
    read = sorted({block for block, _ in reader.found})
    heads = len(next(iter(reader.found.values()))[0])
    geometry = Geometry(
        f"{anatomy.geometry.model_type} vision tower", len(blocks), heads, tuple(read)
    )
    values = torch.full((4, len(pictures), len(blocks), heads), torch.nan)
    for (block, picture), figures in reader.found.items():
        values[:, picture, block] = figures
    about = dict(provenance or {}) | {"factor": factor}
    maps = [
        HeadMap(part, geometry, measure, about)
        for part, measure in zip(values, MEASURES, strict=True)
    ]
    artefacts = torch.tensor([int(one.artefacts.sum()) for one in pictures])
    patches = torch.tensor([len(one.artefacts) for one in pictures])
    return VisionHeads(maps[0], maps[1], maps[2], maps[3], artefacts, patches)


@dataclass(frozen=True, eq=False)
class _Picture:
    """One picture or tile: places of its patches [P, 2], artefacts [P], positions before them."""

    places: Tensor
    artefacts: Tensor
    prefix: int


def _pictures(anatomy: Anatomy, hidden: Tensor, patches: Patches, factor: float) -> list[_Picture]:
    """Find the places of patches, and the artefacts among them, by states [N, P, E]."""
    if not patches.grids:
        raise VlmHeadsError(
            f"{anatomy.family.name}, whose patches vlmheads cannot place in the picture",
            "a tower whose patches stand row after row, or as Qwen2-VL orders them",
        )
    norms = at_least_float32(hidden).norm(dim=-1).cpu()
    found, start = [], 0
    several = len(hidden) == 1 and len(patches.grids) > 1
    for index, (rows, columns) in enumerate(patches.grids):
        side = patches.merge
        grid = torch.stack(
            torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1
        )
        blocks = grid.reshape(rows // side, side, columns // side, side, 2)
        places = blocks.permute(0, 2, 1, 3, 4).reshape(-1, 2)
        if several:
            own = norms[0, start : start + len(places)]
            start += len(places)
        else:
            own = norms[index, patches.prefix : patches.prefix + len(places)]
        found.append(_Picture(places, own > factor * own.median(), patches.prefix))
    return found


@dataclass(eq=False)
class _Reader:
    """Reads the attention of each block, picture after picture."""

    pictures: list[_Picture]
    # (block, picture) -> [4, H].
    found: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    reached: dict[int, int] = field(default_factory=dict)

    def read(
        self, block: int, query: Tensor, key: Tensor, mask: Tensor | None, scale: float
    ) -> None:
        """Take queries and keys [B, H, S, D] of one call of a block's attention."""
        for row in range(len(query)):
            start = 0
            while start < query.shape[2]:
                number = self.reached.get(block, 0)
                if number >= len(self.pictures):
                    return  # a second look at the same pictures
                picture = self.pictures[number]
                stop = start + picture.prefix + len(picture.places)
                if stop > query.shape[2]:
                    return  # parts of a picture, such as windows: no whole rows are seen
                part = slice(start, stop)
                some = None if mask is None else mask[row if len(mask) > 1 else 0, :, part, part]
                self.found[block, number] = _figures(
                    query[row, :, part], key[row, :, part], some, scale, picture
                )
                self.reached[block] = number + 1
                start = stop


def _figures(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float, picture: _Picture
) -> Tensor:
    """Return the four figures of each head [4, H] by its queries and keys [H, P, D]."""
    key = key.repeat_interleave(query.shape[0] // key.shape[0], dim=0)
    places = picture.places.to(query.device).float()
    artefacts = picture.artefacts.to(query.device)
    prefix, length = picture.prefix, query.shape[1]
    sums = torch.zeros(4, query.shape[0], device=query.device)
    for start in range(prefix, length, _ROWS):
        rows = slice(start, min(start + _ROWS, length))
        scores = at_least_float32(query[:, rows]) @ at_least_float32(key).transpose(1, 2) * scale
        if mask is not None:
            seen = mask[:, rows]
            scores = (
                scores.masked_fill(~seen, -torch.inf) if seen.dtype == torch.bool else scores + seen
            )
        weights = scores.softmax(dim=-1)
        own = weights[:, :, prefix:]
        apart = torch.cdist(places[rows.start - prefix : rows.stop - prefix], places)
        inside = own.sum(dim=-1).clamp(min=1e-12)
        sums[0] += ((own * apart).sum(dim=-1) / inside).sum(dim=-1)
        sums[1] += torch.special.entr(weights).sum(dim=(1, 2))
        sums[2] += weights[:, :, :prefix].sum(dim=(1, 2))
        sums[3] += own[:, :, artefacts].sum(dim=(1, 2))
    sums /= length - prefix
    sums[1] /= torch.log(torch.tensor(float(length)))
    return sums.cpu()


@contextmanager
def _read_by(anatomy: Anatomy, blocks: tuple[nn.Module, ...], reader: _Reader) -> Iterator[None]:
    """Send the attention of a tower's blocks through a function that hands it to the reader."""
    inside = {part for block in blocks for part in block.modules()}
    around: list[Any] = [
        module
        for module in anatomy.model.modules()
        if hasattr(module, "set_attn_implementation")
        and module is not anatomy.model
        and inside <= set(module.modules())
        and not any(part is anatomy.decoder for part in module.modules())
    ]
    if not around:
        raise VlmHeadsError(
            f"{anatomy.family.name}, whose vision tower has no attention function to choose",
            "a tower that is a transformers model",
        )
    tower = around[0]
    before = attention_implementation(tower)
    try:
        tower.set_attn_implementation(NAME)
        for index, block in enumerate(blocks):
            for part in block.modules():
                part.__dict__[_MARK] = (reader, index)
        yield
    finally:
        for part in inside:
            part.__dict__.pop(_MARK, None)
        tower.set_attn_implementation(before)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as transformers' sdpa function does, and show queries and keys to a reader."""
    marked: tuple[_Reader, int] | None = module.__dict__.get(_MARK)
    if marked is not None:
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        marked[0].read(marked[1], query, key, attention_mask, scale)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
