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
from vlmheads import VlmHeadsError
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
@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 3}])
def test_a_prompt_that_is_left_alone_is_its_own_pass_with_the_image(
    form: str, options: dict[str, Any]
) -> None:
    model, inputs = tiny.build("llava-gqa"), tiny.inputs("llava-gqa", (3, 7))
    passes: list[int] = []
    settings_ = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}

    def run(plugin: VISTA | list[Any]) -> Any:
        passes.clear()
        with vlmheads.attach(model, plugin):
            return model.generate(**inputs, max_new_tokens=4, **settings_, **options)

    hook = model.get_decoder().register_forward_hook(lambda *_: passes.append(1))
    try:
        plain = run([])
        counts = [len(passes)]
        steered = run(VISTA(strength=0.5, form=form))
        counts.append(len(passes))
        later = run(VISTA(strength=0.5, form=form, prompt=False, gamma=0.0))
        counts.append(len(passes))
    finally:
        hook.remove()
    assert [count - counts[0] for count in counts] == [0, 2, 1]
    assert torch.equal(later.logits[0], plain.logits[0])
    assert not torch.allclose(steered.logits[0], plain.logits[0], atol=1e-3)
    assert not torch.allclose(later.logits[1], plain.logits[1], atol=1e-3)


@pytest.mark.parametrize("form", ["paper", "release"])
def test_a_prompt_that_is_left_alone_is_steered_from_its_second_token_as_the_formulas_say(
    form: str,
) -> None:
    family, strength = "llava-gqa", 0.5
    edits = reference(family, form, strength, 0.0, 1)
    length = int(tiny.inputs(family)["input_ids"].shape[1])

    def after(edit: Any) -> Any:
        """The edit of positions behind the prompt; a token's pass has one row."""
        return lambda layer, rows: rows if len(rows) >= length else edit(layer, rows)

    later = slow.Edits(
        residual=after(edits.residual), mlp=after(edits.mlp), logits=lambda _, logits: logits
    )
    agree.assert_plugin_is(
        VISTA(strength=strength, gamma=0.0, form=form, prompt=False), later, family
    )


def test_drafts_in_the_prefill_are_steered_like_tokens_or_refused() -> None:
    model = tiny.build("llava")
    inputs = tiny.row("llava", (6,), 0)
    inputs["input_ids"][0, -2:] = inputs["input_ids"][0, 6:8]  # what came after is drafted
    lookup = {"prompt_lookup_num_tokens": 2, "max_matching_ngram_size": 2}
    settings_ = {"do_sample": False, "max_new_tokens": 4}
    with vlmheads.attach(model, VISTA(strength=0.5, prompt=False)):
        expected = model.generate(**inputs, **settings_)
        found = model.generate(**inputs, **settings_, **lookup)
    assert found.tolist() == expected.tolist()
    with (
        vlmheads.attach(model, VISTA(strength=0.5, prompt=False, form="release")),
        pytest.raises(VlmHeadsError, match="drafted tokens"),
    ):
        model.generate(**inputs, **settings_, **lookup)


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
