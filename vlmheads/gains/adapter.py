"""Per-head gains outside of vlmheads: as a PEFT adapter, and as factors on projections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from vlmheads.errors import VlmHeadsError
from vlmheads.gains.folds import Fold, checked_gains
from vlmheads.headmap import GAIN, HeadMap
from vlmheads.model.anatomy import Anatomy, examine
from vlmheads.model.layout import head_size


def save_adapter(
    gains: HeadMap | Tensor | Fold, folder: str | Path, model: Any, *, strength: float = 1.0
) -> Path:
    """Write per-head gains as a PEFT IA3 adapter, which plain PEFT loads on the same model.

    A gain on a head is an IA3 vector on the input of the layer's output projection that is
    constant within the head. The model tells the names of its projections and the size of its
    heads; it is not changed. PEFT is not needed to write the adapter.

    >>> vlmheads.save_adapter(head_map, "adapter", model)
    >>> model = peft.PeftModel.from_pretrained(model, "adapter")  # without vlmheads

    The plugin `gains` leaves prompts without an image alone; an adapter acts on all.

    Args:
        gains: a HeadMap whose measure is "gain", its mean over the images; factors [L, H]; or what
            is folded of plugins (`vlmheads.gains.folds.combined`).
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
        name = names[id(anatomy.projections[layer])]
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


def _factors(
    gains: HeadMap | Tensor | Fold, anatomy: Anatomy, strength: float
) -> dict[int, Tensor]:
    """Factors on the input of each layer's output projection, of layers with a gain that is not 1.

    Returns:
        layer -> [heads * D], float32.
    """
    geometry = anatomy.geometry
    if isinstance(gains, Fold):
        if gains.gains is None or gains.removed or gains.offsets:
            what = "an edit of MLPs" if gains.removed else "vectors added to heads"
            raise VlmHeadsError(f"{what} as an adapter of heads", "gains of heads alone")
        gains = gains.gains
    if isinstance(gains, HeadMap):
        if gains.measure != GAIN:
            raise VlmHeadsError(
                f"a head map of {gains.measure!r}",
                f"one of {GAIN!r}, whose values are factors",
                f"turn the measurement into factors and save them as HeadMap(..., {GAIN!r})",
            )
        geometry.require(gains.geometry, "the head map")
        gains = gains.mean()
    return projection_factors(1 + strength * (checked_gains(gains, geometry) - 1), anatomy)


def projection_factors(gains: Tensor, anatomy: Anatomy) -> dict[int, Tensor]:
    """Return factors [L, H] as those on the input of each output projection that they change.

    Returns:
        layer -> [heads * D], float32.

    Raises:
        VlmHeadsError: an output projection that is no plain linear layer.
    """
    found = {}
    for layer, row in enumerate(gains):
        if anatomy.projections[layer] is None or not bool((row != 1).any()):
            continue
        size = head_size(anatomy.attentions[layer])
        heads = plain_linear(anatomy.projections[layer], layer).in_features // size
        found[layer] = row[:heads].float().repeat_interleave(size)
    return found


def plain_linear(module: nn.Module | None, layer: int) -> nn.Linear:
    """Return a module whose weights are numbers that can be multiplied.

    Raises:
        VlmHeadsError: it is something else, such as a quantised layer or an adapter.
    """
    if type(module) is not nn.Linear or not module.weight.is_floating_point():
        raise VlmHeadsError(
            f"a projection of type {type(module).__name__} in layer {layer}",
            "a plain linear layer",
            "load the model without quantisation or adapters",
        )
    return module
