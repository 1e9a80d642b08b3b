"""Separate passes over a prompt: one without plugins, or a few tokens that are thrown away."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from vlmheads.model.anatomy import Anatomy
from vlmheads.runtime import cache as caches
from vlmheads.runtime.compat import generate_config
from vlmheads.runtime.embeds import without_ids
from vlmheads.runtime.prompt import Prompt

# What a pass of our own sets itself, or does without.
_LEFT_OUT = (*caches.NAMES, "use_cache", "attention_mask", "logits_to_keep", "return_dict")
# Settings of a running generate() that tokens generated ahead heed.
_KEPT = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "bad_words_ids"),
    *("repetition_penalty", "no_repeat_ngram_size"),
)


@dataclass(frozen=True, eq=False)
class Reference:
    """What a separate pass over the prompt saw at its last position.

    Args:
        heads: layer -> head outputs [B, H, D].
        hidden: layer -> output of the layer [B, E].
        logits: [B, V] of the next token.
    """

    heads: dict[int, Tensor]
    hidden: dict[int, Tensor]
    logits: Tensor


@torch.no_grad()
def reference_pass(
    anatomy: Anatomy,
    prompt: Prompt,
    inputs: dict[str, Any],
    images: bool,
    heads: frozenset[int],
    hidden: frozenset[int],
) -> Reference:
    """Run a prompt through the model once and keep what its last position gives.

    Args:
        anatomy: the parts of the model.
        prompt: the prompt as it is.
        inputs: what the forward pass of the prefill was given, images included.
        images: whether to run with the images, or with their embeddings deleted.
        heads: layers whose head outputs are kept.
        hidden: layers whose output is kept.
    """
    if images:
        given = without_ids(anatomy, inputs)
        given = {name: value for name, value in given.items() if name not in _LEFT_OUT}
        given |= _shared(anatomy, prompt)
        expand = None
    else:
        # Beams of a sample, and many images under one question, need only one pass.
        prompt, expand = prompt.without_images().distinct()
        given = text_inputs(anatomy, prompt)
    kept_heads: dict[int, Tensor] = {}
    kept_hidden: dict[int, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(positions_kept(anatomy.model))
        for layer in heads:
            projection = anatomy.projections[layer]
            if projection is not None:
                hook = projection.register_forward_pre_hook(
                    lambda _, args, layer=layer: kept_heads.update(
                        {layer: anatomy.split_heads(layer, args[0])[:, -1]}
                    )
                )
                stack.callback(hook.remove)
        for layer in hidden:
            hook = anatomy.layers[layer].register_forward_hook(
                lambda _, args, output, layer=layer: kept_hidden.update(
                    {layer: anatomy.flat_states(output)[:, -1]}
                )
            )
            stack.callback(hook.remove)
        logits = anatomy.generator(**given, use_cache=False, return_dict=True).logits[:, -1]
    if expand is not None:
        kept_heads = {layer: value[expand] for layer, value in kept_heads.items()}
        kept_hidden = {layer: value[expand] for layer, value in kept_hidden.items()}
        logits = logits[expand]
    return Reference(kept_heads, kept_hidden, logits)


def text_inputs(anatomy: Anatomy, prompt: Prompt) -> dict[str, Any]:
    """Return the arguments of a forward pass over a prompt without images, logits of its end."""
    first = anatomy.family.first_position
    given = {"input_ids": prompt.ids, "position_ids": prompt.positions(first)}
    return given | prompt.token_types | _shared(anatomy, prompt)


def _shared(anatomy: Anatomy, prompt: Prompt) -> dict[str, Any]:
    """Return the mask of a prompt, where there is padding, and that only its end is asked for."""
    given: dict[str, Any] = {}
    if not bool(prompt.mask.all()):
        given["attention_mask"] = prompt.mask.long()
    if "logits_to_keep" in inspect.signature(anatomy.generator.forward).parameters:
        given["logits_to_keep"] = 1
    return given


@contextmanager
def positions_kept(model: nn.Module) -> Iterator[None]:
    """Put back the position offsets that M-RoPE models keep on a module."""
    kept = [(m, m.rope_deltas) for m in model.modules() if hasattr(m, "rope_deltas")]
    try:
        yield
    finally:
        for module, deltas in kept:
            module.rope_deltas = deltas


@dataclass(frozen=True, eq=False)
class Probe:
    """Tokens that were generated and thrown away.

    Args:
        tokens: [B, N] token ids; N is less than was asked for where every row ended before.
        alive: [B, N] True up to the token that ends a row, that token included.
        logits: [B, N, V] that they were chosen from.
    """

    tokens: Tensor
    alive: Tensor
    logits: Tensor


def generate_ahead(anatomy: Anatomy, prompt: Prompt, inputs: dict[str, Any], tokens: int) -> Probe:
    """Generate greedily with a cache of its own, and forget it.

    Of the settings of a running generate(), those that end a row or forbid and penalise tokens are
    kept; a processor or criterion that was passed as an object is not asked.

    Args:
        anatomy: the parts of the model.
        prompt: the prompt as it is.
        inputs: what the forward pass of the prefill was given, images included.
        tokens: how many at most.
    """
    model = anatomy.generator
    left = {*_LEFT_OUT, "cache_position", "input_ids"}
    given = {
        name: value for name, value in inputs.items() if name not in left and value is not None
    }
    if given.get("inputs_embeds") is None:
        given["input_ids"] = prompt.ids
    running = generate_config(model)
    kept = {name: getattr(running, name, None) for name in _KEPT}
    config = GenerationConfig(
        **kept,
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    with torch.no_grad(), positions_kept(anatomy.model):
        output = model.generate(
            **given, attention_mask=prompt.mask.long(), generation_config=config
        )
    logits = torch.stack(output.logits, dim=1)
    said = output.sequences[:, -logits.shape[1] :]
    ends = kept["eos_token_id"]
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    over = torch.isin(said, torch.tensor(ends, device=said.device, dtype=said.dtype)).int()
    return Probe(said, over.cumsum(dim=1) - over == 0, logits)
