from __future__ import annotations

import threading

import pytest
from vlmheads_demo.services.captioning import GenerationRequest
from vlmheads_demo.services.examples import FirstExample
from vlmheads_demo.services.generation import DecodingOptions
from vlmheads_demo.services.images import draw_scene
from vlmheads_demo.services.strengths import (
    measure_strengths,
    strength_of,
    strength_option,
    strength_values,
)
from vlmheads_demo.services.summary import summary
from vlmheads_demo.views.strengths import strengths_view

from vlmheads import VlmHeadsError
from vlmheads.registry import resolve


def values(spec):
    plugins = resolve(spec)
    return strength_values(plugins[0], strength_of(plugins))


def test_the_strength_is_the_option_that_a_neutral_plugin_turns_to_nothing():
    found = {name: strength_option(name) for name in ("vcd", "vhr", "cfg", "vaf", "adhh")}
    assert (found["vcd"], found["vhr"], found["cfg"]) == ("alpha", "alpha", "guidance")
    assert strength_of(resolve("vhr")).neutral == 1
    assert strength_of(()) is None
    assert strength_of(resolve(["vhr", "cfg"])) is None


def test_strengths_surround_the_chosen_one_within_the_range():
    assert values("vcd:alpha=0.25") == [0.125, 0.25, 1.0, 4.0]
    assert values("vhr:alpha=2.0") == [1.5, 2.0, 5.0, 10.0]
    # Less than 1 turns heads down: it is an effect, too, the other way round.
    assert values("vhr:alpha=0.5") == [0.75, 0.5, 0.0]
    assert values("vcd:alpha=0.0")[0] == 0


def test_four_strengths_are_captioned_one_after_the_other(model):
    plugins = resolve("vcd:alpha=0.25")
    drawn = draw_scene("counterfactual:47")
    request = GenerationRequest(
        model, drawn.image, "Describe the image.", (plugins,), DecodingOptions(max_new_tokens=24),
        objects=drawn.objects,
    )  # fmt: skip
    stop = threading.Event()
    steps = list(measure_strengths(request, plugins, run_lock=threading.Lock(), stop=stop))
    assert [sum(p.objects is not None for p in step.points) for step in steps] == [0, 1, 2, 3, 4]
    last = steps[-1]
    assert last.done
    for point in last.points:
        (expected,) = model.captioner(
            [drawn.image], plugins=f"vcd:alpha={point.value}", max_new_tokens=24
        )
        assert point.caption.text == expected.text
    assert [point.chosen for point in last.points] == [False, True, False, False]
    page = strengths_view(last)
    assert page.count("<article") == 4
    assert "1 invented" in page
    assert strengths_view(None) == ""
    with pytest.raises(VlmHeadsError, match="has no strength"):
        next(measure_strengths(request, (), run_lock=threading.Lock(), stop=stop))


def test_the_first_scene_is_described_once_and_kept_for_good(state):
    example = FirstExample(state).wait(120)
    assert state.results.get(example.result.key) is example.result
    assert summary(example.result) == (
        "The plain model invents a suitcase and an airplane; vcd:alpha=0.25 does not."
    )
    assert example.strengths.done
