"""VAR against its formulas, in float64 on full attention maps."""

from __future__ import annotations

from typing import Any

import agree
import pytest
import slow
import tiny
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vlmheads_plugins.var import VAR

import vlmheads
from vlmheads.detect.sinks import known_dimensions
from vlmheads.model.geometry import Geometry

PAIRS = ["llava", "llava-gqa"]


def reference(
    family: str,
    dims: list[int] | None,
    layers: list[int],
    *,
    tau: float,
    rho: float,
    p: float,
    least: float,
    per_token: float | None = None,
) -> slow.Edits:
    """VAR of one row: loops over heads and rows, as the formulas read.

    With `per_token` the share of sinks is compared, as released, with that much for every image
    token added to what it is a share of.
    """
    visual = slow.image_columns(tiny.build(family), tiny.inputs(family))
    last_image = max(index for index, is_image in enumerate(visual.tolist()) if is_image)
    sinks: dict[int, set[int]] = {}

    def find(layer: int, hidden: Tensor) -> Tensor:
        if layer + 1 in layers and len(hidden) > 1:
            phi = [[abs(v) / float(x.square().mean().sqrt()) for v in x.tolist()] for x in hidden]
            looked = dims or [d for d, value in enumerate(phi[0]) if value >= tau]
            sinks[layer + 1] = {
                j for j, values in enumerate(phi) if any(values[d] >= tau for d in looked)
            }
        return hidden

    def move(layer: int, weights: Tensor) -> Tensor:
        if layer not in layers or not any(visual[j] for j in sinks[layer]):
            return weights
        weights = weights.clone()
        heads, count, _ = weights.shape
        images = [j for j in range(len(visual)) if visual[j]]
        others = [j for j in images if j not in sinks[layer]]
        for head in range(heads):
            for index in range(last_image + 1 if count > 1 else 0, count):
                row = weights[head, index]
                mass = sum(float(row[j]) for j in images)
                rest = sum(float(row[j]) for j in others)
                if mass < least or rest == 0:
                    continue
                if per_token is None and rest / mass < rho:
                    continue
                if per_token is not None:
                    own = sum(float(row[j]) for j in images if j in sinks[layer])
                    if own / (mass + per_token * len(images)) > 1 - rho:
                        continue
                budget = p * sum(float(row[j]) for j in sinks[layer])
                moved = {j: float(row[j]) * (1 - p) for j in sinks[layer]}
                moved |= {j: float(row[j]) + budget * float(row[j]) / rest for j in others}
                for j, value in moved.items():
                    row[j] = value
        return weights

    return slow.Edits(weights=move, residual=find)


@pytest.mark.parametrize("family", PAIRS)
@pytest.mark.parametrize("dims", [None, [3, 17]])
def test_var_redistributes_as_its_formulas_say(family: str, dims: list[int] | None) -> None:
    numbers: dict[str, Any] = {"tau": 1.4, "rho": 0.4, "p": 0.6}
    edits = reference(family, dims, [1, 2, 3], least=0.1, **numbers)
    plugin = VAR(minimum=0.1, dimensions=dims, layers=(1, 2, 3), **numbers)
    agree.assert_plugin_is(plugin, edits, family)


def released_numbers() -> dict[str, float]:
    """Options that tell the released share from one with a single 10⁻⁶ in its denominator.

    τ makes two of the image tokens sinks; 1 − ρ is between the two shares of one head in one row.
    """
    family, found = "llava", []
    visual = slow.image_columns(tiny.build(family), tiny.inputs(family))

    def look(layer: int, weights: Tensor) -> Tensor:
        if layer == 1 and weights.shape[1] > 1:
            found.append(weights[:, -1, visual].double())
        return weights

    slow.decode(tiny.build(family), tiny.inputs(family), slow.Edits(weights=look), tokens=1)
    phi = []

    def state(layer: int, hidden: Tensor) -> Tensor:
        if layer == 0 and len(hidden) > 1:
            phi.extend((x[[1, 2, 3]].abs() / x.square().mean().sqrt()).max() for x in hidden)
        return hidden

    slow.decode(tiny.build(family), tiny.inputs(family), slow.Edits(residual=state), tokens=1)
    strengths = torch.stack(phi)[visual]
    tau = float(strengths.sort().values[1:3].mean())
    row = found[0][0]
    rho = 1 - float(row[strengths > tau].sum() / (row.sum() + 2.5e-6))
    return {"tau": tau, "rho": rho, "p": 0.6}


