"""Whether this machine multiplies bfloat16 matrices faster than float32 ones."""

from __future__ import annotations

import time

import torch

#: Rows, inputs and outputs of a product like those of the training.
_SHAPE = (1024, 576, 1536)
_ROUNDS = 5


def bfloat16_pays(device: str) -> bool:
    """Time a product of the training's size in both precisions; on CUDA it always pays.

    Processors without bfloat16 instructions (AVX2 only) compute it, correctly, at about a seventh
    of the speed of float32; those with AMX at several times it.
    """
    if device != "cpu":
        return True
    return _seconds(torch.bfloat16) < _seconds(torch.float32)


def _seconds(kind: torch.dtype) -> float:
    """Return the least time of a few products, so that other work on the machine counts less."""
    rows, inner, columns = _SHAPE
    left, right = torch.ones(rows, inner, dtype=kind), torch.ones(columns, inner, dtype=kind)
    spent = []
    for _ in range(_ROUNDS):
        before = time.perf_counter()
        torch.nn.functional.linear(left, right)
        spent.append(time.perf_counter() - before)
    return min(spent)
