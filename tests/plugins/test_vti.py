"""VTI against its formulas, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.vti import VTI, measure_directions

import vlmheads
from vlmheads.detect.directions import first_component
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 4, 4)


def directions(width: int = 32, geometry: Geometry = GEOMETRY) -> Learned:
    generator = torch.Generator().manual_seed(5)
    values = {"directions": torch.randn(geometry.layers, width, generator=generator)}
    return Learned("vti", values, geometry)


@pytest.mark.parametrize("family", ["llava", "llava-gqa"])
@pytest.mark.parametrize("strength", [0.9, 8.0])
def test_every_mlp_is_turned_towards_its_direction(family: str, strength: float) -> None:
    made = directions()

    def turn(layer: int, outputs: Tensor) -> Tensor:
        v, rows = made.values["directions"][layer].double(), []
        for x in outputs:
            u = x / (x @ x).sqrt() + 0.1 * strength * v / (v @ v).sqrt()
            rows.append((x @ x).sqrt() * u / (u @ u).sqrt())
        return torch.stack(rows)

    plugin = VTI(directions=made, strength=strength)
    agree.assert_plugin_is(plugin, slow.Edits(mlp=turn), family)


def test_only_the_listed_layers_are_turned() -> None:
    made = directions()

    def turn(layer: int, outputs: Tensor) -> Tensor:
        if layer not in (1, 3):
            return outputs
        v = made.values["directions"][layer].double()
        u = outputs / outputs.norm(dim=-1, keepdim=True) + 0.8 * v / v.norm()
        return outputs.norm(dim=-1, keepdim=True) * u / u.norm(dim=-1, keepdim=True)

    plugin = VTI(directions=made, strength=8.0, layers=(1, 3))
    agree.assert_plugin_is(plugin, slow.Edits(mlp=turn), "llava")


def test_a_component_gets_the_sign_of_the_mean() -> None:
    generator = torch.Generator().manual_seed(4)
    data = torch.randn(20, 6, generator=generator) * torch.tensor([9.0, 1, 1, 1, 1, 1])
    for mean in (torch.tensor([3.0, 0, 0, 0, 0, 0]), torch.tensor([-3.0, 0, 0, 0, 0, 0])):
        samples = data - data.mean(dim=0) + mean
        found = first_component(samples)
        assert float(found @ mean) > 2.5
        assert float(found.norm()) == pytest.approx(1, abs=1e-5)


def pairs(count: int) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Prompts of the same images with different words behind them."""
    made = []
    for seed in range(count):
        one = tiny.inputs("llava", (6,), seed)
        other = one["input_ids"].clone()
        other[0, -3:] = torch.tensor([3, 7 + seed, 9])
        made.append((one, one | {"input_ids": other}))
    return made


def test_directions_are_the_mean_difference_plus_its_first_principal_component() -> None:
    model: Any = tiny.build("llava")
    rows = []
    for truthful, hallucinated in pairs(5):
        kept: list[list[Tensor]] = []
        for inputs in (truthful, hallucinated):
            kept.append([])
            decoder = slow.Slow(model, slow.Edits(residual=_keep_last(kept[-1])))
            decoder.prompt(inputs)
            kept[-1][-1] = decoder.norm("norm", kept[-1][-1])
        rows.append(torch.cat(kept[0]) - torch.cat(kept[1]))
    data = torch.stack(rows)
    mean = data.mean(dim=0)
    # The component is the eigenvector of the covariance with the largest eigenvalue.
    component = torch.linalg.eigh((data - mean).T @ (data - mean)).eigenvectors[:, -1]
    component = component * (component @ mean).sign()
    found = measure_directions(model, pairs(5))
    expected = (mean + component).view(4, 32).float()
    torch.testing.assert_close(found.values["directions"], expected, atol=1e-4, rtol=0)


def _keep_last(into: list[Tensor]) -> slow.Edit:
    def keep(_: int, hidden: Tensor) -> Tensor:
        into.append(hidden[-1])
        return hidden

    return keep


def test_one_pair_gives_no_directions() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="1 pairs of captions"):
        measure_directions(tiny.build("llava"), pairs(1))


def test_saved_directions_act_as_the_directions_themselves(tmp_path: Path) -> None:
    path = tmp_path / "directions.safetensors"
    directions().save(path)
    model, row = tiny.build("llava"), tiny.inputs("llava")
    saved = agree.generate(model, row, VTI(directions=str(path)), 3)
    given = agree.generate(model, row, VTI(directions=directions()), 3)
    assert torch.equal(saved[1], given[1])


@settings(max_examples=10, deadline=None)
@given(strength=st.floats(0, 100))
def test_no_strength_gives_a_logit_that_is_not_a_number(strength: float) -> None:
    plugin = VTI(directions=directions(), strength=strength)
    _, logits = agree.generate(tiny.build("llava-gqa"), tiny.inputs("llava-gqa"), plugin, 2)
    assert bool(logits.isfinite().all())


def test_vti_without_directions_is_refused() -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="without directions,"):
        vlmheads.attach(tiny.build("llava"), "vti")


def test_directions_of_another_model_are_refused() -> None:
    other = directions(geometry=Geometry("llava", 5, 4))
    with pytest.raises(vlmheads.VlmHeadsError, match="5 layers of 4 heads"):
        vlmheads.attach(tiny.build("llava"), VTI(directions=other))


def test_directions_of_another_width_are_refused() -> None:
    model = tiny.build("llava")
    with (
        vlmheads.attach(model, VTI(directions=directions(width=31))),
        pytest.raises(vlmheads.VlmHeadsError, match="width 32"),
    ):
        model.generate(**tiny.inputs("llava"), max_new_tokens=1)


def test_directions_that_are_not_one_a_layer_are_refused() -> None:
    made = Learned("vti", {"directions": torch.zeros(3, 32)}, GEOMETRY)
    with pytest.raises(vlmheads.VlmHeadsError, match=r"directions of shape \[3, 32\]"):
        VTI(directions=made)


@pytest.mark.parametrize("content", [None, b"no tensors"])
def test_a_file_without_directions_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "directions.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(vlmheads.VlmHeadsError, match="no file|holds nothing learned"):
        VTI(directions=str(path))