def test_as_released_every_image_token_adds_to_the_denominator() -> None:
    numbers = released_numbers()
    plugin = VAR(minimum=0.0, dimensions=(1, 2, 3), layers=(1,), form="release", **numbers)
    right, wrong = (
        slow.decode(
            tiny.build("llava"),
            tiny.inputs("llava"),
            reference("llava", [1, 2, 3], [1], least=0.0, per_token=share, **numbers),
            tokens=2,
        )
        for share in (1e-6, 0.25e-6)
    )
    assert float((right[1] - wrong[1]).abs().max()) > 1e-4
    found = agree.generate(tiny.build("llava"), tiny.inputs("llava"), plugin, 2)
    agree.assert_same(right, found)


def test_the_released_form_edits_the_last_layer_too() -> None:
    geometry = Geometry("llava", 4, 4)
    assert VAR().chosen_layers(geometry) == (2,)
    assert VAR(form="release").chosen_layers(geometry) == (2, 3)


@pytest.mark.parametrize("form", ["paper", "release"])
@settings(max_examples=10, deadline=None)
@given(
    rho=st.floats(0, 1),
    p=st.floats(0, 1),
    tau=st.floats(0.5, 3),
    minimum=st.sampled_from([0.0, 0.2]),
)
def test_rows_keep_their_sum_whatever_the_options(
    form: str, rho: float, p: float, tau: float, minimum: float
) -> None:
    plugin = VAR(rho=rho, p=p, tau=tau, minimum=minimum, layers=(1, 2, 3), form=form)
    for _, after in agree.rows_around(plugin).values():
        torch.testing.assert_close(after.weights.sum(dim=-1), torch.ones(after.weights.shape[:-1]))


def test_without_a_visual_sink_nothing_changes() -> None:
    # No hidden state of width 32 has a dimension above the square root of 32.
    for before, after in agree.rows_around(VAR(tau=6.0, layers=(1, 2, 3))).values():
        assert after is before


def test_the_first_two_layers_are_left_alone() -> None:
    around = agree.rows_around(VAR(tau=0.0, rho=0.0, minimum=0.0, form="release"))
    changed = {layer for (_, layer), (before, after) in around.items() if after is not before}
    assert changed <= {2, 3}


def test_dimensions_on_record_are_used_for_their_decoders() -> None:
    smol = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9}
    assert known_dimensions(transformers.LlamaConfig(num_key_value_heads=3, **smol)) == (17, 507)
    assert known_dimensions(transformers.LlamaConfig(num_key_value_heads=32)) == (1415, 2533)
    # LLaMA-3-8B has the same width and depth, but shares keys in groups.
    assert known_dimensions(transformers.LlamaConfig(num_key_value_heads=8)) is None


@pytest.mark.parametrize("options", [{"layers": (0, 2)}, {"layers": (4,)}])
def test_layers_that_cannot_be_served_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(vlmheads.VlmHeadsError, match="layers"):
        vlmheads.attach(tiny.build("llava"), VAR(**options))


def test_dimensions_beyond_the_width_are_refused() -> None:
    model = tiny.build("llava")
    with (
        vlmheads.attach(model, VAR(dimensions=(32,))),
        pytest.raises(vlmheads.VlmHeadsError, match="dimensions from 0 to 31"),
    ):
        model.generate(**tiny.inputs("llava"), max_new_tokens=1)
