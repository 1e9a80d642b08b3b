"""Per-head gains outside of vlmheads: as a PEFT adapter, or folded into a model's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vlmheads.errors import VlmHeadsError
from vlmheads.headmap import GAIN, HeadMap
from vlmheads.model.anatomy import Anatomy, examine
from vlmheads.model.layout import head_size, width_of


def save_adapter(
    gains: HeadMap | Tensor, folder: str | Path, model: Any, *, strength: float = 1.0
) -> Path:
    """Write per-head gains as a PEFT IA3 adapter, which plain PEFT loads on the same model.

    A gain on a head is an IA3 vector on the input of the layer's output projection that is
    constant within the head. The model tells the names of its projections and the size of its
    heads; it is not changed. PEFT is not needed to write the adapter.

    >>> vlmheads.save_adapter(head_map, "adapter", model)
    >>> model = peft.PeftModel.from_pretrained(model, "adapter")  # without vlmheads

    The plugin `gains` leaves prompts without an image alone; an adapter acts on all.

    Args:
        gains: a HeadMap whose measure is "gain", its mean over the images; or factors [L, H].
        folder: where `adapter_config.json` and `adapter_model.safetensors` go; it is made.
        model: the transformers model that the adapter is for.
        strength: share of the way from 1 to the gain, as of the plugin `gains`.

    Returns:
        The folder.

    Raises:
        VlmHeadsError: a map of another measure or of another model, gains that are not finite, or
            gains on a layer whose output projection is no plain linear layer.
    """
    anatomy = examine(model)
    names = {id(module): name for name, module in anatomy.model.named_modules()}
    tensors, modules = {}, []
    for layer, factors in _factors(gains, anatomy, strength).items():
        name = names[id(_linear(anatomy, layer))]
        modules.append(name)
        tensors[f"base_model.model.{name}.ia3_l"] = factors[None].contiguous()
    if not modules:
        raise VlmHeadsError("gains that are all 1", "a gain that changes something")
    about = {
        "peft_type": "IA3",
        "task_type": None,
        "base_model_name_or_path": getattr(anatomy.model.config, "_name_or_path", "") or None,
        "inference_mode": True,
        "target_modules": modules,
        "feedforward_modules": modules,  # the vector is on the input, not on the output
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_ia3_weights": True,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(about, indent=2) + "\n")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@torch.no_grad()
def fold_gains(gains: HeadMap | Tensor, model: Any, *, strength: float = 1.0) -> None:
    """Multiply per-head gains into the output projections of a model, in place.

    The columns of W_O that read a head are multiplied by its gain; a bias stays. Afterwards the
    model needs no vlmheads, takes no longer, and has the gains on prompts without an image, too.

    Args:
        gains: a HeadMap whose measure is "gain", its mean over the images; or factors [L, H].
        model: the transformers model that is changed.
        strength: share of the way from 1 to the gain, as of the plugin `gains`.

    Raises:
        VlmHeadsError: what `save_adapter` refuses.
    """
    anatomy = examine(model)
    found = _factors(gains, anatomy, strength)
    projections = {layer: _linear(anatomy, layer) for layer in found}
    for layer, factors in found.items():
        weight = projections[layer].weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        weight.copy_(weight.to(wide) * factors.to(weight.device, wide))


def _factors(gains: HeadMap | Tensor, anatomy: Anatomy, strength: float) -> dict[int, Tensor]:
    """Factors on the input of each layer's output projection, of layers with a gain that is not 1.

    Returns:
        layer -> [heads * D], float32.
    """
    geometry = anatomy.geometry
    if isinstance(gains, HeadMap):
        if gains.measure != GAIN:
            raise VlmHeadsError(
                f"a head map of {gains.measure!r}",
                f"one of {GAIN!r}, whose values are factors",
                f"turn the measurement into factors and save them as HeadMap(..., {GAIN!r})",
            )
        geometry.require(gains.geometry, "the head map")
        values = gains.mean()
    else:
        values = gains.detach().to("cpu", torch.float32)
        if tuple(values.shape) != (geometry.layers, geometry.heads):
            raise VlmHeadsError(
                f"gains of shape {list(values.shape)}",
                f"[{geometry.layers}, {geometry.heads}], those of {geometry}",
            )
    if not bool(values[list(geometry.attention_layers)].isfinite().all()):
        raise VlmHeadsError("gains that are not finite", "numbers")
    bare = values[list(geometry.bare_layers)].nan_to_num(1.0)
    if bool((bare != 1).any()):
        raise VlmHeadsError(
            f"gains for layers without attention heads: {list(geometry.bare_layers)}",
            "1, or not a number, in those layers",
        )
    values = 1 + strength * (values - 1)
    found = {}
    for layer, row in enumerate(values):
        projection = anatomy.projections[layer]
        if projection is None or not bool((row != 1).any()):
            continue
        size = head_size(anatomy.attentions[layer])
        found[layer] = row[: width_of(projection) // size].repeat_interleave(size)
    return found


def _linear(anatomy: Anatomy, layer: int) -> nn.Linear:
    projection = anatomy.projections[layer]
    if type(projection) is not nn.Linear or not projection.weight.is_floating_point():
        raise VlmHeadsError(
            f"an output projection of type {type(projection).__name__} in layer {layer}",
            "a plain linear layer",
            "load the model without quantisation or adapters",
        )
    return projection
