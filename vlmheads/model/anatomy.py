"""Where the parts of one model are: its decoder layers, their heads, its image tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vlmheads.errors import VlmHeadsError
from vlmheads.model import unembedding
from vlmheads.model.families import ENCODER_DECODER, Family, families, family_of
from vlmheads.model.geometry import Geometry
from vlmheads.model.layout import (
    attention_of,
    head_size,
    mlp_of,
    projection_of,
    text_decoder,
    width_of,
)

_PARALLEL = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")
_VISUAL_IDS = ("image_token_id", "video_token_id")


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The parts of a vision-language model that vlmheads works on.

    Args:
        model: the whole model, the one that generates.
        family: facts about its family.
        geometry: model type, layers and heads.
        decoder: the text decoder.
        layers: its layers; `attentions`, `projections` and `mlps` hold the parts of each. Layers
            without attention heads (linear attention, convolution) hold None.
        visual_ids: token ids that stand for pieces of an image or video.
        marker_ids: token ids that stand around an image and are embedded by its encoder, too.
    """

    model: nn.Module
    family: Family
    geometry: Geometry
    decoder: nn.Module
    layers: tuple[nn.Module, ...]
    attentions: tuple[nn.Module | None, ...]
    projections: tuple[nn.Module | None, ...]
    mlps: tuple[nn.Module | None, ...]
    visual_ids: tuple[int, ...]
    marker_ids: tuple[int, ...] = ()

    @property
    def generator(self) -> Any:
        """The module whose forward each step runs: the model, or the language model inside."""
        return generator_of(self.model)

    def is_visual(self, ids: torch.Tensor) -> torch.Tensor:
        """Mark image and video tokens in ids [B, S]."""
        return torch.isin(ids, torch.tensor(self.visual_ids, device=ids.device))

    def is_marker(self, ids: torch.Tensor) -> torch.Tensor:
        """Mark the tokens in ids [B, S] that mean something else with an image than without."""
        return torch.isin(ids, torch.tensor(self.marker_ids, device=ids.device, dtype=ids.dtype))

    def normed(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return outputs of a layer [..., E] after the decoder's last norm.

        Raises:
            VlmHeadsError: a decoder that does more than that between its last layer and its head.
        """
        return unembedding.normed(self, hidden)

    def unembed(self, hidden: torch.Tensor, *, norm: bool) -> torch.Tensor:
        """Return logits [..., V] of hidden states [..., E], after the decoder's norm or not.

        The model makes them itself, with whatever it does to its logits: scales, softcaps, bans.

        Raises:
            VlmHeadsError: a head that is not found, or, with `norm`, a decoder that does more
                between its last layer and its head.
        """
        return unembedding.logits(self, self.normed(hidden) if norm else hidden)

    def flat_states(self, output: Any) -> torch.Tensor:
        """Return the hidden states in a module's output as [B, S, E].

        A tuple's first item is taken. Where layers keep several residual streams, [B, S, N, E] or,
        in Gemma 3n, [N, B, S, E], E is that of all streams, one after the other.
        """
        states: torch.Tensor = output[0] if isinstance(output, tuple) else output
        if states.ndim < 4:
            return states
        return (states.permute(1, 2, 0, 3) if self.family.streams_first else states).flatten(2)

    def with_states(self, output: Any, states: torch.Tensor) -> Any:
        """Return a module's output with hidden states [B, S, E] in the place of its own."""
        if isinstance(output, tuple):
            return (self.with_states(output[0], states), *output[1:])
        if output.ndim < 4:
            return states
        states = states.reshape(*states.shape[:2], -1, output.shape[-1])
        return states.permute(2, 0, 1, 3) if self.family.streams_first else states

    def split_heads(self, layer: int, flat: torch.Tensor) -> torch.Tensor:
        """View the input of a layer's output projection [B, S, H * D] as [B, S, H, D]."""
        size = head_size(self.attentions[layer])
        return flat.view(*flat.shape[:-1], -1, size)


def unwrap(model: Any) -> Any:
    """Return the transformers model that runs inside of wrappers: torch.compile, PEFT, parallel.

    Raises:
        VlmHeadsError: a DataParallel over several devices, whose copies would share the hooks.
    """
    while True:
        inside = getattr(model, "_orig_mod", None)  # what torch.compile(model) wraps
        if inside is None and callable(base := getattr(model, "get_base_model", None)):
            inside = base()  # what PEFT wraps
        if inside is None and type(model).__name__ in _PARALLEL:
            if type(model).__name__ == "DataParallel" and len(model.device_ids) > 1:
                raise VlmHeadsError(
                    f"a DataParallel over {len(model.device_ids)} devices",
                    "one model per process",
                    "attach to its .module, or share the images with `accelerate launch`",
                )
            inside = model.module
        if inside is None or inside is model:
            return model
        model = inside


def generator_of(model: Any) -> Any:
    """Return the model whose generate() runs the steps: `model`, or the language model inside."""
    model = unwrap(model)
    inner = family_of(getattr(getattr(model, "config", None), "model_type", "")).inner
    return unwrap(getattr(model, inner)) if inner else model


def replaced_parts(anatomy: Anatomy) -> Iterator[tuple[str, nn.Module | None]]:
    """Yield the name and the new module of each part that is no longer the one in `anatomy`."""
    layers = tuple(getattr(anatomy.decoder, "layers", ()))
    if layers != anatomy.layers:
        yield "a decoder layer", anatomy.decoder
        return
    for index, layer in enumerate(layers):
        attention = attention_of(layer)
        now = {
            "attention": (attention, anatomy.attentions[index]),
            "output projection": (projection_of(attention), anatomy.projections[index]),
            "MLP": (mlp_of(layer), anatomy.mlps[index]),
        }
        for name, (found, known) in now.items():
            if found is not known:
                yield f"the {name} of layer {index}", found


def examine(model: Any) -> Anatomy:
    """Find the parts of `model`.

    Args:
        model: a transformers model for image-text-to-text generation.

    Raises:
        VlmHeadsError: not such a model, a family that is refused by name, no image tokens, or
            decoder layers without a known output projection.
    """
    model = unwrap(model)
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if not isinstance(model, nn.Module) or model_type is None:
        raise VlmHeadsError(
            f"a {type(model).__name__}",
            "a transformers model",
            "load it with AutoModelForImageTextToText.from_pretrained",
        )
    family = family_of(model_type)
    known = ", ".join(other.name for other in families() if not other.refusal)
    text = getattr(config, "text_config", None)
    decodes = any(getattr(part, "is_encoder_decoder", False) for part in (config, text))
    if refusal := family.refusal or (ENCODER_DECODER if decodes else ""):
        raise VlmHeadsError(f"{family.name} cannot be attached to: {refusal}", f"one of {known}")
    visual_ids = _visual_ids(config)
    if not visual_ids:
        raise VlmHeadsError(
            f"{type(model).__name__} ({model_type}) names no image token in its config",
            "a model that takes images as tokens of its prompt",
            f"use a vision-language model, such as {known}",
        )
    decoder = text_decoder(model)
    layers = tuple(getattr(decoder, "layers", ()))
    attentions = tuple(attention_of(layer) for layer in layers)
    projections = tuple(projection_of(attention) for attention in attentions)
    heads = {
        layer: width_of(projection) // head_size(attention)
        for layer, (attention, projection) in enumerate(zip(attentions, projections, strict=True))
        if attention is not None and projection is not None
    }
    if not heads:
        raise VlmHeadsError(
            f"{type(decoder).__name__} ({model_type}) has no attention layer with a known output",
            "decoder.layers[i] with an attention module that calls transformers' attention "
            "functions and ends in an output projection",
            "see docs/families.md",
        )
    return Anatomy(
        model=model,
        family=family,
        geometry=Geometry(model_type, len(layers), max(heads.values()), tuple(heads)),
        decoder=decoder,
        layers=layers,
        attentions=attentions,
        projections=projections,
        mlps=tuple(mlp_of(layer) for layer in layers),
        visual_ids=visual_ids,
        marker_ids=tuple(getattr(config, "visual_indicator_token_ids", None) or ()),
    )


def _visual_ids(config: Any) -> tuple[int, ...]:
    """Image and video token ids, from the config or from its vision part."""
    places = (config, getattr(config, "vision_config", None))
    found = {
        token
        for place in places
        for name in _VISUAL_IDS
        if isinstance(token := getattr(place, name, None), int)
    }
    has_image = any(isinstance(getattr(place, "image_token_id", None), int) for place in places)
    return tuple(sorted(found)) if has_image else ()
