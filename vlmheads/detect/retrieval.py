"""Retrieval heads: those that look at an object while the model names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmheads.detect.replay import layered, on_columns, prefill, teacher_forced
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.model.anatomy import examine
from vlmheads.model.vision import token_grid
from vlmheads.plugin import Plugin
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request


def patches_in_box(
    box: Sequence[float], tokens: int, grid: tuple[int, int] | None = None
) -> Tensor:
    """Mark the image tokens [tokens] whose patch a box touches.

    Args:
        box: left, top, right and bottom, as shares of the picture that the encoder sees.
        tokens: image tokens of the picture.
        grid: rows and columns of them; by default a square.

    Raises:
        VlmHeadsError: tokens that do not fit the grid, or a box without an area inside of 0 to 1.
    """
    rows, columns = token_grid(tokens, grid)
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise VlmHeadsError(
            f"box {list(box)}", "left < right and top < bottom, as shares of the picture"
        )
    row, column = torch.arange(rows), torch.arange(columns)
    down = (row + 1 > top * rows) & (row < bottom * rows)
    across = (column + 1 > left * columns) & (column < right * columns)
    return (down[:, None] & across).flatten()


@torch.no_grad()
def retrieval(
    model: Any,
    inputs: Mapping[str, Any],
    targets: Tensor,
    needles: Tensor,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> HeadMap:
    """Measure how often each head looks at an object most while the model names it.

    The score of a head is the share of the target tokens with a needle whose row (the one that
    predicts the token) has its largest weight, over all tokens before, on an image token of the
    needle.

    Source: the retrieval-head score of nightdessert/Retrieval_Head, with image patches as the
    needle. Deviations: there a token counts only where it is the needle's, and the sum is divided
    by the needle's length; a patch has no token to compare, so each target token counts once. The
    answer is given, not generated, which takes one pass.

    Args:
        model: a transformers model for image-text-to-text generation; plugins that are attached
            to it act.
        inputs: what a processor made of images and text, for a batch of N prompts.
        targets: [N, T] token ids of the answers, padded on the right with any token.
        needles: [N, T, P] True where an image token of the prompt, the P-th in its order, shows
            what a target token names; all False for tokens that name nothing. P is the number of
            image tokens of the prompt that has most.
        provenance: plain values to keep with the map, such as the model id and the prompt.

    Returns:
        A map of [N, layers, heads], "retrieval"; a prompt without a needle gives zeros.

    Raises:
        VlmHeadsError: shapes that do not fit, no needle at all, or no image in any prompt.
    """
    given = teacher_forced(examine(model), inputs, targets)
    needles = needles.to(given["input_ids"].device)
    probe = _Probe(needles)
    geometry = prefill(model, given, probe).geometry
    return HeadMap(layered(probe.found, geometry), geometry, "retrieval", dict(provenance or {}))


@dataclass(frozen=True, eq=False)
class _Probe(Plugin):
    """See on which key the rows that predict the targets have their largest weight."""

    name: ClassVar[str] = "retrieval"

    needles: Tensor = field(default_factory=lambda: torch.zeros(0))
    found: list[tuple[int, Tensor]] = field(default_factory=list)

    @property
    def whole_map(self) -> bool:
        return True

    def on_prompt(self, request: Request) -> None:
        if not bool(self.needles.any()):
            raise VlmHeadsError("targets without any needle", "a word whose object has a box")
        needles = on_columns("needles", self.needles, self.needles.shape[1], request.image_mask)
        request.scratch(self)["needles"] = needles

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        needles: Tensor = request.scratch(self)["needles"]
        count, last = needles.shape[1], rows.editable.shape[1]
        few = 32
        dropped = max(0, request.seen - rows.image_keys.shape[1])
        hits = torch.zeros((), device=needles.device)
        for start in range(0, count, few):
            stop = min(start + few, count)
            weights = rows.part(slice(last - 1 - count + start, last - 1 - count + stop))
            best = weights.argmax(dim=-1) + dropped
            inside = needles[:, None, start:stop].expand(-1, best.shape[1], -1, -1)
            hits = hits + inside.gather(-1, best[..., None])[..., 0].sum(dim=-1)
        named = needles.any(dim=-1).sum(dim=1)[:, None].clamp(min=1)
        self.found.append((layer, (hits / named).cpu()))
        return rows
