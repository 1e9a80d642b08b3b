"""Where the parts of one model are: its decoder layers, their heads, its image tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vlmheads.errors import VlmHeadsError
from vlmheads.model.families import Family, families, family_of
from vlmheads.model.geometry import Geometry

_PROJECTIONS = ("o_proj", "out_proj", "dense")
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

    def is_visual(self, ids: torch.Tensor) -> torch.Tensor:
        """Mark image and video tokens in ids [B, S]."""
        return torch.isin(ids, torch.tensor(self.visual_ids, device=ids.device))

    def unembed(self, hidden: torch.Tensor, *, norm: bool) -> torch.Tensor:
        """Return logits [..., V] of hidden states [..., E], after the decoder's norm or not."""
        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[operator]
        last: nn.Module | None = getattr(self.decoder, "norm", None)
        logits: torch.Tensor = head(last(hidden) if norm and last is not None else hidden)
        return logits

    def split_heads(self, layer: int, flat: torch.Tensor) -> torch.Tensor:
        """View the input of a layer's output projection [B, S, H * D] as [B, S, H, D]."""
        head_dim: int = self.attentions[layer].head_dim  # type: ignore[union-attr, assignment]
        return flat.view(*flat.shape[:-1], -1, head_dim)


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


def replaced_parts(anatomy: Anatomy) -> Iterator[tuple[str, nn.Module | None]]:
    """Yield the name and the new module of each part that is no longer the one in `anatomy`."""
    layers = tuple(getattr(anatomy.decoder, "layers", ()))
    if layers != anatomy.layers:
        yield "a decoder layer", anatomy.decoder
        return
    for index, layer in enumerate(layers):
        attention = getattr(layer, "self_attn", None)
        now = {
            "attention": (attention, anatomy.attentions[index]),
            "output projection": (_projection(attention), anatomy.projections[index]),
            "MLP": (getattr(layer, "mlp", None), anatomy.mlps[index]),
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
    if not family.refusal and getattr(config, "is_encoder_decoder", False):
        refusal = "it is an encoder-decoder model: the image is in the encoder, not in the prompt"
    else:
        refusal = family.refusal
    if refusal:
        raise VlmHeadsError(f"{family.name} cannot be attached to: {refusal}", f"one of {known}")
    visual_ids = _visual_ids(config)
    if not visual_ids:
        raise VlmHeadsError(
            f"{type(model).__name__} ({model_type}) names no image token in its config",
            "a model that takes images as tokens of its prompt",
            f"use a vision-language model, such as {known}",
        )
    if not hasattr(model, "get_decoder"):
        raise VlmHeadsError(f"{type(model).__name__} has no get_decoder()", "a generating model")
    decoder: nn.Module = model.get_decoder()  # type: ignore[operator]
    layers = tuple(getattr(decoder, "layers", ()))
    attentions = tuple(getattr(layer, "self_attn", None) for layer in layers)
    projections = tuple(_projection(attention) for attention in attentions)
    having = tuple(
        index
        for index, (attention, projection) in enumerate(zip(attentions, projections, strict=True))
        if attention is not None and projection is not None
    )
    heads = [
        int(projections[index].in_features) // int(attentions[index].head_dim)  # type: ignore[union-attr, arg-type]
        for index in having
    ]
    if not heads:
        raise VlmHeadsError(
            f"{type(decoder).__name__} ({model_type}) has no attention layer with a known output",
            f"decoder.layers[i].self_attn with one of {', '.join(_PROJECTIONS)}",
            "add the family in vlmheads/adapters",
        )
    return Anatomy(
        model=model,
        family=family,
        geometry=Geometry(model_type, len(layers), max(heads), having),
        decoder=decoder,
        layers=layers,
        attentions=attentions,
        projections=projections,
        mlps=tuple(getattr(layer, "mlp", None) for layer in layers),
        visual_ids=visual_ids,
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


def _projection(attention: nn.Module | None) -> nn.Module | None:
    """Return the module that mixes the heads of an attention module."""
    for name in _PROJECTIONS:
        projection = getattr(attention, name, None)
        if isinstance(projection, nn.Module) and hasattr(attention, "head_dim"):
            return projection
    return None
