"""Vision under plugins: one more run of the vision encoder, and a prefill that sees its result."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy
from vlmheads.model.tower import Patches, encode_edited
from vlmheads.model.vision import image_inputs, join
from vlmheads.plugin import Plugin
from vlmheads.runtime.compat import ENCODED, takes_encoded_images
from vlmheads.runtime.embeds import with_features
from vlmheads.runtime.prompt import Prompt
from vlmheads.runtime.request import Request


def see(plugins: tuple[Plugin, ...], request: Request, media: dict[str, Any]) -> Any:
    """Run the vision encoder under plugins; return its output, or None where they edit nothing.

    generate() has run it before there was a Request, so this is a second run.

    Args:
        plugins: those with on_vision, in order.
        request: the Request that is being opened.
        media: the arguments of the call that was given the pixels.

    Raises:
        VlmHeadsError: a forward pass that takes no encoded images, a prompt without pixels or with
            a video, or a tower that is not known.
    """
    if not plugins:
        return None
    anatomy = request.anatomy
    if not anatomy.family.inner and not takes_encoded_images(anatomy.model):
        raise VlmHeadsError(
            f"an edit of the vision tower of a {type(anatomy.model).__name__}, whose forward takes "
            "no encoded images",
            "transformers 5.18 or later",
            "use a plugin that does not edit the vision tower",
        )

    def edit(block: int, states: Tensor, mlp: Tensor | None, patches: Patches) -> Tensor:
        request.patches, request.vision_mlp = patches, mlp
        for plugin in plugins:
            states = plugin.on_vision(request, block, states)
        return states

    output, edited = encode_edited(anatomy, image_inputs(anatomy, media), edit)
    return output if edited else None


def with_seen(
    anatomy: Anatomy, prompt: Prompt, media: dict[str, Any], seen: Any, inputs: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a pass over the prompt whose images are those that `see` returned.

    Args:
        anatomy: the parts of the model.
        prompt: the main stream's prompt, without padding for other streams.
        media: as `see` takes it.
        seen: what `see` returned.
        inputs: the arguments as they were given; without a cache, of a later step too.
    """
    if anatomy.family.inner:
        embeds = inputs["inputs_embeds"]
        visual = F.pad(prompt.visual, (0, embeds.shape[1] - prompt.visual.shape[1]))
        return inputs | {"inputs_embeds": with_features(embeds, visual, seen)}
    pixels = image_inputs(anatomy, media)
    kept = {name: value for name, value in inputs.items() if name not in pixels}
    return kept | {ENCODED: {"image": join(anatomy, {"input_ids": prompt.ids}, [seen])}}
