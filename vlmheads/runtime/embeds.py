"""Prompts of embeddings: what a model hands to the language model inside of it, and its tokens.

Such a model embeds tokens and images itself, in generate() or forward(), and runs an inner language
model on the result. The tokens and the pixels are among the arguments of that outer call.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy
from vlmheads.model.vision import encode, image_inputs
from vlmheads.runtime.compat import call_arguments, current_thread, generate_arguments, generations
from vlmheads.runtime.prompt import Prompt

if TYPE_CHECKING:
    from vlmheads.runtime.streams import Stream


def named_inputs(
    anatomy: Anatomy, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a forward pass by name, with the token ids of its embeddings.

    Raises:
        VlmHeadsError: embeddings that are not those of the outer call's tokens; prompt lookup; or,
            outside of generate(), padding after the image without position ids that leave it out.
    """
    given = dict(kwargs)
    if args:
        names = inspect.signature(anatomy.generator.forward).parameters
        given = dict(zip(names, args, strict=False)) | given
    embeds = given.get("inputs_embeds")
    if not anatomy.family.inner or embeds is None or given.get("input_ids") is not None:
        return given
    ids = call_arguments(anatomy.model).get("input_ids")
    if ids is None:  # read_prompt refuses it
        return given
    # generate() repeats each sample for its beams.
    ids = ids.to(embeds.device).repeat_interleave(max(1, len(embeds) // len(ids)), dim=0)
    kept = given.get("logits_to_keep")
    inside = generations(anatomy.generator, current_thread())
    if not inside and given.get("position_ids") is None and _has_gap(given.get("attention_mask")):
        raise VlmHeadsError(
            "padding between image and text in a forward pass without position ids",
            "positions that count the real tokens, as generate() makes them",
            "pass the rows one by one, or position_ids",
        )
    if isinstance(kept, int) and kept > 1 and inside:
        raise VlmHeadsError(
            f"prompt lookup on {anatomy.family.name}, whose prompt is handed over as embeddings",
            "one token per step",
            "leave prompt_lookup_num_tokens unset",
        )
    if not _embedded_from(anatomy, ids, embeds):
        raise VlmHeadsError(
            f"embeddings {list(embeds.shape)} that are not those of the prompt's tokens "
            f"{list(ids.shape)}",
            "a prompt whose text is embedded as its token ids say, in one forward pass",
            "pass input_ids without inputs_embeds, and leave prefill_chunk_size unset",
        )
    return given | {"input_ids": ids}


def without_ids(anatomy: Anatomy, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments as a forward pass takes them: token ids or embeddings, not both."""
    if not anatomy.family.inner or inputs.get("inputs_embeds") is None:
        return inputs
    return inputs | {"input_ids": None}


def given_media(anatomy: Anatomy) -> dict[str, Any]:
    """Return the arguments of the call that was given the pixels, which forward may not be."""
    if anatomy.family.inner:
        return call_arguments(anatomy.model)
    return generate_arguments(anatomy.model)


def embed_streams(
    anatomy: Anatomy,
    streams: Sequence[Stream],
    prompts: Sequence[Prompt],
    embeds: Tensor,
    media: Mapping[str, Any],
) -> Tensor:
    """Return the embeddings [streams * B, S, E] of all streams, the main one's first.

    Args:
        anatomy: the parts of the model.
        streams: the extra streams.
        prompts: those of all streams, padded to one length S.
        embeds: the main stream's embeddings, without that padding.
        media: the arguments of the outer call, pixels included.

    Raises:
        VlmHeadsError: a stream with another number of image tokens than its images have.
    """
    main, *others = prompts
    embeds = F.pad(embeds, (0, 0, main.ids.shape[1] - embeds.shape[1], 0))
    embed = anatomy.generator.get_input_embeddings()
    made = [embeds]
    for stream, prompt in zip(streams, others, strict=True):
        part = embed(prompt.ids).to(embeds)
        if bool(prompt.visual.any()):
            features = _features(anatomy, stream, embeds[main.visual], len(embeds), media)
            if len(features) != int(prompt.visual.sum()):
                raise VlmHeadsError(
                    f"stream {stream.name!r} with {int(prompt.visual.sum())} image tokens for "
                    f"{len(features)} image features",
                    f"on {anatomy.family.name} as many as the images have, or none",
                )
            part = part.masked_scatter(prompt.visual[..., None], features)
        made.append(part)
    return torch.cat(made)


def with_features(embeds: Tensor, visual: Tensor, seen: Any) -> Tensor:
    """Return embeddings [B, S, E] with a vision encoder's output at the image tokens [B, S].

    Beams of a sample share its image.
    """
    found: Tensor = seen.pooler_output.to(embeds)
    found = found.repeat_interleave(len(embeds) // len(found), dim=0).flatten(0, 1)
    return embeds.masked_scatter(visual[..., None], found)


def _features(
    anatomy: Anatomy, stream: Stream, main: Tensor, rows: int, media: Mapping[str, Any]
) -> Tensor:
    """Return what stands at a stream's image tokens [N, E]; `main` is that of the main stream."""
    changed = stream.change(image_inputs(anatomy, dict(media)))
    if changed is None:
        return main
    found: Tensor = encode(anatomy, changed).pooler_output.to(main)
    return found.repeat_interleave(rows // len(found), dim=0).flatten(0, 1)


def _has_gap(mask: Any) -> bool:
    """Whether a mask [B, S] has padding after a real token, where BLIP processors put it."""
    return isinstance(mask, Tensor) and bool((mask[:, 1:] < mask[:, :-1]).any())


def _embedded_from(anatomy: Anatomy, ids: Tensor, embeds: Tensor) -> bool:
    """Whether the text among embeddings [B, S, E] is that of the token ids [B, S]."""
    if ids.shape != embeds.shape[:2]:
        return False
    text = ~anatomy.is_visual(ids)
    embed = anatomy.generator.get_input_embeddings()
    return torch.equal(embed(ids[text]).to(embeds), embeds[text])
