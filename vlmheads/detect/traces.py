"""What image tokens read as, layer by layer, and how much they are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmheads.detect.mass import read_words
from vlmheads.plugin import Plugin
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.request import Request

_STATES = 64  # Image tokens at a time through the vocabulary head.
_ROWS = 32  # Attention rows in memory at a time.


@dataclass(frozen=True, eq=False)
class Traces:
    """The image tokens of one prompt, P of them, in their order.

    Args:
        words: [P, L] the likeliest token of each layer's output, read through the decoder's last
            norm and the vocabulary head.
        attention: [P] what each gets of the attention that rows predicting marked tokens give the
            image, mean over layers and heads, as a multiple of the mean over the P tokens.
    """

    words: Tensor
    attention: Tensor


@torch.no_grad()
def token_traces(
    model: Any, inputs: Mapping[str, Any], targets: Tensor, words: Tensor
) -> list[Traces]:
    """Read the image tokens of prompts with answers after them, in one pass.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of images and text, for a batch of N prompts.
        targets: [N, T] token ids of the answers, padded on the right.
        words: [N, T] True for the tokens whose attention counts.

    Returns:
        One for each prompt, on the CPU.

    Raises:
        VlmHeadsError: as `vlmheads.detect.mass.word_mass`, and a decoder whose layers cannot be
            read through its head.
    """
    probe = _Probe(targets.shape[1], words)
    anatomy = read_words(model, inputs, targets, words, probe)
    visual = anatomy.is_visual(inputs["input_ids"]).cpu()
    found = []
    for index, place in enumerate(visual):
        seen = probe.seen[index][: len(place)][place]
        read = torch.stack([layer[index] for layer in probe.read], dim=1)
        found.append(Traces(read, seen / seen.mean().clamp(min=1e-12)))
    return found


@dataclass(frozen=True, eq=False)
class _Probe(Plugin):
    """Keeps what image tokens read as, and the sum [N, K] of the attention that keys get."""

    name: ClassVar[str] = "traces"

    count: int = 1
    words: Tensor = field(default_factory=lambda: torch.zeros(0))
    read: list[list[Tensor]] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)

    @property
    def whole_map(self) -> bool:
        return True  # the first row is wanted, also of a prompt that ends in its image

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        stop = rows.editable.shape[1] - 1
        marked = self.words.to(rows.image_keys.device)
        total = torch.zeros(len(marked), request.seen)
        for start in range(stop - self.count, stop, _ROWS):
            end = min(start + _ROWS, stop)
            part = rows.part(slice(start, end)).mean(dim=1)  # [N, q, K]
            chosen = marked[:, start - stop + self.count : end - stop + self.count]
            given = torch.where(chosen[..., None], part, 0.0).sum(dim=1)
            total[:, request.seen - given.shape[1] :] += given.float().cpu()
        before = self.seen or torch.zeros_like(total)
        self.seen[:] = [old + new for old, new in zip(before, total, strict=True)]
        return rows

    def on_hidden(self, request: Request, layer: int, hidden: Tensor, site: str) -> Tensor:
        if site == "residual":
            visual = request.image_mask.to(hidden.device)
            read = []
            for states, place in zip(hidden, visual, strict=True):
                parts = states[: len(place)][place].split(_STATES)
                logits = (request.anatomy.unembed(part, norm=True) for part in parts)
                read.append(torch.cat([one.argmax(dim=-1) for one in logits]).cpu())
            self.read.append(read)
        return hidden
