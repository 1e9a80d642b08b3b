"""Nullu against its formulas: directions taken out by hand, and out of the weights."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.nullu import Nullu

import vlmheads
from vlmheads.detect.directions import null_basis
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 4, 4)


def basis(rank: int = 3, width: int = 32, geometry: Geometry = GEOMETRY) -> Learned:
    generator = torch.Generator().manual_seed(6)
    values = torch.randn(geometry.layers, width, rank, generator=generator)
    return Learned("nullu", {"basis": torch.linalg.qr(values).Q}, geometry)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
def test_every_mlp_loses_its_directions(family: str) -> None:
    made = basis()

    def take_out(layer: int, outputs: Tensor) -> Tensor:
        if layer < 2:
            return outputs
        rows = []
        for x in outputs.clone():
            for k in range(2):
                v = made.values["basis"][layer][:, k].double()
                x = x - (x @ v) * v
            rows.append(x)
        return torch.stack(rows)

    plugin = Nullu(basis=made, rank=2)
    assert plugin.chosen_layers(GEOMETRY) == (2, 3)
    agree.assert_plugin_is(plugin, slow.Edits(mlp=take_out), family)


def test_it_is_what_changed_weights_do() -> None:
    made, row = basis(), tiny.inputs("llava")
    model: Any = deepcopy(tiny.build("llava"))
    for layer in (1, 3):
        v = made.values["basis"][layer]
        down = model.model.language_model.layers[layer].mlp.down_proj.weight
        down.copy_((torch.eye(32) - v @ v.T) @ down)
    expected = slow.decode(model, row)
    plugin = Nullu(basis=made, rank=3, layers=(1, 3))
    agree.assert_same(expected, agree.generate(tiny.build("llava"), row, plugin))


def test_the_basis_holds_the_largest_directions_of_the_differences() -> None:
    generator = torch.Generator().manual_seed(8)
    scale = torch.tensor([5.0, 4.0, 3.0, 1.0, 0.5, 0.2])
    data = torch.randn(9, 2, 6, generator=generator) * scale + 1
    found = null_basis(data, 2)
    assert found.shape == (2, 6, 2)
    for layer in range(2):
        d = data[:, layer].double()
        values, vectors = torch.linalg.eigh(d.T @ d)
        for k in range(2):
            v = found[layer, :, k].double()
            assert float((vectors[:, -1 - k] @ v).abs()) == pytest.approx(1, abs=1e-5)
            assert float((d @ v).norm() ** 2) == pytest.approx(float(values[-1 - k]), rel=1e-5)
    with pytest.raises(vlmheads.VlmHeadsError, match="9 pairs of captions"):
        null_basis(data, 10)


def test_the_published_layers_are_the_default() -> None:
    assert Nullu().chosen_layers(Geometry("llava", 32, 32)) == tuple(range(16, 32))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "without basis,"),
        ({"basis": basis(), "rank": 4}, "rank=4 with a basis of 3"),
        ({"basis": basis(geometry=Geometry("llava", 5, 4))}, "5 layers of 4 heads"),
        (
            {"basis": Learned("nullu", {"basis": torch.ones(4, 32, 4)}, GEOMETRY)},
            "not of length 1 at right angles",
        ),
        (
            {"basis": Learned("nullu", {"basis": torch.full((4, 32, 4), torch.nan)}, GEOMETRY)},
            "not of length 1 at right angles",
        ),
    ],
)
def test_what_cannot_be_removed_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match=match):
        vlmheads.attach(tiny.build("llava"), Nullu(**options))


def test_a_basis_of_another_width_is_refused() -> None:
    model = tiny.build("llava")
    with (
        vlmheads.attach(model, Nullu(basis=basis(width=31), rank=2)),
        pytest.raises(vlmheads.VlmHeadsError, match="width 32"),
    ):
        model.generate(**tiny.inputs("llava"), max_new_tokens=1)
