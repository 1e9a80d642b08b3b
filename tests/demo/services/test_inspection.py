from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from vlmheads_demo.services import inspection
from vlmheads_demo.services.inspection import Inspector
from vlmheads_demo.services.result import Selection

from vlmheads import VlmHeadsError
from vlmheads.grounding.patch_lens import patch_lens
from vlmheads.grounding.relevancy import patch_relevancy


def word(result, text):
    words = result.captions[0].measured.words
    return next(number for number, one in enumerate(words) if one.text == text)


def test_gradient_times_attention_is_the_librarys_and_computed_once(state, model, result):
    inspector = Inspector(state)
    selection = Selection(0, word(result, "horse"), gradient=True)
    found = inspector.relevancy(result, selection)
    inputs = model.captioner.prepare([result.image], result.prompt)
    one = result.captions[0].measured.words[selection.word]
    ids = torch.tensor([result.captions[0].caption.ids])
    expected = patch_relevancy(model.captioner.model, inputs, ids, one.first, one.last)
    torch.testing.assert_close(found, expected)
    assert inspector.relevancy(result, selection) is found
    with pytest.raises(VlmHeadsError, match="no word"):
        inspector.relevancy(result, Selection(0))


def test_a_place_is_read_at_every_level_and_by_the_words_that_look_there(state, model, result):
    inspector = Inspector(state)
    found = inspector.reading(result, Selection(0, patch=27))
    inputs = model.captioner.prepare([result.image], result.prompt)
    lens = patch_lens(model.captioner.model, inputs, 27)
    tokenizer = model.captioner.processor.tokenizer
    assert len(found.levels) == 9
    assert [level[0][0] for level in found.levels] == [
        tokenizer.decode([token]).strip() for token in lens.ids[0, :, 0].tolist()
    ]
    shares = [share for _, share in found.words]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)


def test_what_needs_the_picture_is_refused_where_it_was_not_kept(state, result):
    large = dataclasses.replace(result, image=None, key="large")
    with pytest.raises(VlmHeadsError, match="too large to be kept.*make it smaller"):
        Inspector(state).reading(large, Selection(0, patch=1))


def test_what_two_visitors_ask_at_once_is_computed_once(state, result, monkeypatch):
    inspector, asked = Inspector(state), []
    lens = inspection.patch_lens
    monkeypatch.setattr(
        inspection, "patch_lens", lambda *given: asked.append(given) or lens(*given)
    )
    with ThreadPoolExecutor(2) as pool:
        state.models.run_lock.acquire()
        both = [pool.submit(inspector.reading, result, Selection(0, patch=3)) for _ in range(2)]
        while sum(one.running() for one in both) < 2:
            time.sleep(0.01)
        time.sleep(0.1)  # until both wait for the model
        state.models.run_lock.release()
        assert both[0].result() == both[1].result()
    assert len(asked) == 1


@pytest.mark.parametrize(
    "given",
    [
        {"token": 99},
        {"token": "0"},
        {"patch": 64},
        {"patch": True},
        {"gradient": "yes", "word": 1},
        {"gradient": True},
        {"gradient": True, "word": 1, "layer": 0, "head": 0},
    ],
)
def test_a_selection_that_the_run_does_not_have_is_refused(result, given):
    assert Selection.parse(result, {"token": 1, "patch": 63}).patch == 63
    with pytest.raises(VlmHeadsError):
        Selection.parse(result, given)
