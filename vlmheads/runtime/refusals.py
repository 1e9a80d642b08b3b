"""What a generation on an attached model is refused for, each with its cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlmheads.errors import VlmHeadsError
from vlmheads.model.anatomy import Anatomy, replaced_parts
from vlmheads.model.layout import compares_name, picks_keys
from vlmheads.model.vision import PIXELS
from vlmheads.runtime.cache import given_cache
from vlmheads.runtime.compat import current_thread, generate_arguments, generations
from vlmheads.runtime.request import Request


def refuse_second(model: Any, thread: int, depth: int) -> None:
    """Refuse to begin while the generation of the open Request is still running.

    Args:
        model: the attached model.
        thread: the thread that opened the Request.
        depth: how many generate() calls on the model that thread was inside of; 0 for none.

    Raises:
        VlmHeadsError: that generation is still running.
    """
    if depth == 0:
        return
    running = generations(model, thread)
    # A generation that is over has left its thread's stack; a nested one stands above it.
    if running > depth if thread == current_thread() else running > 0:
        raise VlmHeadsError(
            f"a second generation on a {type(model).__name__} that is generating",
            "one generation at a time on an attached model",
            "wait for the first to end, or load the model a second time",
        )


def refuse_replaced(anatomy: Anatomy) -> None:
    """Refuse a model whose parts are no longer those that the hooks are on.

    Raises:
        VlmHeadsError: a layer or a part of one was replaced, as PEFT does to add an adapter.
    """
    for name, module in replaced_parts(anatomy):
        raise VlmHeadsError(
            f"{name} was replaced by a {type(module).__name__} after attach",
            "the modules that were there at attach, which the hooks are on",
            "detach, and attach again once adapters are added or removed",
        )


def refuse_named(anatomy: Anatomy) -> None:
    """Refuse to edit attention rows where the model attends by the name of its implementation.

    Raises:
        VlmHeadsError: under another name its sparse attention would become dense.
    """
    attentions = [module for module in anatomy.attentions if module is not None]
    if kind := compares_name(part for module in attentions for part in module.modules()):
        raise VlmHeadsError(
            f"attention of {anatomy.family.name}, whose {kind} attends another way unless "
            "its implementation is called sdpa or eager",
            "a model that attends the same under every name",
            "use a plugin that edits neither attention rows nor the cache",
        )


def refuse_shared(anatomy: Anatomy) -> None:
    """Refuse to edit the cache where layers attend by the keys and values of another layer.

    Raises:
        VlmHeadsError: in a prefill they would show all rows what only the last may see.
    """
    sharing = [
        index
        for index, attention in enumerate(anatomy.attentions)
        if getattr(attention, "is_kv_shared_layer", False)
    ]
    if sharing:
        raise VlmHeadsError(
            f"an edit of the cache of {anatomy.family.name}, whose layers {sharing} share the keys "
            "and values of another layer",
            "a model whose layers cache their own",
            "use a plugin that does not edit the cache",
        )


def refuse_sliced(anatomy: Anatomy, drafted: int, cache: Any) -> None:
    """Refuse what decoders rely on the name of the attention implementation for in a prefill.

    Gemma 4 runs its last layers on the rows of the new tokens alone. Under sdpa without a mask it
    must not where there are several, or where a static cache has room; it tells by the name.

    Raises:
        VlmHeadsError: prompt lookup or a static cache on such a decoder.
    """
    fixed = getattr(cache, "is_compileable", False)
    if (drafted or fixed) and compares_name([anatomy.decoder]):
        raise VlmHeadsError(
            f"{'a static cache' if fixed else 'prompt lookup'} under a plugin that edits attention "
            f"rows of {anatomy.family.name}",
            "a dynamic cache and one token per step",
            "leave cache_implementation and prompt_lookup_num_tokens unset",
        )


def refuse_sparse(anatomy: Anatomy, masks: list[Tensor]) -> None:
    """Refuse extra streams whose padding would move what a sparse attention picks.

    Args:
        anatomy: the parts of the model.
        masks: [B, S] padding of each stream, the main one first.

    Raises:
        VlmHeadsError: the attention picks keys by column, and a stream is padded otherwise.
    """
    if picks_keys(anatomy.layers) and any(not torch.equal(mask, masks[0]) for mask in masks):
        raise VlmHeadsError(
            f"streams of different lengths on {anatomy.family.name}, whose sparse attention "
            "changes under padding",
            "streams with prompts as long as the main one's",
            "use a plugin without a text-only stream",
        )


def refuse_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings of generate() that run forward passes of their own on the model.

    Args:
        settings: what `generate_settings` returned.

    Raises:
        VlmHeadsError: guidance_scale or an assistant model.
    """
    scale = settings.get("guidance_scale")
    if scale is not None and scale != 1:
        raise VlmHeadsError(
            f"guidance_scale={scale!r}, which runs a second pass per token on the same model",
            "generate() without it",
            "attach the plugin cfg, which contrasts with the prompt without its image",
        )
    if (assistant := settings.get("assistant_model")) is not None:
        raise VlmHeadsError(
            f"assistant_model={type(assistant).__name__}, whose drafts come without the plugins",
            "generate() without it",
            "use prompt_lookup_num_tokens, which is served",
        )


def refuse_pieces(
    anatomy: Anatomy, request: Request, ids: Tensor, inputs: Mapping[str, Any]
) -> None:
    """Refuse a prompt whose tokens come in several forward passes.

    Args:
        anatomy: the parts of the model.
        request: the open Request.
        ids: [B, S] token ids of this forward pass, which is not the first.
        inputs: the keyword arguments of this forward pass.

    Raises:
        VlmHeadsError: this forward pass brings a piece of a prompt.
    """
    # Tokens that prompt lookup drafted come with as many logits; a piece of a prompt does not.
    piece = inputs.get("logits_to_keep") == 1
    visual = bool(anatomy.is_visual(ids).any())
    if (piece and (request.active or visual)) or inputs.get(PIXELS) is not None:
        raise VlmHeadsError(
            "a prompt that arrives in pieces",
            "the whole prompt in one forward pass",
            "leave prefill_chunk_size unset",
        )


def unknown_cache(model: Any, cached: int) -> VlmHeadsError:
    """Say why a forward pass on a cache of `cached` tokens that nobody saw filled is refused."""
    if given_cache(generate_arguments(model)) is not None:
        return VlmHeadsError(
            f"generate() with a cache that already holds {cached} tokens",
            "the whole prompt and an empty cache",
            "leave cache and past_key_values unset, and pass all tokens of the prompt",
        )
    return VlmHeadsError(
        "a forward pass on a cache that vlmheads did not see from its start",
        "a generation that begins with its whole prompt and an empty cache",
        "run no other forward pass on this model between the steps of a generation",
    )
