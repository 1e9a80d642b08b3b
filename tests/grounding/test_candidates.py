"""The likeliest next tokens of both streams and of a generation, and what image tokens are for."""

from __future__ import annotations

import pytest
import slow
import tiny
import torch
from transformers import LogitsProcessorList

import vlmheads
from vlmheads import VlmHeadsError
from vlmheads.detect.replay import teacher_forced
from vlmheads.grounding import grounding
from vlmheads.grounding.candidates import CandidateRecorder, Candidates, likeliest
from vlmheads.grounding.patch_lens import patch_lens
from vlmheads.grounding.relevancy import _Scaled, head_relevancy, patch_relevancy
from vlmheads.model.anatomy import examine

LENGTHS = (5, 3)
TARGETS = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_candidates_are_those_of_two_separate_slow_or_plain_passes(family: str) -> None:
    model = tiny.build(family)
    found = grounding(model, tiny.inputs(family, LENGTHS), TARGETS, candidates=3).candidates
    assert found is not None
    seeing, blind = found
    assert tuple(seeing.ids.shape) == tuple(blind.ids.shape) == (2, 4, 3)
    for row in range(2):
        # Each token alone: the candidates before it are those of a prompt that ends there.
        for place in range(4):
            given = tiny.row(family, LENGTHS, row)
            said = TARGETS[row : row + 1, : place + 1]
            alone = grounding(model, given, said, candidates=3).candidates
            assert alone is not None
            for one, other in zip(alone, found, strict=True):
                assert one.ids[0, -1].tolist() == other.ids[row, place].tolist()
                torch.testing.assert_close(
                    one.probability[0, -1], other.probability[row, place], atol=1e-5, rtol=1e-4
                )


def test_candidates_with_the_image_are_the_slow_decoders() -> None:
    model, row = tiny.build("llava"), tiny.row("llava", LENGTHS, 0)
    found = grounding(model, row, TARGETS[:1], candidates=2).candidates
    assert found is not None
    for stream, images in zip(found, (True, False), strict=True):
        decoder = slow.Slow(model, slow.Edits())
        logits = decoder.prompt(row, images=images)
        best = logits.softmax(-1).topk(2)
        assert stream.ids[0, 0].tolist() == best.indices.tolist()
        torch.testing.assert_close(
            stream.probability[0, 0].double(), best.values.double(), atol=1e-4, rtol=0
        )


def test_a_recorder_keeps_what_each_token_was_chosen_from_and_changes_nothing() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava")
    options = {"max_new_tokens": 3, "do_sample": False}
    plain = CandidateRecorder(2)
    model.generate(**inputs, **options, logits_processor=LogitsProcessorList([plain]))
    with vlmheads.attach(model, "cfg:guidance=3"):
        before = model.generate(**inputs, **options)
        recorder = CandidateRecorder(2)
        again = model.generate(
            **inputs, **options, logits_processor=LogitsProcessorList([recorder])
        )
    found = recorder.candidates
    assert found is not None
    assert torch.equal(before, again)
    assert found.ids[0, :, 0].tolist() == again[0, -3:].tolist()
    assert plain.candidates is not None
    assert not torch.equal(plain.candidates.probability[:, 0], found.probability[:, 0])
    assert CandidateRecorder().candidates is None


def test_a_candidate_is_looked_up_by_its_token() -> None:
    found = Candidates(torch.tensor([[[5, 3]]]), torch.tensor([[[0.75, 0.25]]]))
    assert (found.of(0, 0, 3), found.rank(0, 0, 3)) == (0.25, 2)
    assert (found.of(0, 0, 4), found.rank(0, 0, 4)) == (None, None)
    assert found.cut(0).ids.shape == (1, 0, 2)
    with pytest.raises(VlmHeadsError, match="0 candidates"):
        likeliest(torch.zeros(1, 1, 4), 0)


@pytest.mark.parametrize("family", ["llava-gqa", "qwen2_vl"])
def test_relevancy_is_the_slope_of_the_words_log_probability(family: str) -> None:
    """Against finite differences: attention on one token of one head times 1 ± ε."""
    model, inputs = tiny.build(family), tiny.inputs(family)
    targets, epsilon = TARGETS[:1], 0.05
    found = head_relevancy(model, inputs, targets, 1, 3)
    geometry = examine(model).geometry
    assert tuple(found.shape[:2]) == (geometry.layers, geometry.heads)
    for layer, head, patch in ((0, 1, 0), (geometry.layers - 1, 0, 2)):
        said = []
        for sign in (1, -1):
            gains = torch.ones(found.shape)
            gains[layer, head, patch] += sign * epsilon
            said.append(_said(model, inputs, targets, gains, slice(1, 3)))
        slope = (said[0] - said[1]) / (2 * epsilon)
        assert float(found[layer, head, patch]) == pytest.approx(slope, abs=2e-4, rel=0.02)
    together = patch_relevancy(model, inputs, targets, 1, 3)
    torch.testing.assert_close(together, found.clamp(min=0).sum(dim=(0, 1)))
    assert float(together.max()) > 0


def _said(model, inputs, targets, gains, part):  # type: ignore[no-untyped-def]
    with torch.no_grad(), vlmheads.attach(model, _Scaled(gains)) as attachment:
        given = teacher_forced(attachment.anatomy, inputs, targets)
        logits = model(**given, use_cache=False).logits[0, -targets.shape[1] - 1 : -1]
    log = logits.log_softmax(-1).gather(-1, targets[0, :, None])[:, 0]
    return float(log[part].sum())


def test_a_measurement_of_relevancy_leaves_the_model_as_it_was() -> None:
    model, inputs = tiny.build("llava"), tiny.inputs("llava")
    before = model(**inputs).logits
    patch_relevancy(model, inputs, TARGETS[:1], 0, 1)
    assert torch.equal(before, model(**inputs).logits)
    for given, first, last in ((TARGETS, 0, 1), (TARGETS[:1], 2, 2), (TARGETS[:1], 0, 9)):
        with pytest.raises(VlmHeadsError):
            patch_relevancy(model, tiny.inputs("llava", LENGTHS[: len(given)]), given, first, last)


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_the_lens_of_a_place_is_the_head_on_its_hidden_states(family: str) -> None:
    model, inputs = tiny.build(family), tiny.inputs(family)
    found = patch_lens(model, inputs, 1, count=2)
    states = model(**inputs, output_hidden_states=True).hidden_states
    anatomy = examine(model)
    column = anatomy.is_visual(inputs["input_ids"])[0].nonzero()[1, 0]
    stacked = torch.stack([level[0, column] for level in states])
    with torch.no_grad():
        best = anatomy.unembed(stacked, norm=False).float().softmax(-1).topk(2)
    assert found.ids[0].tolist() == best.indices.tolist()
    torch.testing.assert_close(found.probability[0], best.values, atol=1e-5, rtol=1e-4)
    for patch in (-1, 10_000, True):
        with pytest.raises(VlmHeadsError, match="image token"):
            patch_lens(model, inputs, patch)
