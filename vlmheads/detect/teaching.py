"""Prompts with the answer written behind them, for what is measured at given words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlmheads.anatomy import Anatomy
from vlmheads.errors import VlmHeadsError

_SAME = ("attention_mask", "input_ids")


def taught(anatomy: Anatomy, inputs: Mapping[str, Any], targets: Tensor) -> dict[str, Any]:
    """Return inputs with the target tokens [N, T] written behind the prompts.

    The position that predicts target t is t - T - 1, counted from the end.

    Raises:
        VlmHeadsError: targets that are no [N, T] of token ids.
    """
    ids: Tensor = inputs["input_ids"]
    if targets.ndim != 2 or len(targets) != len(ids) or not targets.shape[1]:
        raise VlmHeadsError(
            f"targets of shape {list(targets.shape)}", f"[{len(ids)}, tokens], as many for each"
        )
    targets = targets.to(ids)
    given = {name: value for name, value in inputs.items() if name != "labels"}
    mask = given.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    for name, value in inputs.items():
        # Token types: behind a prompt that attends in both directions, an answer does not.
        if isinstance(value, Tensor) and value.shape == ids.shape and name not in _SAME:
            added = value.new_full(targets.shape, anatomy.family.answer_type)
            given[name] = torch.cat([value, added], dim=1)
    given["input_ids"] = torch.cat([ids, targets], dim=1)
    given["attention_mask"] = torch.cat([mask, mask.new_ones(targets.shape)], dim=1)
    return given


def marks(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a mark as booleans of the expected shape.

    Raises:
        VlmHeadsError: another shape.
    """
    if tuple(value.shape) != shape:
        raise VlmHeadsError(f"{name} of shape {list(value.shape)}", f"{list(shape)}")
    return value.bool()
