from __future__ import annotations

import threading

import pytest
from PIL import Image
from vlmheads_demo.services.captioning import (
    GenerationRequest,
    describe,
    describe_for,
    parse_request,
)
from vlmheads_demo.services.generation import DecodingOptions
from vlmheads_demo.services.images import draw_scene
from vlmheads_demo.services.result import Result

from vlmheads import VlmHeadsError
from vlmheads.registry import resolve

PROMPT = "Describe the image."
SCENE = "counterfactual:9"


@pytest.mark.parametrize(
    "given",
    [
        {"scene": "train:1"},
        {"scene": "test:-1"},
        {"scene": "../test:1"},
        {"prompt": " "},
        {"prompt": "x" * 2000},
        {"decoding": {"num_beams": 2}},
        {"tau": 0},
        {"tau": "high"},
        {"methods": "vhr"},
        {"methods": [[{"name": "vhr"}]] * 3},
        {"model": "other/model"},
    ],
)
def test_an_invalid_request_is_refused(state, given):
    valid = {"scene": "test:1"}
    assert parse_request(state, **valid).decoding == DecodingOptions()
    with pytest.raises(VlmHeadsError):
        parse_request(state, **valid | given)


def test_a_stopped_run_is_not_measured(model):
    stop = threading.Event()
    request = GenerationRequest(
        model, draw_scene(SCENE).image, PROMPT, (resolve("vhr"),), DecodingOptions()
    )
    updates = []
    for update in describe(request, run_lock=threading.Lock(), stop=stop):
        updates.append(update)
        stop.set()
    assert not any(isinstance(update, Result) for update in updates)
    assert updates[-1].stage == "stopped"


def test_a_visitor_stops_a_run_and_a_finished_run_is_kept(state):
    request = parse_request(state, scene=SCENE, decoding={"max_new_tokens": 4})
    run = describe_for(state, "ann", request)
    next(run)
    assert state.jobs.stop("ann") == 1
    *_, last = run
    assert last.stage == "stopped"
    assert state.jobs.stop("ann") == 0
    *_, found = describe_for(state, "ann", request)
    assert state.results.get(found.key) is found


def test_a_cropped_picture_is_shown_cropped(model):
    wide = Image.new("RGB", (300, 100), "white")
    request = GenerationRequest(model, wide, PROMPT, (), DecodingOptions(max_new_tokens=4))
    *_, found = describe(request, run_lock=threading.Lock(), stop=threading.Event())
    assert found.prompt_measured.view.image.size == (112, 112)
