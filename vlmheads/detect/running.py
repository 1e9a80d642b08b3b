"""One forward pass, or a short generation, under a probe: what the detectors have in common."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from vlmheads.anatomy import Anatomy
from vlmheads.attachment import ATTACHED, attach
from vlmheads.errors import VlmHeadsError
from vlmheads.geometry import Geometry
from vlmheads.plugin import Plugin


def prefill(model: Any, inputs: Mapping[str, Any], probe: Plugin, logits: int = 1) -> Anatomy:
    """Run a prompt through the model once, with a probe attached that keeps what it measures.

    Args:
        model: a transformers model for image-text-to-text generation; plugins that are attached
            to it act.
        inputs: what a processor made of images and text.
        probe: a plugin that only reads.
        logits: how many last positions the model makes logits of.

    Raises:
        VlmHeadsError: a model that cannot be attached to, or no image in any prompt.
    """
    given = {name: value for name, value in inputs.items() if name != "labels"}
    with attach(model, probe) as attachment:
        anatomy = attachment.anatomy
        require_images(anatomy, given)
        if "logits_to_keep" in inspect.signature(anatomy.model.forward).parameters:
            given["logits_to_keep"] = logits
        attachment.model(**given, use_cache=False)
    return anatomy


def require_images(anatomy: Anatomy, inputs: Mapping[str, Any]) -> None:
    """Refuse prompts of which none holds an image.

    Raises:
        VlmHeadsError: no image token in any row, or no token ids at all.
    """
    ids = inputs.get("input_ids")
    if ids is None or not bool(anatomy.is_visual(ids).any()):
        raise VlmHeadsError(
            "prompts without any image", "at least one image token", "pass what the processor made"
        )


def refuse_attached(anatomy: Anatomy) -> None:
    """Refuse a model on which plugins act.

    Raises:
        VlmHeadsError: something is attached to it.
    """
    if ATTACHED in vars(anatomy.model):
        raise VlmHeadsError(
            f"a {type(anatomy.model).__name__} with plugins attached",
            "the plain model",
            "detach the plugins first",
        )


def layered(found: Iterable[tuple[int, Tensor]], geometry: Geometry) -> Tensor:
    """Lay what was found in each layer, [N, heads], out as [N, L, H]; 0 where there is no head."""
    parts = dict(found)
    rows = len(next(iter(parts.values())))
    values = torch.zeros(rows, geometry.layers, geometry.heads)
    for layer, part in parts.items():
        values[:, layer, : part.shape[1]] = part.cpu()
    return values


def after_end(tokens: Tensor, end: int | list[int] | None) -> Tensor:
    """[N, T] True after a row's first end token."""
    if end is None:
        return torch.zeros_like(tokens, dtype=torch.bool, device="cpu")
    is_end = torch.isin(tokens, torch.tensor(end, device=tokens.device)).int()
    return (is_end.cumsum(dim=1) - is_end > 0).cpu()


def refuse_beams(generate: Mapping[str, Any]) -> None:
    """Refuse generations that do not go forward a token of a row at a time.

    Raises:
        VlmHeadsError: beams, whose rows change places, or several tokens a step.
    """
    for name in ("num_beams", "prompt_lookup_num_tokens", "assistant_model"):
        if generate.get(name, 1) not in (1, None):
            raise VlmHeadsError(
                f"{name}={generate[name]!r}",
                "greedy search or sampling, a token at a time",
                "leave it unset",
            )
