from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from vlmheads_demo.services.generation import DecodingOptions, stream_caption
from vlmheads_demo.services.images import draw_scene

from vlmheads import VlmHeadsError
from vlmheads.registry import resolve
from vlmheads.runtime.attachment import ATTACHED

PROMPT = "Describe the image."
SCENE = "counterfactual:9"


def events(model, plugins="", decoding=None, *, run_lock=None, stop=None, scene=SCENE):
    return stream_caption(
        model.captioner,
        draw_scene(scene).image,
        PROMPT,
        resolve(plugins) if plugins else (),
        decoding or DecodingOptions(max_new_tokens=40),
        run_lock=run_lock or threading.Lock(),
        stop=stop or threading.Event(),
    )


def caption(model, plugins="", **given):
    *_, last = events(model, plugins, **given)
    return last


def hooks(model):
    modules = model.captioner.model.modules()
    kept = ("_forward_hooks", "_forward_pre_hooks")
    return sum(len(vars(module)[name]) for module in modules for name in kept)


def test_a_stream_grows_by_token_into_the_caption_of_the_captioner(model):
    found = list(events(model, "vhr"))
    (expected,) = model.captioner(
        [draw_scene(SCENE).image], plugins="vhr", max_new_tokens=40, do_sample=False
    )
    counts = [len(event.ids) for event in found]
    assert sorted(counts) == counts
    assert set(range(len(expected.ids) + 1)) <= set(counts)
    assert all(expected.text.startswith(event.text) for event in found)
    assert (expected.text, expected.ids) == (found[-1].text, found[-1].ids)


def test_stopping_ends_a_caption_early_and_leaves_the_model_as_it_was(model):
    before, hooked = caption(model), hooks(model)
    stop = threading.Event()
    for event in events(model, "vhr", stop=stop):
        if len(event.ids) == 3:
            stop.set()
    assert event.done
    assert event.stopped
    assert 3 <= len(event.ids) < 20
    assert not hasattr(model.captioner.model, ATTACHED)
    assert hooked == hooks(model)
    assert before.ids == caption(model).ids


def test_closing_a_stream_stops_it_and_frees_the_model(model):
    run_lock = threading.Lock()
    found = events(model, "pai", run_lock=run_lock)
    next(found)
    next(found)
    found.close()
    assert not run_lock.locked()
    assert not hasattr(model.captioner.model, ATTACHED)
    assert caption(model).ids == caption(model).ids


def test_a_refusal_reaches_the_caller_and_frees_the_model(model):
    run_lock = threading.Lock()
    with pytest.raises(VlmHeadsError, match="adhh without heads"):
        list(events(model, "adhh", run_lock=run_lock))
    assert not run_lock.locked()


def test_threads_with_different_methods_get_what_each_gets_alone(model):
    methods = ["", "vhr", "pai:alpha=1", "spin", "vaf:enhance=3", "cfg:guidance=2", "var", "vcd"]
    alone = [caption(model, method).ids for method in methods]
    run_lock = threading.Lock()
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda method: caption(model, method, run_lock=run_lock).ids, methods)
        )
    assert alone == together
    assert len(set(alone)) > 3


def test_sampling_follows_its_seed_and_leaves_the_random_state_alone(model):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    drawn = [
        caption(model, decoding=DecodingOptions(max_new_tokens=20, temperature=1.5, seed=seed)).ids
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert expected == torch.rand(1)


def test_beams_are_not_streamed(model):
    found = list(events(model, decoding=DecodingOptions(max_new_tokens=12, beams=2)))
    assert [event.done for event in found] == [False, True]
    assert found[-1].text


def test_at_limit_means_that_the_token_limit_ended_the_caption(model):
    whole = caption(model)
    assert (whole.at_limit, whole.stopped) == (False, False)
    limited = caption(model, decoding=DecodingOptions(max_new_tokens=5))
    assert (len(limited.ids), limited.at_limit, limited.stopped) == (5, True, False)
    # As long as the limit, but with an end token after it.
    exact = caption(model, decoding=DecodingOptions(max_new_tokens=len(whole.ids) + 1))
    assert (exact.ids, exact.at_limit) == (whole.ids, False)


def test_a_stop_or_a_time_limit_is_not_the_token_limit(model, monkeypatch):
    stop = threading.Event()
    for event in events(model, decoding=DecodingOptions(max_new_tokens=20), stop=stop):
        if len(event.ids) == 3:
            stop.set()
    assert event.stopped
    assert len(event.ids) < 20
    assert not event.at_limit
    monkeypatch.setattr(model.captioner.model.generation_config, "max_time", 1e-6)
    timed = caption(model, decoding=DecodingOptions(max_new_tokens=20))
    assert 1 <= len(timed.ids) < 20
    assert (timed.at_limit, timed.stopped) == (False, False)


@pytest.mark.parametrize(
    "given",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 513},
        {"max_new_tokens": 2.5},
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_p": 0},
        {"beams": True},
        {"beams": 2, "temperature": 1.0},
        {"seed": -1},
    ],
)
def test_decoding_out_of_its_range_is_refused(given):
    with pytest.raises(VlmHeadsError):
        DecodingOptions(**given)
