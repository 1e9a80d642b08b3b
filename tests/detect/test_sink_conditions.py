"""φ and the attention drawn by image tokens, against a slow decoder, and the choice of τ."""

from __future__ import annotations

import pytest
import slow
import tiny
import torch
from torch import Tensor

from vlmheads.detect.sink_conditions import (
    TAUS,
    Drawn,
    choose_tau,
    massive_dimensions_of,
    sink_conditions,
)

LENGTHS = (5, 3)
DIMENSIONS = (3, 17)


def by_hand(family: str, index: int) -> tuple[Tensor, Tensor]:
    """φ and attention over the mean of one prompt's image tokens in layers 2 and 3, [2, P] each."""
    model = tiny.build(family)
    after: dict[int, Tensor] = {}
    weights: dict[int, Tensor] = {}

    decoder = slow.Slow(
        model, slow.Edits(weights=slow.keep_in(weights), residual=slow.keep_in(after))
    )
    row = tiny.row(family, LENGTHS, index)
    decoder.prompt(row)
    visual = slow.image_columns(model, row)
    last = int(visual.nonzero()[-1])
    phi, drawn = [], []
    for layer in (2, 3):
        entering = after[layer - 1]
        scale = entering.square().mean(dim=-1).sqrt()
        phi.append((entering[:, list(DIMENSIONS)].abs().amax(dim=-1) / scale)[visual])
        column = weights[layer][:, last + 1 :].sum(dim=(0, 1))[visual]
        drawn.append(column / column.mean())
    return torch.stack(phi), torch.stack(drawn)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_image_tokens_have_their_phi_and_the_attention_that_they_draw(family: str) -> None:
    inputs = tiny.inputs(family, LENGTHS)
    found = sink_conditions(tiny.build(family), inputs, DIMENSIONS)
    both = [by_hand(family, index) for index in range(2)]
    for name, place in (("phi", 0), ("attention", 1)):
        expected = torch.cat([torch.stack([one[place][layer] for one in both]) for layer in (0, 1)])
        torch.testing.assert_close(
            getattr(found, name).double(), expected.flatten(), atol=1e-4, rtol=1e-4
        )
    assert found.tokens == 4


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_has_massive_dimensions(family: str) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family, LENGTHS)
    dimensions = massive_dimensions_of(model, inputs)
    assert len(dimensions) == 2
    found = sink_conditions(model, inputs, dimensions)
    assert len(found.phi) == len(found.attention) > 0
    assert found.first > float(found.phi.median()) * 0.5


def drawn(phi: list[float], attention: list[float]) -> Drawn:
    return Drawn(torch.tensor(phi), torch.tensor(attention), 4.0, 9.0)


def test_tau_is_chosen_by_the_attention_of_few_tokens_under_the_worst_condition() -> None:
    ordinary, calm = [1.0] * 97, [0.9] * 97
    one = drawn([*ordinary, 4.0, 6.0, 9.0], [*calm, 2.0, 4.0, 8.0])
    other = drawn([*ordinary, 4.0, 6.0, 6.0], [*calm, 3.0, 5.0, 3.0])
    assert one.at(5.0) == (pytest.approx(0.02), pytest.approx(6.0))
    # At 8 the second condition has no sink; at 5 its two draw 4 times the mean, at 3 less.
    assert choose_tau({"one": one, "other": other}) == (5.0, pytest.approx(4.0))
    assert choose_tau({"one": drawn(ordinary, calm)}) is None
    assert choose_tau({"one": drawn([*ordinary, 9.0], [*calm, 1.4])}) is None
    assert len(TAUS) == len(set(TAUS))
