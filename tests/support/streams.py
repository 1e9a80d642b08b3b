"""Two slow decoders side by side, for methods that contrast one with the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import agree
import slow
import tiny
import torch
from torch import Tensor

from vlmheads.plugin import Plugin

# (step, logits of the main stream, logits of the other) -> edited logits, which are then settled
Combine = Callable[[int, Tensor, Tensor], Tensor]


def decode(
    family: str,
    combine: Combine,
    other: dict[str, Tensor] | None = None,
    *,
    images: bool = True,
    begin: Callable[[slow.Slow], Tensor] | None = None,
    tokens: int = 8,
) -> tuple[list[int], Tensor]:
    """Greedy tokens and logits where each step combines the main stream with the other one.

    The other stream reads the row `other`, or the main one's; its image can be deleted. What else
    it may read, `begin` makes of it.
    """
    model: Any = tiny.build(family)
    row = tiny.inputs(family)
    main, side = slow.Slow(model), slow.Slow(model)
    one = main.prompt(row)
    two = side.prompt(other or row, images=images) if begin is None else begin(side)
    chosen: list[int] = []
    logits: list[Tensor] = []
    for step in range(tokens):
        logits.append(slow.settled(combine(step, one, two), one))
        chosen.append(int(logits[-1].argmax()))
        one, two = main.token(chosen[-1]), side.token(chosen[-1])
    return chosen, torch.stack(logits)


def cut(edited: Tensor, logits: Tensor, share: float) -> Tensor:
    """Minus infinity where a token is less likely than a share of the likeliest."""
    probabilities = logits.softmax(dim=-1)
    return torch.stack(
        [
            value if p >= share * probabilities.max() else torch.tensor(-torch.inf)
            for value, p in zip(edited.double(), probabilities, strict=True)
        ]
    )


def assert_plugin_is(plugin: Plugin, family: str, expected: tuple[list[int], Tensor]) -> None:
    """A plugin gives what the two streams gave, and not what the model gives alone."""
    model, row = tiny.build(family), tiny.inputs(family)
    plain = slow.decode(model, row, tokens=expected[0])
    difference = (plain[1] - expected[1]).nan_to_num(posinf=0, neginf=0)
    assert float(difference.abs().max()) > 1e-3
    agree.assert_same(expected, agree.generate(model, row, plugin))
