"""AdaIAT against its formulas, in float64 on full attention maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from torch import Tensor
from vlmheads_plugins.adaiat import AdaIAT

import vlmheads
from vlmheads.learned import Learned
from vlmheads.model.geometry import Geometry

GEOMETRY = Geometry("llava", 4, 4)


def tables(level: float = 0.08, geometry: Geometry = GEOMETRY) -> Learned:
    """Tables of two kinds of words; where the gate is goes with their level."""
    generator = torch.Generator().manual_seed(7)
    shape = (2, geometry.layers, geometry.heads)
    real, hallucinated = level * (0.5 + torch.rand(shape, generator=generator))
    return Learned("adaiat", {"real": real, "hallucinated": hallucinated}, geometry)


def multiply_said(made: Learned, form: str, clamp: bool, fired: list[bool]) -> slow.Edit:
    """The method by loops over heads and columns; keeps whether each row was acted on."""
    real, hallucinated = (made.values[name].tolist() for name in ("real", "hallucinated"))
    prompt = tiny.inputs("llava")["input_ids"].shape[1]

    def edit(layer: int, weights: Tensor) -> Tensor:
        said = range(prompt, weights.shape[-1])
        if not said:
            return weights
        low, high = sum(hallucinated[layer]), sum(real[layer])
        mean = sum(float(head[-1, j]) for head in weights for j in said) / len(said)
        fired.append(mean < low + 0.5 * (high - low))
        if not fired[-1]:
            return weights
        edited = weights.clone()
        for index, head in enumerate(edited):
            ratio = real[layer][index] / hallucinated[layer][index]
            factor = 1 + 6 * (ratio if form == "paper" else ratio - 1)
            for j in said:
                head[-1, j] *= max(0.0, factor) if clamp else factor
            head[-1] /= head[-1].sum()
        return edited

    return edit


@pytest.mark.parametrize(
    ("form", "clamp"), [("paper", False), ("release", False), ("release", True)]
)
def test_what_was_said_is_multiplied_by_head_where_the_gate_is_open(form: str, clamp: bool) -> None:
    made, fired = tables(), list[bool]()
    plugin = AdaIAT(tables=made, form=form, clamp=clamp, layers=(0, 1, 2, 3))
    expected = slow.decode(
        tiny.build("llava"),
        tiny.inputs("llava"),
        slow.Edits(weights=multiply_said(made, form, clamp, fired)),
    )
    assert set(fired) == {True, False}
    # Factors below 0 can bring the sum of a row near 0, which is divided by.
    agree.assert_same(
        expected, agree.generate(tiny.build("llava"), tiny.inputs("llava"), plugin), atol=1e-4
    )


def test_a_gate_at_nothing_never_opens() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    shut = AdaIAT(tables=tables(0.0), layers=(0, 1, 2, 3))
    plain, found = (agree.generate(model, row, plugin) for plugin in (AdaIAT.neutral(), shut))
    assert plain[0] == found[0]
    torch.testing.assert_close(plain[1], found[1], atol=1e-5, rtol=0)


def test_equal_tables_have_no_effect_in_the_released_form() -> None:
    model, row = tiny.build("llava"), tiny.inputs("llava")
    one = tables(5.0).values["real"]
    same = Learned("adaiat", {"real": one, "hallucinated": one}, GEOMETRY)
    plugin = AdaIAT(tables=same, form="release", layers=(0, 1, 2, 3))
    plain, found = (agree.generate(model, row, plugin) for plugin in (AdaIAT.neutral(), plugin))
    torch.testing.assert_close(plain[1], found[1], atol=1e-5, rtol=0)


def test_some_factors_of_the_release_are_negative_and_clamp_stops_them() -> None:
    plain = AdaIAT(tables=tables(), form="release").factors()[0]
    clamped = AdaIAT(tables=tables(), form="release", clamp=True).factors()[0]
    assert float(plain.min()) < 0
    assert torch.equal(clamped, plain.clamp(min=0))


def test_a_saved_file_acts_as_the_tables_themselves(tmp_path: Path) -> None:
    tables().save(tmp_path / "tables.safetensors")
    model, row = tiny.build("llava"), tiny.inputs("llava")
    given, saved = (
        agree.generate(model, row, AdaIAT(tables=one, layers=(0, 1, 2, 3)), 4)[1]
        for one in (tables(), str(tmp_path / "tables.safetensors"))
    )
    assert torch.equal(given, saved)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "without tables,"),
        ({"tables": tables(geometry=Geometry("llava", 5, 4))}, "5 layers of 4 heads"),
        ({"tables": tables(geometry=Geometry("qwen2_vl", 4, 4))}, "made for qwen2_vl"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match=match):
        vlmheads.attach(tiny.build("llava"), AdaIAT(**options))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"clamp": True}, "clamp=True has no effect"),
        ({"tables": 3}, "Learned object"),
        (
            {"tables": Learned("vti", {"directions": torch.ones(4, 8)}, GEOMETRY)},
            "learned for 'vti'; expected one for 'adaiat'",
        ),
        (
            {"tables": Learned("adaiat", {"real": torch.ones(4, 4)}, GEOMETRY)},
            "tensors real; expected hallucinated, real",
        ),
    ],
)
def test_what_is_no_table_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match=match):
        AdaIAT(**options)
