"""Which image tokens a word was said for: gradient x attention, over all layers and heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.catalogue import checked_answers
from vlmheads.plugin import Plugin
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attachment import attach
from vlmheads.runtime.attention import Rows
from vlmheads.runtime.passes import positions_kept
from vlmheads.runtime.request import Request


def patch_relevancy(
    model: Any, inputs: Mapping[str, Any], targets: Tensor, first: int, last: int
) -> Tensor:
    """Return how much the attention on each image token raises the probability of a word, [P].

    It is the sum over layers and heads of the positive part of `head_relevancy`.

    Source: Chefer et al., "Generic Attention-model Explainability", ICCV 2021, Eq. 5. Deviations:
    the positive part is taken of the sum over rows, since one factor on the attention of all rows
    is differentiated by; layers are added up, not rolled out.

    Args and errors are those of `head_relevancy`.
    """
    slopes = head_relevancy(model, inputs, targets, first, last)
    relevancy: Tensor = slopes.clamp(min=0).sum(dim=(0, 1))
    return relevancy


@torch.enable_grad()
def head_relevancy(
    model: Any, inputs: Mapping[str, Any], targets: Tensor, first: int, last: int
) -> Tensor:
    """Return gradient x attention of a word for each head and image token, [L, H, P], in nats.

    With A the attention of a row of text on image token p in a head, and y the log-probability of
    the answer's tokens first to last, it is the sum over rows of A · ∂y/∂A. Rows are those of all
    text after the image, so that what the word takes from earlier words counts as well. One pass
    forwards and one backwards, on the plain model.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of one image and text.
        targets: [1, T] token ids of the answer.
        first: the word's first token among them.
        last: the token after its last.

    Raises:
        VlmHeadsError: several prompts, tokens that the answer does not have, no image, or what
            `grounding` refuses.
    """
    anatomy, given, targets = checked_answers(model, inputs, targets)
    count = targets.shape[1]
    if len(targets) != 1:
        raise VlmHeadsError(f"{len(targets)} answers", "one at a time")
    if not 0 <= first < last <= count:
        raise VlmHeadsError(f"tokens {first} to {last}", f"some of the {count} of the answer")
    visual = anatomy.is_visual(given["input_ids"])[0]
    geometry = anatomy.geometry
    shape = (geometry.layers, geometry.heads, int(visual.sum()))
    gains = torch.ones(shape, device=visual.device, requires_grad=True)
    with positions_kept(anatomy.model), attach(anatomy.model, _Scaled(gains)):
        output = anatomy.model(**given, use_cache=False, return_dict=True)
    logits = output.logits[0, -count - 1 : -1][first:last]
    said = at_least_float32(logits).log_softmax(dim=-1)
    chosen = said.gather(-1, targets[0, first:last, None].to(said.device)).sum()
    (slopes,) = torch.autograd.grad(chosen, gains)
    found: Tensor = slopes.detach().cpu().float()
    return found


@dataclass(frozen=True, eq=False)
class _Scaled(Plugin):
    """Multiply the attention on image tokens by factors [L, H, P], which are 1."""

    name: ClassVar[str] = "relevancy"

    gains: Tensor = field(default_factory=lambda: torch.ones(0))

    def on_attention(self, request: Request, layer: int, rows: Rows) -> Rows:
        weights = rows.weights
        keys = rows.image_keys[0].nonzero()[:, 0]
        gains = self.gains[layer, : weights.shape[1], -len(keys) :].to(weights)
        factors = torch.ones(weights.shape[1], weights.shape[-1]).to(weights)
        factors = factors.index_copy(1, keys, gains)
        return rows.with_weights(weights * factors[None, :, None])
