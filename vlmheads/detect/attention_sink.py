"""Attention sinks: first tokens that every later one attends to, and heads that do nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmheads.detect.replay import layered, prefill
from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import HeadMap
from vlmheads.plugin import Plugin
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request


@dataclass(frozen=True, eq=False)
class AttentionSinks:
    """What `attention_sinks` measured.

    Args:
        alpha: [N, L, H, T] mean attention on each of the first T tokens of the rows among them
            that see it.
        first: "first-token-attention", mean attention of all rows of the prompt on its first token.
        loudness: "relative-norm", ‖o‖ of each head's output over the mean of its layer's heads,
            mean of all rows.
    """

    alpha: Tensor
    first: HeadMap
    loudness: HeadMap

    def metric(self, epsilon: float = 0.3) -> Tensor:
        """Sink_k^ε, the share of all heads with α_k > ε, of each of the first T tokens [N, T]."""
        above = (self.alpha > epsilon).float()
        return above.masked_fill(self.alpha.isnan(), torch.nan).nanmean(dim=(1, 2))

    def dormant(self, threshold: float = 0.9, norm: float | None = None) -> Tensor:
        """[N, L, H] True where a head is dormant: it attends to the first token and to little else.

        Args:
            threshold: a dormant head's mean attention on the first token is above this.
            norm: where given, its relative norm is below this, too.
        """
        found = self.first.values > threshold
        return found if norm is None else found & (self.loudness.values < norm)


@torch.no_grad()
def attention_sinks(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    tokens: int = 64,
    provenance: Mapping[str, Any] | None = None,
) -> AttentionSinks:
    """Measure the attention that the first tokens of a prompt draw, and which heads are dormant.

    α_k = Σ_{i≥k} A[i, k] / (T - k + 1) over the first T tokens, counted from 1, of each layer and
    head; Sink_k^ε = mean over layers and heads of 1[α_k > ε]. A head is dormant on a prompt where
    nearly all its attention, mean over all rows, goes to the first token.

    Source: Gu et al., sail-sg/Attention-Sink (T = 64, ε = 0.3); active and dormant heads: Guo et
    al., arXiv 2410.13835, whose thresholds are not published in a form that we could read.
    Deviations: prompts hold images, where the source has text; T is the length of a shorter
    prompt; the first row, whose attention on the first token is always 1, counts as any other.

    Memory: a few rows of attention at a time, and T columns of each head.

    Args:
        model: a transformers model for image-text-to-text generation; plugins that are attached
            to it act.
        inputs: what a processor made of images and text, for a batch of N prompts. A prompt
            without an image gives zeros.
        tokens: T.
        provenance: plain values to keep with the maps, such as the model id and the prompt.

    Raises:
        VlmHeadsError: T below 1, or no image in any prompt.
    """
    if tokens < 1:
        raise VlmHeadsError(f"tokens={tokens}", "at least 1")
    probe = _Probe(tokens)
    geometry = prefill(model, inputs, probe).geometry
    about = dict(provenance or {}) | {"tokens": tokens}
    shape = probe.alpha[0][1].shape
    alpha = torch.zeros(shape[0], geometry.layers, geometry.heads, shape[2])
    for layer, part in probe.alpha:
        alpha[:, layer, : part.shape[1]] = part
    alpha[:, list(geometry.bare_layers)] = torch.nan
    first = HeadMap(layered(probe.first, geometry), geometry, "first-token-attention", about)
    loudness = HeadMap(layered(probe.norms, geometry), geometry, "relative-norm", about)
    return AttentionSinks(alpha, first, loudness)


@dataclass(frozen=True)
class _Probe(Plugin):
    """Sum the columns of the first tokens over the rows of each layer, and the head norms."""

    name: ClassVar[str] = "attention-sinks"

    tokens: int = 64
    alpha: list[tuple[int, Tensor]] = field(default_factory=list)
    first: list[tuple[int, Tensor]] = field(default_factory=list)
    norms: list[tuple[int, Tensor]] = field(default_factory=list)

    @property
    def whole_map(self) -> bool:
        return True

    def on_prompt(self, request: Request) -> None:
        mask = request.prompt.mask
        start, length = mask.int().argmax(dim=1), mask.sum(dim=1)
        scratch = request.scratch(self)
        counted = length.clamp(max=self.tokens)  # T of each row
        scratch["start"], scratch["counted"] = start, counted
        # Columns of the first T tokens; beyond a shorter prompt's end the last one is repeated.
        offsets = torch.arange(int(counted.max()), device=mask.device)
        scratch["columns"] = (start[:, None] + offsets).clamp(max=mask.shape[1] - 1)
        scratch["real"] = mask & request.has_image[:, None]

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        scratch = request.scratch(self)
        start, counted, columns = scratch["start"], scratch["counted"], scratch["columns"]
        count, keys = rows.editable.shape[1], rows.image_keys.shape[1]
        where = columns - max(0, request.seen - keys)
        offsets = torch.arange(columns.shape[1], device=columns.device)
        total = first = torch.zeros((), device=columns.device)
        for part, weights in rows.stream():
            index = where[:, None, None].expand(-1, *weights.shape[1:3], -1)
            drawn = weights.gather(-1, index.clamp(min=0)).masked_fill(index < 0, 0)
            # Rows are counted from the first token of their prompt, as columns are.
            row = torch.arange(request.seen - count, request.seen, device=start.device)[part]
            row = row - start[:, None]
            seeing = (row[:, :, None] >= offsets) & (row < counted[:, None])[:, :, None]
            total = total + torch.einsum("bhqt,bqt->bht", drawn, seeing.to(drawn.dtype))
            first = first + drawn[..., 0].sum(dim=-1)
        rows_of = (counted[:, None] - offsets).clamp(min=1)[:, None]
        inside = (offsets < counted[:, None])[:, None]
        self.alpha.append((layer, (total / rows_of * inside).cpu()))
        length = scratch["real"].sum(dim=1, keepdim=True).clamp(min=1)
        self.first.append((layer, (first / length).cpu()))
        return rows

    def on_heads(self, request: Request, layer: int, heads: Tensor) -> Tensor:
        wide = torch.promote_types(heads.dtype, torch.float32)
        norm = torch.linalg.vector_norm(heads, dim=-1, dtype=wide)
        relative = norm / norm.mean(dim=-1, keepdim=True).clamp(min=torch.finfo(wide).tiny)
        real: Tensor = request.scratch(self)["real"]
        mean = torch.where(real[..., None], relative, 0).sum(dim=1)
        self.norms.append((layer, (mean / real.sum(dim=1, keepdim=True).clamp(min=1)).cpu()))
        return heads
