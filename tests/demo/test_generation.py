from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from vlmheads_demo.scenes import example
from vlmheads_demo.services.captioning import Wish, describe
from vlmheads_demo.services.generation import Decoding, speak
from vlmheads_demo.services.result import Result

from vlmheads import VlmHeadsError
from vlmheads.registry import resolve
from vlmheads.runtime.attachment import ATTACHED

PROMPT = "Describe the image."
SCENE = "counterfactual:9"


def spoken(model, plugins="", decoding=None, *, running=None, stop=None, scene=SCENE):
    return speak(
        model.captioner,
        example(scene).image,
        PROMPT,
        resolve(plugins) if plugins else (),
        decoding or Decoding(max_new_tokens=40),
        running=running or threading.Lock(),
        stop=stop or threading.Event(),
    )


def caption(model, plugins="", **given):
    *_, last = spoken(model, plugins, **given)
    return last


def hooks(model):
    modules = model.captioner.model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_a_caption_grows_token_by_token_into_what_the_captioner_says(model):
    parts = list(spoken(model, "vhr"))
    (expected,) = model.captioner(
        [example(SCENE).image], plugins="vhr", max_new_tokens=40, do_sample=False
    )
    counts = [len(part.ids) for part in parts]
    assert sorted(counts) == counts
    assert set(range(len(expected.ids) + 1)) <= set(counts)
    assert all(expected.text.startswith(part.text) for part in parts)
    assert (expected.text, expected.ids) == (parts[-1].text, parts[-1].ids)


def test_stopping_ends_a_caption_early_and_leaves_the_model_untouched(model):
    before, hooked = caption(model), hooks(model)
    stop = threading.Event()
    for part in spoken(model, "vhr", stop=stop):
        if len(part.ids) == 3:
            stop.set()
    assert part.done
    assert part.stopped
    assert 3 <= len(part.ids) < 20
    assert not hasattr(model.captioner.model, ATTACHED)
    assert hooked == hooks(model)
    assert before.ids == caption(model).ids


def test_a_caption_that_nobody_waits_for_is_stopped_and_the_model_is_free(model):
    running = threading.Lock()
    parts = spoken(model, "pai", running=running)
    next(parts)
    next(parts)
    parts.close()
    assert not running.locked()
    assert not hasattr(model.captioner.model, ATTACHED)
    assert caption(model).ids == caption(model).ids


def test_a_refusal_reaches_the_caller_and_frees_the_model(model):
    running = threading.Lock()
    with pytest.raises(VlmHeadsError, match="adhh without heads"):
        list(spoken(model, "adhh", running=running))
    assert not running.locked()


def test_threads_with_different_methods_get_what_each_gets_alone(model):
    methods = ["", "vhr", "pai:alpha=1", "spin", "vaf:enhance=3", "cfg:guidance=2", "var", "vcd"]
    alone = [caption(model, method).ids for method in methods]
    running = threading.Lock()
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda method: caption(model, method, running=running).ids, methods)
        )
    assert alone == together
    assert len(set(alone)) > 3


def test_sampling_follows_its_seed_and_leaves_the_random_state_alone(model):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    drawn = [
        caption(model, decoding=Decoding(max_new_tokens=20, temperature=1.5, seed=seed)).ids
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert expected == torch.rand(1)


def test_beams_come_whole(model):
    parts = list(spoken(model, decoding=Decoding(max_new_tokens=12, beams=2)))
    assert [part.done for part in parts] == [False, True]
    assert parts[-1].text


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
        Decoding(**given)


def test_a_stopped_run_measures_nothing(model):
    stop = threading.Event()
    wish = Wish(model, example(SCENE).image, PROMPT, (resolve("vhr"),), Decoding())
    parts = []
    for part in describe(wish, running=threading.Lock(), stop=stop):
        parts.append(part)
        stop.set()
    assert not any(isinstance(part, Result) for part in parts)
    assert parts[-1].stage == "stopped"
