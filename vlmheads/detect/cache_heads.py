"""Cache heads: how much of the image cache each head needs for an unchanged answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlmheads.detect.attending import AllRows, attention_edited
from vlmheads.detect.replay import Replay, require_images, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.model.anatomy import examine
from vlmheads.model.geometry import Geometry
from vlmheads.plugin import Plugin
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request

SHARES = (0.0, 0.125, 0.25, 0.5)
CACHE = "image-cache"


@dataclass(frozen=True, eq=False)
class CacheHeads:
    """What `cache_heads` measured.

    Args:
        loss: [N, len(SHARES), L, H] by how many nats per token the answer's log-probability falls
            where a head alone keeps that share of the image cache; below 0 where it rises.
        geometry: of the model.
    """

    loss: Tensor
    geometry: Geometry

    def needed(self, tolerance: float = 0.01) -> HeadMap:
        """Return the least share of `SHARES` at which, and at all larger ones, little is lost.

        Args:
            tolerance: nats per token that may be lost, mean of the prompts. A head that loses more
                at every share needs the whole image, 1.
        """
        fine = self.loss.mean(dim=0) <= tolerance  # [shares, L, H]
        fine = fine.flip(0).int().cumprod(dim=0).flip(0).bool()
        shares = torch.tensor([*SHARES, 1.0])
        least = torch.cat([fine, torch.ones_like(fine[:1])]).int().argmax(dim=0)
        values = shares[least]
        values[list(self.geometry.bare_layers)] = torch.nan
        return HeadMap(values[None], self.geometry, CACHE, {"tolerance": tolerance})

    @classmethod
    def concatenate(cls, parts: Sequence[CacheHeads]) -> CacheHeads:
        """Join what was measured on several batches of one model.

        Raises:
            VlmHeadsError: none to join, or parts of different models.
        """
        if not parts:
            raise VlmHeadsError("no answer was measured", "at least one")
        for other in parts[1:]:
            parts[0].geometry.require(other.geometry, "what cache heads need")
        return cls(torch.cat([part.loss for part in parts]), parts[0].geometry)


@torch.no_grad()
def cache_heads(
    model: Any,
    inputs: Mapping[str, Any],
    targets: Tensor,
    said: Tensor,
    *,
    rows: int = 64,
) -> CacheHeads:
    """Measure what an answer loses where one head keeps only some of the image cache.

    After the prompt a head keeps, of all image tokens, the share that it attends to most from the
    last row of the prompt; text, the first token and what is generated stay. Rows of the answer
    then attend to what is kept, renormalised. Heads that lose nothing at share 0 are streaming
    heads, those that need much are retrieval heads.

    Source: retrieval and streaming heads of Retrieval Head, DuoAttention, RazorAttention, Task-KV
    and LongHeads, known to us from their descriptions. Deviations: all of them are on text; heads
    are told apart by the answer's own log-probability in place of trained gates or needle tests,
    and the share is the image's alone.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts, of one or
            several images each.
        targets: [N, T] token ids of the answers, padded on the right, such as the plain model's.
        said: [N, T] True on the tokens of the answers, False on padding.
        rows: rows of a batch of the decoder, at least N.

    Raises:
        VlmHeadsError: shapes that do not fit, an answer without a token, no image in any prompt, a
            model with plugins attached, or attention that no named function can serve.
    """
    given = teacher_forced(examine(model), inputs, targets)
    if said.shape != targets.shape or not bool(said.any(dim=1).all()):
        raise VlmHeadsError(
            f"said of shape {list(said.shape)}", f"{list(targets.shape)}, with a token in each row"
        )
    replay = Replay.of(model, given)
    anatomy, count = replay.anatomy, targets.shape[1]
    require_images(anatomy, given)
    visual = anatomy.is_visual(given["input_ids"])
    targets, chosen = targets.to(given["input_ids"]), said.to(given["input_ids"].device)

    def mean(found: Tensor) -> Tensor:
        values = found.reshape(-1, *targets.shape) * chosen
        return (values.sum(dim=-1) / chosen.sum(dim=-1)).cpu().float()

    geometry = anatomy.geometry
    plain = mean(replay.read(replay.run(), targets))
    loss = torch.zeros(replay.rows, len(SHARES), geometry.layers, geometry.heads)
    jobs = [
        (place, layer, head)
        for place in range(len(SHARES))
        for layer in geometry.attention_layers
        for head in range(geometry.heads)
    ]
    size = max(1, rows // replay.rows)
    for start in range(0, len(jobs), size):
        some = jobs[start : start + size]
        edit = _Edit(some, visual, count)
        with attention_edited(anatomy, edit):
            found = mean(replay.read(replay.run(len(some)), targets))
        for values, (place, layer, head) in zip(found, some, strict=True):
            loss[:, place, layer, head] = plain[0] - values
    return CacheHeads(loss, geometry)


@dataclass(frozen=True, eq=False)
class _Edit:
    """Copies of a batch, each with one head of one layer that keeps a share of the image cache."""

    jobs: Sequence[tuple[int, int, int]]
    visual: Tensor  # [N, S]
    count: int

    def __call__(
        self, layer: int, values: Tensor, rows: AllRows, plain: Callable[[], Tensor]
    ) -> Tensor:
        output = plain()
        here = [(copy, job) for copy, job in enumerate(self.jobs) if job[1] == layer]
        here = [(copy, job) for copy, job in here if job[2] < output.shape[2]]
        if not here:
            return output
        output = output.clone()
        length, batch = self.visual.shape[1], len(self.visual)
        keys = values.shape[2]
        visual = self.visual[:, length - keys :]
        last = rows(len(values)).part(slice(length - self.count - 1, length))  # [B, H, T + 1, K]
        group = output.shape[2] // values.shape[1]
        for copy, (place, _, head) in here:
            part = slice(copy * batch, (copy + 1) * batch)
            weights = last[part, head].nan_to_num()
            kept = keeping(weights[:, 0], visual, SHARES[place])
            some = weights[:, 1:] * kept[:, None]
            # What is left of a row that sums to 1, a sink without a value included.
            left = 1 - (weights[:, 1:] * ~kept[:, None]).sum(dim=-1, keepdim=True)
            some = some / left.clamp(min=1e-30)
            made = some.to(values) @ values[part, head // group]
            output[part, length - self.count :, head] = made.to(output)
        return output


def keeping(weights: Tensor, visual: Tensor, share: Tensor | float) -> Tensor:
    """Mark the keys [..., K] that stay: all text, and the image tokens with the largest weights.

    Args:
        weights: [..., K] attention of the last row of a prompt.
        visual: [..., K] True on image tokens.
        share: of the image tokens that stay, broadcast to [...].
    """
    tokens = visual.sum(dim=-1)
    staying = (torch.as_tensor(share, device=weights.device) * tokens).round()
    drawn = weights.masked_fill(~visual, -torch.inf)
    rank = drawn.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1, stable=True)
    return ~visual | (rank < staying[..., None])


@dataclass(frozen=True, eq=False)
class ImageCache(Plugin):
    """Generate with every head keeping its own share of the image cache, to see what changes.

    Args:
        shares: "image-cache", such as `CacheHeads.needed` gives.
    """

    name: ClassVar[str] = "image-cache"

    shares: HeadMap | None = None

    def on_attach(self, geometry: Geometry) -> None:
        """Refuse a missing map, or one of another model."""
        if self.shares is None or self.shares.measure != CACHE:
            raise VlmHeadsError("image-cache without shares", f"a head map of {CACHE!r}")
        geometry.require(self.shares.geometry, "a head map")

    @property
    def whole_map(self) -> bool:
        """The last row of a prompt that ends in its image is wanted, too."""
        return True

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        """Choose what stays in the prefill, and attend to no more afterwards."""
        assert self.shares is not None
        kept: dict[Any, Any] = request.scratch(self)
        keys = rows.image_keys.shape[1]
        dropped = max(0, request.seen - keys)
        if request.is_prefill:
            share = self.shares.mean()[layer]
            if bool((share == 1).all()):
                return rows
            share = share.to(rows.image_keys.device)
            last = rows.editable.shape[1] - 1
            weights = rows.part(slice(last, last + 1))[:, :, 0]
            visual = rows.image_keys[:, None].expand_as(weights)
            stays = keeping(weights, visual, share[: weights.shape[1]])
            kept[layer] = pad(stays, (dropped, 0), value=True)  # all columns of the prompt
            return rows
        if layer not in kept:  # every head keeps all
            return rows
        stays = kept[layer][:, :, dropped : dropped + keys]
        stays = pad(stays, (0, keys - stays.shape[2]), value=True)
        bias = torch.zeros(stays.shape, dtype=rows.scores.dtype, device=stays.device)
        return rows.with_bias(bias.masked_fill(~stays, -torch.inf)[:, :, None])
