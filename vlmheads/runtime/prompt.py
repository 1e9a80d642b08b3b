"""The prompt of a batch as tensors, and the same prompt with its images deleted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy

# Inputs that tell kinds of tokens apart, of the same shape as the token ids.
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")


@dataclass(frozen=True, eq=False)
class Prompt:
    """Token ids of a batch of prompts, with what is known about each position.

    Args:
        ids: [B, S] token ids.
        mask: [B, S] True where a token is real, False where it is padding.
        visual: [B, S] True on image and video tokens.
        token_types: other inputs of shape [B, S], such as token_type_ids.
        markers: [B, S] True on tokens around an image that its encoder embeds; None where a model
            has no such tokens.
    """

    ids: Tensor
    mask: Tensor
    visual: Tensor
    token_types: dict[str, Tensor] = field(default_factory=dict)
    markers: Tensor | None = None

    @property
    def has_image(self) -> Tensor:
        """[B] True for prompts with at least one image token."""
        return self.visual.any(dim=1)

    def positions(self, first: int = 0) -> Tensor:
        """Position ids [B, S] that count the real tokens from `first` on."""
        return (self.mask.long().cumsum(dim=1) - 1).clamp(min=0) + first

    def without_images(self) -> Prompt:
        """Return the prompt with the embeddings of its images deleted, not zeroed.

        Image tokens are taken out and the text moves together, so positions shift; rows are left
        padded to the longest. Tokens that only frame an image (its start, end and row breaks) are
        text to the model and stay, unless its encoder embeds them.

        Raises:
            VlmHeadsError: a prompt holds nothing but image tokens.
        """
        keep = self.mask & ~self.visual
        if self.markers is not None:
            keep = keep & ~self.markers
        lengths = keep.sum(dim=1)
        if int(lengths.min()) == 0:
            raise VlmHeadsError(
                "a prompt that is nothing but image tokens", "at least one text token"
            )
        # A stable sort moves the dropped columns to the left and keeps the others' order.
        order = keep.to(torch.uint8).argsort(dim=1, stable=True)[:, -int(lengths.max()) :]
        kept = keep.gather(1, order)
        # Padding takes the id of a text token, so that no image token is left to be counted.
        ids = self.ids.gather(1, order)
        ids = torch.where(kept, ids, ids[:, -1:])
        types = {name: value.gather(1, order) * kept for name, value in self.token_types.items()}
        return Prompt(ids, kept, torch.zeros_like(kept), types)

    def padded(self, length: int) -> Prompt:
        """Return the prompt left padded to `length` columns."""
        more = length - self.ids.shape[1]
        if more <= 0:
            return self
        ids = torch.cat([self.ids[:, -1:].expand(-1, more), self.ids], dim=1)
        types = {name: F.pad(value, (more, 0)) for name, value in self.token_types.items()}
        markers = None if self.markers is None else F.pad(self.markers, (more, 0))
        visual = F.pad(self.visual, (more, 0))
        return Prompt(ids, F.pad(self.mask, (more, 0)), visual, types, markers)

    def rows(self, index: Tensor) -> Prompt:
        """Return the prompts of the given rows."""
        types = {name: value[index] for name, value in self.token_types.items()}
        markers = None if self.markers is None else self.markers[index]
        return Prompt(self.ids[index], self.mask[index], self.visual[index], types, markers)

    def distinct(self) -> tuple[Prompt, Tensor]:
        """Return each different text prompt once, and for every row [B] which of them it is.

        Beams of one sample, and many images under one question, share a text-only prompt.
        """
        both = torch.cat([self.ids, self.mask.to(self.ids.dtype)], dim=1)
        _, inverse = torch.unique(both, dim=0, return_inverse=True)
        first = torch.full((int(inverse.max()) + 1,), len(inverse), device=inverse.device)
        first = first.scatter_reduce(
            0, inverse, torch.arange(len(inverse), device=inverse.device), "amin"
        )
        return self.rows(first), inverse


def read_prompt(anatomy: Anatomy, inputs: dict[str, Any]) -> Prompt:
    """Read the prompt of a batch from the keyword arguments of the model's forward.

    Raises:
        VlmHeadsError: no token ids, or rows that are padded on the right.
    """
    ids = inputs.get("input_ids")
    if ids is None:
        raise VlmHeadsError(
            "a prompt of embeddings (inputs_embeds)",
            "input_ids, which tell where the image is",
            "pass input_ids and the images themselves",
        )
    mask = _padding(inputs.get("attention_mask"), ids)
    if not bool(mask[:, -1].all()):
        raise VlmHeadsError(
            "prompts that are padded on the right",
            "padding on the left, so that every row ends in its last token",
            "set processor.tokenizer.padding_side = 'left'",
        )
    types = {
        name: value
        for name in TOKEN_TYPES
        if (value := inputs.get(name)) is not None and value.shape == ids.shape
    }
    markers = anatomy.is_marker(ids) if anatomy.marker_ids else None
    return Prompt(ids, mask, anatomy.is_visual(ids), types, markers)


def without_last(inputs: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the arguments of a forward pass without its last `count` columns."""
    if not count:
        return inputs
    cut = ("input_ids", "attention_mask", "position_ids", *TOKEN_TYPES)
    return inputs | {
        name: inputs[name][..., :-count] for name in cut if inputs.get(name) is not None
    }


def _padding(mask: Any, ids: Tensor) -> Tensor:
    """[B, S] True on real tokens, from a mask of any of the kinds that generate() makes."""
    if isinstance(mask, dict):  # one mask a kind of layer, under a static cache
        mask = mask.get("full_attention", next(iter(mask.values())))
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.ndim == 4:  # the last row sees every real token
        row: Tensor = mask[:, 0, -1, : ids.shape[1]]
        return (row if row.dtype == torch.bool else row == 0).expand(ids.shape[0], -1)
    real: Tensor = mask[:, -ids.shape[1] :].bool()
    return real
