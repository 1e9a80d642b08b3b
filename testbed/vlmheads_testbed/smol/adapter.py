"""The trained adapter in one file: vision tower, projector and low-rank updates, in float16."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlmheads.errors import VlmHeadsError

#: Most bytes that the file may take.
LIMIT = 16_000_000
_FORMAT = "vlmheads.smol/1"
_PROJECTOR, _LANGUAGE, _VISION = "multi_modal_projector", "language_model", "vision_tower"


@dataclass(frozen=True)
class Adapter:
    """What is put on a base model to make it see.

    ``vision`` and ``projector`` are state dictionaries; ``updates`` holds for each projection, by
    its name in the language model, the factors ``up [out, r]`` and ``down [r, in]``, which add
    scale * up @ down to its weight. ``vision_config`` is that of a CLIPVisionModel; ``notes``
    says how it was trained.
    """

    vision: dict[str, torch.Tensor]
    projector: dict[str, torch.Tensor]
    updates: dict[str, tuple[torch.Tensor, torch.Tensor]]
    scale: float
    vision_config: dict[str, Any]
    notes: dict[str, Any]


def make_adapter(
    values: dict[str, torch.Tensor], tower: Any, scale: float, notes: dict[str, Any]
) -> Adapter:
    """Sort what was trained (`train` returns it) into an adapter, with the tower it saw through."""
    projector: dict[str, torch.Tensor] = {}
    factors: dict[str, torch.Tensor] = {}
    for name, value in values.items():
        part, _, rest = name.removeprefix("model.").partition(".")
        (projector if part == _PROJECTOR else factors)[rest] = value
    updates = {
        name.removesuffix(".up"): (value, factors[f"{name.removesuffix('.up')}.down"])
        for name, value in factors.items()
        if name.endswith(".up")
    }
    config = tower.config.to_diff_dict()
    return Adapter(dict(tower.state_dict()), projector, updates, scale, config, notes)


def values_of(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Name what was trained as the training does: the other way round of `make_adapter`."""
    values = {f"model.{_PROJECTOR}.{name}": value for name, value in adapter.projector.items()}
    for name, (up, down) in adapter.updates.items():
        stem = f"model.{_LANGUAGE}.{name}"
        values |= {f"{stem}.up": up, f"{stem}.down": down}
    return values


def save_adapter(adapter: Adapter, path: Path) -> Path:
    """Write an adapter as float16 safetensors; the file is there whole or not at all.

    Raises:
        VlmHeadsError: it takes more than 16 MB, or a value is beyond float16.
    """
    from safetensors.torch import save_file

    tensors = {
        **{f"{_VISION}.{name}": value for name, value in adapter.vision.items()},
        **{f"{_PROJECTOR}.{name}": value for name, value in adapter.projector.items()},
    }
    for name, (up, down) in adapter.updates.items():
        tensors |= {f"{_LANGUAGE}.{name}.up": up, f"{_LANGUAGE}.{name}.down": down}
    half = {name: value.half().contiguous() for name, value in tensors.items()}
    beyond = [name for name, value in half.items() if not value.isfinite().all()]
    if beyond:
        raise VlmHeadsError(f"{beyond[0]} is beyond float16", "finite weights")
    new = path.with_suffix(".new")
    metadata = {"format": _FORMAT, "scale": str(adapter.scale),
                "vision_config": json.dumps(adapter.vision_config, sort_keys=True),
                "notes": json.dumps(adapter.notes, sort_keys=True)}  # fmt: skip
    save_file(half, new, metadata)
    size = new.stat().st_size
    if size > LIMIT:
        new.unlink()
        raise VlmHeadsError(f"the adapter takes {size} bytes", f"at most {LIMIT}")
    return new.replace(path)


def load_adapter(path: Path) -> Adapter:
    """Read an adapter in float32.

    Raises:
        VlmHeadsError: the file is not one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise VlmHeadsError(f"{path} cannot be read ({error})", "an adapter of smol") from error
    if metadata.get("format") != _FORMAT:
        raise VlmHeadsError(
            f"{path} has the format {metadata.get('format')!r}",
            repr(_FORMAT),
            "Train it again with this version: python -m vlmheads_testbed.smol.train OUT.",
        )
    parts: dict[str, dict[str, torch.Tensor]] = {_VISION: {}, _PROJECTOR: {}, _LANGUAGE: {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    language = parts[_LANGUAGE]
    updates = {
        name.removesuffix(".up"): (value, language[f"{name.removesuffix('.up')}.down"])
        for name, value in language.items()
        if name.endswith(".up")
    }
    return Adapter(parts[_VISION], parts[_PROJECTOR], updates, float(metadata["scale"]),
                   json.loads(metadata["vision_config"]),
                   json.loads(metadata["notes"]))  # fmt: skip


def apply_adapter(adapter: Adapter, model: Any) -> None:
    """Put an adapter on a LLaVA from `build_llava`: load its parts, merge its updates.

    Raises:
        VlmHeadsError: the model's projections are not those the adapter was trained on.
    """
    language = model.model.language_model
    weights = dict(language.named_parameters())
    for name, (up, down) in adapter.updates.items():
        weight = weights.get(f"{name}.weight")
        if weight is None or weight.shape != (up.shape[0], down.shape[1]):
            found = None if weight is None else tuple(weight.shape)
            raise VlmHeadsError(
                f"{name} of the base model is {found}", f"{(up.shape[0], down.shape[1])}"
            )
        with torch.no_grad():
            weight += (adapter.scale * (up @ down)).to(weight.dtype)
    model.model.multi_modal_projector.load_state_dict(adapter.projector)
    model.model.vision_tower.load_state_dict(adapter.vision)
