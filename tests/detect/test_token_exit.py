"""Image tokens that leave after a layer, against a slow decoder that does not see them."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor

import vlmheads
from vlmheads import VlmHeadsError
from vlmheads.detect.token_exit import TokenExit


def reference(family: str, layer: int, share: float, form: str) -> slow.Edits:
    """The exit of one row, of a prompt whose image tokens are columns 2 to 5."""
    image = [2, 3, 4, 5]
    left: list[int] = []
    run = round(1 / share) if share else 4

    def weights(at: int, value: Tensor) -> Tensor:
        if at == layer and not left:
            drawn = value[:, -1].mean(dim=0)
            ranked = sorted(image, key=lambda column: -float(drawn[column]))
            staying = ranked[: round(share * 4)] if form == "drop" else image[::run]
            left.extend(column for column in image if column not in staying)
            left.append(-1)  # chosen, even where nothing leaves
        return value

    def scores(at: int, value: Tensor) -> Tensor:
        if at <= layer:
            return value
        made = value.clone()
        first = made.shape[2] - made.shape[1]
        for column in left:
            for row in range(made.shape[1]):
                if column >= 0 and first + row != column:
                    made[:, row, column] = -torch.inf
        return made

    def residual(at: int, hidden: Tensor) -> Tensor:
        if form == "drop" or at != layer or len(hidden) == 1:
            return hidden
        made = hidden.clone()
        for start in range(0, 4, run):
            made[image[start]] = hidden[image[start : start + run]].mean(dim=0)
        return made

    return slow.Edits(weights=weights, scores=scores, residual=residual)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize(
    ("layer", "share", "form"),
    [(0, 0.0, "drop"), (1, 0.5, "drop"), (2, 0.25, "drop"), (1, 0.5, "merge"), (0, 0.25, "merge")],
)
def test_what_leaves_is_not_seen_by_later_layers(
    family: str, layer: int, share: float, form: str
) -> None:
    plugin = TokenExit(layer=layer, share=share, form=form)
    agree.assert_plugin_is(plugin, reference(family, layer, share, form), family)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_where_every_token_stays_nothing_changes(family: str) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family, (5, 3))

    def generate() -> Any:
        return model.generate(**inputs, max_new_tokens=4)

    plain = generate()
    with vlmheads.attach(model, TokenExit.neutral()):
        assert torch.equal(generate(), plain)
    with vlmheads.attach(model, TokenExit(layer=1, share=0.5)):
        assert generate().shape == plain.shape


def test_a_layer_that_there_is_not_is_refused() -> None:
    with pytest.raises(VlmHeadsError, match="layers"):
        vlmheads.attach(tiny.build("llava"), TokenExit(layer=4))
