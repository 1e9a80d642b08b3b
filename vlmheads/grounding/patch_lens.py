"""What the model reads at one place of the picture: the vocabulary head on an image token."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from vlmheads.detect.replay import require_images
from vlmheads.errors import VlmHeadsError
from vlmheads.grounding.candidates import Candidates, likeliest
from vlmheads.model.anatomy import examine
from vlmheads.precision import at_least_float32
from vlmheads.runtime.attachment import refuse_attached
from vlmheads.runtime.passes import positions_kept


@torch.no_grad()
def patch_lens(model: Any, inputs: Mapping[str, Any], patch: int, count: int = 3) -> Candidates:
    """Return the likeliest tokens by the vocabulary head at an image token, [1, L + 1, count].

    Level 0 is what the first layer is given, level l what the next layer is, and the last one what
    the decoder returns, after its norm.

    Source: the logit lens of image tokens, as in Jiang et al., "Interpreting and Editing
    Vision-Language Representations", ICLR 2025 (Internal Confidence): no norm before the head but
    at the last level.

    Args:
        model: a transformers model for image-text-to-text generation, without plugins attached.
        inputs: what a processor made of one image and text.
        patch: index of the image token, in order.
        count: how many tokens of each level.

    Raises:
        VlmHeadsError: several prompts, an image token that there is not, a model with plugins
            attached, or one whose states cannot be read through its head.
    """
    anatomy = examine(model)
    refuse_attached(anatomy)
    require_images(anatomy, inputs)
    given = {name: value for name, value in inputs.items() if name != "labels"}
    places = anatomy.is_visual(given["input_ids"])[0].nonzero()[:, 0]
    if len(given["input_ids"]) != 1:
        raise VlmHeadsError(f"{len(given['input_ids'])} prompts", "one at a time")
    if isinstance(patch, bool) or not 0 <= patch < len(places):
        raise VlmHeadsError(f"image token {patch}", f"a number from 0 to {len(places) - 1}")
    column, depth = int(places[patch]), len(anatomy.layers)
    states: dict[int, Tensor] = {}

    def keep(level: int, output: Any) -> None:
        states.setdefault(level, anatomy.flat_states(output)[0, column])

    def before(level: int) -> Any:
        return lambda _, args, kwargs: keep(level, args[0] if args else kwargs["hidden_states"])

    with ExitStack() as stack:
        for level, layer in enumerate(anatomy.layers):
            hook = layer.register_forward_pre_hook(before(level), with_kwargs=True)
            stack.callback(hook.remove)
        end = anatomy.decoder.register_forward_hook(lambda _, args, out: keep(depth, out[0]))
        stack.callback(end.remove)
        stack.enter_context(positions_kept(anatomy.model))
        anatomy.model(**given, use_cache=False)
    stacked = torch.stack([states[level].to(states[0]) for level in range(depth + 1)])
    logits = at_least_float32(anatomy.unembed(stacked, norm=False))
    return likeliest(logits.log_softmax(dim=-1)[None], count)
