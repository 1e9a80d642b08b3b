"""What methods share that read the outputs of earlier layers through the vocabulary head."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmheads.runtime.request import Request


def keep_output(request: Request, plugin: object, layer: int, hidden: Tensor) -> None:
    """Remember a layer's output at those columns of this forward pass that predict new tokens."""
    new = hidden[:, -request.predicting :]
    if new.shape[1] < hidden.shape[1]:
        new = new.clone()  # a view would keep the output of the whole prompt alive
    request.scratch(plugin).setdefault("outputs", {})[layer] = new


def kept_outputs(request: Request, plugin: object, layers: tuple[int, ...]) -> Tensor:
    """Return outputs [B, layers, E] of the column that on_logits is handling."""
    outputs: dict[int, Tensor] = request.scratch(plugin)["outputs"]
    parts = [outputs[layer][:, request.column] for layer in layers]
    # A model may be spread over several devices, a layer's output being on its own.
    return torch.stack([part.to(parts[-1].device) for part in parts], dim=1)


def normed(request: Request, hidden: Tensor) -> Tensor:
    """Return hidden states after the decoder's last norm."""
    return request.anatomy.normed(hidden)
