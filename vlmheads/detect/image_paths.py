"""Image paths: attention on a named object where it is, against that on an image without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.detect.replay import layered, marks, on_columns, prefill, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.model.anatomy import examine
from vlmheads.model.vision import token_grid
from vlmheads.plugin import Plugin
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request

IMAGE_PATH = "image-path"
_ROWS = 32  # Attention rows in memory at a time.


def patches_in_mask(mask: Tensor, tokens: int, grid: tuple[int, int] | None = None) -> Tensor:
    """Mark the image tokens [tokens] whose patch a segmentation mask touches.

    Args:
        mask: [H, W] True on the object, of the picture that the encoder sees; at any size.
        tokens: image tokens of the picture.
        grid: rows and columns of them; by default a square.

    Raises:
        VlmHeadsError: tokens that do not fit the grid, or a mask that is not [H, W].
    """
    size = token_grid(tokens, grid)
    if mask.ndim != 2 or not mask.numel():
        raise VlmHeadsError(f"a mask of shape {list(mask.shape)}", "[height, width]")
    # A pixel on the edge of two patches belongs to both.
    return F.adaptive_max_pool2d(mask[None].float(), size)[0].flatten().bool()


@torch.no_grad()
def image_paths(
    model: Any,
    inputs: Mapping[str, Any],
    targets: Tensor,
    regions: Tensor,
    hallucinated: Tensor,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> HeadMap:
    """Measure how much each head looks at what is named where it is, and at nothing where it isn't.

    A head's score is the mean, over the target tokens with a region, of its attention on the
    region, less the mean of its attention on the whole image over the hallucinated ones, each in
    the row that predicts the token. The plugin `allpath` boosts the heads with the highest scores.

    Source: the image-to-text score of AllPath, NeurIPS 2025, as SooLab/AllPath describes it: at the
    first mention of an object, on the patches of its segmentation mask. Deviations: the answers are
    given, not generated, and it is for the caller to mark first mentions alone.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts.
        targets: [N, T] token ids of the answers, padded on the right with any token.
        regions: [N, T, P] True where an image token of the prompt, the P-th in its order, shows the
            object that a target token names first; see `patches_in_mask`. P is the number of image
            tokens of the prompt that has most.
        hallucinated: [N, T] True on the tokens that name an object first that is not there.
        provenance: plain values to keep, such as the model id and the prompt.

    Returns:
        One map for all prompts together, from -1 to 1.

    Raises:
        VlmHeadsError: shapes that do not fit, a token of both kinds, not one of each, or no image
            in any prompt.
    """
    given = teacher_forced(examine(model), inputs, targets)
    device = given["input_ids"].device
    absent = marks("hallucinated", hallucinated, tuple(targets.shape)).to(device)
    there = regions.to(device).any(dim=-1)
    if there.shape != absent.shape or bool((there & absent).any()):
        raise VlmHeadsError(
            f"regions {list(regions.shape)} beside hallucinated {list(hallucinated.shape)}",
            "[N, T, P] and [N, T], and no token with a region among the hallucinated",
        )
    if not bool(there.any()) or not bool(absent.any()):
        raise VlmHeadsError("targets without a region or without a hallucinated word", "both")
    probe = _Probe(regions.to(device), absent)
    geometry = prefill(model, given, probe).geometry
    scores = layered(((layer, part[None]) for layer, part in probe.found.items()), geometry)
    return HeadMap(scores, geometry, IMAGE_PATH, dict(provenance or {}))


@dataclass(frozen=True, eq=False)
class _Probe(Plugin):
    """Keeps the score [H] of each layer."""

    name: ClassVar[str] = "image-paths"
    regions: Tensor = field(default_factory=lambda: torch.zeros(0))
    absent: Tensor = field(default_factory=lambda: torch.zeros(0))
    found: dict[int, Tensor] = field(default_factory=dict)

    @property
    def whole_map(self) -> bool:
        return True

    def on_prompt(self, request: Request) -> None:
        visual, count = request.image_mask, self.absent.shape[1]
        regions = on_columns("regions", self.regions, count, visual)
        counted = regions | (self.absent[..., None] & visual[:, None])
        request.scratch(self)["counted"] = counted

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        counted: Tensor = request.scratch(self)["counted"]
        keys, count = rows.image_keys.shape[1], counted.shape[1]
        # A sliding window has dropped the oldest keys.
        counted = counted[..., max(0, request.seen - keys) :]
        counted = F.pad(counted, (0, keys - counted.shape[-1]))
        first = rows.editable.shape[1] - 1 - count
        parts = []
        for start in range(0, count, _ROWS):
            stop = min(start + _ROWS, count)
            weights = rows.part(slice(first + start, first + stop))
            place = counted[:, None, start:stop].to(weights)
            parts.append((weights * place).sum(dim=-1))
        mass = torch.cat(parts, dim=2).transpose(1, 2)  # [N, T, H]
        there = self.regions.any(dim=-1)
        self.found[layer] = (mass[there].mean(dim=0) - mass[self.absent].mean(dim=0)).cpu()
        return rows
