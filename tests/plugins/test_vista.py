"""VISTA against its formulas, in float64."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.vista import VISTA

import vlmheads
from vlmheads.model.geometry import Geometry

PAIRS = ["llava", "llava-gqa"]


def last_outputs(family: str, *, images: bool) -> dict[int, Tensor]:
    """Each layer's output at the last position of the prompt."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int, hidden: Tensor) -> Tensor:
        kept[layer] = hidden[-1]
        return hidden

    decoder = slow.Slow(tiny.build(family), slow.Edits(residual=keep))
    decoder.prompt(tiny.inputs(family), images=images)
    return kept


def reference(
    family: str, form: str, strength: float, gamma: float, window: int, *, norm: bool = False
) -> slow.Edits:
    """VISTA of one row, position by position."""
    seen, blind = last_outputs(family, images=True), last_outputs(family, images=False)
    vectors = {layer: seen[layer] - blind[layer] for layer in seen}
    late: dict[int, Tensor] = {}
    weights = slow.Slow(tiny.build(family)).weights

    def length(x: Tensor) -> Tensor:
        return (x * x).sum().sqrt()

    def steer_residual(layer: int, hidden: Tensor) -> Tensor:
        rows = []
        for h in hidden:
            moved = h + strength * vectors[layer] if form == "paper" else h
            rows.append(moved / length(moved) * length(h))
        late[layer] = rows[-1]
        return torch.stack(rows)

    def steer_mlp(layer: int, outputs: Tensor) -> Tensor:
        rows, v = [], vectors[layer]
        for x in outputs:
            away = max(0.0, float(-(x @ v) / length(x) / length(v)))
            moved = x / length(x) + strength * (1 + away) * v / length(v)
            rows.append(moved / length(moved) * length(x))
        return torch.stack(rows) if form == "release" else outputs

    def augment(_: int, logits: Tensor) -> Tensor:
        total = torch.zeros_like(logits)
        for layer in range(3 - window, 3):
            h = late[layer]
            if norm:
                h = h / ((h * h).mean() + 1e-6).sqrt() * weights["norm.weight"]
            total += weights["lm_head.weight"] @ h
        return slow.settled((1 - gamma) * logits + gamma * total / window, logits)

    return slow.Edits(residual=steer_residual, mlp=steer_mlp, logits=augment)


@pytest.mark.parametrize("family", PAIRS)
@pytest.mark.parametrize("form", ["paper", "release"])
def test_vista_steers_and_augments_as_its_formulas_say(family: str, form: str) -> None:
    edits = reference(family, form, 0.3, 0.3, 1)
    agree.assert_plugin_is(VISTA(strength=0.3, form=form), edits, family)


@pytest.mark.parametrize("form", ["paper", "release"])
def test_steering_acts_alone(form: str) -> None:
    edits = reference("llava-gqa", form, 0.5, 0.0, 1)
    agree.assert_plugin_is(VISTA(strength=0.5, gamma=0.0, form=form), edits, "llava-gqa")


@pytest.mark.parametrize("norm", [False, True])
def test_augmentation_acts_alone(norm: bool) -> None:
    edits = reference("llava-gqa", "paper", 0.0, 0.4, 2, norm=norm)
    plugin = VISTA(strength=0.0, gamma=0.4, window=2, norm=norm)
    agree.assert_plugin_is(plugin, edits, "llava-gqa")


@settings(max_examples=10, deadline=None)
@given(strength=st.floats(0, 10), gamma=st.floats(0, 1), form=st.sampled_from(["paper", "release"]))
def test_no_options_give_a_logit_that_is_not_a_number(
    strength: float, gamma: float, form: str
) -> None:
    plugin = VISTA(strength=strength, gamma=gamma, form=form)
    _, logits = agree.generate(tiny.build("llava-gqa"), tiny.inputs("llava-gqa"), plugin, 2)
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize(("form", "late"), [("paper", 5), ("release", 6)])
def test_the_window_of_a_model_of_32_layers_is_that_of_the_source(form: str, late: int) -> None:
    layers = VISTA(form=form).late_layers(Geometry("llava", 32, 32))
    assert layers == tuple(range(31 - late, 31))


@pytest.mark.parametrize("options", [{"window": 4}, {"window": 0}, {"window": True}])
def test_a_window_that_the_layers_do_not_hold_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="window"):
        vlmheads.attach(tiny.build("llava"), VISTA(**options))
